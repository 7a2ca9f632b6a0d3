//! What is said to the kernel about tables, and what it answers: bytes. Pure.
//!
//! Netfilter netlink, subsystem nftables, as in the kernel's `include/uapi/linux/netfilter/nf_tables.h`. Numbers in
//! attributes are big-endian; what is compared with a packet is as it is in the packet.

use super::Family;
use super::element::{Element, Set, Value, Verdict};
use super::ruleset::{Chain, Hook};
use crate::ipvs::message::{attribute, attributes, find, nested};
use crate::ipvs::netlink::Request;

const SUBSYSTEM: u16 = 10 << 8;

/// `NFT_MSG_*`.
mod kind {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const GET_TABLE: u16 = 1;
    pub(super) const DELETE_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const GET_RULE: u16 = 7;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const NEW_ELEMENT: u16 = 12;
    pub(super) const GET_ELEMENT: u16 = 13;
    pub(super) const DELETE_ELEMENT: u16 = 14;
    pub(super) const GET_GENERATION: u16 = 16;
}

// Flags of requests.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

// NFTA_SET_FLAGS.
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_CONCATENATION: u32 = 0x80;

// nft's own numbers of types, which the kernel keeps for it to show.
const TYPE_BITS: u32 = 6;
const TYPE_VERDICT: u32 = 0xffff_ff00;
pub(super) const TYPE_MARK: u32 = 19;
pub(super) const TYPE_PROTOCOL: u32 = 12;
pub(super) const TYPE_PORT: u32 = 13;

/// The numbers of verdicts: `NFT_GOTO` and those of netfilter.
const GOTO: i32 = -4;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;

/// `struct nfgenmsg`.
const HEADER: usize = 4;
/// So many bytes of elements go into one message: its attributes are counted in 16 bits.
const ELEMENTS: usize = 48 * 1024;

/// Asks for the generation, which every transaction of this network namespace counts on, whoever makes it.
pub(super) fn get_generation() -> Request {
    request(0, kind::GET_GENERATION, 0, &[])
}

/// The generation in the answer.
pub(super) fn generation(payload: &[u8]) -> Option<u32> {
    number(find(payload.get(HEADER..)?, 1)?)
}

/// Asks whether the table is there, and as what.
pub(super) fn get_table(table: &str, family: Family) -> Request {
    request(family.number(), kind::GET_TABLE, 0, &text(1, table))
}

/// What does not change of a table while it is there: its flags and its handle.
pub(super) fn table_identity(payload: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let attributes = payload.get(HEADER..)?;
    Some((find(attributes, 2)?.to_vec(), find(attributes, 4)?.to_vec()))
}

/// Asks for all rules of the table.
pub(super) fn get_rules(table: &str, family: Family) -> Request {
    request(family.number(), kind::GET_RULE, 0, &text(1, table))
}

/// A rule in one answer, without the header, which counts generations.
pub(super) fn rule(payload: &[u8]) -> &[u8] {
    payload.get(HEADER..).unwrap_or_default()
}

/// Asks for all elements of a set.
pub(super) fn get_elements(table: &str, family: Family, set: Set) -> Request {
    let attributes = [text(1, table), text(2, set.name())].concat();
    request(family.number(), kind::GET_ELEMENT, 0, &attributes)
}

/// Makes the table, as nothing but itself, whether it is there or not.
pub(super) fn new_table(table: &str, family: Family) -> Vec<Request> {
    let new = || request(family.number(), kind::NEW_TABLE, CREATE, &text(1, table));
    vec![new(), delete_table(table, family), new()]
}

/// Removes the table with all that is in it.
pub(super) fn delete_table(table: &str, family: Family) -> Request {
    request(family.number(), kind::DELETE_TABLE, 0, &text(1, table))
}

/// Makes a set or map without elements.
pub(super) fn new_set(table: &str, family: Family, set: Set) -> Request {
    let fields = set.fields(family);
    let padded = |length: &u32| length.next_multiple_of(4);
    let length: u32 = fields.iter().map(|(_, length)| padded(length)).sum();
    let kind = fields.iter().fold(0, |kinds, (kind, _)| (kinds << TYPE_BITS) | kind);
    let mut flags = 0;
    let mut attributes = [text(1, table), text(2, set.name())].concat();
    let mut described = Vec::new();
    if set.has_ranges() {
        flags |= SET_INTERVAL | SET_CONCATENATION;
        let mut lengths = Vec::new();
        for (_, length) in &fields {
            nested(&mut lengths, 1, &word(1, *length));
        }
        nested(&mut described, 2, &lengths);
    }
    if let Some((kind, length)) = match set {
        Set::Services | Set::OutsideServices => Some((TYPE_VERDICT, 0)),
        Set::OutsideMarks => Some((TYPE_MARK, 4)),
        Set::Addresses
        | Set::ServiceCidrs
        | Set::Itself
        | Set::Restricted
        | Set::OutsideRestricted
        | Set::Admitted
        | Set::OutsideAdmitted
        | Set::OutsideMasqueraded => None,
    } {
        flags |= SET_MAP;
        attributes.extend([word(6, kind), word(7, length)].concat());
    }
    attributes.extend([word(3, flags), word(4, kind), word(5, length), word(10, set as u32 + 1)].concat());
    if !described.is_empty() {
        nested(&mut attributes, 9, &described);
    }
    // How nft is to read keys and values where the type does not say: 1 as this machine does, 2 as the network does.
    let order = |kind: u8, order: u8| [kind, 4, order, 0, 0, 0];
    let orders = match set {
        Set::OutsideMasqueraded => vec![order(0, 1)],
        Set::OutsideMarks => vec![order(0, 0), order(1, 1)],
        Set::Addresses
        | Set::ServiceCidrs
        | Set::Itself
        | Set::Services
        | Set::Restricted
        | Set::Admitted
        | Set::OutsideServices
        | Set::OutsideRestricted
        | Set::OutsideAdmitted => vec![order(0, 2)],
    };
    attribute(&mut attributes, 13, &orders.concat());
    request(family.number(), kind::NEW_SET, CREATE, &attributes)
}

/// Makes a chain without rules.
pub(super) fn new_chain(table: &str, family: Family, chain: &Chain) -> Request {
    let mut attributes = [text(1, table), text(3, chain.name)].concat();
    if let Some(Hook { kind, number, priority }) = chain.hook {
        attributes.extend(text(7, kind));
        nested(&mut attributes, 4, &[word(1, number), word(2, priority.cast_unsigned())].concat());
    }
    request(family.number(), kind::NEW_CHAIN, CREATE, &attributes)
}

/// Puts rules at the end of their chain.
pub(super) fn new_rules(table: &str, family: Family, chain: &Chain) -> impl Iterator<Item = Request> {
    chain.rules.iter().map(move |rule| {
        let mut attributes = [text(1, table), text(2, chain.name)].concat();
        nested(&mut attributes, 4, rule.expressions());
        request(family.number(), kind::NEW_RULE, CREATE | APPEND, &attributes)
    })
}

/// Adds elements.
pub(super) fn new_elements<'a>(table: &str, elements: impl IntoIterator<Item = &'a Element>) -> Vec<Request> {
    packed(table, elements, kind::NEW_ELEMENT, CREATE)
}

/// Removes elements. The kernel refuses it where one is not there.
pub(super) fn delete_elements<'a>(
    table: &str,
    elements: impl IntoIterator<Item = &'a Element>,
) -> Vec<Request> {
    packed(table, elements, kind::DELETE_ELEMENT, 0)
}

/// The elements in one answer; those that no table of ours has are left out.
pub(super) fn found_elements(family: Family, set: Set, payload: &[u8]) -> Vec<Element> {
    let list = payload.get(HEADER..).and_then(|attributes| find(attributes, 3)).unwrap_or_default();
    attributes(list).filter_map(|(_, nest)| found_element(family, set, nest)).collect()
}

fn found_element(family: Family, set: Set, nest: &[u8]) -> Option<Element> {
    let key = find(find(nest, 1)?, 1)?.to_vec();
    let end = find(nest, 10).and_then(|end| find(end, 1)).map(<[u8]>::to_vec);
    let value = match find(nest, 2) {
        None => None,
        Some(data) => Some(match (find(data, 1), find(data, 2)) {
            (Some(mark), _) => Value::Mark(u32::from_ne_bytes(*mark.first_chunk()?)),
            (None, Some(verdict)) => Value::Verdict(found_verdict(verdict)?),
            (None, None) => return None,
        }),
    };
    // nft's own form of a comment: kind 0, length, text that ends with 0.
    let comment = match find(nest, 6) {
        Some([0, _, comment @ ..]) => String::from_utf8_lossy(comment).trim_end_matches('\0').to_owned(),
        Some(_) | None => String::new(),
    };
    Some(Element { family, set, key, end, value, comment })
}

fn found_verdict(nest: &[u8]) -> Option<Verdict> {
    match number(find(nest, 1)?)?.cast_signed() {
        ACCEPT => Some(Verdict::Accept),
        DROP => Some(Verdict::Drop),
        GOTO => {
            let chain = String::from_utf8_lossy(find(nest, 2)?);
            Verdict::of_chain(chain.trim_end_matches('\0'))
        }
        _ => None,
    }
}

fn packed<'a>(
    table: &str,
    elements: impl IntoIterator<Item = &'a Element>,
    kind: u16,
    flags: u16,
) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut list = Vec::new();
    let mut of: Option<(Family, Set)> = None;
    let mut finish = |of: Option<(Family, Set)>, list: &mut Vec<u8>| {
        if let Some((family, set)) = of
            && !list.is_empty()
        {
            let mut attributes = [text(1, table), text(2, set.name())].concat();
            nested(&mut attributes, 3, list);
            list.clear();
            requests.push(request(family.number(), kind, flags, &attributes));
        }
    };
    for element in elements {
        if of != Some((element.family, element.set)) || list.len() > ELEMENTS {
            finish(of, &mut list);
            of = Some((element.family, element.set));
        }
        nested(&mut list, 1, &encoded(element));
    }
    finish(of, &mut list);
    requests
}

fn encoded(element: &Element) -> Vec<u8> {
    let mut attributes = Vec::new();
    nested(&mut attributes, 1, &value(&element.key));
    if let Some(end) = &element.end {
        nested(&mut attributes, 10, &value(end));
    }
    match &element.value {
        None => {}
        Some(Value::Mark(mark)) => nested(&mut attributes, 2, &value(&mark.to_ne_bytes())),
        Some(Value::Verdict(verdict)) => nested(&mut attributes, 2, &encoded_verdict(*verdict)),
    }
    if !element.comment.is_empty() {
        let length = u8::try_from(element.comment.len() + 1).unwrap_or(u8::MAX);
        let comment = [&[0, length][..], element.comment.as_bytes(), &[0]].concat();
        attribute(&mut attributes, 6, &comment);
    }
    attributes
}

/// `NFTA_DATA_VERDICT`.
pub(super) fn encoded_verdict(verdict: Verdict) -> Vec<u8> {
    match (verdict, verdict.chain()) {
        (_, Some(chain)) => go_to(chain),
        (Verdict::Drop, None) => coded(DROP, Vec::new()),
        (_, None) => coded(ACCEPT, Vec::new()),
    }
}

/// The same: another chain decides, for good.
pub(super) fn go_to(chain: &str) -> Vec<u8> {
    coded(GOTO, text(2, chain))
}

fn coded(code: i32, chain: Vec<u8>) -> Vec<u8> {
    let mut attributes = Vec::new();
    nested(&mut attributes, 2, &[word(1, code.cast_unsigned()), chain].concat());
    attributes
}

/// `NFTA_DATA_VALUE`.
pub(super) fn value(bytes: &[u8]) -> Vec<u8> {
    let mut attributes = Vec::new();
    attribute(&mut attributes, 1, bytes);
    attributes
}

/// An attribute that is a number.
pub(super) fn word(kind: u16, number: u32) -> Vec<u8> {
    let mut attributes = Vec::new();
    attribute(&mut attributes, kind, &number.to_be_bytes());
    attributes
}

/// An attribute that is a text.
pub(super) fn text(kind: u16, text: &str) -> Vec<u8> {
    let mut attributes = Vec::new();
    attribute(&mut attributes, kind, format!("{text}\0").as_bytes());
    attributes
}

fn request(family: u8, kind: u16, flags: u16, attributes: &[u8]) -> Request {
    Request { kind: SUBSYSTEM | kind, flags, payload: [&[family, 0, 0, 0], attributes].concat() }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use plan::{Frontend, Port, Protocol, Rules};

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    fn refused() -> Element {
        let frontend = Frontend::new([10, 254, 0, 1].into(), Port::new(443).unwrap(), Protocol::Tcp);
        let elements = Element::of_service(frontend, &Rules::default(), false, None);
        Element { comment: "hello".to_owned(), ..elements.into_iter().next().unwrap() }
    }

    #[test]
    fn an_element_is_said_as_nft_says_it() {
        // nft add element ip fairway-proxy services { tcp . 10.254.0.1 . 443 comment "hello" : goto refuse }, without the
        // number of the set, which is known by its name.
        let expected = "
            02000000
            1200 0100 666169727761792d70726f787900 0000
            0d00 0200 7365727669636573000000 00
            4400 0380 4000 0180
              1400 0180 1000 0100 06000000 0afe0001 01bb0000
              1c00 0280 1800 0280 0800 0100 fffffffc 0b00 0200 72656675736500 00
              0c00 0600 0006 68656c6c6f00";
        let requests = new_elements("fairway-proxy", [&refused()]);
        let [request] = &requests[..] else { panic!("{requests:?}") };
        assert_eq!((request.kind, request.flags), (0xa0c, 0x400));
        assert_eq!(request.payload, bytes(expected));
    }

    #[test]
    fn a_set_with_ranges_is_said_as_nft_says_it() {
        let request = new_set("fairway-proxy", Family::V4, Set::Admitted);
        // Flags interval and concatenation; types 12, 7, 13 and 7 of 6 bits each; four lengths.
        let parts = request.payload.get(HEADER..).unwrap();
        assert_eq!(find(parts, 3), Some(&[0, 0, 0, 0x84][..]));
        assert_eq!(find(parts, 4), Some(&bytes("00307347")[..]));
        assert_eq!(find(parts, 5), Some(&[0, 0, 0, 16][..]));
        let lengths = find(find(parts, 9).unwrap(), 2).unwrap();
        let expected = "0c000180 0800010000000001 0c000180 0800010000000004 0c000180 0800010000000002 0c000180 0800010000000004";
        assert_eq!(lengths, bytes(expected));
    }

    #[test]
    fn what_is_said_of_elements_is_understood_again() {
        let ranges = ["10.0.0.0/8", "172.16.60.7/32"].map(|range| range.parse().unwrap());
        let rules = Rules { source_ranges: Some(ranges.into()), ..Rules::default() };
        let frontend = Frontend::new([10, 254, 0, 1].into(), Port::new(443).unwrap(), Protocol::Udp);
        let outside = Element::of_service(frontend.for_outside(), &rules, true, Some(0x0fa0_0001));
        for element in Element::of_service(frontend, &rules, true, None).into_iter().chain(outside) {
            let requests = new_elements("fairway-proxy", [&element]);
            assert_eq!(found_elements(Family::V4, element.set, &requests[0].payload), [element]);
        }
    }

    #[test]
    fn many_elements_are_several_messages() {
        let elements = vec![refused(); 2000];
        let requests = new_elements("fairway-proxy", &elements);
        assert!(requests.len() > 1);
        let found = requests.iter().flat_map(|part| found_elements(Family::V4, Set::Services, &part.payload));
        assert_eq!(found.count(), 2000);
        assert!(requests.iter().all(|request| request.payload.len() < usize::from(u16::MAX)));
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let payload = new_elements("fairway-proxy", [&refused()]).remove(0).payload;
        for length in 0..payload.len() {
            assert_eq!(found_elements(Family::V4, Set::Services, &payload[..length]), [], "{length}");
        }
    }
}

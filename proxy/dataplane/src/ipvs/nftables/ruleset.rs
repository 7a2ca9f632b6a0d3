//! The chains of a table, which are the same whatever is served. Pure.
//!
//! ```text
//!   input  --from a pod--> everyone -------------.
//!      \---from outside--> outside --no service--^--> services: serve, masquerade, refuse, drop
//!   output ---------------------------------------^
//!   forward, output: what no service has of the addresses that are theirs goes nowhere
//!   postrouting: what is to be masqueraded is, as IPVS sends it on its way
//! ```
//!
//! IPVS takes packets after `input` and `output` and sends them through `postrouting`.

use ipnet::IpNet;

use super::Family;
use super::element::{Set, Verdict};
use super::message::{encoded_verdict, go_to, text, value, word};
use crate::ipvs::message::{attribute, nested};

/// What rules must know of the node: which packets are those of its pods, and how to mark what is to be masqueraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The addresses of pods (`clusterCIDR`).
    pub pods: Vec<IpNet>,
    /// The interfaces by which the packets of this node's pods come in (`detectLocal`), by name; `*` at the end of a name
    /// stands for anything.
    pub pod_interfaces: Vec<String>,
    /// The bit of a packet's mark that says that it is to be masqueraded, 0 to 31 (`iptables.masqueradeBit`).
    pub masquerade_bit: u8,
}

/// No pods, and kube-proxy's bit.
impl Default for Surroundings {
    fn default() -> Self {
        Self { pods: Vec::new(), pod_interfaces: Vec::new(), masquerade_bit: 14 }
    }
}

/// Marks of services for packets from outside begin here.
pub(in crate::ipvs) const FIRST_MARK: u32 = 0x0fa0_0000;
/// What all of them have in common.
pub(in crate::ipvs) const MARKS: u32 = 0xfff0_0000;

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// Where the kernel enters a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// A rule: expressions, each of which goes on or ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule(Vec<u8>);

/// IPVS has priority 99 in `input`.
const INPUT: Hook = Hook { kind: "filter", number: 1, priority: -1 };
const FORWARD: Hook = Hook { kind: "filter", number: 2, priority: 0 };
/// IPVS has priority -98 in `output`, connection tracking -200.
const OUTPUT: Hook = Hook { kind: "filter", number: 3, priority: -150 };
const POSTROUTING: Hook = Hook { kind: "nat", number: 4, priority: 100 };

/// All chains, in an order in which each is known before it is named.
pub(super) fn chains(family: Family, surroundings: &Surroundings) -> Vec<Chain> {
    let plain = |name, rules| Chain { name, hook: None, rules };
    let bit = 1_u32.checked_shl(surroundings.masquerade_bit.into()).unwrap_or_default();
    let refusals = vec![Rule::default().protocol().equals(&[6]).reset(), Rule::default().unreachable(family)];
    let mark = Rule::default().meta(MARK).bits(!bit, bit).set_mark();
    let mut others = from_pods(family, surroundings, &Rule::accept);
    others.push(Rule::default().go("masquerade"));
    let everyone = [guard(family, Set::Restricted, Set::Admitted), judge(family, Set::Services)];
    // Nobody but IPVS is to be reached by an address that belongs to services.
    let unused = Rule::default()
        .address(family, Side::Destination, FIRST)
        .within(Set::Addresses)
        .protocol()
        .differs(&[family.icmp()])
        .go("refuse");
    // As kube-proxy's mode nftables, which leaves alone what the node itself takes.
    let unallocated = || {
        Rule::default()
            .protocol()
            .address(family, Side::Destination, FIRST + 1)
            .within(Set::ServiceCidrs)
            .address(family, Side::Destination, FIRST)
            .without(Set::Addresses)
            .drop()
    };
    let outside = vec![
        guard(family, Set::OutsideRestricted, Set::OutsideAdmitted),
        judge(family, Set::OutsideServices),
        Rule::default().go("everyone"),
    ];
    let serve_outside = Rule::default().key(family).map(Set::OutsideMarks, FIRST).set_mark().accept();
    let known = || Rule::default().state().bits(ESTABLISHED | RELATED, 0).differs(&[0; 4]).accept();
    let looped = Rule::default().meta(INTERFACE_IN).equals(&padded("lo")).accept();
    let mut input = vec![known(), looped];
    input.extend(from_pods(family, surroundings, &|rule| rule.go("everyone")));
    input.push(Rule::default().go("outside"));
    vec![
        plain("refuse", refusals),
        plain("masquerade", vec![mark, Rule::default().accept()]),
        plain("masquerade-others", others),
        plain("serve-outside", vec![serve_outside]),
        plain("everyone", [&everyone[..], &[unused]].concat()),
        plain("outside", outside),
        Chain { name: "input", hook: Some(INPUT), rules: input },
        Chain { name: "forward", hook: Some(FORWARD), rules: vec![known(), unallocated()] },
        Chain {
            name: "output",
            hook: Some(OUTPUT),
            rules: vec![known(), unallocated(), Rule::default().go("everyone")],
        },
        Chain { name: "postrouting", hook: Some(POSTROUTING), rules: masquerading(family, bit) },
    ]
}

/// A mark is taken off by whoever heeds it: a packet may come here a second time, wrapped into another one.
fn masquerading(family: Family, bit: u32) -> Vec<Rule> {
    vec![
        Rule::default().meta(MARK).within(Set::OutsideMasqueraded).immediate(&[0; 4]).set_mark().masquerade(),
        Rule::default()
            .meta(MARK)
            .bits(MARKS, 0)
            .differs(&FIRST_MARK.to_ne_bytes())
            .meta(MARK)
            .bits(bit, 0)
            .equals(&bit.to_ne_bytes())
            .meta(MARK)
            .bits(!bit, 0)
            .set_mark()
            .masquerade(),
        // A backend that reached itself.
        Rule::default()
            .meta(INTERFACE_OUT)
            .differs(&padded("lo"))
            .address(family, Side::Source, FIRST)
            .address(family, Side::Destination, FIRST + family.registers())
            .within(Set::Itself)
            .masquerade(),
        // The node speaks to an address of its own from that same address, which nobody else can answer.
        Rule::default().address(family, Side::Source, FIRST).within(Set::Addresses).masquerade(),
    ]
}

/// Whoever is not admitted where not everybody is.
fn guard(family: Family, restricted: Set, admitted: Set) -> Rule {
    Rule::default().key(family).within(restricted).key_and_client(family).without(admitted).drop()
}

fn judge(family: Family, services: Set) -> Rule {
    Rule::default().key(family).map(services, 0)
}

/// One rule for each sign by which a pod of this node is known.
fn from_pods(family: Family, surroundings: &Surroundings, then: &dyn Fn(Rule) -> Rule) -> Vec<Rule> {
    let of_family = |pods: &&IpNet| pods.addr().is_ipv4() == (family == Family::V4);
    let octets = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let networks = surroundings.pods.iter().filter(of_family).map(|pods| {
        let (mask, network) = (octets(pods.netmask()), octets(pods.network()));
        let zero = vec![0; mask.len()];
        Rule::default().address(family, Side::Source, FIRST).masked(&mask, &zero).equals(&network)
    });
    let interfaces = surroundings.pod_interfaces.iter().map(|name| {
        let rule = Rule::default().meta(INTERFACE_IN);
        match name.strip_suffix('*') {
            Some("") => rule.differs(&padded("")),
            Some(beginning) => rule.equals(beginning.as_bytes()),
            None => rule.equals(&padded(name)),
        }
    });
    networks.chain(interfaces).map(then).collect()
}

// `NFT_META_*`.
const MARK: u32 = 3;
const INTERFACE_IN: u32 = 6;
const INTERFACE_OUT: u32 = 7;
const PROTOCOL: u32 = 16;
// `NF_CT_STATE_BIT`.
const ESTABLISHED: u32 = 2;
const RELATED: u32 = 4;
/// The first register of four bytes, `NFT_REG32_00`. What is compared with a set lies in those that follow one another.
const FIRST: u32 = 8;

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl Rule {
    pub(super) fn expressions(&self) -> &[u8] {
        &self.0
    }

    fn expression(mut self, name: &str, attributes: &[Vec<u8>]) -> Self {
        let mut expression = text(1, name);
        nested(&mut expression, 2, &attributes.concat());
        nested(&mut self.0, 1, &expression);
        self
    }

    /// Loads a fact about the packet.
    fn meta(self, key: u32) -> Self {
        self.expression("meta", &[word(2, key), word(1, FIRST)])
    }

    fn protocol(self) -> Self {
        self.meta(PROTOCOL)
    }

    fn state(self) -> Self {
        self.expression("ct", &[word(2, 0), word(1, FIRST)])
    }

    fn address(self, family: Family, side: Side, register: u32) -> Self {
        let (offset, length) = match (family, side) {
            (Family::V4, Side::Source) => (12, 4),
            (Family::V4, Side::Destination) => (16, 4),
            (Family::V6, Side::Source) => (8, 16),
            (Family::V6, Side::Destination) => (24, 16),
        };
        self.expression("payload", &[word(1, register), word(2, 1), word(3, offset), word(4, length)])
    }

    /// Protocol, destination and port.
    fn key(self, family: Family) -> Self {
        let port = FIRST + 1 + family.registers();
        self.protocol()
            .address(family, Side::Destination, FIRST + 1)
            .expression("payload", &[word(1, port), word(2, 2), word(3, 2), word(4, 2)])
    }

    fn key_and_client(self, family: Family) -> Self {
        let client = FIRST + 1 + family.registers() + 1;
        self.key(family).address(family, Side::Source, client)
    }

    fn bits(self, mask: u32, xor: u32) -> Self {
        self.masked(&mask.to_ne_bytes(), &xor.to_ne_bytes())
    }

    fn masked(self, mask: &[u8], xor: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let (mut masked, mut flipped) = (Vec::new(), Vec::new());
        nested(&mut masked, 4, &value(mask));
        nested(&mut flipped, 5, &value(xor));
        self.expression("bitwise", &[word(1, FIRST), word(2, FIRST), word(3, length), masked, flipped])
    }

    fn equals(self, bytes: &[u8]) -> Self {
        self.compare(0, bytes)
    }

    fn differs(self, bytes: &[u8]) -> Self {
        self.compare(1, bytes)
    }

    fn compare(self, operator: u32, bytes: &[u8]) -> Self {
        let mut data = Vec::new();
        nested(&mut data, 3, &value(bytes));
        self.expression("cmp", &[word(1, FIRST), word(2, operator), data])
    }

    fn within(self, set: Set) -> Self {
        self.expression("lookup", &[text(1, set.name()), word(2, FIRST)])
    }

    fn without(self, set: Set) -> Self {
        self.expression("lookup", &[text(1, set.name()), word(2, FIRST), word(5, 1)])
    }

    /// What the map says of the key goes to this register; 0 is that of the verdict.
    fn map(self, set: Set, register: u32) -> Self {
        self.expression("lookup", &[text(1, set.name()), word(2, FIRST), word(3, register)])
    }

    fn immediate(self, bytes: &[u8]) -> Self {
        let mut data = Vec::new();
        nested(&mut data, 2, &value(bytes));
        self.expression("immediate", &[word(1, FIRST), data])
    }

    fn set_mark(self) -> Self {
        self.expression("meta", &[word(2, MARK), word(3, FIRST)])
    }

    fn accept(self) -> Self {
        self.verdict(&encoded_verdict(Verdict::Accept))
    }

    fn drop(self) -> Self {
        self.verdict(&encoded_verdict(Verdict::Drop))
    }

    fn go(self, chain: &str) -> Self {
        self.verdict(&go_to(chain))
    }

    fn verdict(self, verdict: &[u8]) -> Self {
        let mut data = Vec::new();
        nested(&mut data, 2, verdict);
        self.expression("immediate", &[word(1, 0), data])
    }

    fn masquerade(self) -> Self {
        // NF_NAT_RANGE_PROTO_RANDOM_FULLY, as kube-proxy.
        self.expression("masq", &[word(1, 0x10)])
    }

    fn reset(self) -> Self {
        self.reject(1, 0)
    }

    fn unreachable(self, family: Family) -> Self {
        match family {
            Family::V4 => self.reject(0, 3),
            Family::V6 => self.reject(0, 4),
        }
    }

    fn reject(self, kind: u32, code: u8) -> Self {
        let mut attributes = Vec::new();
        attribute(&mut attributes, 2, &[code]);
        self.expression("reject", &[word(1, kind), attributes])
    }
}

impl Family {
    /// How many registers of four bytes an address takes.
    const fn registers(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    const fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }
}

/// The whole name of an interface, as the kernel compares it.
fn padded(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, byte) in bytes.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::message::{attributes, find};

    /// The names of a rule's expressions.
    fn names(rule: &Rule) -> Vec<String> {
        let name = |(_, expression)| {
            find(expression, 1).map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
        };
        attributes(rule.expressions()).filter_map(name).collect()
    }

    #[test]
    fn a_rule_is_said_as_nft_says_it() {
        // nft add rule ip fairway-proxy refuse meta l4proto tcp reject with tcp reset, in registers of four bytes.
        let rule = Rule::default().protocol().equals(&[6]).reset();
        let expected: Vec<u8> = [
            &[36, 0, 1, 0x80, 9, 0, 1, 0][..],
            b"meta\0\0\0\0",
            &[20, 0, 2, 0x80, 8, 0, 2, 0, 0, 0, 0, 16, 8, 0, 1, 0, 0, 0, 0, 8],
            &[44, 0, 1, 0x80, 8, 0, 1, 0],
            b"cmp\0",
            &[
                32, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 8, 8, 0, 2, 0, 0, 0, 0, 0, 12, 0, 3, 0x80, 5, 0, 1, 0,
                6, 0, 0, 0,
            ],
            &[36, 0, 1, 0x80, 11, 0, 1, 0],
            b"reject\0\0",
            &[20, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 1, 5, 0, 2, 0, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(rule.expressions(), expected);
    }

    #[test]
    fn every_chain_is_there_for_those_that_go_to_it() {
        for family in Family::ALL {
            let chains = chains(family, &Surroundings::default());
            let verdicts =
                [Verdict::Masquerade, Verdict::MasqueradeOthers, Verdict::ServeOutside, Verdict::Refuse];
            for verdict in verdicts {
                assert!(chains.iter().any(|chain| Some(chain.name) == verdict.chain()), "{verdict:?}");
            }
        }
    }

    #[test]
    fn pods_are_known_by_networks_of_the_family_and_by_interfaces() {
        let pods = ["10.42.0.0/16", "fd00:42::/56", "fd00:43::/56"].map(|pods| pods.parse().unwrap());
        let surroundings = Surroundings {
            pods: pods.into(),
            pod_interfaces: vec!["cali*".to_owned()],
            ..Surroundings::default()
        };
        for (family, networks) in [(Family::V4, 1), (Family::V6, 2)] {
            let chains = chains(family, &surroundings);
            let others = chains.iter().find(|chain| chain.name == "masquerade-others").unwrap();
            let names: Vec<_> = others.rules.iter().map(names).collect();
            let by_network = ["payload", "bitwise", "cmp", "immediate"].map(str::to_owned).to_vec();
            assert_eq!(names.iter().filter(|names| **names == by_network).count(), networks);
            assert!(names.contains(&["meta", "cmp", "immediate"].map(str::to_owned).to_vec()));
        }
    }
}

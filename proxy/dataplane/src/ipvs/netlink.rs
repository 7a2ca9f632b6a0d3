//! Requests to the kernel, many at a time.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::{MSG_DONTWAIT, MSG_TRUNC};
use nix::sys::socket::{setsockopt, sockopt};

/// A socket of one netlink family. It stays in the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    /// What came last.
    received: Vec<u8>,
    traffic: Traffic,
}

/// What was said and heard so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages to the kernel.
    pub requests: u64,
    /// Those of them that asked for everything of a kind.
    pub dumps: u64,
    /// System calls by which messages went to and fro.
    pub calls: u64,
    /// How long these calls took together.
    pub time: Duration,
}

/// One request, without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The message's type: of generic netlink, the family.
    pub(super) kind: u16,
    /// Flags beside those that every request has.
    pub(super) flags: u16,
    /// What follows the header.
    pub(super) payload: Vec<u8>,
}

impl Request {
    /// One without further flags.
    pub(super) const fn new(kind: u16, payload: Vec<u8>) -> Self {
        Self { kind, flags: 0, payload }
    }
}

/// What the kernel said to one request: the payloads of its answers, or its refusal.
pub(super) type Answer = Result<Vec<Vec<u8>>, Errno>;

/// So many requests go to the kernel at once: their answers fit into the smallest receive buffer.
const BATCH: usize = 128;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `struct nfgenmsg` of both: for the subsystem nftables.
const BATCH_OF_TABLES: [u8; 4] = [0, 0, 0, 10];
/// Every socket takes as much as this at once, and the kernel says no more at once.
const LARGE: usize = 64 * 1024;
/// A dump during which the table changed is asked for again, so often at most.
const DUMPS: u32 = 8;
const HEADER: usize = 16;
/// `NLM_F_DUMP_INTR`: what was dumped changed meanwhile.
const NLM_F_DUMP_INTERRUPTED: u16 = 0x10;

impl Netlink {
    /// For IPVS.
    pub(super) fn generic() -> io::Result<Self> {
        Self::open(NETLINK_GENERIC)
    }

    /// For interfaces and addresses.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// For what is said to everybody in these groups; see [`Netlink::heard`].
    pub(super) fn route_monitor(groups: &[u32]) -> io::Result<Self> {
        let monitor = Self::new(NETLINK_ROUTE)?;
        monitor.socket.set_non_blocking(true)?;
        for group in groups {
            monitor.socket.add_membership(*group)?;
        }
        Ok(monitor)
    }

    /// The messages of this type that came since this was last asked; `None` when some were lost.
    pub(super) fn heard(&mut self, kind: u16) -> io::Result<Option<Vec<Vec<u8>>>> {
        let (mut heard, mut complete) = (Vec::new(), true);
        loop {
            match self.receive() {
                Ok(bytes) => each(bytes, |message| {
                    if message.message_type() == kind {
                        heard.push(message.payload().to_vec());
                    }
                })?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(complete.then_some(heard));
                }
                Err(error) if is_loss(&error) => complete = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// For tables of netfilter.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER)
    }

    fn open(family: isize) -> io::Result<Self> {
        let netlink = Self::new(family)?;
        netlink.socket.connect(&SocketAddr::new(0, 0))?;
        // A refusal does not repeat what was refused.
        netlink.socket.set_cap_ack(true)?;
        Ok(netlink)
    }

    fn new(family: isize) -> io::Result<Self> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        let received = Vec::with_capacity(LARGE);
        Ok(Self { socket, sequence: 0, received, traffic: Traffic::default() })
    }

    /// What was said and heard since it was opened.
    pub(super) const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Carries out all requests, in order, and returns the answer to each. A refusal stops none of the others.
    ///
    /// An error means that answers were lost: which requests were carried out is to be seen from the kernel's state.
    pub(super) fn exchange(&mut self, requests: &[Request]) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            let first = self.sequence.wrapping_add(1);
            let last = batch.len() - 1;
            let mut bytes = Vec::new();
            for (position, request) in batch.iter().enumerate() {
                // The kernel takes them one after the other. A refusal it tells of any of them, success of the last one.
                let acknowledge = if position == last { NLM_F_ACK } else { 0 };
                self.append(&mut bytes, request, acknowledge);
            }
            self.send(&bytes)?;
            let mut exchange = Exchange::new(first, batch.len());
            while !exchange.has_ended(last) {
                exchange.take_in(self.receive()?)?;
            }
            answers.extend(exchange.answers());
        }
        Ok(answers)
    }

    /// Carries out all of these requests about tables of netfilter, or none: the kernel's first refusal.
    pub(super) fn transact(&mut self, requests: &[Request]) -> io::Result<Result<(), Errno>> {
        let first = self.sequence.wrapping_add(1);
        let Some(last) = requests.len().checked_sub(1) else { return Ok(Ok(())) };
        let mut bytes = Vec::new();
        let edge = |kind| Request::new(kind, BATCH_OF_TABLES.to_vec());
        let (begin, end) = (edge(BATCH_BEGIN), edge(BATCH_END));
        let all = std::iter::once(&begin).chain(requests).chain([&end]);
        for (position, request) in all.enumerate() {
            // `begin` stands before the first.
            let acknowledge = if position == last + 1 { NLM_F_ACK } else { 0 };
            self.append(&mut bytes, request, acknowledge);
        }
        // The whole transaction is one message to the socket.
        if bytes.len() > LARGE {
            setsockopt(&self.socket, sockopt::SndBufForce, &(2 * bytes.len()))?;
        }
        self.send(&bytes)?;
        let mut exchange = Exchange::new(first, requests.len() + 1);
        while !exchange.has_ended(0) && !exchange.has_ended(last + 1) {
            exchange.take_in(self.receive()?)?;
        }
        Ok(exchange.answers().find_map(Result::err).map_or(Ok(()), Err))
    }

    /// Asks for everything of a kind; what it returns is one state of the table.
    pub(super) fn dump(&mut self, request: &Request) -> io::Result<Answer> {
        for _ in 0..DUMPS {
            let mut bytes = Vec::new();
            self.append(&mut bytes, request, NLM_F_DUMP);
            self.traffic.dumps += 1;
            self.send(&bytes)?;
            let mut exchange = Exchange::new(self.sequence, 1);
            while !exchange.has_ended(0) {
                exchange.take_in(self.receive()?)?;
            }
            if !exchange.interrupted {
                return Ok(exchange.answers().next().unwrap_or_else(|| Ok(Vec::new())));
            }
        }
        Err(io::Error::other("the table changed during every reading of it"))
    }

    /// Adds a request that is told apart by the next sequence number.
    fn append(&mut self, bytes: &mut Vec<u8>, request: &Request, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        self.traffic.requests += 1;
        append(bytes, request, NLM_F_REQUEST | flags | request.flags, self.sequence);
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let begun = now();
        let sent = self.socket.send(bytes, 0);
        self.count(begun);
        sent.map(drop)
    }

    fn count(&mut self, begun: Duration) {
        self.traffic.calls += 1;
        self.traffic.time += now().saturating_sub(begun);
    }

    /// One datagram, whole.
    fn receive(&mut self) -> io::Result<&[u8]> {
        loop {
            self.received.clear();
            let begun = now();
            let received = self.socket.recv(&mut self.received, MSG_TRUNC);
            self.count(begun);
            match received {
                Ok(length) if length > self.received.len() => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer is too long"));
                }
                Ok(_) => return Ok(&self.received),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if is_loss(&error) {
                        self.discard();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Throws away what has come in: once some did not fit, the kernel adds nothing, and says so once, until all is read.
    fn discard(&mut self) {
        loop {
            self.traffic.calls += 1;
            self.received.clear();
            match self.socket.recv(&mut self.received, MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if is_loss(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether it says that something did not fit into the receive buffer.
fn is_loss(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// The time since some moment.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn append(bytes: &mut Vec<u8>, request: &Request, flags: u16, sequence_number: u32) {
    let start = bytes.len();
    let length = HEADER + request.payload.len();
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = request.kind;
    header.flags = flags;
    header.sequence_number = sequence_number;
    bytes.resize(start + HEADER, 0);
    header.emit(&mut bytes[start..]);
    bytes.extend_from_slice(&request.payload);
    bytes.resize(start + length.next_multiple_of(4), 0);
}

/// The answers to some requests as they come in. Pure.
#[derive(Debug)]
struct Exchange {
    /// The sequence number of the first request.
    first: u32,
    answers: Vec<(Answer, bool)>,
    interrupted: bool,
}

impl Exchange {
    fn new(first: u32, count: usize) -> Self {
        Self { first, answers: vec![(Ok(Vec::new()), false); count], interrupted: false }
    }

    fn has_ended(&self, position: usize) -> bool {
        self.answers.get(position).is_none_or(|(_, ended)| *ended)
    }

    fn answers(self) -> impl Iterator<Item = Answer> {
        self.answers.into_iter().map(|(answer, _)| answer)
    }

    /// Takes in one datagram. What belongs to no request, or to one that was answered, is left out.
    fn take_in(&mut self, bytes: &[u8]) -> io::Result<()> {
        each(bytes, |message| {
            let payload = message.payload();
            let position = usize::try_from(message.sequence_number().wrapping_sub(self.first));
            if let Some((answer, ended)) = position.ok().and_then(|position| self.answers.get_mut(position))
                && !*ended
            {
                self.interrupted |= message.flags() & NLM_F_DUMP_INTERRUPTED != 0;
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        *ended = true;
                        if let code @ ..0 = code(payload) {
                            *answer = Err(Errno::from_raw(-code));
                        }
                    }
                    _ => {
                        if let Ok(parts) = answer {
                            parts.push(payload.to_vec());
                        }
                    }
                }
            }
        })
    }
}

/// Takes one datagram apart.
fn each<'bytes>(
    mut bytes: &'bytes [u8],
    mut take: impl FnMut(NetlinkBuffer<&'bytes [u8]>),
) -> io::Result<()> {
    while !bytes.is_empty() {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let message = NetlinkBuffer::new_checked(bytes).map_err(invalid)?;
        // Messages are aligned to 4 bytes, the last one need not be.
        let length = usize::try_from(message.length()).map_err(io::Error::other)?;
        take(message);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// The error number at the beginning of `NLMSG_ERROR` and `NLMSG_DONE`, negative; 0 where there is none.
fn code(payload: &[u8]) -> i32 {
    payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use nix::libc::RTM_GETLINK;

    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, &Request::new(kind, payload.to_vec()), flags, sequence);
        bytes
    }

    #[test]
    fn requests_follow_one_another_at_multiples_of_four() {
        let mut bytes = Vec::new();
        append(&mut bytes, &Request::new(0x1c, vec![1, 2, 3]), 5, 7);
        append(&mut bytes, &Request::new(0x1c, vec![]), 5, 8);
        let first = [19, 0, 0, 0, 0x1c, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0];
        let second = [16, 0, 0, 0, 0x1c, 0, 5, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, [&first[..], &second].concat());
    }

    #[test]
    fn every_request_gets_its_own_answer() {
        let mut exchange = Exchange::new(7, 3);
        let refused = message(NLMSG_ERROR, 0, 8, &(-17_i32).to_ne_bytes());
        let granted = message(NLMSG_ERROR, 0, 7, &[0; 4]);
        exchange.take_in(&[granted, refused].concat()).unwrap();
        exchange.take_in(&message(NLMSG_ERROR, 0, 99, &[0; 4])).unwrap();
        exchange.take_in(&message(0x1c, 2, 9, b"one!")).unwrap();
        assert!(!exchange.has_ended(2));
        exchange.take_in(&message(NLMSG_DONE, 2, 9, &[0; 4])).unwrap();
        assert!(exchange.has_ended(2));
        let answers: Vec<Answer> = exchange.answers().collect();
        assert_eq!(answers, [Ok(vec![]), Err(Errno::EEXIST), Ok(vec![b"one!".to_vec()])]);
    }

    #[test]
    fn a_dump_of_a_table_that_changed_is_known_as_such() {
        let mut exchange = Exchange::new(1, 1);
        exchange.take_in(&message(0x1c, 2 | NLM_F_DUMP_INTERRUPTED, 1, b"part")).unwrap();
        exchange.take_in(&message(NLMSG_DONE, 2, 1, &[0; 4])).unwrap();
        assert!(exchange.interrupted);
    }

    #[test]
    fn after_answers_were_lost_the_next_request_has_its_own() {
        let mut netlink = Netlink::route().unwrap();
        setsockopt(&netlink.socket, sockopt::RcvBuf, &1).unwrap();
        // Nothing has this index: each is refused.
        let unknown = |index: i32| Request {
            kind: RTM_GETLINK,
            flags: 0,
            payload: [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat(),
        };
        let many: Vec<Request> = (0..100).map(|_| unknown(i32::MAX)).collect();
        for _ in 0..2 {
            let error = netlink.exchange(&many).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::ENOBUFS as i32));
            assert_eq!(netlink.exchange(&[unknown(i32::MAX)]).unwrap(), [Err(Errno::ENODEV)]);
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [&[1, 2, 3][..], &[255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(Exchange::new(1, 1).take_in(bytes).is_err(), "{bytes:?}");
        }
    }
}

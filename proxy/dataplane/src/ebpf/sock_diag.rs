//! Messages of `NETLINK_SOCK_DIAG` (`man 7 sock_diag`): which UDP sockets are connected, and ending one. Pure.

use ebpf_abi::{Address, Port};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};

/// A connected UDP socket, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connected {
    /// `AF_INET` or `AF_INET6`.
    pub(super) family: u8,
    /// Its number on the file system of sockets.
    pub(super) inode: u32,
    id: [u8; ID_LENGTH],
}

/// What is asked and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// List the connected UDP sockets of a family.
    List(u8),
    /// End this one.
    End(Connected),
    /// Here is one.
    Socket(Connected),
}

pub(super) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
pub(super) const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_UDP: u8 = 17;
/// The only state that a connected UDP socket has (`enum` in `net/tcp_states.h`).
const TCP_ESTABLISHED: u32 = 1;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

// `struct inet_diag_sockid`: ports, addresses, interface and cookie.
const ID_LENGTH: usize = 48;
const DESTINATION_PORT: usize = 2;
const DESTINATION: usize = 20;
const COOKIE: usize = 40;
// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, identity.
const REQUEST_LENGTH: usize = 8 + ID_LENGTH;
// `struct inet_diag_msg`: family, state, timer, retransmissions, identity, and five words of which the last is the inode.
const ANSWER_ID: usize = 4;
const ANSWER_INODE: usize = ANSWER_ID + ID_LENGTH + 16;

impl Connected {
    /// From a `struct inet_diag_msg`; `None` where it is too short.
    fn read(answer: &[u8]) -> Option<Self> {
        let family = *answer.first()?;
        let id = field(answer, ANSWER_ID)?;
        Some(Self { family, id, inode: u32::from_ne_bytes(field(answer, ANSWER_INODE)?) })
    }

    /// The number that names it as long as the kernel runs.
    pub(super) fn cookie(&self) -> u64 {
        // Two words, the low one first, each in the host's order.
        let [low, high] = [COOKIE, COOKIE + 4].map(|at| u32::from_ne_bytes(self.part(at)));
        u64::from(high) << 32 | u64::from(low)
    }

    /// Whom it talks to.
    pub(super) fn peer(&self) -> (Address, Port) {
        let address = if self.family == AF_INET {
            Address::from_v4_word(u32::from_ne_bytes(self.part(DESTINATION)))
        } else {
            Address::from_octets(self.part(DESTINATION))
        };
        (address, Port::from_wire(u16::from_ne_bytes(self.part(DESTINATION_PORT))))
    }

    fn part<const LENGTH: usize>(&self, at: usize) -> [u8; LENGTH] {
        field(&self.id, at).unwrap_or([0; LENGTH])
    }
}

impl Message {
    /// The bytes of a request.
    pub(super) fn request(self) -> Vec<u8> {
        let expected = match self {
            Self::List(_) | Self::Socket(_) => NLM_F_DUMP,
            Self::End(_) => NLM_F_ACK,
        };
        let mut message = NetlinkMessage::from(self);
        message.header.flags = NLM_F_REQUEST | expected;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }
}

fn field<const LENGTH: usize>(bytes: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    bytes.get(at..at + LENGTH)?.try_into().ok()
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::List(_) | Self::Socket(_) => SOCK_DIAG_BY_FAMILY,
            Self::End(_) => SOCK_DESTROY,
        }
    }

    fn buffer_len(&self) -> usize {
        REQUEST_LENGTH
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (family, states, id) = match self {
            Self::List(family) => (*family, 1 << TCP_ESTABLISHED, [0; ID_LENGTH]),
            Self::End(socket) | Self::Socket(socket) => (socket.family, u32::MAX, socket.id),
        };
        let request = [&[family, IPPROTO_UDP, 0, 0][..], &u32::to_ne_bytes(states), &id].concat();
        buffer[..REQUEST_LENGTH].copy_from_slice(&request);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Truncated;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Truncated> {
        Connected::read(payload).map(Self::Socket).ok_or(Truncated)
    }
}

/// The kernel said less of a socket than it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a description of a socket is cut off")]
pub(super) struct Truncated;

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `struct inet_diag_msg` of a socket from 10.0.0.9:40000 to 10.244.0.1:53, as Linux wrote it.
    fn answer() -> Vec<u8> {
        let mut answer = vec![AF_INET, 1, 0, 0];
        answer.extend([0x9c, 0x40, 0, 53]);
        answer.extend([10, 0, 0, 9].into_iter().chain([0; 12]));
        answer.extend([10, 244, 0, 1].into_iter().chain([0; 12]));
        answer.extend([0_u32, 0x0102_0304, 0x5].iter().flat_map(|word| word.to_ne_bytes()));
        answer.extend([0_u32, 0, 0, 1000, 4711].iter().flat_map(|word| word.to_ne_bytes()));
        answer
    }

    #[test]
    fn a_socket_is_known_by_its_cookie_and_its_peer() {
        let socket = Connected::read(&answer()).unwrap();
        assert_eq!((socket.cookie(), socket.inode), (0x0005_0102_0304, 4711));
        let address = Address::from_v4_word(u32::from_ne_bytes([10, 244, 0, 1]));
        assert_eq!(socket.peer(), (address, Port::from_number(53)));
    }

    #[test]
    fn an_ipv6_socket_may_talk_ipv4() {
        let mut bytes = answer();
        bytes[0] = AF_INET6;
        bytes[4 + DESTINATION..4 + COOKIE - 4]
            .copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 244, 0, 1]);
        let (address, _) = Connected::read(&bytes).unwrap().peer();
        assert_eq!(address, Address::from_v4_word(u32::from_ne_bytes([10, 244, 0, 1])));
    }

    #[test]
    fn the_kernel_is_asked_for_connected_sockets_alone_and_told_exactly_which_to_end() {
        let list = Message::List(AF_INET6).request();
        assert_eq!(list.len(), 16 + REQUEST_LENGTH);
        assert_eq!((list[4], list[6..8].to_vec()), (20, 0x301_u16.to_ne_bytes().to_vec()));
        assert_eq!(list[16..24], [AF_INET6, 17, 0, 0, 2, 0, 0, 0]);
        let answer = answer();
        let end = Message::End(Connected::read(&answer).unwrap()).request();
        assert_eq!((end[4], end[6..8].to_vec()), (21, 0x5_u16.to_ne_bytes().to_vec()));
        assert_eq!((&end[16..18], &end[24..]), (&[AF_INET, 17][..], &answer[4..52]));
    }

    #[test]
    fn what_is_cut_off_is_no_socket() {
        let answer = answer();
        for length in 0..answer.len() {
            assert_eq!(Connected::read(&answer[..length]), None, "{length}");
        }
    }
}

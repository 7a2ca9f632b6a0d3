//! What is said to the kernel about virtual services and real servers, and what it answers: bytes. Pure.
//!
//! Generic netlink, family `IPVS`, as in the kernel's `include/uapi/linux/ip_vs.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_core::{NLA_F_NESTED, NLA_TYPE_MASK};
use plan::{Backend, Frontend, Port, Protocol};

use super::settings::Timeouts;

/// The family's name.
pub(super) const FAMILY: &str = "IPVS";
/// Of the controller, which knows the families.
pub(super) const CONTROLLER: u16 = 0x10;

const FAMILY_VERSION: u8 = 1;
const GET_FAMILY: u8 = 3;
const CONTROLLER_FAMILY_ID: u16 = 1;
const CONTROLLER_FAMILY_NAME: u16 = 2;

/// `IPVS_CMD_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Command {
    NewService = 1,
    SetService = 2,
    DeleteService = 3,
    GetService = 4,
    NewServer = 5,
    SetServer = 6,
    DeleteServer = 7,
    GetServer = 8,
    SetTimeouts = 12,
}

/// `IPVS_CMD_ATTR_*`.
const SERVICE: u16 = 1;
const SERVER: u16 = 2;
const TIMEOUT_TCP: u16 = 4;
const TIMEOUT_TCP_FIN: u16 = 5;
const TIMEOUT_UDP: u16 = 6;

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const MARK: u16 = 5;
    pub(super) const SCHEDULER: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
}

/// `IPVS_DEST_ATTR_*`.
mod server {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FORWARDING: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const UPPER_THRESHOLD: u16 = 5;
    pub(super) const LOWER_THRESHOLD: u16 = 6;
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
    pub(super) const FAMILY: u16 = 11;
    pub(super) const STATISTICS: u16 = 12;
}

/// `IPVS_STATS_ATTR_CONNS`.
const CONNECTIONS: u16 = 1;

/// `IP_VS_CONN_F_MASQ`: addresses are translated.
const MASQUERADE: u32 = 0;
/// `IP_VS_SVC_F_PERSISTENT`.
const PERSISTENT: u32 = 1;
/// `IP_VS_SVC_F_SCHED_SH_FALLBACK` and `IP_VS_SVC_F_SCHED_MH_FALLBACK`: a client whose server takes no connections is
/// given to another one.
const FALLBACK: u32 = 8;
/// The schedulers that know it.
const FALLING_BACK: [&str; 2] = ["sh", "mh"];
/// `IP_VS_CONN_F_FWD_MASK`.
const FORWARDING_MASK: u32 = 7;

/// By what the kernel knows the packets of a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// By where they are sent.
    Address(Frontend),
    /// By the mark that netfilter gave them.
    Mark {
        mark: u32,
        /// IPv4 or IPv6: each has marks of its own.
        is_v4: bool,
    },
}

/// A virtual service as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundService {
    pub(super) target: Target,
    /// The kernel's name of it: `rr`.
    pub(super) scheduler: String,
    /// Whether new clients of a server that drains are given to another one.
    pub(super) falls_back: bool,
    /// How long a client comes back to the same server.
    pub(super) persistence: Option<Duration>,
}

/// A real server as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundServer {
    pub(super) backend: Backend,
    /// 0: takes no new connections.
    pub(super) weight: u32,
    /// So many connections and it gets no more; 0: any number.
    pub(super) upper_threshold: u32,
    /// Connections through it that are established.
    pub(super) active: u64,
    /// The others: they are being opened, are being closed, or were closed and are remembered for a while.
    pub(super) inactive: u64,
    /// Connections that it has had since it was added.
    pub(super) total: u64,
}

impl FoundServer {
    /// All that the kernel has of it.
    pub(super) const fn connections(&self) -> u64 {
        self.active + self.inactive
    }
}

/// Asks which number the family has.
pub(super) fn get_family() -> Vec<u8> {
    let mut payload = header(GET_FAMILY);
    attribute(&mut payload, CONTROLLER_FAMILY_NAME, format!("{FAMILY}\0").as_bytes());
    payload
}

/// The number in the answer.
pub(super) fn family(payload: &[u8]) -> Option<u16> {
    let mut attributes = attributes(payload.get(HEADER..)?);
    attributes.find_map(|(kind, value)| if kind == CONTROLLER_FAMILY_ID { u16_of(value) } else { None })
}

/// Asks for all virtual services.
pub(super) fn get_services() -> Vec<u8> {
    header(Command::GetService as u8)
}

/// Sets the timeouts that are not zero; `None` where all are.
pub(super) fn set_timeouts(Timeouts { tcp, tcp_fin, udp }: Timeouts) -> Option<Vec<u8>> {
    let mut payload = header(Command::SetTimeouts as u8);
    for (kind, timeout) in [(TIMEOUT_TCP, tcp), (TIMEOUT_TCP_FIN, tcp_fin), (TIMEOUT_UDP, udp)] {
        let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            attribute(&mut payload, kind, &seconds.to_ne_bytes());
        }
    }
    (payload.len() > HEADER).then_some(payload)
}

/// A command that names a virtual service and says nothing of it: delete, get, get servers.
pub(super) fn about(command: Command, target: Target) -> Vec<u8> {
    let mut payload = header(command as u8);
    nested(&mut payload, SERVICE, &key(target));
    payload
}

/// A command that says all of a virtual service: new, set.
pub(super) fn service(
    command: Command,
    target: Target,
    scheduler: &str,
    persistence: Option<Duration>,
) -> Vec<u8> {
    let mut attributes = key(target);
    attribute(&mut attributes, service::SCHEDULER, format!("{scheduler}\0").as_bytes());
    // struct ip_vs_flags: those that are set, and a mask that says that all of them are meant.
    let persistent = if persistence.is_some() { PERSISTENT } else { 0 };
    let flags = persistent | if FALLING_BACK.contains(&scheduler) { FALLBACK } else { 0 };
    attribute(&mut attributes, service::FLAGS, &[flags.to_ne_bytes(), [255; 4]].concat());
    let seconds = persistence.map_or(0, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
    attribute(&mut attributes, service::TIMEOUT, &seconds.to_ne_bytes());
    let netmask = if target.is_v4() { u32::MAX } else { 128 };
    attribute(&mut attributes, service::NETMASK, &netmask.to_ne_bytes());
    let mut payload = header(command as u8);
    nested(&mut payload, SERVICE, &attributes);
    payload
}

/// What a real server is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Its part of new connections; 0: none.
    pub(super) weight: u32,
    /// So many connections and it gets no more; 0: any number.
    pub(super) upper_threshold: u32,
}

/// A command that says all of a real server: new, set, delete.
pub(super) fn server(command: Command, target: Target, backend: Backend, share: Share) -> Vec<u8> {
    let mut attributes = Vec::with_capacity(ROOM);
    attribute(&mut attributes, server::ADDRESS, &address(backend.address()));
    attribute(&mut attributes, server::PORT, &backend.port().number().to_be_bytes());
    attribute(&mut attributes, server::FORWARDING, &MASQUERADE.to_ne_bytes());
    attribute(&mut attributes, server::WEIGHT, &share.weight.to_ne_bytes());
    attribute(&mut attributes, server::UPPER_THRESHOLD, &share.upper_threshold.to_ne_bytes());
    attribute(&mut attributes, server::LOWER_THRESHOLD, &0_u32.to_ne_bytes());
    attribute(&mut attributes, server::FAMILY, &family_of(backend.address()).to_ne_bytes());
    let mut payload = about(command, target);
    nested(&mut payload, SERVER, &attributes);
    payload
}

/// Another command that says the same.
pub(super) fn instead(mut payload: Vec<u8>, command: Command) -> Vec<u8> {
    if let Some(first) = payload.first_mut() {
        *first = command as u8;
    }
    payload
}

/// The virtual service in one answer; `None` for one of a protocol that no plan has.
pub(super) fn found_service(payload: &[u8]) -> Option<FoundService> {
    let nest = find(payload.get(HEADER..)?, SERVICE)?;
    let name = find(nest, service::SCHEDULER)?;
    let scheduler = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    let flags = u32_of(find(nest, service::FLAGS)?)?;
    let falls_back = flags & FALLBACK != 0 || !FALLING_BACK.contains(&&*scheduler);
    let timeout = Duration::from_secs(u32_of(find(nest, service::TIMEOUT)?)?.into());
    let persistence = (flags & PERSISTENT != 0).then_some(timeout);
    Some(FoundService { target: found_target(nest)?, scheduler, falls_back, persistence })
}

fn found_target(nest: &[u8]) -> Option<Target> {
    let family = u16_of(find(nest, service::FAMILY)?)?;
    if let Some(mark) = find(nest, service::MARK) {
        return Some(Target::Mark { mark: u32_of(mark)?, is_v4: i32::from(family) == nix::libc::AF_INET });
    }
    let address = ip_address(family, find(nest, service::ADDRESS)?)?;
    let port = port_of(find(nest, service::PORT)?)?;
    let protocol = match u16_of(find(nest, service::PROTOCOL)?)? {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        SCTP => Protocol::Sctp,
        _ => return None,
    };
    Some(Target::Address(Frontend::new(address, port, protocol)))
}

/// The real server in one answer; `None` for one whose connections are not translated here: it is not ours.
pub(super) fn found_server(target: Target, payload: &[u8]) -> Option<FoundServer> {
    let nest = find(payload.get(HEADER..)?, SERVER)?;
    let number = |kind| find(nest, kind).and_then(u32_of);
    if number(server::FORWARDING)? & FORWARDING_MASK != MASQUERADE {
        return None;
    }
    let family = find(nest, server::FAMILY).and_then(u16_of).unwrap_or_else(|| target.family());
    let address = ip_address(family, find(nest, server::ADDRESS)?)?;
    let backend = Backend::new(address, port_of(find(nest, server::PORT)?)?);
    let total = find(nest, server::STATISTICS).and_then(|counts| u64_of(find(counts, CONNECTIONS)?));
    Some(FoundServer {
        backend,
        weight: number(server::WEIGHT)?,
        upper_threshold: number(server::UPPER_THRESHOLD).unwrap_or_default(),
        active: number(server::ACTIVE)?.into(),
        inactive: number(server::INACTIVE)?.into(),
        total: total.unwrap_or_default(),
    })
}

// Protocol numbers of IANA.
const TCP: u16 = 6;
const UDP: u16 = 17;
const SCTP: u16 = 132;

/// `struct genlmsghdr`.
const HEADER: usize = 4;

/// So many bytes hold every message here, and every part of one.
const ROOM: usize = 192;

fn header(command: u8) -> Vec<u8> {
    let mut payload = Vec::with_capacity(ROOM);
    payload.extend_from_slice(&[command, FAMILY_VERSION, 0, 0]);
    payload
}

fn key(target: Target) -> Vec<u8> {
    let mut attributes = Vec::with_capacity(ROOM);
    attribute(&mut attributes, service::FAMILY, &target.family().to_ne_bytes());
    match target {
        Target::Address(frontend) => {
            let protocol = match frontend.protocol() {
                Protocol::Tcp => TCP,
                Protocol::Udp => UDP,
                Protocol::Sctp => SCTP,
            };
            attribute(&mut attributes, service::PROTOCOL, &protocol.to_ne_bytes());
            attribute(&mut attributes, service::ADDRESS, &address(frontend.address()));
            attribute(&mut attributes, service::PORT, &frontend.port().number().to_be_bytes());
        }
        Target::Mark { mark, .. } => attribute(&mut attributes, service::MARK, &mark.to_ne_bytes()),
    }
    attributes
}

impl Target {
    const fn is_v4(self) -> bool {
        match self {
            Self::Address(frontend) => frontend.address().is_ipv4(),
            Self::Mark { is_v4, .. } => is_v4,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "2 and 10")]
    const fn family(self) -> u16 {
        if self.is_v4() { nix::libc::AF_INET as u16 } else { nix::libc::AF_INET6 as u16 }
    }
}

pub(super) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

pub(super) fn nested(bytes: &mut Vec<u8>, kind: u16, attributes: &[u8]) {
    attribute(bytes, kind | NLA_F_NESTED, attributes);
}

const ATTRIBUTE_HEADER: usize = 4;

/// Those that can be read; what comes after one that cannot is lost.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [length, kind] = [u16_of(bytes)?, u16_of(bytes.get(2..)?)?];
        let value = bytes.get(ATTRIBUTE_HEADER..usize::from(length))?;
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// `union nf_inet_addr`: 16 bytes, of which IPv4 uses the first four.
fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn ip_address(family: u16, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        nix::libc::AF_INET => bytes.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()),
        nix::libc::AF_INET6 => bytes.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "2 and 10")]
const fn family_of(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => nix::libc::AF_INET as u16,
        IpAddr::V6(_) => nix::libc::AF_INET6 as u16,
    }
}

fn port_of(bytes: &[u8]) -> Option<Port> {
    Port::new(u16::from_be_bytes(*bytes.first_chunk()?))
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests;

//! What VRRP, ARP and neighbour discovery say on a wire, as they say it.
//!
//! Parsed here once more and by hand, so that our own codec is checked by something that shares no line with it.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};

use crate::error::report_leftover;
use crate::{Error, Namespace, Result, Switch, wait};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// `PACKET_OUTGOING` of packet(7): on its way out of the interface.
const OUTGOING: u8 = 4;

/// One frame of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When the kernel saw it.
    pub at: Instant,
    /// Who sent it.
    pub source: Mac,
    /// To whom.
    pub destination: Mac,
    /// What it says.
    pub content: Content,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A VRRP advertisement (RFC 9568 section 5, RFC 3768 section 5).
    Advert {
        /// The IP source.
        from: IpAddr,
        /// The IP destination.
        to: IpAddr,
        /// IP time to live or hop limit; must be 255.
        ttl: u8,
        /// Virtual router identifier.
        router: u8,
        /// Priority; 0 is a farewell.
        priority: u8,
        /// The advertised interval.
        interval: Duration,
        /// The virtual addresses.
        addresses: Vec<IpAddr>,
    },
    /// A neighbour advertisement (RFC 4861 section 4.4) with one option, the link-layer address of its target.
    Neighbour {
        /// The IP source.
        from: Ipv6Addr,
        /// The IP destination.
        to: Ipv6Addr,
        /// Whether it answers a question.
        solicited: bool,
        /// Whether it replaces what is known.
        replaces: bool,
        /// Whom it is about.
        target: Ipv6Addr,
        /// Where that is.
        target_mac: Mac,
    },
    /// An ARP packet for IPv4 (RFC 826).
    Arp {
        /// 1: request, 2: reply.
        operation: u16,
        /// The sender's Ethernet address.
        sender_mac: Mac,
        /// The sender's address; equal to `target` if it is gratuitous.
        sender: Ipv4Addr,
        /// Whom it is about.
        target: Ipv4Addr,
    },
}

/// A capture that runs until it is dropped.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
enum Place {
    /// Both directions of one interface.
    Interface(usize),
    /// What comes in by any port, the bridge itself left out: every frame once.
    SwitchWithout(usize),
}

impl Capture {
    /// Sees every frame that enters the switch, once, whatever port it is for.
    pub fn on_switch(switch: &Switch) -> Result<Self> {
        Self::start(switch.namespace(), Switch::BRIDGE, Place::SwitchWithout)
    }

    /// Sees both directions of one interface.
    pub fn on_interface(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::start(namespace, interface, Place::Interface)
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a frame that `is_it` knows, among those seen already too.
    pub fn wait_for(&self, what: &str, limit: Duration, is_it: impl Fn(&Frame) -> bool) -> Result<Frame> {
        wait::until_some(what, limit, || Ok(self.frames().into_iter().find(&is_it)))
    }

    fn start(namespace: &Namespace, interface: &str, place: impl Fn(usize) -> Place) -> Result<Self> {
        let (socket, index) = namespace.run(|| open(interface))??;
        let place = place(index);
        let (frames, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            if let Err(error) = receive(&socket, place, &seen, &stopped) {
                report_leftover("a capture that failed", &error);
            }
        });
        Ok(Self { frames, stop, thread: Some(thread) })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            report_leftover("capture", &"its thread panicked");
        }
    }
}

fn open(interface: &str) -> Result<(OwnedFd, usize)> {
    let failed = || Error::system("capture on", interface);
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).map_err(failed())?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).map_err(failed())?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).map_err(failed())?;
    let index = if_nametoindex(interface).map_err(failed())?;
    Ok((socket, usize::try_from(index).unwrap_or_default()))
}

fn receive(socket: &OwnedFd, place: Place, frames: &Mutex<Vec<Frame>>, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let mut control = nix::cmsg_space!(TimeSpec);
    while !stop.load(Ordering::Relaxed) {
        let mut vectors = [IoSliceMut::new(&mut buffer)];
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
        let received = match recvmsg::<LinkAddr>(fd, &mut vectors, Some(&mut control), flags) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
            Err(error) => return Err(error.into()),
        };
        let seen = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(seen) => Some(seen),
            _ => None,
        });
        let (Some(from), Some(seen), length) = (received.address, seen, received.bytes) else { continue };
        let wanted = match place {
            Place::Interface(index) => from.ifindex() == index,
            Place::SwitchWithout(bridge) => from.ifindex() != bridge && from.pkttype() != OUTGOING,
        };
        if let Some((source, destination, content)) = parse(&buffer[..length]).filter(|_| wanted) {
            let frame = Frame { at: instant_of(seen), source, destination, content };
            frames.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
        }
    }
    Ok(())
}

/// The kernel tells the time of day. This thread may read that late, but not by so much that the two clocks part.
fn instant_of(seen: TimeSpec) -> Instant {
    let (now, seen) = (wait::now(), SystemTime::UNIX_EPOCH + Duration::from(seen));
    now.checked_sub(seen.elapsed().unwrap_or_default()).unwrap_or(now)
}

fn parse(frame: &[u8]) -> Option<(Mac, Mac, Content)> {
    let destination = frame.get(..6)?.try_into().ok()?;
    let source = frame.get(6..12)?.try_into().ok()?;
    let payload = frame.get(14..)?;
    let content = match frame.get(12..14)? {
        [0x08, 0x06] => parse_arp(payload),
        [0x08, 0x00] => parse_ipv4(payload),
        [0x86, 0xdd] => parse_ipv6(payload),
        _ => None,
    }?;
    Some((source, destination, content))
}

fn parse_arp(packet: &[u8]) -> Option<Content> {
    if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    Some(Content::Arp {
        operation: u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?),
        sender_mac: packet.get(8..14)?.try_into().ok()?,
        sender: address(packet, 14)?,
        target: address(packet, 24)?,
    })
}

fn parse_ipv4(packet: &[u8]) -> Option<Content> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let path =
        Path { from: address(packet, 12)?.into(), to: address(packet, 16)?.into(), ttl: *packet.get(8)? };
    let advert = packet.get(header..)?;
    let address = |number: usize| address(advert, 8 + 4 * number).map(IpAddr::from);
    if *packet.get(9)? == 112 { parse_advert(path, advert, address) } else { None }
}

fn parse_ipv6(packet: &[u8]) -> Option<Content> {
    let (from, to, ttl) = (address_ipv6(packet, 8)?, address_ipv6(packet, 24)?, *packet.get(7)?);
    let message = packet.get(40..)?;
    let address = |number: usize| address_ipv6(message, 8 + 16 * number).map(IpAddr::from);
    match *packet.get(6)? {
        112 => parse_advert(Path { from: from.into(), to: to.into(), ttl }, message, address),
        58 if ttl == 255 && *message.first()? == 136 && message.get(24..26)? == [2, 1] => {
            Some(Content::Neighbour {
                from,
                to,
                solicited: message.get(4)? & 0x40 != 0,
                replaces: message.get(4)? & 0x20 != 0,
                target: address_ipv6(message, 8)?,
                target_mac: message.get(26..32)?.try_into().ok()?,
            })
        }
        _ => None,
    }
}

/// What an IP header says of an advert.
#[derive(Clone, Copy)]
struct Path {
    from: IpAddr,
    to: IpAddr,
    ttl: u8,
}

/// Version 3, type 1; or version 2, whose interval is in seconds.
fn parse_advert(path: Path, advert: &[u8], address: impl Fn(usize) -> Option<IpAddr>) -> Option<Content> {
    let interval = match *advert.first()? {
        0x31 => {
            let centiseconds = u16::from_be_bytes(advert.get(4..6)?.try_into().ok()?) & 0x0fff;
            Duration::from_millis(u64::from(centiseconds) * 10)
        }
        0x21 => Duration::from_secs(u64::from(*advert.get(5)?)),
        _ => return None,
    };
    let count = usize::from(*advert.get(3)?);
    Some(Content::Advert {
        from: path.from,
        to: path.to,
        ttl: path.ttl,
        router: *advert.get(1)?,
        priority: *advert.get(2)?,
        interval,
        addresses: (0..count).map(address).collect::<Option<_>>()?,
    })
}

fn address(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn address_ipv6(packet: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advert_is_read() {
        let mut frame = vec![0x01, 0x00, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 1, 51, 0x08, 0x00];
        frame.extend([0x45, 0xc0, 0, 32, 0, 0, 0, 0, 255, 112, 0, 0, 192, 0, 2, 1, 224, 0, 0, 18]);
        frame.extend([0x31, 51, 200, 1, 0, 10, 0xab, 0xcd, 192, 0, 2, 250]);
        let (source, destination, content) = parse(&frame).unwrap();
        assert_eq!((source, destination), ([0, 0, 0x5e, 0, 1, 51], [1, 0, 0x5e, 0, 0, 0x12]));
        let expected = Content::Advert {
            from: [192, 0, 2, 1].into(),
            to: [224, 0, 0, 18].into(),
            ttl: 255,
            router: 51,
            priority: 200,
            interval: Duration::from_millis(100),
            addresses: vec![[192, 0, 2, 250].into()],
        };
        assert_eq!(content, expected);
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), None, "cut at {length}");
        }
    }

    /// After the addresses of ethernet.
    const TO_ALL_NODES: [u8; 42] = [
        0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa,
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    ];

    #[test]
    fn a_neighbour_advertisement_is_read() {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut frame = [&[0x33, 0x33, 0, 0, 0, 1][..], &mac, &TO_ALL_NODES].concat();
        frame.extend([136, 0, 0xab, 0xcd, 0x20, 0, 0, 0]);
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa, 2, 1, 2, 0, 0, 0, 0, 1]);
        let target = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfa);
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let (solicited, replaces, target_mac) = (false, true, mac);
        let expected = Content::Neighbour { from: target, to, solicited, replaces, target, target_mac };
        assert_eq!(parse(&frame), Some((mac, [0x33, 0x33, 0, 0, 0, 1], expected)));
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), None, "cut at {length}");
        }
    }

    #[test]
    fn an_advert_over_ipv6_is_read() {
        let mut frame = [&[0; 12][..], &TO_ALL_NODES].concat();
        frame[20] = 112;
        frame.extend([0x31, 51, 200, 1, 0, 10, 0xab, 0xcd]);
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa]);
        let address = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfa));
        let Some((_, _, Content::Advert { from, ttl, interval, addresses, .. })) = parse(&frame) else {
            panic!("no advert: {frame:?}")
        };
        assert_eq!((from, ttl, addresses), (address, 255, vec![address]));
        assert_eq!(interval, Duration::from_millis(100));
    }

    #[test]
    fn a_gratuitous_arp_is_read() {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut frame = [[0xff; 6], mac].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(mac);
        frame.extend([192, 0, 2, 250, 0, 0, 0, 0, 0, 0, 192, 0, 2, 250]);
        let address = Ipv4Addr::new(192, 0, 2, 250);
        let expected = Content::Arp { operation: 1, sender_mac: mac, sender: address, target: address };
        assert_eq!(parse(&frame), Some((mac, [0xff; 6], expected)));
    }
}

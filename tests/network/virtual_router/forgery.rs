//! Packets that must not count. Each would make whoever believes it give way: it says 255, the highest priority.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use tests::capture::Capture;
use tests::topology::{Family, Host, INTERFACE, VIRTUAL_LINK_LOCAL};
use tests::{Error, Result, wait};

use super::contents::advert_of;
use crate::site::{FrontDoor, Plan, Site, until};

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const GROUP_IPV6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Less than half of the masters' interval of 200 ms.
const PAUSE: Duration = Duration::from_millis(90);
/// How many intervals of a master are looked at.
const INTERVALS: usize = 12;

/// An advert by the client's hand.
#[derive(Clone, Debug)]
pub(super) struct Forgery {
    from: IpAddr,
    to: IpAddr,
    time_to_live: u8,
    message: Vec<u8>,
}

impl Forgery {
    /// Nothing is wrong with it.
    pub(super) fn perfect(from: IpAddr) -> Self {
        let (to, count, addresses) = match from {
            IpAddr::V4(_) => (GROUP.into(), 1, octets(Family::Ipv4.virtual_address())),
            IpAddr::V6(_) => {
                let both = [octets(VIRTUAL_LINK_LOCAL.into()), octets(Family::Ipv6.virtual_address())];
                (GROUP_IPV6.into(), 2, both.concat())
            }
        };
        let message = [&[0x31, 51, 255, count, 0, 20, 0, 0][..], &addresses].concat();
        Self { from, to, time_to_live: 255, message }.summed()
    }

    /// With one byte of the message changed and the checksum right all the same.
    pub(super) fn with(mut self, position: usize, value: u8) -> Self {
        self.message[position] = value;
        self.summed()
    }

    /// RFC 1071 over pseudo-header and message.
    fn summed(mut self) -> Self {
        self.message[6..8].fill(0);
        let length = self.message.len().to_be_bytes();
        let covered = [&octets(self.from)[..], &octets(self.to), &[0, 112], &length, &self.message].concat();
        let words = covered.chunks(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        let sum = words.fold(0_u16, |sum, word| {
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        });
        self.message[6..8].copy_from_slice(&(!sum).to_be_bytes());
        self
    }

    /// With an IP header. Length and checksum of that of IPv4 the kernel fills in.
    fn packet(&self) -> Vec<u8> {
        let header = match self.to {
            IpAddr::V4(_) => vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, self.time_to_live, 112, 0, 0],
            IpAddr::V6(_) => {
                let length = u16::try_from(self.message.len()).unwrap_or_default().to_be_bytes();
                vec![0x6c, 0, 0, 0, length[0], length[1], 112, self.time_to_live]
            }
        };
        [&header[..], &octets(self.from), &octets(self.to), &self.message].concat()
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// The kernel hands us nothing that was sent to a group we did not join.
const UNSEEN: &str = "";

/// Every way to be no advert for us, with the reason it is counted under.
fn forgeries(from: IpAddr) -> Vec<(&'static str, Forgery)> {
    let perfect = || Forgery::perfect(from);
    let aged = |time_to_live| Forgery { time_to_live, ..perfect() };
    let spoilt = |spoil: &dyn Fn(&mut Vec<u8>)| {
        let mut forgery = perfect();
        spoil(&mut forgery.message);
        forgery
    };
    let last = perfect().message.len() - 1;
    let all_nodes: IpAddr = match from {
        IpAddr::V4(_) => Ipv4Addr::new(224, 0, 0, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    };
    vec![
        ("time_to_live", aged(254)),
        ("time_to_live", aged(1)),
        (UNSEEN, Forgery { to: all_nodes, ..perfect() }.summed()),
        ("checksum", spoilt(&|message| message[6] ^= 0x10)),
        ("checksum", spoilt(&|message| message[6..8].fill(0))),
        ("version", perfect().with(0, 0x21)),
        ("version", perfect().with(0, 0x41)),
        ("version", perfect().with(0, 0x11)),
        ("type", perfect().with(0, 0x30)),
        ("type", perfect().with(0, 0x32)),
        ("router_id", perfect().with(1, 52)),
        ("router_id", perfect().with(1, 0)),
        ("interval", perfect().with(5, 0)),
        ("addresses", perfect().with(last, 251)),
        ("length", perfect().with(3, 3)),
        ("length", perfect().with(3, 0)),
        ("length", spoilt(&|message| message.truncate(7))),
        ("length", spoilt(&|message| message.truncate(11))),
        ("length", spoilt(&Vec::clear)),
    ]
}

/// Somebody on the link who sends what he likes.
pub(super) struct Forger {
    socket: OwnedFd,
    pub(super) from: IpAddr,
    /// The number of his interface.
    index: u32,
}

impl Forger {
    pub(super) fn new(host: &Host, family: Family) -> Result<Self> {
        let (kind, from) = match family {
            Family::Ipv4 => (AddressFamily::Inet, host.address().into()),
            Family::Ipv6 => (AddressFamily::Inet6, host.link_local().into()),
        };
        host.namespace().ip(&["route", "add", "224.0.0.0/4", "dev", INTERFACE])?;
        let open = || socket(kind, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let socket = host.namespace().run(open)?.map_err(Error::system("open", "a raw socket"))?;
        let index = host.namespace().run(|| if_nametoindex(INTERFACE))?;
        Ok(Self { socket, from, index: index.map_err(Error::system("find", INTERFACE))? })
    }

    pub(super) fn send(&self, forgery: &Forgery) -> Result<()> {
        let (socket, packet, flags) = (self.socket.as_raw_fd(), forgery.packet(), MsgFlags::empty());
        let sent = match forgery.to {
            IpAddr::V4(to) => {
                let [a, b, c, d] = to.octets();
                sendto(socket, &packet, &SockaddrIn::new(a, b, c, d, 0), flags)
            }
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, self.index));
                sendto(socket, &packet, &to, flags)
            }
        };
        sent.map(drop).map_err(Error::system("send", "a forgery"))
    }

    /// Sends every forgery, again and again, while `work` goes on; says how often.
    fn send_all_during(&self, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let forging = scope.spawn(|| {
                let mut rounds = 0;
                while !done.load(Ordering::Relaxed) {
                    for (_, forgery) in forgeries(self.from) {
                        self.send(&forgery)?;
                    }
                    rounds += 1;
                    wait::pace(PAUSE);
                }
                Ok(rounds)
            });
            let finish = Finish(&done);
            let outcome = work();
            drop(finish);
            match forging.join() {
                Ok(rounds) => outcome.and(rounds),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Ends the forging, also when the work panics: the scope waits for it.
pub(super) struct Finish<'a>(pub(super) &'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The time that the next [`INTERVALS`] of `host`, which is master, take.
pub(super) fn rhythm(host: &Host, capture: &Capture) -> Result<Duration> {
    let adverts = || {
        let frames = capture.frames().into_iter().filter(|frame| advert_of(host, frame).is_some());
        frames.map(|frame| frame.at).collect::<Vec<_>>()
    };
    let begin = adverts().len();
    until("the master goes on to advertise", || Ok(adverts().len() > begin + INTERVALS))?;
    let adverts = adverts();
    Ok(adverts[begin + INTERVALS] - adverts[begin])
}

pub(super) fn rejected(front_door: &FrontDoor, reason: &str) -> Result<u64> {
    front_door.metric(&format!("vrrp_adverts_rejected_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_master_keeps_its_address_and_its_rhythm_whatever_is_forged() -> Result<()> {
    Family::BOTH.into_iter().try_for_each(master_keeps_its_rhythm)
}

fn master_keeps_its_rhythm(family: Family) -> Result<()> {
    let site = Site::of(family, 1)?;
    let (host, forger) = (site.master(0), Forger::new(site.link.client(), family)?);
    let front_door = site.front_door(0, &Plan::new(100))?;
    until("it is master", || host.holds(family.virtual_address()))?;
    let capture = Capture::on_interface(site.client(), INTERFACE)?;
    let undisturbed = rhythm(host, &capture)?;
    let mut disturbed = Duration::ZERO;
    let rounds = forger.send_all_during(|| {
        disturbed = rhythm(host, &capture)?;
        Ok(())
    })?;
    assert!(host.holds(family.virtual_address())?);
    assert_eq!(front_door.metric("vrrp_transitions_total{to=\"backup\"}")?, 1, "only at its start");
    let ratio = disturbed.as_secs_f64() / undisturbed.as_secs_f64();
    assert!((0.8..1.2).contains(&ratio), "{undisturbed:?} undisturbed, {disturbed:?} under forgeries");

    let mut kinds = BTreeMap::new();
    for (reason, _) in forgeries(forger.from) {
        *kinds.entry(reason).or_insert(0) += 1;
    }
    kinds.remove(UNSEEN);
    for (reason, kinds) in kinds {
        let expected = rounds * kinds;
        until(&format!("{expected} were counted as {reason}"), || {
            Ok(rejected(&front_door, reason)? == expected)
        })?;
    }
    // Nothing but their faults kept them from being believed.
    forger.send(&Forgery::perfect(forger.from))?;
    until("it gives way to a perfect advert", || Ok(!host.holds(family.virtual_address())?))
}

#[test]
fn a_backup_takes_over_from_a_dead_master_whatever_is_forged() -> Result<()> {
    Family::BOTH.into_iter().try_for_each(backup_takes_over)
}

fn backup_takes_over(family: Family) -> Result<()> {
    let mut whole = Site::whole_of(family, 2, Plan::new)?;
    let forger = Forger::new(whole.site.link.client(), family)?;
    let rounds = forger.send_all_during(|| {
        whole.kill_node(0)?;
        until("the backup takes over", || whole.site.master(1).holds(family.virtual_address()))
    })?;
    assert!(rounds > 1);
    assert!(rejected(&whole.front_doors[1], "checksum")? >= 2, "the forgeries did arrive");
    Ok(())
}

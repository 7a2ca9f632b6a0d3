//! Masters and a client on one link: where front doors live.
//!
//! ```text
//!     master .241   master .242   master .243     client .20
//!         |             |             |               |
//!   ------+-------------+-------------+---------------+------ 172.16.60.0/24, virtual address .250
//!                                                             fd00:60::/64, virtual address ::fa
//! ```
//!
//! ```no_run
//! use tests::topology::{Link, VIRTUAL_ADDRESS};
//!
//! let link = Link::new(3)?;
//! link.masters()[0].namespace().address("eth0", "172.16.60.250/32")?;
//! assert_eq!(link.holders()?, [0]);
//! # Ok::<(), tests::Error>(())
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::{Error, Namespace, Plug, Result, Switch, wait};

/// What the masters share.
pub const VIRTUAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 250);
/// Where clients knock.
pub const FRONT_DOOR: SocketAddr = SocketAddr::new(IpAddr::V4(VIRTUAL_ADDRESS), 8443);
/// What the masters share, of IPv6.
pub const VIRTUAL_ADDRESS_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x60, 0, 0, 0, 0, 0, 0xfa);
/// What comes before it in adverts, as RFC 9568 has it.
pub const VIRTUAL_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfa);
/// What every host calls its end of the cable.
pub const INTERFACE: &str = "eth0";

const FIRST_MASTER: u8 = 241;
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 16, 60, 20);

/// Which of the two virtual addresses a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// [`VIRTUAL_ADDRESS`].
    Ipv4,
    /// [`VIRTUAL_ADDRESS_IPV6`].
    Ipv6,
}

impl Family {
    /// One after the other.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// What the masters share.
    pub const fn virtual_address(self) -> IpAddr {
        match self {
            Self::Ipv4 => IpAddr::V4(VIRTUAL_ADDRESS),
            Self::Ipv6 => IpAddr::V6(VIRTUAL_ADDRESS_IPV6),
        }
    }

    /// Where clients knock.
    pub const fn front_door(self) -> SocketAddr {
        SocketAddr::new(self.virtual_address(), FRONT_DOOR.port())
    }
}

/// Some masters and a client on a switch.
#[derive(Debug)]
pub struct Link {
    switch: Switch,
    masters: Vec<Host>,
    client: Host,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: Namespace,
    address: Ipv4Addr,
    link_local: Ipv6Addr,
    plug: Plug,
}

impl Link {
    /// `masters` of them, at most nine. Needs root.
    pub fn new(masters: u8) -> Result<Self> {
        assert!(masters < 10, "the virtual address follows the ninth master");
        let switch = Switch::new("link")?;
        let host = |label: &str, address: Ipv4Addr| attach(&switch, label, address);
        let master =
            |number: u8| host(&format!("m{}", number + 1), Ipv4Addr::new(172, 16, 60, FIRST_MASTER + number));
        let masters = (0..masters).map(master).collect::<Result<_>>()?;
        let client = host("client", CLIENT)?;
        Ok(Self { switch, masters, client })
    }

    /// The masters, in the order of their addresses.
    pub fn masters(&self) -> &[Host] {
        &self.masters
    }

    /// The client.
    pub const fn client(&self) -> &Host {
        &self.client
    }

    /// Connects one more host.
    pub fn host(&self, label: &str, address: Ipv4Addr) -> Result<Host> {
        attach(&self.switch, label, address)
    }

    /// Which masters have the virtual address on an interface, reachable or not.
    pub fn holders(&self) -> Result<Vec<usize>> {
        self.holders_of(VIRTUAL_ADDRESS.into())
    }

    /// Which masters have `address` on an interface, reachable or not.
    pub fn holders_of(&self, address: IpAddr) -> Result<Vec<usize>> {
        let mut holders = Vec::new();
        for (position, master) in self.masters.iter().enumerate() {
            if master.holds(address)? {
                holders.push(position);
            }
        }
        Ok(holders)
    }

    /// Pulls the cable of `host`: it sees its carrier go.
    pub fn unplug(&self, host: &Host) -> Result<()> {
        self.switch.unplug(&host.plug)
    }

    /// Puts it back.
    pub fn plug(&self, host: &Host) -> Result<()> {
        self.switch.plug(&host.plug)
    }

    /// Parts `host` from all others without its noticing: its carrier stays, as behind a failed switch further on.
    pub fn part(&self, host: &Host) -> Result<()> {
        self.switch.detach(&host.plug)
    }

    /// From now on `host` loses frames at random, so many of a hundred in either direction; with 0, none.
    pub fn lose(&self, host: &Host, percent: u32) -> Result<()> {
        match percent {
            0 => self.switch.lose_nothing(&host.plug),
            percent => self.switch.lose(&host.plug, percent),
        }
    }

    /// Takes the interface of `host` away altogether; [`restore`](Self::restore) brings another one of the same name.
    pub fn remove(&self, host: &Host) -> Result<()> {
        host.namespace.ip(&["link", "delete", INTERFACE]).map(drop)
    }

    /// Gives `host` an interface again. This value stands for it from now on.
    pub fn restore(&self, host: &Host) -> Result<Host> {
        plug_in(&self.switch, host.namespace.clone(), host.address)
    }

    /// Brings it together with them again.
    pub fn join(&self, host: &Host) -> Result<()> {
        self.switch.reattach(&host.plug)
    }
}

impl Host {
    /// Its namespace.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its own address.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its own address of IPv6, on this link only: the kernel has made it up.
    pub const fn link_local(&self) -> Ipv6Addr {
        self.link_local
    }

    /// Its hardware address.
    pub fn hardware_address(&self) -> Result<String> {
        let link = self.namespace.ip(&["-brief", "link", "show", INTERFACE])?;
        let address = link.split_whitespace().nth(2).map(str::to_owned);
        address.ok_or_else(|| Error::Command { command: "ip link show".to_owned(), output: link })
    }

    /// Whether `address` is on one of its interfaces.
    pub fn holds(&self, address: impl Into<IpAddr>) -> Result<bool> {
        let address = address.into();
        self.namespace.run(|| is_here(address))
    }
}

fn attach(switch: &Switch, label: &str, address: Ipv4Addr) -> Result<Host> {
    let namespace = Namespace::new(label)?;
    // Addresses of IPv6 are there at once: nobody else has them here.
    namespace.command("sysctl", &["-qw", "net.ipv6.conf.default.accept_dad=0"])?;
    plug_in(switch, namespace, address)
}

fn plug_in(switch: &Switch, namespace: Namespace, address: Ipv4Addr) -> Result<Host> {
    let [.., last] = address.octets();
    let addresses = [format!("{address}/24"), format!("fd00:60::{last}/64")];
    let plug = switch.attach(&namespace, INTERFACE, &addresses.each_ref().map(String::as_str))?;
    let link_local = wait::until_some("the host has a link-local address", LINK_LOCAL_LIMIT, || {
        let shown = namespace.ip(&["-6", "-brief", "address", "show", INTERFACE, "scope", "link"])?;
        let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")?.parse().ok());
        Ok(address)
    })?;
    Ok(Host { namespace, address, link_local, plug })
}

/// The kernel makes them up when it notices the carrier.
const LINK_LOCAL_LIMIT: Duration = Duration::from_secs(20);

/// Whether `address` is on an interface of the namespace that the calling thread is in: only then can it be bound.
pub fn is_here(address: impl Into<IpAddr>) -> bool {
    UdpSocket::bind((address.into(), 0)).is_ok()
}

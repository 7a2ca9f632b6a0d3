//! The virtual routers of this node: a thin shell round [`vrrp::step`].
//!
//! Each has an operating system thread of its own, so that neither the relay's load nor a slow scrape delays an advert, nor
//! the addresses of one router those of another:
//!
//! ```text
//!   advert socket ---\                                      /--> advert socket
//!   link monitor -----> poll --> event --> vrrp::step --> actions --> addresses (netlink)
//!   deadline --------/                                      \--> announcements (packet socket)
//!   orders ----------/
//! ```
//!
//! The clock is read first, then the adverts that wait, then a timer is looked at, by the time read before: a thread that
//! was kept from running, wherever that happened, takes over only if the master was silent, not because it was slow
//! itself. It has real-time priority where that is permitted. All times are monotonic: setting the clock does nothing.
//!
//! The addresses carry the interface's own MAC address, not the virtual one of RFC 9568 §7.3: as with keepalived, no
//! further interface is needed, and clients follow gratuitous ARP or, over IPv6, unsolicited neighbour advertisements.

mod attachment;
mod complaints;
mod doorstep;
mod interface;
mod metrics;
mod realtime;
mod rival;
mod status;
mod tracker;
mod tracking;
mod worker;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use ipnet::IpNet;
use nix::errno::Errno;
use vrrp::{Audience, Family, Preempt, Priority, Role, RouterId, Version, VirtualAddresses};

pub(crate) use self::attachment::is_link_local;
pub use self::metrics::RouterMetrics;
pub(crate) use self::realtime::lock_memory;
use self::status::SharedStatus;
pub use self::status::{Peer, RouterStatus};
pub use self::tracking::{Sight, Track, TrackedInterface, Witness};
use self::worker::{Worker, now};
use crate::orders::Orders;

/// Which virtual router to take part in, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// The interface whose link is shared with the other routers. An address of it is where adverts come from.
    pub interface: String,
    /// Which virtual router.
    pub router_id: RouterId,
    /// How much this node wants to be its master.
    pub priority: Priority,
    /// How its routers speak.
    pub version: Version,
    /// Whether a master of lower priority is replaced.
    pub preempt: Preempt,
    /// Who the other routers are. Our own address may be among the peers: it is left out.
    pub audience: Audience,
    /// What the master holds.
    pub addresses: RouterAddresses,
    /// What the priority follows.
    pub track: Track,
}

impl RouterConfig {
    /// What logs and metrics call it, as no two of a link can be the same: `eth0-51-ipv4`.
    pub fn instance(&self) -> String {
        format!("{}-{}-{}", self.interface, self.router_id, self.addresses.family())
    }
}

/// The virtual addresses with the length of the network each is put on the interface with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterAddresses {
    networks: Vec<IpNet>,
    addresses: VirtualAddresses,
}

impl RouterAddresses {
    /// `None` if there are none, more than 255, one twice, or some of each family.
    pub fn new(networks: Vec<IpNet>) -> Option<Self> {
        let addresses = VirtualAddresses::new(networks.iter().map(IpNet::addr).collect())?;
        Some(Self { networks, addresses })
    }

    /// The addresses with their lengths, in the operator's order.
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Whether these are of IPv6 and no link-local one leads them.
    fn lack_link_local(&self) -> bool {
        self.family() == Family::Ipv6 && !self.networks.first().is_some_and(|it| is_link_local(it.addr()))
    }

    /// Their family.
    pub const fn family(&self) -> Family {
        self.addresses.family()
    }
}

/// Why the router could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// There is no such interface.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The interface has no MAC address, so it has neither ARP nor neighbour discovery.
    #[error("{interface} is not an ethernet interface")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The interface has no address of its own that adverts could come from.
    #[error("{interface} has no {wanted} besides the virtual ones")]
    NoAddress {
        /// Its name.
        interface: String,
        /// What kind of address it would have to be.
        wanted: &'static str,
    },
    /// Of all peers there is only this node.
    #[error("no peer is listed besides {address}, which is this node's own")]
    NoPeer {
        /// The address of the interface.
        address: IpAddr,
    },
    /// A privilege is missing.
    #[error("not permitted to {action}: run as root or with {capability}")]
    Permission {
        /// What was tried.
        action: &'static str,
        /// What is needed for it.
        capability: &'static str,
    },
    /// The kernel refused something.
    #[error("{action} on {interface}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Where.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// The thread, or what wakes it, could not be made.
    #[error("start the virtual router's thread")]
    Thread {
        /// Why not.
        source: io::Error,
    },
}

impl RouterError {
    /// What the kernel said to `action`: that `capability` is missing, or something else.
    fn of_kernel(
        config: &RouterConfig,
        action: &'static str,
        capability: &'static str,
        source: io::Error,
    ) -> Self {
        let refused = [Errno::EPERM, Errno::EACCES].map(|errno| Some(errno as i32));
        if refused.contains(&source.raw_os_error()) {
            return Self::Permission { action, capability };
        }
        Self::Kernel { action, interface: config.interface.clone(), source }
    }
}

/// How a virtual router begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// As if nothing had been before: addresses that a killed predecessor may have left are taken off.
    Afresh,
    /// In the place of a router of this node that [handed over](Router::hand_over) as master: the addresses are there, and
    /// the link does not notice.
    AsMaster,
}

/// A virtual router that has its sockets and has changed nothing yet.
pub struct Prepared {
    worker: Worker,
    router: Router,
}

impl Prepared {
    /// Lets the priority follow what `witness` says, too, as [`RouterConfig::track`] wants it.
    #[must_use]
    pub fn follow(mut self, witness: impl Witness + 'static) -> Self {
        self.worker.follow(Box::new(witness));
        self
    }

    /// Starts the thread.
    pub fn start(mut self, beginning: Beginning) -> Result<Router, RouterError> {
        self.worker.begin(beginning)?;
        let Self { worker, mut router } = self;
        let thread = thread::Builder::new().name("virtual-router".to_owned()).spawn(move || worker.run());
        router.thread = Some(thread.map_err(|source| RouterError::Thread { source })?);
        Ok(router)
    }
}

/// A running virtual router. Dropping it is [`stop`](Self::stop).
#[derive(Debug)]
pub struct Router {
    orders: Arc<Orders<Order>>,
    status: Arc<SharedStatus>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Opens the sockets. Whatever is wrong with the interface is an error here; later it is a log line.
    ///
    /// Needs `CAP_NET_RAW`, and `CAP_NET_ADMIN` to start. An interface that is down is no error, nor
    /// one that has no link-local IPv6 address yet: the router waits for it.
    pub fn prepare(config: RouterConfig, metrics: &RouterMetrics) -> Result<Prepared, RouterError> {
        let thread_error = |source| RouterError::Thread { source };
        let orders = Arc::new(Orders::new().map_err(thread_error)?);
        let status = Arc::new(SharedStatus::new(config.priority, now()));
        if config.addresses.lack_link_local() {
            let instance = config.instance();
            tracing::warn!(
                instance,
                "no virtual address is link-local: other makes may insist on one (RFC 9568 5.2.9)"
            );
        }
        let metrics = metrics.of(&config);
        let worker = Worker::prepare(config, metrics, Arc::clone(&orders), Arc::clone(&status))?;
        Ok(Prepared { worker, router: Self { orders, status, thread: None } })
    }

    /// [Prepares](Self::prepare) a router and starts it afresh.
    pub fn start(config: RouterConfig, metrics: &RouterMetrics) -> Result<Self, RouterError> {
        Self::prepare(config, metrics)?.start(Beginning::Afresh)
    }

    /// What this node is at the moment.
    pub fn role(&self) -> Role {
        self.status.role()
    }

    /// How it is at the moment, in full.
    pub fn status(&self) -> RouterStatus {
        self.status.read()
    }

    /// Whether the router still does its work. If not, the log says why; it holds no address then.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Whether the thread has done what it was asked at the last time this was called. True at the first.
    pub fn is_responsive(&self) -> bool {
        let responsive = self.orders.is_empty();
        self.orders.give(Order::Answer);
        responsive
    }

    /// Goes on with another priority, interval, audience and so on, without leaving its role. Whoever calls this sees to
    /// it that interface, router and addresses are the same: for others it must be stopped and another one started.
    pub fn change(&self, config: RouterConfig) {
        self.orders.give(Order::Change(Box::new(config)));
    }

    /// Ends the router at once: returns when the virtual addresses are off and, if we were master, the farewell has been
    /// sent.
    pub fn stop(mut self) {
        self.end(Order::Stop);
    }

    /// Lets new clients of the virtual addresses wait until [`leave_all`](Self::leave_all) has found a successor for them;
    /// those whom the relay has accepted may finish meanwhile. `doors` are the sockets on which clients are accepted.
    pub fn shut(&self, doors: Arc<[TcpListener]>) {
        self.orders.give(Order::Shut(doors));
    }

    /// Ends several routers, with a farewell where we are master. Addresses stay until a successor announces that it has
    /// them, for a second and a bit at most, and for an interval and a bit if that is shorter (version 3).
    pub fn leave_all(mut routers: Vec<Self>) {
        for router in &routers {
            router.orders.give(Order::Leave);
        }
        routers.iter_mut().for_each(Self::join);
    }

    /// Ends the router without a word, addresses left as they are, and returns the role it had: a successor on this node
    /// [takes its place](Beginning::AsMaster) before the link misses it.
    pub fn hand_over(mut self) -> Role {
        self.end(Order::HandOver);
        self.role()
    }

    fn end(&mut self, order: Order) {
        self.orders.give(order);
        self.join();
    }

    fn join(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("virtual router thread panicked");
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end(Order::Stop);
    }
}

/// What the router's thread is told.
#[derive(Debug)]
enum Order {
    /// Show that the thread runs, by taking this.
    Answer,
    Change(Box<RouterConfig>),
    HandOver,
    Leave,
    Shut(Arc<[TcpListener]>),
    Stop,
}

#[cfg(test)]
pub(crate) mod tests {
    use vrrp::{AdvertInterval, Checksum, Peers};

    use super::*;

    /// A router of one address on `eth0`.
    pub(crate) fn config(virtual_address: &str, peers: &[&str]) -> RouterConfig {
        let peers = peers.iter().map(|peer| peer.parse().unwrap()).collect();
        RouterConfig {
            interface: "eth0".to_owned(),
            router_id: RouterId::new(51).unwrap(),
            priority: Priority::new(100).unwrap(),
            version: Version::Three {
                interval: AdvertInterval::ONE_SECOND,
                checksum: Checksum::PseudoHeader,
            },
            preempt: Preempt::Never,
            audience: Peers::new(peers).map_or(Audience::Group, Audience::Peers),
            addresses: RouterAddresses::new(vec![virtual_address.parse().unwrap()]).unwrap(),
            track: Track::default(),
        }
    }
}

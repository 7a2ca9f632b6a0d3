//! The virtual router of this node: a thin shell round [`vrrp::step`].
//!
//! It has an operating system thread of its own, so that neither the relay's load nor a slow scrape delays an advert:
//!
//! ```text
//!   advert socket ---\                                      /--> advert socket
//!   link monitor -----> poll --> event --> vrrp::step --> actions --> addresses (netlink)
//!   deadline --------/                                      \--> gratuitous ARP (packet socket)
//!   stop ------------/
//! ```
//!
//! Waiting adverts are read before a timer is looked at: a thread that was kept from running takes over only if the
//! master was silent, not because it was slow itself.
//!
//! The addresses carry the interface's own MAC address, not the virtual one of RFC 9568 §7.3: as with keepalived, no
//! further interface is needed, and clients follow gratuitous ARP.

mod complaints;
mod interface;
mod metrics;
mod worker;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};

use ipnet::Ipv4Net;
use nix::sys::eventfd::{EfdFlags, EventFd};
use vrrp::{Audience, Preempt, Priority, Role, RouterId, Version, VirtualAddresses};

pub use self::metrics::RouterMetrics;
use self::worker::Worker;

/// Which virtual router to take part in, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// The interface whose link is shared with the other routers. Its primary IPv4 address is where adverts come from.
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
}

/// The virtual addresses with the length of the network each is put on the interface with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterAddresses {
    networks: Vec<Ipv4Net>,
    addresses: VirtualAddresses,
}

impl RouterAddresses {
    /// `None` if there are none, more than 255, or one twice.
    pub fn new(networks: Vec<Ipv4Net>) -> Option<Self> {
        let addresses = VirtualAddresses::new(networks.iter().map(Ipv4Net::addr).collect())?;
        Some(Self { networks, addresses })
    }

    /// The addresses with their lengths, in the operator's order.
    pub fn networks(&self) -> &[Ipv4Net] {
        &self.networks
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
    /// The interface has no MAC address, so it has no ARP either.
    #[error("{interface} is not an ethernet interface")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The interface has no address of its own that adverts could come from.
    #[error("{interface} has no IPv4 address besides the virtual ones")]
    NoAddress {
        /// Its name.
        interface: String,
    },
    /// Of all peers there is only this node.
    #[error("no peer is listed besides {address}, which is this node's own")]
    NoPeer {
        /// The address of the interface.
        address: Ipv4Addr,
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

/// A running virtual router. Dropping it is [`stop`](Self::stop).
#[derive(Debug)]
pub struct Router {
    stop: Arc<EventFd>,
    role: Arc<SharedRole>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Opens the sockets, takes off the virtual addresses that a killed predecessor may have left, and starts the
    /// thread. Whatever is wrong with interface or privileges is an error here; later it is a log line.
    ///
    /// Needs `CAP_NET_ADMIN` and `CAP_NET_RAW`. An interface that is down is no error: the router waits for it.
    pub fn start(config: RouterConfig, metrics: RouterMetrics) -> Result<Self, RouterError> {
        let thread_error = |source| RouterError::Thread { source };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| thread_error(errno.into()))?;
        let stop = Arc::new(stop);
        let role = Arc::new(SharedRole::default());
        let worker = Worker::prepare(config, metrics, Arc::clone(&stop), Arc::clone(&role))?;
        let thread = thread::Builder::new()
            .name("virtual-router".to_owned())
            .spawn(move || worker.run())
            .map_err(thread_error)?;
        Ok(Self { stop, role, thread: Some(thread) })
    }

    /// What this node is at the moment.
    pub fn role(&self) -> Role {
        self.role.load()
    }

    /// Whether the router still does its work. If not, the log says why; it holds no address then.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the router: returns when the virtual addresses are off and, if we were master, the farewell has been sent.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if let Err(errno) = self.stop.write(1) {
            // Cannot happen short of memory corruption; joining would hang.
            tracing::error!(error = %errno, "virtual router cannot be told to stop");
            return;
        }
        if thread.join().is_err() {
            tracing::error!("virtual router thread panicked");
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

/// The role as other threads see it.
#[derive(Debug, Default)]
struct SharedRole(AtomicU8);

impl SharedRole {
    fn store(&self, role: Role) {
        let number = match role {
            Role::Initialize => 0,
            Role::Backup => 1,
            Role::Master => 2,
        };
        self.0.store(number, Ordering::Relaxed);
    }

    fn load(&self) -> Role {
        match self.0.load(Ordering::Relaxed) {
            1 => Role::Backup,
            2 => Role::Master,
            _ => Role::Initialize,
        }
    }
}

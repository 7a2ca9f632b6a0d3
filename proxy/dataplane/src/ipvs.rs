//! Forwarding in the kernel's IP virtual server: every frontend is a virtual service, every backend a real server.
//!
//! ```text
//!   [Change] --message--> generic netlink, many at a time --> ip_vs
//!            --elements--> netfilter netlink, transactions--> nftables
//!            --addresses-> route netlink                  --> kube-ipvs0
//! ```
//!
//! A virtual service is ours when its address is on our interface, or it is in our table. Others, such as those of an
//! IPVS front door on the same node, are neither reported nor touched. A frontend is there at once and whole: its address
//! comes last and goes first. State is the kernel's: nothing is lost when the process ends, and the next one goes on with
//! what it finds.

mod addresses;
mod drain;
mod kube_proxy;
mod message;
mod netlink;
mod nftables;
mod observe;
mod order;
mod refusal;
mod retire;
mod scheduler;
mod served;
mod settings;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use plan::{
    Audience, Backend, Change, Frontend, Observed, ObservedBackend, Rules, Scheduler, Service, Weight,
};

use self::addresses::{Addresses, INTERFACE, Interface};
use self::message::{Command, Target};
pub use self::netlink::Traffic;
use self::netlink::{Netlink, Request};
pub use self::nftables::Surroundings;
use self::nftables::Table;
pub use self::observe::Load;
use self::order::Order;
use self::refusal::{lost, no_table, refused, scheduler_of};
use self::scheduler::kernel_name;
use self::served::{Difference, Part, Served};
pub use self::settings::{IpvsSettings, Timeouts};
use crate::{Dataplane, Deviation, Error, Failure, Inspection, Unsupported};

/// Keeps a client at its server where IPVS has no affinity: of a service that is known by a mark, that would leave ports
/// as they are (`ip_vs_sched_persist`). It is by a hash of the client's address, and so for as long as the servers stay.
const STICKY: Scheduler = Scheduler::Maglev;
/// Held by the one process of a network namespace that keeps its services: the name of a socket.
const LOCK: &str = "fairway-proxy-ipvs";
/// No mark is left for one more service from outside. The kernel refuses nothing by it.
const FULL: Errno = Errno::ENOSPC;
/// The name of its nftables table, in each family.
const TABLE: &str = "fairway-proxy";

/// The virtual servers of the network namespace that it was opened in. TCP, UDP and SCTP.
///
/// Dropping it leaves everything as it is.
#[derive(Debug)]
pub struct Ipvs {
    netlink: Netlink,
    /// The number of the netlink family.
    family: u16,
    addresses: Addresses,
    drain_deadline: Duration,
    table: Table,
    served: Served,
    /// The networks that cluster addresses come from; `None` leaves what the table says of them.
    service_cidrs: Option<BTreeSet<IpNet>>,
    /// Something was refused or lost: what is served must be read anew before it is changed.
    stale: bool,
    /// Schedulers that this kernel was found to lack.
    absent: BTreeSet<Scheduler>,
    /// The last frontend that was looked after.
    inspected: Option<Frontend>,
    /// Nobody else has it while this is open.
    _lock: Option<UnixDatagram>,
}

/// What was said to each part of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpvsTraffic {
    /// About virtual services and real servers.
    pub services: Traffic,
    /// About the interface and its addresses.
    pub addresses: Traffic,
    /// About the nftables table.
    pub table: Traffic,
}

impl Ipvs {
    /// The interface that has the addresses of Services, which kube-proxy has them on, too.
    pub const INTERFACE: &str = INTERFACE;

    /// Adopts what is there, also what kube-proxy made. The modules `ip_vs`, `dummy` and that of the scheduler are loaded
    /// by the kernel where they are wanted; where it has none, the error says so.
    pub fn open(settings: IpvsSettings, surroundings: Surroundings) -> Result<Self, Error> {
        let lock = lock()?;
        // Before anything is made.
        find_family(&mut Netlink::generic().map_err(lost("open"))?)?;
        let interface = Interface::open().map_err(|source| match source.raw_os_error() {
            Some(code) if code == Errno::EOPNOTSUPP as i32 => {
                Error::Kernel { feature: "dummy interfaces (module dummy)" }
            }
            Some(code) if code == Errno::EPERM as i32 => Error::Permission { action: "make an interface" },
            _ => Error::Netlink { action: "make the interface of", source },
        })?;
        let table = Table::open(TABLE, surroundings).map_err(no_table)?;
        Self::open_with(settings, Addresses::Ours(interface), table, Some(lock))
    }

    /// The same for these services alone, whose addresses somebody else puts on the node, now and then. Adopts those of
    /// them that are there. `table` is the name of the nftables table that goes with them.
    pub fn open_at(
        frontends: BTreeSet<Frontend>,
        table: &'static str,
        settings: IpvsSettings,
    ) -> Result<Self, Error> {
        let surroundings = Surroundings::default();
        let table = Table::open(table, surroundings).map_err(no_table)?;
        Self::open_with(settings, Addresses::Elsewhere(frontends), table, None)
    }

    fn open_with(
        settings: IpvsSettings,
        addresses: Addresses,
        table: Table,
        lock: Option<UnixDatagram>,
    ) -> Result<Self, Error> {
        let mut netlink = Netlink::generic().map_err(lost("open"))?;
        let family = find_family(&mut netlink)?;
        settings::set(&mut netlink, family, settings)?;
        let mut ipvs = Self {
            netlink,
            family,
            addresses,
            drain_deadline: settings.drain_deadline,
            table,
            served: Served::default(),
            service_cidrs: None,
            stale: true,
            absent: BTreeSet::new(),
            inspected: None,
            _lock: lock,
        };
        ipvs.observe()?;
        Ok(ipvs)
    }

    /// Sets anew, while one is open, what holds for the whole network namespace and not for one service: timeouts, and what
    /// of the kernel's own settings is needed. A kernel that lacks the scheduler is refused before anything is set.
    pub fn set_up(settings: IpvsSettings) -> Result<(), Error> {
        let mut netlink = Netlink::generic().map_err(lost("open"))?;
        let family = find_family(&mut netlink)?;
        settings::set(&mut netlink, family, settings)
    }

    /// Whether there is an interface of this dataplane's, or of kube-proxy's in mode ipvs.
    pub fn is_present() -> bool {
        nix::net::if_::if_nametoindex(INTERFACE) != Err(Errno::ENODEV)
    }

    /// The schedulers that a kernel may have, by its names.
    pub fn schedulers() -> impl Iterator<Item = (&'static str, Scheduler)> {
        Scheduler::ALL.into_iter().filter_map(|scheduler| Some((kernel_name(scheduler)?, scheduler)))
    }

    /// The scheduler that the kernel knows by this name: `rr`, `wrr`, `lc`, `wlc`, `mh`, `sh`, `dh`, `sed` or `nq`.
    pub fn scheduler(name: &str) -> Option<Scheduler> {
        Self::schedulers().find(|(known, _)| *known == name).map(|(_, scheduler)| scheduler)
    }

    /// Removes every virtual service of ours, or of kube-proxy's, the interface and the table. Success where there is none.
    /// What [`Ipvs::open`] set for the whole network namespace stays as it is.
    pub fn cleanup() -> Result<(), Error> {
        if !Self::is_present() {
            return remove_table(TABLE);
        }
        Self::open(IpvsSettings::default(), Surroundings::default())?.remove()
    }

    /// Ends all services that are ours, and removes what was made for them.
    pub fn remove(mut self) -> Result<(), Error> {
        let all: Vec<Change> =
            self.served.frontends().map(|frontend| Change::RemoveService { frontend }).collect();
        if let Some(failure) = self.apply(&all).into_iter().next() {
            return Err(failure.error);
        }
        self.table.remove().map_err(lost("remove the table of"))?;
        match self.addresses {
            Addresses::Ours(_) => Interface::cleanup().map_err(lost("remove the interface of")),
            Addresses::Elsewhere(_) => Ok(()),
        }
    }

    /// What was said to the kernel and heard of it since this was opened.
    pub fn traffic(&self) -> IpvsTraffic {
        IpvsTraffic {
            services: self.netlink.traffic(),
            addresses: self.addresses.traffic(),
            table: self.table.traffic(),
        }
    }

    /// Lets it tell apart only so many services from outside as numbers of so many bits, for tests of what is too much.
    #[cfg(feature = "contract")]
    pub const fn limit_marks(&mut self, bits: u32) {
        self.served.limit_marks(bits);
    }

    fn request(&self, payload: Vec<u8>) -> Request {
        Request::new(self.family, payload)
    }

    /// The orders that carry out `change`; `None` where the kernel can know no more services from outside.
    fn orders(&mut self, change: &Change) -> Option<Vec<Order>> {
        let is_known = self.served.service(change.frontend()).is_some();
        if is_known == matches!(change, Change::AddService { .. }) {
            return Some(Vec::new());
        }
        self.served.give_mark(change.frontend());
        let target = self.served.target(change.frontend())?;
        let service = |command, rules: &Rules| {
            let (scheduler, persistence) = schedule(target, rules);
            message::service(command, target, kernel_name(scheduler).unwrap_or_default(), persistence)
        };
        let server = |command, backend, share| message::server(command, target, backend, share);
        Some(match change {
            Change::AddService { service: Service { rules, backends }, .. } => {
                // It may be left by a process that ended before it could give it an address.
                let new = Order::or(service(Command::NewService, rules), Errno::EEXIST, Command::SetService);
                let add = |(backend, weight): (&Backend, &Weight)| add(target, *backend, *weight);
                std::iter::once(new).chain(backends.iter().map(add)).collect()
            }
            Change::SetRules { rules, .. } => vec![Order::plain(service(Command::SetService, rules))],
            Change::AddBackend { backend, weight, .. } => vec![add(target, *backend, *weight)],
            Change::DrainBackend { backend, .. } => {
                let draining = drain::draining(since_start());
                vec![Order::unless(server(Command::SetServer, *backend, draining), Errno::ENOENT)]
            }
            Change::RemoveBackend { backend, .. } => {
                let delete = server(Command::DeleteServer, *backend, drain::serving(Weight::ONE));
                vec![Order::unless(delete, Errno::ENOENT)]
            }
            Change::RemoveService { .. } => {
                vec![Order::unless(message::about(Command::DeleteService, target), Errno::ESRCH)]
            }
        })
    }

    fn carry_out(&mut self, changes: &[Change]) -> io::Result<Vec<Option<Errno>>> {
        self.leave_node_addresses(changes)?;
        let before = changes.iter().map(|change| (change.frontend(), self.served.part(change.frontend())));
        let before: BTreeMap<Frontend, Part> = before.collect();
        let mut refusals = vec![None; changes.len()];
        let mut orders = Vec::new();
        for (position, change) in changes.iter().enumerate() {
            let change = self.in_place_of(change);
            let Some(wanted) = self.orders(&change) else {
                refusals[position] = Some(FULL);
                continue;
            };
            orders.extend(wanted.into_iter().map(|order| (position, order)));
            self.served.advance(&change);
        }
        let Difference { first, then, lost, gained } = self.served.difference(&before);
        self.table.change(&first.removed, &first.added)?;
        self.addresses.remove(&lost)?;
        // Who comes back while it drains is there by its second order. Until then, who leaves may be all that serves.
        let farewells = farewells(changes);
        let (leaving, coming): (Vec<_>, Vec<_>) =
            orders.into_iter().partition(|(position, _)| farewells.contains(position));
        self.give(coming, &mut refusals)?;
        self.give(leaving, &mut refusals)?;
        self.table.change(&then.removed, &then.added)?;
        for (address, outcome) in gained.iter().zip(self.addresses.add(&gained)?) {
            if let Err(refusal) = outcome {
                let first = changes.iter().position(|change| change.frontend().address() == *address);
                first.and_then(|first| refusals.get_mut(first)).map(|place| place.get_or_insert(refusal));
            }
        }
        Ok(refusals)
    }

    /// The step itself, or what is done in its place. By destination (`ip_vs_dh_schedule`) new clients are for one server,
    /// and turned away while it takes none: there, one that leaves does so at once.
    fn in_place_of<'change>(&self, change: &'change Change) -> Cow<'change, Change> {
        let scheduler = |frontend| self.served.service(frontend).map(|service| service.rules.scheduler);
        match *change {
            Change::DrainBackend { frontend, backend }
                if scheduler(frontend) == Some(Scheduler::DestinationHash) =>
            {
                Cow::Owned(Change::RemoveBackend { frontend, backend })
            }
            Change::AddService { .. }
            | Change::SetRules { .. }
            | Change::AddBackend { .. }
            | Change::DrainBackend { .. }
            | Change::RemoveBackend { .. }
            | Change::RemoveService { .. } => Cow::Borrowed(change),
        }
    }

    /// Gives orders, each about the change at a position, and notes which changes were refused.
    fn give(&mut self, mut orders: Vec<(usize, Order)>, refusals: &mut [Option<Errno>]) -> io::Result<()> {
        let payloads = orders.iter_mut().map(|(_, order)| std::mem::take(&mut order.payload));
        let requests: Vec<Request> = payloads.map(|payload| self.request(payload)).collect();
        let answers = self.netlink.exchange(&requests)?;
        let (mut again, mut about) = (Vec::new(), Vec::new());
        for (((position, order), request), answer) in orders.into_iter().zip(requests).zip(answers) {
            match (answer, order.instead) {
                (Ok(_), _) => {}
                (Err(refusal), None) if Some(refusal) == order.needless => {}
                (Err(refusal), Some(instead)) if Some(refusal) == order.needless => {
                    again.push(self.request(message::instead(request.payload, instead)));
                    about.push(position);
                }
                (Err(refusal), _) => drop(refusals[position].get_or_insert(refusal)),
            }
        }
        for (position, answer) in about.into_iter().zip(self.netlink.exchange(&again)?) {
            if let Err(refusal) = answer {
                refusals[position].get_or_insert(refusal);
            }
        }
        Ok(())
    }

    /// What the node has on another interface is served there: node ports, and addresses that somebody else gave it.
    fn leave_node_addresses(&mut self, changes: &[Change]) -> io::Result<()> {
        let new: BTreeSet<IpAddr> = changes
            .iter()
            .map(|change| change.frontend().address())
            .filter(|address| !self.served.has_address(*address))
            .collect();
        for address in self.addresses.local(&Vec::from_iter(new))? {
            self.served.leave_unbound(address);
        }
        Ok(())
    }
}

impl Dataplane for Ipvs {
    fn supports(&self, frontend: Frontend, service: &Service) -> Result<Option<Deviation>, Unsupported> {
        let scheduler = service.rules.scheduler;
        if kernel_name(scheduler).is_none() || self.absent.contains(&scheduler) {
            return Err(Unsupported::Scheduler { frontend, scheduler });
        }
        Unsupported::unless_of_one_family(frontend, service)?;
        Ok(deviation(frontend, &service.rules))
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.stale = true;
        let observed = self.read()?;
        self.stale = false;
        Ok(observed)
    }

    fn set_service_cidrs(&mut self, cidrs: &BTreeSet<IpNet>) -> Result<(), Error> {
        if self.service_cidrs.as_ref() == Some(cidrs) {
            return Ok(());
        }
        self.service_cidrs = Some(cidrs.clone());
        self.observe().map(drop)
    }

    fn recount(&mut self, frontend: Frontend) -> Result<Option<BTreeMap<Backend, ObservedBackend>>, Error> {
        self.served.target(frontend).map_or(Ok(None), |target| self.backends(target).map(Some))
    }

    fn inspect(&mut self) -> Result<Inspection, Error> {
        let restored = self.addresses.restore().map_err(lost("restore the interface of"))?;
        let removed = self.addresses.lost().map_err(lost("read the addresses of"))?;
        let is_served = |address: &IpAddr| self.served.has_address(*address);
        let lacks = removed.is_none_or(|removed| removed.iter().any(is_served));
        let is_sound = self.table.is_sound().map_err(lost("look at the table of"))?;
        let entries_differ = restored || lacks || !is_sound || self.sample_differs()?;
        Ok(Inspection { restored: u64::from(restored), entries_differ, ..Inspection::default() })
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let all = |error: fn(io::Error) -> Error, source: &io::Error| {
            let again = || io::Error::new(source.kind(), source.to_string());
            changes.iter().map(|change| Failure { change: change.clone(), error: error(again()) }).collect()
        };
        if self.stale
            && let Err(error) = self.observe()
        {
            return all(|source| Error::Netlink { action: "read", source }, &io::Error::other(error));
        }
        match self.carry_out(changes) {
            Err(source) => {
                self.stale = true;
                all(|source| Error::Netlink { action: "change", source }, &source)
            }
            Ok(refusals) => {
                let failures: Vec<Failure> = changes
                    .iter()
                    .zip(refusals)
                    .filter_map(|(change, refusal)| {
                        let error = match refusal? {
                            FULL => {
                                Error::Full { map: "of firewall marks", capacity: self.served.most_marks() }
                            }
                            refusal => refused("change", Some(change), refusal),
                        };
                        if matches!(error, Error::Kernel { .. }) {
                            self.absent.extend(scheduler_of(change));
                        }
                        Some(Failure { change: change.clone(), error })
                    })
                    .collect();
                self.stale |= !failures.is_empty();
                failures
            }
        }
    }
}

/// A client is remembered by the service it asks, and by that of a mark not at all. Nobody drains by destination.
fn deviation(frontend: Frontend, rules: &Rules) -> Option<Deviation> {
    match (rules.affinity, frontend.audience(), rules.scheduler) {
        (Some(_), Audience::Everyone, _) => Some(Deviation::AffinityByFrontend),
        (Some(_), Audience::Outside, _) => Some(Deviation::AffinityByHash),
        (None, _, Scheduler::DestinationHash) => Some(Deviation::NoDrain),
        (None, _, _) => None,
    }
}

/// What IPVS is told of a service's scheduler and affinity.
fn schedule(target: Target, rules: &Rules) -> (Scheduler, Option<Duration>) {
    match (target, rules.affinity) {
        (Target::Mark { .. }, Some(_)) => (STICKY, None),
        (_, affinity) => (rules.scheduler, affinity.map(|affinity| affinity.timeout)),
    }
}

/// The positions of backends that leave, unless a later change is about the same frontend.
fn farewells(changes: &[Change]) -> BTreeSet<usize> {
    let (mut positions, mut later) = (BTreeSet::new(), BTreeSet::new());
    for (position, change) in changes.iter().enumerate().rev() {
        match change {
            Change::DrainBackend { frontend, .. } | Change::RemoveBackend { frontend, .. } => {
                if !later.contains(frontend) {
                    positions.insert(position);
                }
            }
            Change::AddService { .. }
            | Change::SetRules { .. }
            | Change::AddBackend { .. }
            | Change::RemoveService { .. } => {
                later.insert(change.frontend());
            }
        }
    }
    positions
}

/// Makes a backend take its share of new connections, whether it is known or not.
fn add(target: Target, backend: Backend, weight: Weight) -> Order {
    let new = message::server(Command::NewServer, target, backend, drain::serving(weight));
    Order::or(new, Errno::EEXIST, Command::SetServer)
}

/// The time since the machine's start, while it slept included: what the kernel keeps does not outlive it.
fn since_start() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or_default())
}

/// Removes a table, which stays where somebody removed the interface. Success where there is none; a kernel without
/// nftables has none.
fn remove_table(name: &'static str) -> Result<(), Error> {
    let table = Table::open(name, Surroundings::default());
    match table.and_then(|mut table| table.remove()).map_err(no_table) {
        Err(Error::Kernel { .. }) => Ok(()),
        done => done,
    }
}

/// A name of the network namespace, which the kernel frees when the process ends, however it ends.
fn lock() -> Result<UnixDatagram, Error> {
    let bound = SocketAddr::from_abstract_name(LOCK).and_then(|name| UnixDatagram::bind_addr(&name));
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { path: INTERFACE.into() },
        _ => Error::Netlink { action: "lock", source },
    })
}

/// The kernel loads the module that answers to the name.
fn find_family(netlink: &mut Netlink) -> Result<u16, Error> {
    let request = Request::new(message::CONTROLLER, message::get_family());
    let answer = netlink.exchange(&[request]).map_err(lost("look for"))?.into_iter().next();
    match answer {
        Some(Ok(parts)) => parts.iter().find_map(|part| message::family(part)),
        Some(Err(Errno::ENOENT)) | None => None,
        Some(Err(refusal)) => return Err(refused("look for", None, refusal)),
    }
    .ok_or(Error::Kernel { feature: "IPVS (module ip_vs)" })
}

//! Forwarding in the kernel's IP virtual server: every frontend is a virtual service, every backend a real server.
//!
//! ```text
//!   [Change] --message--> generic netlink, many at a time --> ip_vs
//!            --addresses-> route netlink                  --> kube-ipvs0
//! ```
//!
//! A virtual service is ours when its address is on our interface. Others, such as those of an IPVS front door on the
//! same node, are neither reported nor touched. A frontend is there at once and whole: its address comes last and goes
//! first. State is the kernel's: nothing is lost when the process ends, and the next one goes on with what it finds.

mod addresses;
mod drain;
mod message;
mod netlink;
mod scheduler;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::ops::Bound;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::errno::Errno;
use plan::{
    Audience, Backend, Change, Frontend, Masquerade, Observed, ObservedBackend, ObservedService, Rules,
    Scheduler, Service, WhenEmpty,
};

use self::addresses::{Addresses, INTERFACE};
use self::message::{Command, FoundServer};
use self::netlink::{Answer, Netlink, Request};
use self::scheduler::kernel_name;
pub use self::settings::{IpvsSettings, Timeouts};
use crate::{Dataplane, Error, Failure, Inspection, Unsupported};

/// Held by the one process of a network namespace that keeps its services: the name of a socket.
const LOCK: &str = "fairway-proxy-ipvs";
/// So many services are looked after at a time.
const SAMPLE: usize = 32;

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
    /// What is served, and how.
    served: BTreeMap<Frontend, Rules>,
    /// Something was refused or lost: what is served must be read anew before it is changed.
    stale: bool,
    /// Schedulers that this kernel was found to lack.
    absent: BTreeSet<Scheduler>,
    /// The last frontend that was looked after.
    inspected: Option<Frontend>,
    /// Nobody else has it while this is open.
    _lock: UnixDatagram,
}

impl Ipvs {
    /// Adopts what is there, also what kube-proxy made. The modules `ip_vs`, `dummy` and that of the scheduler are loaded
    /// by the kernel where they are wanted; where it has none, the error says so.
    pub fn open(settings: IpvsSettings) -> Result<Self, Error> {
        let lock = lock()?;
        let mut netlink = Netlink::generic().map_err(lost("open"))?;
        let family = find_family(&mut netlink)?;
        let addresses = Addresses::open().map_err(|source| match source.raw_os_error() {
            Some(code) if code == Errno::EOPNOTSUPP as i32 => {
                Error::Kernel { feature: "dummy interfaces (module dummy)" }
            }
            Some(code) if code == Errno::EPERM as i32 => Error::Permission { action: "make an interface" },
            _ => Error::Netlink { action: "make the interface of", source },
        })?;
        settings::set(settings)?;
        let mut ipvs = Self {
            netlink,
            family,
            addresses,
            drain_deadline: settings.drain_deadline,
            served: BTreeMap::new(),
            stale: true,
            absent: BTreeSet::new(),
            inspected: None,
            _lock: lock,
        };
        ipvs.set_timeouts(settings.timeouts)?;
        ipvs.require(settings.scheduler)?;
        ipvs.observe()?;
        Ok(ipvs)
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

    /// Removes every virtual service of ours, or of kube-proxy's, and the interface. Success where there is neither.
    /// What [`Ipvs::open`] set for the whole network namespace stays as it is.
    pub fn cleanup() -> Result<(), Error> {
        if !Self::is_present() {
            return Ok(());
        }
        let mut ipvs = Self::open(IpvsSettings::default())?;
        let all: Vec<Change> =
            ipvs.served.keys().map(|frontend| Change::RemoveService { frontend: *frontend }).collect();
        if let Some(failure) = ipvs.apply(&all).into_iter().next() {
            return Err(failure.error);
        }
        Addresses::cleanup().map_err(lost("remove the interface of"))
    }

    /// Makes sure that the kernel has this scheduler, by making a service that nobody can reach (RFC 5737).
    fn require(&mut self, scheduler: Scheduler) -> Result<(), Error> {
        let Some((name, port)) = kernel_name(scheduler).zip(plan::Port::new(20_000)) else {
            return Err(scheduler::absent(scheduler));
        };
        let probe = Frontend::new(IpAddr::from([198, 51, 100, 0]), port, plan::Protocol::Tcp);
        let delete = || self.request(message::about(Command::DeleteService, probe));
        let new = self.request(message::service(Command::NewService, probe, name));
        let requests = [delete(), new, delete()];
        match self.netlink.exchange(&requests).map_err(lost("change"))?.into_iter().nth(1) {
            Some(Err(Errno::ENOENT)) => Err(scheduler::absent(scheduler)),
            Some(Err(refusal)) => Err(refused("change", None, refusal)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        let Some(payload) = message::set_timeouts(timeouts) else { return Ok(()) };
        let request = self.request(payload);
        match self.netlink.exchange(&[request]).map_err(lost("set timeouts of"))?.into_iter().next() {
            Some(Err(refusal)) => Err(refused("set timeouts of", None, refusal)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn request(&self, payload: Vec<u8>) -> Request {
        Request { kind: self.family, flags: 0, payload }
    }

    /// The commands that carry out `change`, each with the refusal that says it was not needed.
    fn commands(&self, change: &Change) -> Vec<(Vec<u8>, Option<Errno>)> {
        match change {
            Change::AddService { frontend, .. } if self.served.contains_key(frontend) => Vec::new(),
            Change::AddService { frontend, service } => {
                let scheduler = kernel_name(service.rules.scheduler).unwrap_or_default();
                let new = message::service(Command::NewService, *frontend, scheduler);
                let set = message::service(Command::SetService, *frontend, scheduler);
                // Left by a process that ended before it could give it an address.
                let mut commands = vec![(new, Some(Errno::EEXIST)), (set, None)];
                for backend in &service.backends {
                    commands.extend(add(*frontend, *backend));
                }
                commands
            }
            change if !self.served.contains_key(&change.frontend()) => Vec::new(),
            Change::SetRules { frontend, rules } => {
                let scheduler = kernel_name(rules.scheduler).unwrap_or_default();
                vec![(message::service(Command::SetService, *frontend, scheduler), None)]
            }
            Change::AddBackend { frontend, backend } => add(*frontend, *backend).into(),
            Change::DrainBackend { frontend, backend } => {
                let draining = drain::draining(since_start());
                let set = message::server(Command::SetServer, *frontend, *backend, draining);
                vec![(set, Some(Errno::ENOENT))]
            }
            Change::RemoveBackend { frontend, backend } => {
                let delete = message::server(Command::DeleteServer, *frontend, *backend, drain::SERVING);
                vec![(delete, Some(Errno::ENOENT))]
            }
            Change::RemoveService { frontend } => {
                vec![(message::about(Command::DeleteService, *frontend), Some(Errno::ESRCH))]
            }
        }
    }

    /// Keeps count of what is served.
    fn advance(&mut self, change: &Change) {
        match change {
            Change::AddService { frontend, service } => {
                self.served.entry(*frontend).or_insert_with(|| service.rules.clone());
            }
            Change::SetRules { frontend, rules } => {
                if let Some(served) = self.served.get_mut(frontend) {
                    served.clone_from(rules);
                }
            }
            Change::RemoveService { frontend } => drop(self.served.remove(frontend)),
            Change::AddBackend { .. } | Change::DrainBackend { .. } | Change::RemoveBackend { .. } => {}
        }
    }

    /// Whether a frontend other than those in `but` has this address.
    fn has_address(&self, address: IpAddr) -> bool {
        let Some(first) = plan::Port::new(1) else { return false };
        let least = Frontend::new(address, first, plan::Protocol::Tcp);
        self.served.range(least..).next().is_some_and(|(frontend, _)| frontend.address() == address)
    }

    fn carry_out(&mut self, changes: &[Change]) -> io::Result<Vec<Option<Errno>>> {
        let mut requests = Vec::new();
        let mut commands = Vec::new();
        let before: BTreeSet<IpAddr> = changes
            .iter()
            .map(|change| change.frontend().address())
            .filter(|a| self.has_address(*a))
            .collect();
        for (position, change) in changes.iter().enumerate() {
            for (payload, expected) in self.commands(change) {
                requests.push(self.request(payload));
                commands.push((position, expected));
            }
            self.advance(change);
        }
        let mut refusals = vec![None; changes.len()];
        let leaving: Vec<IpAddr> =
            before.iter().copied().filter(|address| !self.has_address(*address)).collect();
        self.addresses.remove(&leaving)?;
        for ((position, expected), answer) in commands.into_iter().zip(self.netlink.exchange(&requests)?) {
            if let Err(refusal) = answer
                && Some(refusal) != expected
            {
                refusals[position].get_or_insert(refusal);
            }
        }
        let coming: BTreeSet<IpAddr> = changes
            .iter()
            .map(|change| change.frontend().address())
            .filter(|address| !before.contains(address) && self.has_address(*address))
            .collect();
        let coming: Vec<IpAddr> = coming.into_iter().collect();
        for (address, outcome) in coming.iter().zip(self.addresses.add(&coming)?) {
            if let Err(refusal) = outcome {
                let first = changes.iter().position(|change| change.frontend().address() == *address);
                first.and_then(|first| refusals.get_mut(first)).map(|place| place.get_or_insert(refusal));
            }
        }
        Ok(refusals)
    }

    fn read(&mut self) -> Result<Observed, Error> {
        let ours = self.addresses.observe().map_err(lost("read the addresses of"))?;
        let services = self.dump(message::get_services())?;
        let mut observed = Observed::default();
        for found in services.iter().filter_map(|payload| message::found_service(payload)) {
            if !ours.contains(&found.frontend.address()) {
                continue;
            }
            // One that no plan asks for is taken for one that no plan can have here, so that it is put right.
            let scheduler = Self::scheduler(&found.scheduler).unwrap_or(Scheduler::Random);
            let rules = Rules { scheduler, ..Rules::default() };
            let backends = self.backends(found.frontend)?;
            observed.services.insert(found.frontend, ObservedService { rules, backends });
        }
        Ok(observed)
    }

    /// The servers of one service. A drain that somebody else began is counted from now on.
    fn backends(&mut self, frontend: Frontend) -> Result<BTreeMap<Backend, ObservedBackend>, Error> {
        let now = since_start();
        let payloads = self.dump(message::about(Command::GetServer, frontend))?;
        let found: Vec<_> =
            payloads.iter().filter_map(|payload| message::found_server(frontend, payload)).collect();
        let unmarked = found.iter().filter(|server| drain::is_unmarked(**server));
        let mark = |server: &FoundServer| {
            self.request(message::server(Command::SetServer, frontend, server.backend, drain::draining(now)))
        };
        let marks: Vec<Request> = unmarked.map(mark).collect();
        for answer in self.netlink.exchange(&marks).map_err(lost("change"))? {
            // It has left meanwhile.
            match answer {
                Ok(_) | Err(Errno::ENOENT | Errno::ESRCH) => {}
                Err(refusal) => return Err(refused("change", None, refusal)),
            }
        }
        let observed = |server: FoundServer| drain::observed(server, now, self.drain_deadline);
        Ok(found.into_iter().map(|server| (server.backend, observed(server))).collect())
    }

    /// Whether a few services, others each time, are as they were left. Somebody who clears the table meets them all.
    fn sample_differs(&mut self) -> Result<bool, Error> {
        let after = self.inspected.map_or(Bound::Unbounded, Bound::Excluded);
        let sample = self.served.range((after, Bound::Unbounded)).take(SAMPLE);
        let sample: Vec<_> = sample.map(|(frontend, rules)| (*frontend, rules.scheduler)).collect();
        // After the last one it begins anew.
        self.inspected = sample.last().map(|(frontend, _)| *frontend).filter(|_| sample.len() == SAMPLE);
        let requests: Vec<Request> = sample
            .iter()
            .map(|(frontend, _)| self.request(message::about(Command::GetService, *frontend)))
            .collect();
        let answers = self.netlink.exchange(&requests).map_err(lost("read"))?;
        let as_left = |((_, scheduler), answer): (&(Frontend, Scheduler), &Answer)| {
            let found = answer.as_ref().ok()?.iter().find_map(|payload| message::found_service(payload))?;
            (Self::scheduler(&found.scheduler) == Some(*scheduler)).then_some(())
        };
        Ok(sample.iter().zip(&answers).any(|pair| as_left(pair).is_none()))
    }

    fn dump(&mut self, payload: Vec<u8>) -> Result<Vec<Vec<u8>>, Error> {
        let request = self.request(payload);
        match self.netlink.dump(&request).map_err(lost("read"))? {
            Ok(found) => Ok(found),
            // Somebody removed the service between the two readings.
            Err(Errno::ESRCH) => Ok(Vec::new()),
            Err(refusal) => Err(refused("read", None, refusal)),
        }
    }
}

impl Dataplane for Ipvs {
    /// What needs packets to be told apart by where they come from, or to be dropped, is not served yet.
    fn supports(&self, frontend: Frontend, service: &Service) -> Result<(), Unsupported> {
        let Service { rules, backends } = service;
        let rule = if frontend.audience() == Audience::Outside {
            Some("another treatment of packets from outside")
        } else if rules.when_empty == WhenEmpty::Drop {
            Some("to drop what nobody here can serve")
        } else if rules.affinity.is_some() {
            Some("session affinity")
        } else if rules.masquerade != Masquerade::Never {
            Some("masquerading")
        } else if rules.source_ranges.is_some() {
            Some("a list of source ranges")
        } else {
            None
        };
        let scheduler = rules.scheduler;
        if kernel_name(scheduler).is_none() || self.absent.contains(&scheduler) {
            return Err(Unsupported::Scheduler { frontend, scheduler });
        }
        if let Some(rule) = rule {
            return Err(Unsupported::Rule { frontend, rule });
        }
        let foreign = |backend: &&Backend| backend.address().is_ipv4() != frontend.address().is_ipv4();
        match backends.iter().find(foreign) {
            Some(backend) => Err(Unsupported::Family { frontend, backend: *backend }),
            None => Ok(()),
        }
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        self.stale = true;
        let observed = self.read()?;
        self.served =
            observed.services.iter().map(|(frontend, found)| (*frontend, found.rules.clone())).collect();
        self.stale = false;
        Ok(observed)
    }

    fn recount(&mut self, frontend: Frontend) -> Result<Option<BTreeMap<Backend, ObservedBackend>>, Error> {
        self.backends(frontend).map(Some)
    }

    fn inspect(&mut self) -> Result<Inspection, Error> {
        let restored = self.addresses.restore().map_err(lost("restore the interface of"))?;
        let removed = self.addresses.lost().map_err(lost("read the addresses of"))?;
        let lacks = removed.is_none_or(|removed| removed.iter().any(|address| self.has_address(*address)));
        let entries_differ = restored || lacks || self.sample_differs()?;
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
                        let error = refused("change", Some(change), refusal?);
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

/// Makes a backend take new connections, whether it is known or not: one of the two commands is not needed.
fn add(frontend: Frontend, backend: Backend) -> [(Vec<u8>, Option<Errno>); 2] {
    let command = |command| message::server(command, frontend, backend, drain::SERVING);
    [(command(Command::NewServer), Some(Errno::EEXIST)), (command(Command::SetServer), None)]
}

/// The time since the machine's start, while it slept included: what the kernel keeps does not outlive it.
fn since_start() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or_default())
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
    let request = Request { kind: message::CONTROLLER, flags: 0, payload: message::get_family() };
    let answer = netlink.exchange(&[request]).map_err(lost("look for"))?.into_iter().next();
    match answer {
        Some(Ok(parts)) => parts.iter().find_map(|part| message::family(part)),
        Some(Err(Errno::ENOENT)) | None => None,
        Some(Err(refusal)) => return Err(refused("look for", None, refusal)),
    }
    .ok_or(Error::Kernel { feature: "IPVS (module ip_vs)" })
}

fn lost(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Netlink { action, source }
}

fn refused(action: &'static str, change: Option<&Change>, refusal: Errno) -> Error {
    match (refusal, change.and_then(scheduler_of)) {
        (Errno::EPERM, _) => Error::Permission { action: "change virtual services" },
        // ip_vs_add_service(): the scheduler's module could not be loaded.
        (Errno::ENOENT, Some(scheduler)) => scheduler::absent(scheduler),
        (refusal, _) => Error::Netlink { action, source: refusal.into() },
    }
}

/// The scheduler that a step asks for.
const fn scheduler_of(change: &Change) -> Option<Scheduler> {
    match change {
        Change::AddService { service, .. } => Some(service.rules.scheduler),
        Change::SetRules { rules, .. } => Some(rules.scheduler),
        Change::AddBackend { .. }
        | Change::DrainBackend { .. }
        | Change::RemoveBackend { .. }
        | Change::RemoveService { .. } => None,
    }
}

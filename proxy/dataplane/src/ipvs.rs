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
mod message;
mod netlink;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::errno::Errno;
use plan::{
    Audience, Backend, Change, Frontend, Masquerade, Observed, ObservedBackend, ObservedService, Rules,
    Scheduler, Service, WhenEmpty,
};

use self::addresses::Addresses;
use self::message::Command;
use self::netlink::{Netlink, Request};
use crate::{Dataplane, Error, Failure, Unsupported};

/// Every backend has the same weight; 0 would give it nothing new.
const WEIGHT: u32 = 1;
/// Connections through IPVS are known to connection tracking, which translates the answers. A connection whose backend
/// is gone ends with its next packet, and a client that was bound to it is bound anew.
const SETTINGS: [(&str, &str); 4] = [
    ("/proc/sys/net/ipv4/vs/conntrack", "1"),
    ("/proc/sys/net/ipv4/vs/expire_nodest_conn", "1"),
    ("/proc/sys/net/ipv4/vs/expire_quiescent_template", "1"),
    ("/proc/sys/net/ipv4/ip_forward", "1"),
];

/// The virtual servers of the network namespace that it was opened in. TCP, UDP and SCTP.
///
/// Dropping it leaves everything as it is.
#[derive(Debug)]
pub struct Ipvs {
    netlink: Netlink,
    /// The number of the netlink family.
    family: u16,
    addresses: Addresses,
    /// What is served, and how.
    served: BTreeMap<Frontend, Rules>,
    /// Something was refused or lost: what is served must be read anew before it is changed.
    stale: bool,
}

impl Ipvs {
    /// Adopts what is there. The modules `ip_vs` and `dummy` are loaded by the kernel where they are wanted; where it
    /// has none, the error says so.
    pub fn open() -> Result<Self, Error> {
        let mut netlink = Netlink::generic().map_err(lost("open"))?;
        let family = find_family(&mut netlink)?;
        let addresses = Addresses::open().map_err(|source| match source.raw_os_error() {
            Some(code) if code == Errno::EOPNOTSUPP as i32 => {
                Error::Kernel { feature: "dummy interfaces (module dummy)" }
            }
            Some(code) if code == Errno::EPERM as i32 => Error::Permission { action: "make an interface" },
            _ => Error::Netlink { action: "make the interface of", source },
        })?;
        for (file, value) in SETTINGS {
            std::fs::write(file, value).map_err(|source| Error::File {
                action: "set",
                path: Path::new(file).to_owned(),
                source,
            })?;
        }
        let mut ipvs = Self { netlink, family, addresses, served: BTreeMap::new(), stale: true };
        ipvs.observe()?;
        Ok(ipvs)
    }

    /// Removes every virtual service of ours, and the interface. Success where there is neither.
    pub fn cleanup() -> Result<(), Error> {
        let mut ipvs = Self::open()?;
        let all: Vec<Change> =
            ipvs.served.keys().map(|frontend| Change::RemoveService { frontend: *frontend }).collect();
        if let Some(failure) = ipvs.apply(&all).into_iter().next() {
            return Err(failure.error);
        }
        Addresses::cleanup().map_err(lost("remove the interface of"))
    }

    fn request(&self, payload: Vec<u8>) -> Request {
        Request { kind: self.family, flags: 0, payload }
    }

    /// The commands that carry out `change`, each with the refusal that says it was not needed.
    fn commands(&self, change: &Change) -> Vec<(Vec<u8>, Option<Errno>)> {
        let server = |command, frontend, backend, weight| message::server(command, frontend, backend, weight);
        match change {
            Change::AddService { frontend, .. } if self.served.contains_key(frontend) => Vec::new(),
            Change::AddService { frontend, service } => {
                let scheduler = kernel_name(service.rules.scheduler);
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
                let scheduler = kernel_name(rules.scheduler);
                vec![(message::service(Command::SetService, *frontend, scheduler), None)]
            }
            Change::AddBackend { frontend, backend } => add(*frontend, *backend).into(),
            Change::DrainBackend { frontend, backend } => {
                vec![(server(Command::SetServer, *frontend, *backend, 0), Some(Errno::ENOENT))]
            }
            Change::RemoveBackend { frontend, backend } => {
                vec![(server(Command::DeleteServer, *frontend, *backend, 0), Some(Errno::ENOENT))]
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
            let rules = Rules { scheduler: plan_name(&found.scheduler), ..Rules::default() };
            let mut service = ObservedService { rules, backends: BTreeMap::new() };
            for payload in self.dump(message::about(Command::GetServer, found.frontend))? {
                if let Some(server) = message::found_server(found.frontend, &payload) {
                    let found =
                        ObservedBackend { draining: server.weight == 0, connections: server.connections };
                    service.backends.insert(server.backend, found);
                }
            }
            observed.services.insert(found.frontend, service);
        }
        Ok(observed)
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
        } else if rules.scheduler == Scheduler::Random {
            Some("the scheduler random")
        } else if rules.affinity.is_some() {
            Some("session affinity")
        } else if rules.masquerade != Masquerade::Never {
            Some("masquerading")
        } else if rules.source_ranges.is_some() {
            Some("a list of source ranges")
        } else {
            None
        };
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
    let command = |command| message::server(command, frontend, backend, WEIGHT);
    [(command(Command::NewServer), Some(Errno::EEXIST)), (command(Command::SetServer), None)]
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
    let scheduler = match change {
        Some(Change::AddService { service, .. }) => Some(service.rules.scheduler),
        Some(Change::SetRules { rules, .. }) => Some(rules.scheduler),
        Some(
            Change::AddBackend { .. }
            | Change::DrainBackend { .. }
            | Change::RemoveBackend { .. }
            | Change::RemoveService { .. },
        )
        | None => None,
    };
    match (refusal, scheduler) {
        (Errno::EPERM, _) => Error::Permission { action: "change virtual services" },
        // ip_vs_add_service(): the scheduler's module could not be loaded.
        (Errno::ENOENT, Some(Scheduler::RoundRobin)) => {
            Error::Kernel { feature: "the scheduler rr (module ip_vs_rr)" }
        }
        (Errno::ENOENT, Some(Scheduler::LeastConnections)) => {
            Error::Kernel { feature: "the scheduler lc (module ip_vs_lc)" }
        }
        (Errno::ENOENT, Some(Scheduler::Maglev)) => {
            Error::Kernel { feature: "the scheduler mh (module ip_vs_mh)" }
        }
        (refusal, _) => Error::Netlink { action, source: refusal.into() },
    }
}

const fn kernel_name(scheduler: Scheduler) -> &'static str {
    match scheduler {
        // Not supported: it does not get here.
        Scheduler::RoundRobin | Scheduler::Random => "rr",
        Scheduler::LeastConnections => "lc",
        Scheduler::Maglev => "mh",
    }
}

/// One that no plan asks for is taken for one that no plan can have here, so that it is put right.
fn plan_name(kernel: &str) -> Scheduler {
    match kernel {
        "rr" => Scheduler::RoundRobin,
        "lc" => Scheduler::LeastConnections,
        "mh" => Scheduler::Maglev,
        _ => Scheduler::Random,
    }
}

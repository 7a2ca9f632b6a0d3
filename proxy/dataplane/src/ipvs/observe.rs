//! What is served, read from the kernel, and what follows from it, put right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use plan::{
    Affinity, AffinityGroup, Backend, Frontend, Observed, ObservedBackend, ObservedService, Rules, Scheduler,
};

use super::addresses::Found as FoundAddresses;
use super::message::{self, Command, FoundServer, FoundService, Target};
use super::netlink::Request;
use super::nftables::{self, Element, Found as FoundTable};
use super::served::Served;
use super::{Ipvs, STICKY, drain, lost, no_table, refused, schedule, since_start};
use crate::Error;

/// So many services are looked after at a time.
const SAMPLE: usize = 32;

/// What is remembered of services, by the table or by us.
struct Known {
    rules: BTreeMap<Frontend, Rules>,
    marks: BTreeMap<Frontend, u32>,
    /// Addresses that are to be on our interface.
    bound: BTreeSet<IpAddr>,
}

/// What the kernel counts of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Established connections.
    pub connections: u64,
    /// Connections that it has had since it was added.
    pub total: u64,
}

/// The virtual services of this network namespace.
#[derive(Default)]
struct Virtual {
    /// Ours.
    observed: Observed,
    /// Those whose address somebody removed: they are to come anew, whole.
    out_of_reach: BTreeSet<Frontend>,
    /// The marks of those that are not ours.
    foreign_marks: BTreeSet<u32>,
}

impl FoundService {
    /// The scheduler, if it is as a plan can have it.
    fn scheduler(&self) -> Option<Scheduler> {
        Ipvs::scheduler(&self.scheduler).filter(|_| self.falls_back)
    }
}

impl Ipvs {
    /// Reads what is there, and puts right what follows from it: elements of the table and addresses.
    pub(super) fn read(&mut self) -> Result<Observed, Error> {
        let addresses = self.addresses.observe().map_err(lost("read the addresses of"))?;
        let table = self.table.read().map_err(lost("read the table of"))?;
        let known = self.known(&table);
        let Virtual { observed, out_of_reach, foreign_marks } = self.virtual_services(&addresses, &known)?;
        let mut marks = known.marks;
        marks.retain(|frontend, _| {
            observed.services.contains_key(frontend) || out_of_reach.contains(frontend)
        });
        let address = |frontend: &Frontend| frontend.address();
        // The others are those of the node: on another interface, or they were when the service came.
        let unbound =
            |address: &IpAddr| addresses.others.contains(address) || !addresses.ours.contains(address);
        let unbound = observed.services.keys().map(address).filter(unbound).collect();
        self.served = Served::new(observed.clone(), marks, foreign_marks, unbound).limited_as(&self.served);
        self.put_right(&addresses, &table)?;
        Ok(observed)
    }

    /// What the table says of services, and what was known where it says nothing: somebody may have removed it.
    fn known(&self, table: &FoundTable) -> Known {
        let mut bound = table.addresses();
        bound.extend(self.served.addresses());
        let mut known = Known { rules: table.services(), marks: table.marks(), bound };
        for frontend in self.served.frontends() {
            if let Some(service) = self.served.service(frontend) {
                known.rules.entry(frontend).or_insert_with(|| service.rules.clone());
            }
            if let Some(mark) = self.served.marks().get(&frontend) {
                known.marks.entry(frontend).or_insert(*mark);
            }
        }
        known
    }

    fn virtual_services(&mut self, addresses: &FoundAddresses, known: &Known) -> Result<Virtual, Error> {
        let by_mark = known.marks.iter();
        let by_mark: BTreeMap<(u32, bool), Frontend> =
            by_mark.map(|(frontend, mark)| ((*mark, frontend.address().is_ipv4()), *frontend)).collect();
        let mut all = Virtual::default();
        for found in self.found_services()? {
            let frontend = match found.target {
                Target::Address(frontend) => frontend,
                Target::Mark { mark, is_v4 } => {
                    let Some(frontend) = by_mark.get(&(mark, is_v4)) else {
                        all.foreign_marks.insert(mark);
                        continue;
                    };
                    *frontend
                }
            };
            let address = frontend.address();
            let is_bound = addresses.ours.contains(&address);
            let rules = known.rules.get(&frontend);
            if !self.addresses.own(frontend, is_bound, rules.is_some()) {
                continue;
            }
            if known.bound.contains(&address) && !is_bound && !addresses.others.contains(&address) {
                all.out_of_reach.insert(frontend);
                continue;
            }
            // Of what kube-proxy made nobody says more, and most of its addresses are those of the cluster.
            let untold = || Rules { exclusive: is_bound, ..Rules::default() };
            let rules = self.rules(frontend, &rules.cloned().unwrap_or_else(untold), &found);
            let backends = self.backends(found.target)?;
            all.observed.services.insert(frontend, ObservedService { rules, backends });
        }
        Ok(all)
    }

    /// Every service that may be ours.
    fn found_services(&mut self) -> Result<Vec<FoundService>, Error> {
        let found = match self.addresses.only() {
            None => self.dump(message::get_services())?,
            Some(frontends) => {
                let about = |frontend: &Frontend| {
                    self.request(message::about(Command::GetService, Target::Address(*frontend)))
                };
                let requests: Vec<Request> = frontends.iter().map(about).collect();
                let answers = self.netlink.exchange(&requests).map_err(lost("read"))?;
                let mut found = Vec::new();
                for answer in answers {
                    match answer {
                        Ok(parts) => found.extend(parts),
                        Err(Errno::ESRCH) => {}
                        Err(refusal) => return Err(refused("read", None, refusal)),
                    }
                }
                found
            }
        };
        Ok(found.iter().filter_map(|payload| message::found_service(payload)).collect())
    }

    /// How busy each backend of a frontend is.
    pub fn loads(&mut self, frontend: Frontend) -> Result<BTreeMap<Backend, Load>, Error> {
        let Some(target) = self.served.target(frontend) else { return Ok(BTreeMap::new()) };
        let load = |found: FoundServer| Load { connections: found.active, total: found.total };
        Ok(self.servers(target)?.into_iter().map(|found| (found.backend, load(found))).collect())
    }

    fn servers(&mut self, target: Target) -> Result<Vec<FoundServer>, Error> {
        let payloads = self.dump(message::about(Command::GetServer, target))?;
        Ok(payloads.iter().filter_map(|payload| message::found_server(target, payload)).collect())
    }

    /// The servers of one service. A drain that somebody else began is counted from now on.
    pub(super) fn backends(&mut self, target: Target) -> Result<BTreeMap<Backend, ObservedBackend>, Error> {
        let now = since_start();
        let found = self.servers(target)?;
        let unmarked = found.iter().filter(|server| drain::is_unmarked(**server));
        let mark = |server: &FoundServer| {
            self.request(message::server(Command::SetServer, target, server.backend, drain::draining(now)))
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

    /// Whether a few services, others each time, and their servers are as they were left. Somebody who clears the table
    /// meets them all.
    pub(super) fn sample_differs(&mut self) -> Result<bool, Error> {
        let sample: Vec<_> = self.served.after(self.inspected).take(SAMPLE).collect();
        // After the last one it begins anew.
        let last = sample.last().map(|(frontend, _)| *frontend).filter(|_| sample.len() == SAMPLE);
        let left: Vec<_> = sample
            .iter()
            .filter_map(|(frontend, rules)| {
                let target = self.served.target(*frontend)?;
                Some((*frontend, target, schedule(target, rules)))
            })
            .collect();
        self.inspected = last;
        let requests: Vec<Request> = left
            .iter()
            .map(|(_, target, _)| self.request(message::about(Command::GetService, *target)))
            .collect();
        let answers = self.netlink.exchange(&requests).map_err(lost("read"))?;
        for ((frontend, target, left), answer) in left.into_iter().zip(answers) {
            let found =
                answer.ok().and_then(|parts| parts.iter().find_map(|part| message::found_service(part)));
            let is_as_left =
                |found: FoundService| found.scheduler() == Some(left.0) && found.persistence == left.1;
            if !found.is_some_and(is_as_left) || self.servers_differ(frontend, target)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether somebody added or removed a server of this service, began or ended its drain, or gave it another weight.
    fn servers_differ(&mut self, frontend: Frontend, target: Target) -> Result<bool, Error> {
        let found = self.backends(target)?;
        let takes = |(backend, found): (&Backend, &ObservedBackend)| {
            (*backend, (!found.draining).then_some(found.weight))
        };
        let left = self.served.service(frontend).map(|service| &service.backends);
        Ok(!left.is_some_and(|left| left.iter().map(takes).eq(found.iter().map(takes))))
    }

    /// The rules of a service, of which the table knows some and IPVS others. Ranges that were written and that say the
    /// same are told as they were written.
    fn rules(&self, frontend: Frontend, known: &Rules, found: &FoundService) -> Rules {
        // One that no plan asks for is taken for one that no plan can have here, so that it is put right.
        let mut scheduler = found.scheduler().unwrap_or(Scheduler::Random);
        let mut affinity = found.persistence.map(|timeout| {
            let group = known.affinity.map_or(AffinityGroup(0), |affinity| affinity.group);
            Affinity { group, timeout }
        });
        let is_marked = matches!(found.target, Target::Mark { .. });
        if is_marked && affinity.is_none() && known.affinity.is_some() && scheduler == STICKY {
            (scheduler, affinity) = (known.scheduler, known.affinity);
        }
        let written = self.served.service(frontend).map(|service| &service.rules.source_ranges);
        let same = written.filter(|written| {
            nftables::admit_the_same(frontend, written.as_ref(), known.source_ranges.as_ref())
        });
        let source_ranges = same.unwrap_or(&known.source_ranges).clone();
        Rules { scheduler, affinity, source_ranges, ..known.clone() }
    }

    fn put_right(&mut self, addresses: &FoundAddresses, table: &FoundTable) -> Result<(), Error> {
        let (mut elements, wanted) = (self.served.elements(), self.served.addresses());
        match &self.service_cidrs {
            Some(cidrs) => elements.extend(Element::of_service_cidrs(cidrs)),
            None => elements.extend(table.elements.iter().filter(|it| it.is_service_cidr()).cloned()),
        }
        if table.is_sound {
            let removed: Vec<Element> = table.elements.difference(&elements).cloned().collect();
            let added: Vec<Element> = elements.difference(&table.elements).cloned().collect();
            self.table.change(&removed, &added).map_err(lost("put right the table of"))?;
        } else {
            self.table.make(&elements).map_err(no_table)?;
        }
        let superfluous: Vec<IpAddr> = addresses.ours.difference(&wanted).copied().collect();
        self.addresses.remove(&superfluous).map_err(lost("remove addresses of"))?;
        Ok(())
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

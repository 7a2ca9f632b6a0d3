//! Forwarding by the kernel's IP virtual server: the same backends in the same states as the relay has.
//!
//! ```text
//!   Pool --standings--> desired --diff--> ip_vs <-- packets to VIP:8443
//! ```
//!
//! The virtual service is there whatever the role of this node; only the address moves. What the relay does to a
//! connection is done to packets here: a backend that is not ready gets no new connections and keeps those it has, one
//! that is dead loses them. The relay listens behind it all the same: it meets whoever the kernel does not pass on.
//!
//! When this process is killed, the kernel goes on with the backends it knows, and the next process adopts them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::chain;
use dataplane::{Dataplane, Error, Ipvs, IpvsSettings};
use plan::{
    Backend, Change, Frontend, Masquerade, Observed, Port, Protocol, Rules, Scheduler, Scope, Service,
    Weight, diff,
};

use crate::config::{self, Backends, Config, Policy};
use crate::health::Status;
use crate::pool::{Carried, Pool, Standing};

/// The name of the nftables table that goes with them; fairway-proxy has one of its own.
const TABLE: &str = "fairway-lb";
/// What somebody else changes is put right after this long.
const OBSERVED_EVERY: Duration = Duration::from_secs(1);

/// The virtual services of one front door.
#[derive(Debug)]
pub(crate) struct VirtualServices {
    ipvs: Ipvs,
    frontends: Vec<Frontend>,
    rules: Rules,
    /// Whether it could be done the last time.
    well: bool,
}

impl VirtualServices {
    /// Adopts what is there, at the addresses of `config` and at those that were `formerly` served; `None` where the
    /// relay forwards.
    pub(crate) fn open(config: &Config, formerly: &[SocketAddr]) -> Result<Option<Self>, Error> {
        if config.frontend.forwarding == config::Forwarding::Relay {
            return Ok(None);
        }
        let scheduler = scheduler(config.frontend.balance.policy, &config.backends);
        let listen = &config.frontend.listen;
        let owned = listen.iter().chain(formerly).copied().filter_map(frontend).collect();
        let drain_deadline = config.health_check.drain_deadline.unwrap_or(Duration::MAX);
        let settings = IpvsSettings { scheduler, drain_deadline, ..IpvsSettings::default() };
        Ok(Some(Self {
            ipvs: Ipvs::open_at(owned, TABLE, settings)?,
            frontends: listen.iter().copied().filter_map(frontend).collect(),
            // The masters are on one link with their clients: answers must come back this way.
            rules: Rules { scheduler, masquerade: Masquerade::Always, ..Rules::default() },
            well: true,
        }))
    }

    /// Does what the states of the backends ask for, whenever they change, until dropped.
    pub(crate) async fn follow(mut self, pool: Arc<Pool>) -> Infallible {
        let mut changes = pool.changes();
        loop {
            changes.mark_unchanged();
            match self.sync(&pool) {
                Ok(()) => self.well = true,
                Err(error) if self.well => {
                    tracing::error!(error = chain(&error), "virtual services not changed, trying again");
                    self.well = false;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(OBSERVED_EVERY) => {}
                // The pool keeps the sender.
                _ = changes.changed() => {}
            }
        }
    }

    /// Ends the virtual services with the connections that they have.
    pub(crate) fn remove(self) -> Result<(), Error> {
        self.ipvs.remove()
    }

    fn sync(&mut self, pool: &Pool) -> Result<(), Error> {
        let standings = pool.standings();
        let mut observed = self.ipvs.observe()?;
        give_up(&mut observed, &dead(&standings));
        let service = Service { rules: self.rules.clone(), backends: takers(&standings) };
        let desired = self.frontends.iter().map(|frontend| (*frontend, service.clone())).collect();
        let steps = diff(&observed, &desired, &Scope::everything());
        self.apply(&steps)?;
        for step in steps {
            tracing::info!(%step, "virtual service changed");
        }
        pool.note_carried(self.carried()?);
        Ok(())
    }

    /// What the kernel carries, at all frontends together.
    fn carried(&mut self) -> Result<BTreeMap<SocketAddr, Carried>, Error> {
        let mut all: BTreeMap<SocketAddr, Carried> = BTreeMap::new();
        for frontend in &self.frontends {
            for (backend, load) in self.ipvs.loads(*frontend)? {
                let address = SocketAddr::new(backend.address(), backend.port().number());
                let carried = all.entry(address).or_default();
                carried.connections += usize::try_from(load.connections).unwrap_or(usize::MAX);
                carried.total += load.total;
            }
        }
        Ok(all)
    }

    fn apply(&mut self, steps: &[Change]) -> Result<(), Error> {
        self.ipvs.apply(steps).into_iter().next().map_or(Ok(()), |failure| Err(failure.error))
    }
}

/// What chooses as the relay would. In turn, and the fewest connections, take no weights into account; hashes do.
fn scheduler(policy: Policy, backends: &Backends) -> Scheduler {
    let mut weights = backends.iter().map(|backend| backend.weight).filter(|weight| *weight > 0);
    let first = weights.next();
    match (policy, weights.all(|weight| Some(weight) == first)) {
        (Policy::RoundRobin, true) => Scheduler::RoundRobin,
        (Policy::RoundRobin, false) => Scheduler::WeightedRoundRobin,
        (Policy::LeastConnections, true) => Scheduler::LeastConnections,
        (Policy::LeastConnections, false) => Scheduler::WeightedLeastConnections,
        (Policy::SourceHash, _) => Scheduler::Maglev,
    }
}

/// Those who take new connections, and how many of them in relation to others.
fn takers(standings: &[Standing]) -> BTreeMap<Backend, Weight> {
    let taker =
        |standing: &Standing| Some((backend(standing)?, Weight::new(standing.member.backend.weight)?));
    standings.iter().filter(|standing| takes_connections(standing)).filter_map(taker).collect()
}

/// Those whose connections are of no use to anybody. None where nobody else takes connections: it may well be this node
/// that has lost its network.
fn dead(standings: &[Standing]) -> BTreeSet<Backend> {
    let is_dead = |standing: &&Standing| standing.status == Status::Dead;
    let others = standings.iter().any(takes_connections);
    standings.iter().filter(is_dead).filter(|_| others).filter_map(backend).collect()
}

fn give_up(observed: &mut Observed, dead: &BTreeSet<Backend>) {
    for service in observed.services.values_mut() {
        let given_up = service.backends.iter_mut().filter(|(backend, _)| dead.contains(backend));
        given_up.for_each(|(_, found)| found.overdue = true);
    }
}

fn takes_connections(standing: &Standing) -> bool {
    let weight = standing.member.backend.weight;
    standing.status == Status::Up && !standing.drained && !standing.removed && weight > 0
}

fn backend(standing: &Standing) -> Option<Backend> {
    let address = standing.member.backend.address;
    Some(Backend::new(address.ip(), Port::new(address.port())?))
}

fn frontend(address: SocketAddr) -> Option<Frontend> {
    let ip: IpAddr = address.ip();
    Some(Frontend::new(ip, Port::new(address.port())?, Protocol::Tcp))
}

#[cfg(test)]
mod tests {
    use plan::ObservedBackend;
    use prometheus::Registry;

    use super::*;
    use crate::config::Balance;
    use crate::health::{Event, Thresholds};
    use crate::metrics::Metrics;

    /// Three backends after these probes of each: k ready, n not ready, x no answer.
    fn standings(probes: [&str; 3], drained: &[usize]) -> Vec<Standing> {
        let one = std::num::NonZeroU32::MIN;
        let thresholds = Thresholds { rise: one, fall: one, kill: Some(one.saturating_add(1)), drain: None };
        let balance = Balance { policy: Policy::RoundRobin, slow_start: Duration::ZERO };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let pool = Pool::new(&Backends::numbered(3), balance, thresholds, &metrics);
        for (id, probes) in probes.iter().enumerate() {
            for probe in probes.chars() {
                let event = match probe {
                    'k' => Event::ProbeOk,
                    'n' => Event::ProbeUnready,
                    'x' => Event::ProbeDead,
                    other => panic!("{other}"),
                };
                pool.observe(id, event, &"");
            }
        }
        for position in drained {
            assert!(pool.drain(&pool.members()[*position].backend.name, true));
        }
        pool.standings()
    }

    fn numbers<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Vec<String> {
        backends.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn weights_are_the_kernels_where_they_differ() {
        let weighted = |weights: [u16; 3]| {
            let backends = Backends::numbered(3);
            (0..).zip(weights).fold(backends, |backends, (position, weight)| {
                backends.with(position, |backend| backend.weight = weight)
            })
        };
        let (alike, different) = ([[1, 1, 1], [7, 7, 7], [7, 0, 7]], [[1, 1, 2], [7, 0, 1]]);
        for (policy, even, weighing) in [
            (Policy::RoundRobin, Scheduler::RoundRobin, Scheduler::WeightedRoundRobin),
            (Policy::LeastConnections, Scheduler::LeastConnections, Scheduler::WeightedLeastConnections),
            (Policy::SourceHash, Scheduler::Maglev, Scheduler::Maglev),
        ] {
            for weights in alike {
                assert_eq!(scheduler(policy, &weighted(weights)), even, "{policy:?} {weights:?}");
            }
            for weights in different {
                assert_eq!(scheduler(policy, &weighted(weights)), weighing, "{policy:?} {weights:?}");
            }
        }
    }

    /// Probes of each backend, those drained, and who then takes connections, and who is given up.
    type Row<'a> = ([&'a str; 3], &'a [usize], &'a [&'a str], &'a [&'a str]);

    #[test]
    fn states_of_the_relay_are_those_of_virtual_services() {
        let [m1, m2, m3] = ["172.16.60.1:6443", "172.16.60.2:6443", "172.16.60.3:6443"];
        let rows: [Row<'_>; 6] = [
            (["k", "k", "k"], &[], &[m1, m2, m3], &[]),
            (["k", "kn", "k"], &[], &[m1, m3], &[]),
            (["k", "kx", "k"], &[], &[m1, m3], &[]),
            (["k", "kxx", "k"], &[0], &[m3], &[m2]),
            (["", "k", "k"], &[1, 2], &[], &[]),
            (["kxx", "kxx", "kxx"], &[], &[], &[]),
        ];
        for (probes, drained, takes, gives_up) in rows {
            let standings = standings(probes, drained);
            assert_eq!(numbers(takers(&standings).keys()), takes, "{probes:?} {drained:?}");
            assert_eq!(numbers(&dead(&standings)), gives_up, "{probes:?} {drained:?}");
        }
    }

    #[test]
    fn the_connections_of_the_dead_are_given_up_and_those_of_others_are_not() {
        let standings = standings(["k", "kxx", "kn"], &[]);
        let frontend = frontend("172.16.60.250:8443".parse().unwrap()).unwrap();
        let [m1, m2, m3] = [0, 1, 2].map(|position| backend(&standings[position]).unwrap());
        let held = ObservedBackend { connections: 3, ..ObservedBackend::default() };
        let mut observed = Observed::default();
        observed.services.entry(frontend).or_default().backends = [m1, m2, m3].map(|it| (it, held)).into();
        give_up(&mut observed, &dead(&standings));
        let service = Service { rules: Rules::default(), backends: takers(&standings) };
        let steps = diff(&observed, &[(frontend, service)].into(), &Scope::everything());
        let expected =
            [Change::RemoveBackend { frontend, backend: m2 }, Change::DrainBackend { frontend, backend: m3 }];
        assert_eq!(steps, expected);
    }
}

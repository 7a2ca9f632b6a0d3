//! A node with virtual services, and the tools that make the same.

use std::fmt::Write;
use std::fs;
use std::io;
use std::time::Duration;

use ::tests::{Error, Namespace, Result, wait};
use dataplane::{Dataplane, Ipvs, IpvsSettings, IpvsTraffic, Surroundings};
use decisions::cluster;
use nix::time::{ClockId, clock_gettime};
use plan::{Backend, Change, Forwarding, Frontend, Observed, Port, Scope, Weight, diff};

use super::{ENDPOINTS, FEW, Round, SERVICES, SIZES};
use crate::measure::float;
use crate::statistics::median;

/// All sizes take turns, so many times in a round.
const TURNS: usize = 5;
/// Changes in a row whose cost is divided by their number.
const CHANGES: u32 = 200;

/// Measures everything once.
pub(super) fn round() -> Result<Round> {
    let [few, more, many] = SIZES.map(Node::of);
    let ((few, of_few), (more, of_more), (many, of_many)) = (few?, more?, many?);
    let programmed = many.ipvs.traffic();
    let mut nodes = [few, more, many];
    let mut change = [const { Vec::new() }; SIZES.len()];
    for _ in 0..TURNS {
        for (node, took) in nodes.iter_mut().zip(&mut change) {
            took.push(node.change()?);
        }
    }
    let changes = f64::from(CHANGES) * f64::from(u32::try_from(TURNS).unwrap_or_default());
    let [messages, calls] =
        exchanged(programmed, nodes[SIZES.len() - 1].ipvs.traffic()).map(|count| float(count) / changes);
    Ok(Round {
        ours: of_many.all.as_secs_f64(),
        addresses: of_many.addresses.as_secs_f64(),
        table: of_many.table.as_secs_f64(),
        ipvsadm: seconds_of_ipvsadm()?,
        ip: seconds_of_ip()?,
        by_size: [of_few, of_more, of_many].map(|programmed| programmed.all.as_secs_f64()),
        change: change.map(|took| median(&took)),
        messages,
        calls,
    })
}

/// Messages and system calls from one moment to another.
fn exchanged(before: IpvsTraffic, after: IpvsTraffic) -> [u64; 2] {
    let parts = |traffic: IpvsTraffic| [traffic.services, traffic.addresses, traffic.table];
    let sum = |count: fn(&dataplane::Traffic) -> u64| {
        let of = |traffic| parts(traffic).iter().map(count).sum::<u64>();
        of(after) - of(before)
    };
    [sum(|part| part.requests), sum(|part| part.calls)]
}

/// A namespace with virtual services.
struct Node {
    ipvs: Ipvs,
    plan: Forwarding,
    _namespace: Namespace,
}

/// How long it took to program virtual services, and which parts of it the kernel spent on addresses and the table.
struct Programmed {
    all: Duration,
    addresses: Duration,
    table: Duration,
}

impl Node {
    fn of(services: u32) -> Result<(Self, Programmed)> {
        let namespace = Namespace::new("node")?;
        let opened = namespace.run(|| Ipvs::open(IpvsSettings::default(), Surroundings::default()))?;
        let mut ipvs = opened.map_err(failed)?;
        let plan = cluster(services, ENDPOINTS);
        let steps = diff(&Observed::default(), &plan, &Scope::everything());
        let (start, opened) = (wait::now(), ipvs.traffic());
        apply(&mut ipvs, &steps)?;
        let (all, traffic) = (wait::now() - start, ipvs.traffic());
        let programmed = Programmed {
            all,
            addresses: traffic.addresses.time.saturating_sub(opened.addresses.time),
            table: traffic.table.time.saturating_sub(opened.table.time),
        };
        Ok((Self { ipvs, plan, _namespace: namespace }, programmed))
    }

    /// Microseconds of the processor for one change of one endpoint, the kernel's share included.
    fn change(&mut self) -> Result<f64> {
        let port = Port::new(9).ok_or_else(|| failed("9 is no port"))?;
        let backend = Backend::new([100, 127, 0, 1].into(), port);
        // As many that change, wherever they are: what the kernel remembers of servers that went is the same then.
        let step = self.plan.len() / FEW as usize;
        let frontends: Vec<Frontend> = self.plan.keys().copied().step_by(step).collect();
        let before = processor_time()?;
        for &frontend in frontends.iter().cycle().take(CHANGES as usize / 2) {
            apply(&mut self.ipvs, &[Change::AddBackend { frontend, backend, weight: Weight::ONE }])?;
            self.ipvs.recount(frontend).map_err(failed)?;
            apply(&mut self.ipvs, &[Change::RemoveBackend { frontend, backend }])?;
        }
        Ok(processor_time()?.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(CHANGES))
    }
}

fn apply(ipvs: &mut Ipvs, changes: &[Change]) -> Result<()> {
    ipvs.apply(changes).into_iter().next().map_or(Ok(()), |failure| Err(failed(failure)))
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::system("program", "virtual services")(io::Error::other(error))
}

fn seconds_of_ipvsadm() -> Result<f64> {
    let mut rules = String::new();
    for (frontend, service) in cluster(SERVICES, ENDPOINTS) {
        let at = format!("{}:{}", frontend.address(), frontend.port());
        writeln!(rules, "-A -t {at} -s rr").map_err(failed)?;
        for backend in service.backends.into_keys() {
            writeln!(rules, "-a -t {at} -r {backend} -m -w 1").map_err(failed)?;
        }
    }
    seconds_of(&Namespace::new("ipvsadm")?, "ipvsadm -R", &rules)
}

fn seconds_of_ip() -> Result<f64> {
    let namespace = Namespace::new("ip")?;
    namespace.ip(&["link", "add", "kube-ipvs0", "type", "dummy"])?;
    let mut commands = String::new();
    for frontend in cluster(SERVICES, ENDPOINTS).keys() {
        writeln!(commands, "address add {}/32 dev kube-ipvs0", frontend.address()).map_err(failed)?;
    }
    seconds_of(&namespace, "ip -batch -", &commands)
}

/// How long a tool takes that is given this on its standard input.
fn seconds_of(namespace: &Namespace, tool: &str, input: &str) -> Result<f64> {
    let file = tempfile::Builder::new().prefix("fw-").tempfile().map_err(failed)?;
    fs::write(file.path(), input).map_err(failed)?;
    let script = format!("exec {tool} < {}", file.path().display());
    let start = wait::now();
    namespace.command("sh", &["-c", &script])?;
    Ok((wait::now() - start).as_secs_f64())
}

/// What this thread has used, in the kernel too.
fn processor_time() -> Result<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).map_err(failed)
}

//! Virtual services: how fast many are programmed beside `ipvsadm -R`, and what one change costs among few and many.
//!
//! It needs the kernel's IP virtual server: `make bench` runs it in a guest. Every figure is a ratio within one run.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use bench::cluster;
use bench::statistics::median;
use dataplane::{Dataplane, Ipvs, IpvsSettings, Surroundings};
use nix::time::{ClockId, clock_gettime};
use plan::{Backend, Change, Forwarding, Frontend, Observed, Port, Scope, diff};
use tests::{Namespace, wait};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 2;
const FEW: u32 = 10;
/// Changes in a row whose cost is divided by their number.
const CHANGES: u32 = 500;
const ROUNDS: usize = 5;

/// Times as fast as `ipvsadm -R`, at least.
const SPEED: f64 = 5.0;
/// One change among many, as a multiple of its cost among few.
const COST: std::ops::RangeInclusive<f64> = 0.8..=1.2;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let ours = seconds_of_ours()?;
    let theirs = seconds_of_ipvsadm()?;
    let speed = theirs / ours;
    println!("{SERVICES} services x {ENDPOINTS} endpoints: {ours:.2} s, with their addresses");
    println!("the services alone by ipvsadm -R: {theirs:.2} s, {speed:.1} times as long (promised: {SPEED})");
    let (few, many) = (change_among(FEW)?, change_among(SERVICES)?);
    let cost = many / few;
    println!(
        "one change: {few:.0} us of the processor among {FEW} services, {many:.0} us among {SERVICES}: {cost:.2} times (promised: {} to {})",
        COST.start(),
        COST.end()
    );
    let kept = speed >= SPEED && COST.contains(&cost);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Virtual services of a namespace that is empty otherwise.
fn open(namespace: &Namespace) -> Result<Ipvs, Box<dyn Error>> {
    Ok(namespace.run(|| Ipvs::open(IpvsSettings::default(), Surroundings::default()))??)
}

fn apply(ipvs: &mut Ipvs, changes: &[Change]) -> Result<(), Box<dyn Error>> {
    ipvs.apply(changes).into_iter().next().map_or(Ok(()), |failure| Err(failure.into()))
}

fn steps(plan: &Forwarding) -> Vec<Change> {
    diff(&Observed::default(), plan, &Scope::everything())
}

fn seconds_of_ours() -> Result<f64, Box<dyn Error>> {
    let namespace = Namespace::new("ours")?;
    let mut ipvs = open(&namespace)?;
    let steps = steps(&cluster(SERVICES, ENDPOINTS));
    let start = wait::now();
    apply(&mut ipvs, &steps)?;
    Ok((wait::now() - start).as_secs_f64())
}

fn seconds_of_ipvsadm() -> Result<f64, Box<dyn Error>> {
    let namespace = Namespace::new("theirs")?;
    let mut rules = String::new();
    for (frontend, service) in cluster(SERVICES, ENDPOINTS) {
        let at = format!("{}:{}", frontend.address(), frontend.port());
        writeln!(rules, "-A -t {at} -s rr")?;
        for backend in service.backends {
            writeln!(rules, "-a -t {at} -r {backend} -m -w 1")?;
        }
    }
    let directory = tempfile::Builder::new().prefix("fw-").tempdir()?;
    let file = directory.path().join("rules");
    std::fs::write(&file, rules)?;
    let restore = format!("exec ipvsadm -R < {}", file.display());
    let start = wait::now();
    namespace.command("sh", &["-c", &restore])?;
    Ok((wait::now() - start).as_secs_f64())
}

/// Microseconds of the processor for one change of one endpoint, the kernel's share included: the median of some rounds.
fn change_among(services: u32) -> Result<f64, Box<dyn Error>> {
    let namespace = Namespace::new("among")?;
    let mut ipvs = open(&namespace)?;
    let plan = cluster(services, ENDPOINTS);
    apply(&mut ipvs, &steps(&plan))?;
    // As many that change, wherever they are: what the kernel remembers of servers that went is the same then.
    let frontends: Vec<Frontend> = plan.keys().copied().step_by((services / FEW) as usize).collect();
    let port = Port::new(9).ok_or("9 is a port")?;
    let backend = Backend::new([100, 127, 0, 1].into(), port);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let before = processor_time()?;
        for frontend in frontends.iter().cycle().take(CHANGES as usize / 2) {
            let frontend = *frontend;
            apply(&mut ipvs, &[Change::AddBackend { frontend, backend }])?;
            ipvs.recount(frontend)?;
            apply(&mut ipvs, &[Change::RemoveBackend { frontend, backend }])?;
        }
        rounds.push(processor_time()?.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(CHANGES));
    }
    Ok(median(&rounds))
}

/// What this thread has used, in the kernel too.
fn processor_time() -> Result<Duration, nix::Error> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from)
}

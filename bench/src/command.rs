//! The command line: what to measure, progress on standard error, figures on standard output.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;
use tests::{Error, Result};

use crate::{fail_over, front_door, node, scale, statistics::median};

/// Figures of this machine's kernel, in namespaces of its own. Needs root.
#[derive(Clone, Debug, clap::Parser)]
pub struct Arguments {
    /// What to measure; everything where it is left out.
    #[arg(value_enum)]
    subject: Option<Subject>,
    /// Fewer and shorter rounds: under three minutes.
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// fairway-lb beside HAProxy, nginx and plain routing; writes bench/results/.
    FrontDoor,
    /// Faults of a master, beside keepalived + HAProxy; writes bench/results/.
    FailOver,
    /// What a node with fairway-proxy does.
    Node,
    /// How the proxy's costs grow with the cluster; writes bench/results/.
    Scale,
}

/// Measures what was asked for.
pub fn run(arguments: &Arguments) -> ExitCode {
    let wanted = |subject| arguments.subject.is_none_or(|one| one == subject);
    let outcome = || -> Result<()> {
        if wanted(Subject::Node) {
            measure_node()?;
        }
        if wanted(Subject::Scale) {
            measure_scale(arguments.quick)?;
        }
        if wanted(Subject::FrontDoor) {
            measure_front_door(arguments.quick)?;
        }
        if wanted(Subject::FailOver) {
            measure_fail_over(arguments.quick)?;
        }
        Ok(())
    };
    match outcome() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn measure_front_door(quick: bool) -> Result<()> {
    let (plan, name, flag) = if quick {
        (front_door::Plan::QUICK, "front-door-quick", " --quick")
    } else {
        (front_door::Plan::FULL, "front-door", "")
    };
    let command = format!("cargo run --release -p bench --{flag} front-door");
    let report = front_door::measure(plan, &command, |line| eprintln!("{line}"))?;
    write(&report.json(), &report.markdown(), name)?;
    println!("{}", report.markdown());
    Ok(())
}

fn measure_fail_over(quick: bool) -> Result<()> {
    let (rounds, name, flag) = if quick {
        (fail_over::QUICK_ROUNDS, "fail-over-quick", " --quick")
    } else {
        (fail_over::FULL_ROUNDS, "fail-over", "")
    };
    let command = format!("cargo run --release -p bench --{flag} fail-over");
    let report = fail_over::measure(rounds, &command, |line| eprintln!("{line}"))?;
    write(&report.json(), &report.markdown(), name)?;
    println!("{}", report.markdown());
    Ok(())
}

fn measure_scale(quick: bool) -> Result<()> {
    let (rounds, name, flag) = if quick { (1, "scale-quick", " --quick") } else { (5, "scale", "") };
    let command = format!("cargo run --release -p bench --{flag} scale");
    let report = scale::measure(rounds, &command, |line| eprintln!("{line}"))?;
    write(&report.json(), &report.markdown(), name)?;
    println!("{}", report.markdown());
    Ok(())
}

/// Writes `<name>.json` and `<name>.md` into `bench/results`.
fn write(json: &Value, markdown: &str, name: &str) -> Result<()> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/results"));
    std::fs::create_dir_all(folder).map_err(Error::system("make", folder.display()))?;
    let json = serde_json::to_string_pretty(json).map_err(Error::json("the report"))?;
    for (extension, text) in [("json", json + "\n"), ("md", markdown.to_owned())] {
        let path = folder.join(format!("{name}.{extension}"));
        std::fs::write(&path, text).map_err(Error::system("write", path.display()))?;
    }
    Ok(())
}

fn measure_node() -> Result<()> {
    let node = node::Node::start()?;
    changes(&node)?;
    throughput(&node)
}

/// How long after an endpoint changed do connections follow?
fn changes(node: &node::Node) -> Result<()> {
    const ROUNDS: u32 = 100;
    let times = node.endpoint_changes(ROUNDS)?;
    let milliseconds: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let worst = milliseconds.iter().copied().fold(0.0, f64::max);
    println!("endpoint change, from the API server's commit until connections follow, {ROUNDS} changes:");
    println!("  median {:.2} ms, worst {worst:.2} ms", median(&milliseconds));
    Ok(())
}

/// Does a connection through a ClusterIP move bytes as a direct one does?
fn throughput(node: &node::Node) -> Result<()> {
    const ROUNDS: u32 = 5;
    let (mut direct, mut service) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        direct.push(node.pour_directly()?);
        service.push(node.pour_through_service()?);
    }
    let ratios: Vec<f64> = service.iter().zip(&direct).map(|(service, direct)| service / direct).collect();
    println!("one stream to a pod, {ROUNDS} rounds of each in turn:");
    println!("  through the ClusterIP {:.3} of direct (median of the rounds' ratios)", median(&ratios));
    println!("  {:.1} and {:.1} Gbit/s (medians)", median(&service) / 1e9, median(&direct) / 1e9);
    Ok(())
}

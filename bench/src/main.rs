//! What a node with fairway-proxy does, measured on this machine's kernel in namespaces of its own.
//!
//! It prints ratios within one run where there is something to compare with, and medians otherwise.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::process::ExitCode;

use bench::{median, node};
use tests::Result;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
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

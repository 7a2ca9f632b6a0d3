//! Figures of this machine: fairway-lb beside its rivals, and what a node with fairway-proxy does.

use std::process::ExitCode;

use bench::command::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    run(&Arguments::parse())
}

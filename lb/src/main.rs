//! `fairway-lb`: arguments, run, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    daemon::exit::report(lb::run(lb::Arguments::parse()))
}

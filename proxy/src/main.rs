//! fairway-proxy, a drop-in for kube-proxy.

use std::process::ExitCode;

use clap::Parser;
use proxy::arguments::Arguments;

fn main() -> ExitCode {
    daemon::exit::report(proxy::run(Arguments::parse()))
}

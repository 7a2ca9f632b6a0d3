//! fairway-proxy, a drop-in for kube-proxy.

use std::process::ExitCode;

use proxy::arguments::Arguments;

fn main() -> ExitCode {
    daemon::exit::report(proxy::run(Arguments::of_process()))
}

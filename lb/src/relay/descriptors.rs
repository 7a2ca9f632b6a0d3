//! File descriptors: what connections may take of them, and what is kept back for everything else.

use std::num::NonZeroUsize;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{RelayError, pipe};
use crate::config::Config;

/// How many connections the descriptors of this process suffice for where `threads` carry them and all else is as
/// `config` says, after raising the limit of descriptors as far as allowed.
pub fn connection_limit(threads: NonZeroUsize, config: &Config) -> Result<usize, RelayError> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|source| RelayError::OpenFiles { limit: 0, source })?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .map_err(|source| RelayError::OpenFiles { limit: hard, source })?;
    }
    Ok(connections_within(hard, kept_back(threads, config)))
}

fn connections_within(descriptors: u64, kept_back: u64) -> usize {
    let connections = descriptors.saturating_sub(kept_back) / PER_CONNECTION;
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

fn kept_back(threads: NonZeroUsize, config: &Config) -> u64 {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let threads = count(threads.get());
    // A second one of each goes to a successor, or lets clients wait for the next master.
    let listeners = threads.saturating_mul(2 * count(config.frontend.listen.len()));
    let routers = PER_ROUTER * count(config.virtual_routers.len());
    let probes = PER_PROBE * count(config.backends.len());
    let relay = threads.saturating_mul(pipe::DESCRIPTORS_PER_THREAD + PER_THREAD);
    [relay, listeners, routers, probes].into_iter().fold(AT_LEAST, u64::saturating_add)
}

/// The client's and the backend's.
const PER_CONNECTION: u64 = 2;
/// Adverts, announcements, rivals, clients that wait, netlink twice, its orders.
const PER_ROUTER: u64 = 8;
/// One to ask whether it is ready, one to ask whether it is alive.
const PER_PROBE: u64 = 2;
/// What a thread waits on, and its bell.
const PER_THREAD: u64 = 2;
/// For operators, the admin server and its clients, signals, the log, and what a reload adds.
const AT_LEAST: u64 = 96;

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// With so many listeners, routers and backends.
    fn config(listeners: usize, routers: usize, backends: usize) -> Config {
        let mut text =
            "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nhealthCheck: {kind: tcp}\n".to_owned();
        let ports = (1..=listeners).map(|port| format!("'127.0.0.1:{port}'")).collect::<Vec<_>>().join(", ");
        writeln!(text, "frontend: {{listen: [{ports}]}}\nbackends:").unwrap();
        for backend in 1..=backends {
            writeln!(text, "- {{name: m{backend}, address: '10.0.0.{backend}:6443'}}").unwrap();
        }
        text.push_str(if routers > 0 { "virtualRouters:\n" } else { "" });
        for router in 1..=routers {
            let addresses = format!("addresses: [10.1.0.{router}/32]");
            writeln!(text, "- {{interface: eth0, routerId: {router}, {addresses}}}").unwrap();
        }
        crate::config::parse(&text, &|_| Ok(Vec::new())).unwrap()
    }

    #[test]
    fn descriptors_are_kept_back_for_everything_else() {
        let cases = [
            // One thread, the smallest configuration: 96, 34 of the thread, 2 of its listener, 2 of the probe.
            (0, 1, config(1, 0, 1), 1),
            (134, 1, config(1, 0, 1), 1),
            (256, 1, config(1, 0, 1), 61),
            (1024, 2, config(1, 1, 3), 421),
            (1024, 64, config(1, 1, 3), 1),
            (20_000, 2, config(1, 1, 3), 9909),
            (1_048_576, 2, config(1, 1, 3), 524_197),
            // As much as can be configured of listeners and routers.
            (1024, 2, config(16, 16, 64), 270),
        ];
        for (descriptors, threads, config, connections) in cases {
            let threads = NonZeroUsize::new(threads).unwrap();
            let found = connections_within(descriptors, kept_back(threads, &config));
            assert_eq!(found, connections, "{descriptors} {threads}");
        }
    }
}

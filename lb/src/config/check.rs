//! From the text to a [`Config`], with every problem at once.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::document::{Document, Section};
use daemon::problems::Problems;

use super::backends::backends;
use super::field::{ADDRESS_AND_PORT, INTERVALS, duration, noted};
use super::forwarding::{forwarding, refuse_what_only_the_relay_does};
use super::health_check::health_check;
use super::tls::ReadFile;
use super::virtual_router::virtual_routers;
use super::{Backend, Backends, Balance, Config, CongestionControl, Frontend, Policy, Rebalance, defaults};
use crate::router::RouterConfig;

/// What `apiVersion` must say.
const API_VERSION: &str = "fairway.dev/v1alpha1";
/// What `kind` must say.
const KIND: &str = "FrontDoor";
/// Each is a listener for every thread of the relay.
const MOST_ADDRESSES: usize = 16;
/// As [`INTERVALS`], or not at all.
const SLOW_STARTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
/// After a day nobody remembers why there are two processes.
const HAND_OVER_DEADLINES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
/// Bytes.
const MOST_SOCKET_PATH: usize = 96;
/// The kernel counts keep-alive in whole seconds, and `peerTimeout` holds several of its probes.
const PEER_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(4)..=Duration::from_hours(24);

/// Reads the file at `path` and the files that it names.
pub fn read(path: &Path) -> Result<Config, Problems> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, &|file: &Path| fs::read(file)),
        Err(error) => {
            let mut problems = Problems::default();
            problems.add("", format!("cannot read {}: {error}", path.display()));
            Err(problems)
        }
    }
}

/// Checks `text`, asking `read_file` for the files that it names. All problems are reported, in order of discovery.
pub fn parse(text: &str, read_file: ReadFile<'_>) -> Result<Config, Problems> {
    let (config, problems) = Document::parse(text).read(|root| document(root, read_file));
    problems.or(config)
}

fn document(root: &mut Section<'_>, read_file: ReadFile<'_>) -> Option<Config> {
    must_be(root, "apiVersion", API_VERSION);
    must_be(root, "kind", KIND);
    let virtual_routers = virtual_routers(root);
    let frontend = root.section("frontend", frontend);
    let frontend = root.require("frontend", frontend).flatten();
    let backends = backends(root);
    let health_check = root.section("healthCheck", |section| health_check(section, read_file));
    let health_check = root.require("healthCheck", health_check).flatten();
    let rebalance = root.section("rebalance", rebalance).unwrap_or(Rebalance::OFF);
    if rebalance.per_minute.is_some()
        && frontend.as_ref().is_some_and(|frontend| frontend.balance.policy == Policy::SourceHash)
    {
        root.problem(
            "rebalance.perMinute",
            "has no effect with balance: source-hash: clients would come back",
        );
    }
    let (admin, control_socket) = root.section("admin", admin).unwrap_or_default();
    let admin = admin.unwrap_or(defaults::ADMIN);
    let control_socket = control_socket.unwrap_or_else(|| defaults::CONTROL_SOCKET.into());
    if let Some(frontend) = &frontend {
        refuse_collisions(root, &frontend.listen, admin, &virtual_routers, &backends);
        refuse_what_only_the_relay_does(root, frontend, &backends, rebalance);
    }
    Some(Config {
        virtual_routers,
        frontend: frontend?,
        backends: Backends(backends.into_iter().map(|(backend, _)| backend).collect()),
        health_check: health_check?,
        rebalance,
        admin,
        control_socket,
    })
}

fn admin(section: &mut Section<'_>) -> (Option<SocketAddr>, Option<PathBuf>) {
    let listen = section.parsed("listen", ADDRESS_AND_PORT);
    let socket = section.text("socket").and_then(|path| {
        // The kernel takes 107 bytes (`sun_path`), and the socket is made under a longer name.
        let what = format!("must be an absolute path of at most {MOST_SOCKET_PATH} bytes, found {path:?}");
        let valid = path.starts_with('/') && path.len() <= MOST_SOCKET_PATH && !path.contains('\0');
        noted(section, "socket", valid.then(|| PathBuf::from(path)), what)
    });
    (listen, socket)
}

fn must_be(root: &mut Section<'_>, field: &str, expected: &str) {
    let found = root.text(field);
    if let Some(found) = root.require(field, found)
        && found != expected
    {
        root.problem(field, format!("must be {expected}, found {found:?}"));
    }
}

fn frontend(section: &mut Section<'_>) -> Option<Frontend> {
    let listen = listen(section);
    let forwarding = forwarding(section);
    let balance = balance(section);
    let connect_timeout = duration(section, "connectTimeout", INTERVALS, defaults::CONNECT_TIMEOUT);
    let peer_timeout = duration(section, "peerTimeout", PEER_TIMEOUTS, defaults::PEER_TIMEOUT);
    let hand_over_deadline =
        duration(section, "handOverDeadline", HAND_OVER_DEADLINES, defaults::HAND_OVER_DEADLINE);
    let congestion_control = section.text("congestionControl").and_then(|name| {
        let what = format!("must be 1 to 15 letters, digits, '-', '_' or '.', found {name:?}");
        noted(section, "congestionControl", CongestionControl::new(name), what)
    });
    Some(Frontend {
        listen: listen?,
        forwarding,
        balance,
        connect_timeout,
        peer_timeout,
        hand_over_deadline,
        congestion_control,
    })
}

/// One address, or a list of them: a virtual address of each family, say.
fn listen(section: &mut Section<'_>) -> Option<Vec<SocketAddr>> {
    let list = section.parsed_one_or_more("listen", ADDRESS_AND_PORT);
    let list = section.require("listen", list)?;
    if !(1..=MOST_ADDRESSES).contains(&list.len()) {
        section.problem("listen", format!("must list 1 to {MOST_ADDRESSES} addresses, found {}", list.len()));
    }
    for (position, &address) in list.iter().enumerate() {
        if list.iter().take(position).any(|&earlier| earlier == address) {
            section.problem(&format!("listen[{position}]"), format!("{address} is listed twice"));
        }
    }
    Some(list)
}

fn balance(section: &mut Section<'_>) -> Balance {
    let policies = [
        ("round-robin", Policy::RoundRobin),
        ("least-connections", Policy::LeastConnections),
        ("source-hash", Policy::SourceHash),
    ];
    let policy = section.choice("balance", &policies).unwrap_or(Policy::RoundRobin);
    let slow_start = duration(section, "slowStart", SLOW_STARTS, defaults::SLOW_START);
    if policy == Policy::SourceHash && !slow_start.is_zero() {
        section.problem("slowStart", "has no effect with balance: source-hash, which knows no degrees");
    }
    Balance { policy, slow_start }
}

fn rebalance(section: &mut Section<'_>) -> Rebalance {
    let per_minute = section.number::<u32>("perMinute", 0..=600).and_then(NonZeroU32::new);
    let dry_run = section.flag("dryRun").unwrap_or(false);
    let idle = duration(section, "idle", INTERVALS, defaults::REBALANCE_IDLE);
    Rebalance { per_minute, dry_run, idle }
}

/// What is fine alone and cannot work together.
fn refuse_collisions(
    root: &mut Section<'_>,
    listen: &[SocketAddr],
    admin: SocketAddr,
    virtual_routers: &[RouterConfig],
    backends: &[(Backend, usize)],
) {
    if listen.iter().any(|address| address.port() == 0) && !virtual_routers.is_empty() {
        root.problem("frontend.listen", "must name a port: clients of a virtual address could not know it");
    }
    let is_frontend = |other| listen.iter().any(|&address| overlap(address, other));
    if is_frontend(admin) {
        root.problem("admin.listen", format!("{admin} is also where the frontend listens"));
    }
    let networks = || virtual_routers.iter().flat_map(|router| router.addresses.networks());
    let is_virtual = |address| networks().any(|network| network.addr() == address);
    for (backend, position) in backends {
        let field = format!("backends[{position}].address");
        if is_frontend(backend.address) {
            let what = format!("{} is where the frontend listens: connections would loop", backend.address);
            root.problem(&field, what);
        } else if is_virtual(backend.address.ip()) {
            let what = format!("{} is a virtual address: it moves, a backend does not", backend.address.ip());
            root.problem(&field, what);
        }
    }
}

/// Whether what `listen` accepts includes connections to `other`.
fn overlap(listen: SocketAddr, other: SocketAddr) -> bool {
    let same_address = listen.ip().to_canonical() == other.ip().to_canonical();
    let everywhere = |address: SocketAddr, other: SocketAddr| {
        address.ip().is_unspecified() && other.ip().to_canonical().is_loopback()
    };
    listen.port() != 0
        && listen.port() == other.port()
        && (same_address || everywhere(listen, other) || everywhere(other, listen))
}

#[cfg(test)]
mod tests;

//! What a reload changes: from the configuration in force to the one read anew, as steps. Pure; the shell
//! (`server::change`) carries them out.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::{BackendName, Config};
use crate::router::RouterConfig;

/// One change, as an operator would put it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A backend is new: it is probed before it takes connections.
    AddBackend(BackendName),
    /// A backend is gone, or another one has its name now: it takes no new connections and keeps those it has.
    RemoveBackend(BackendName),
    /// A backend has other settings.
    ChangeBackend(BackendName),
    /// Backends are judged in another way.
    ChangeHealthCheck,
    /// Connections are moved between backends in another way.
    ChangeRebalance,
    /// Clients are listened for here too.
    Listen(SocketAddr),
    /// Clients are no longer listened for here; those who came by it stay.
    Close(SocketAddr),
    /// Connections are spread or set up in another way from now on.
    ChangeFrontend,
    /// Metrics and health are served elsewhere.
    MoveAdmin(SocketAddr),
    /// Operators are answered elsewhere.
    MoveControl(PathBuf),
    /// Takes part in one more virtual router.
    StartRouter(String),
    /// Leaves a virtual router.
    StopRouter(String),
    /// Leaves a virtual router and comes back with other addresses.
    RestartRouter(String),
    /// Has other settings in a virtual router, and the same role.
    ChangeRouter(String),
}

/// The virtual router that is called so, if the configuration has it.
pub fn router<'a>(config: &'a Config, instance: &str) -> Option<&'a RouterConfig> {
    config.virtual_routers.iter().find(|router| router.instance() == instance)
}

/// The steps from `old` to `new`. None where they ask for the same; what files hold, certificates for example, is not
/// compared.
pub fn steps(old: &Config, new: &Config) -> Vec<Step> {
    let mut steps = backends(old, new);
    if old.health_check != new.health_check {
        steps.push(Step::ChangeHealthCheck);
    }
    if old.rebalance != new.rebalance {
        steps.push(Step::ChangeRebalance);
    }
    steps.extend(frontend(old, new));
    if old.admin != new.admin {
        steps.push(Step::MoveAdmin(new.admin));
    }
    if old.control_socket != new.control_socket {
        steps.push(Step::MoveControl(new.control_socket.clone()));
    }
    steps.extend(routers(old, new));
    steps
}

fn backends(old: &Config, new: &Config) -> Vec<Step> {
    let mut steps = Vec::new();
    for backend in new.backends.iter() {
        let name = backend.name.clone();
        match old.backends.iter().find(|former| former.name == backend.name) {
            Some(former) if former == backend => {}
            Some(former) if former.address == backend.address => steps.push(Step::ChangeBackend(name)),
            Some(_) => steps.extend([Step::RemoveBackend(name.clone()), Step::AddBackend(name)]),
            None => steps.push(Step::AddBackend(name)),
        }
    }
    let gone = old.backends.iter().filter(|former| new.backends.iter().all(|it| it.name != former.name));
    steps.extend(gone.map(|former| Step::RemoveBackend(former.name.clone())));
    steps
}

fn frontend(old: &Config, new: &Config) -> Vec<Step> {
    let (old, new) = (&old.frontend, &new.frontend);
    let not_in = |list: &[SocketAddr], others: &[SocketAddr]| -> Vec<SocketAddr> {
        list.iter().copied().filter(|address| !others.contains(address)).collect()
    };
    let added = not_in(&new.listen, &old.listen).into_iter().map(Step::Listen);
    let removed = not_in(&old.listen, &new.listen).into_iter().map(Step::Close);
    let mut steps: Vec<Step> = added.chain(removed).collect();
    let settings = crate::config::Frontend { listen: new.listen.clone(), ..old.clone() };
    if settings != *new {
        steps.push(Step::ChangeFrontend);
    }
    steps
}

fn routers(old: &Config, new: &Config) -> Vec<Step> {
    let instances =
        |config: &Config| config.virtual_routers.iter().map(RouterConfig::instance).collect::<Vec<_>>();
    // First who leaves: an address may move from one to the other.
    let gone = instances(old).into_iter().filter(|instance| router(new, instance).is_none());
    let mut steps: Vec<Step> = gone.map(Step::StopRouter).collect();
    for instance in instances(new) {
        match (router(old, &instance), router(new, &instance)) {
            (former, present) if former == present => {}
            (Some(former), Some(present)) if former.addresses == present.addresses => {
                steps.push(Step::ChangeRouter(instance));
            }
            (Some(_), _) => steps.push(Step::RestartRouter(instance)),
            (None, _) => steps.push(Step::StartRouter(instance)),
        }
    }
    steps
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddBackend(name) => write!(formatter, "add backend {name}"),
            Self::RemoveBackend(name) => write!(formatter, "remove backend {name}"),
            Self::ChangeBackend(name) => write!(formatter, "change backend {name}"),
            Self::ChangeHealthCheck => formatter.write_str("change health check"),
            Self::ChangeRebalance => formatter.write_str("change rebalance"),
            Self::Listen(address) => write!(formatter, "listen on {address}"),
            Self::Close(address) => write!(formatter, "close {address}"),
            Self::ChangeFrontend => formatter.write_str("change frontend"),
            Self::MoveAdmin(address) => write!(formatter, "move admin to {address}"),
            Self::MoveControl(path) => write!(formatter, "move control to {}", path.display()),
            Self::StartRouter(instance) => write!(formatter, "start virtual router {instance}"),
            Self::StopRouter(instance) => write!(formatter, "stop virtual router {instance}"),
            Self::RestartRouter(instance) => write!(formatter, "restart virtual router {instance}"),
            Self::ChangeRouter(instance) => write!(formatter, "change virtual router {instance}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config::parse;

    type Changes<'a> = &'a [(&'a str, &'a str)];

    const FILE: &str = "
apiVersion: fairway.dev/v1alpha1
kind: FrontDoor
virtualRouter: {interface: eth0, routerId: 51, priority: 100, addresses: [172.16.60.250/32]}
frontend: {listen: '172.16.60.250:8443'}
backends:
  - {name: m1, address: '172.16.60.241:6443'}
  - {name: m2, address: '172.16.60.242:6443'}
healthCheck: {tls: {caFile: ca.crt}}
";

    fn config(changes: Changes<'_>) -> Config {
        let certificate =
            CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let mut text = FILE.to_owned();
        for (find, replacement) in changes {
            assert_eq!(text.matches(find).count(), 1, "{find}");
            text = text.replace(find, replacement);
        }
        parse(&text, &|_| Ok(certificate.clone().into_bytes())).unwrap()
    }

    #[test]
    fn steps_are_what_differs_and_nothing_else() {
        let m3 = "'172.16.60.242:6443'}\n  - {name: m3, address: '172.16.60.243:6443'}";
        let cases: [(Changes<'_>, &[&str]); 17] = [
            (&[], &[]),
            (&[("'172.16.60.242:6443'}", m3)], &["add backend m3"]),
            (&[("  - {name: m2, address: '172.16.60.242:6443'}\n", "")], &["remove backend m2"]),
            (&[("name: m2", "name: m4")], &["add backend m4", "remove backend m2"]),
            (&[("60.242:6443", "60.244:6443")], &["remove backend m2", "add backend m2"]),
            (&[("healthCheck: {", "healthCheck: {rise: 5, ")], &["change health check"]),
            (&[("healthCheck:", "rebalance: {perMinute: 6}\nhealthCheck:")], &["change rebalance"]),
            (&[("250:8443", "250:9443")], &["listen on 172.16.60.250:9443", "close 172.16.60.250:8443"]),
            (
                &[("'172.16.60.250:8443'", "['172.16.60.250:8443', '127.0.0.1:8443']")],
                &["listen on 127.0.0.1:8443"],
            ),
            (&[("8443'}", "8443', balance: least-connections}")], &["change frontend"]),
            (&[("kind", "admin: {listen: '127.0.0.1:9000'}\nkind")], &["move admin to 127.0.0.1:9000"]),
            (&[("kind", "admin: {socket: /a/b}\nkind")], &["move control to /a/b"]),
            (&[("priority: 100", "priority: 50")], &["change virtual router eth0-51-ipv4"]),
            (&[("priority: 100", "advertInterval: 1s")], &["change virtual router eth0-51-ipv4"]),
            (&[(".250/32]", ".250/32, 172.16.60.251/32]")], &["restart virtual router eth0-51-ipv4"]),
            (
                &[("eth0, routerId: 51", "eth1, routerId: 52")],
                &["stop virtual router eth0-51-ipv4", "start virtual router eth1-52-ipv4"],
            ),
            (
                &[("8443'}", "8443', peerTimeout: 1m}"), ("priority: 100", "preempt: true")],
                &["change frontend", "change virtual router eth0-51-ipv4"],
            ),
        ];
        for (changes, expected) in cases {
            let found: Vec<String> =
                steps(&config(&[]), &config(changes)).iter().map(Step::to_string).collect();
            assert_eq!(found, expected, "{changes:?}");
        }
    }
}

//! fairway-lb in front of real apiservers.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use tests::kube_apiserver::{ControlPlane, KubeApiserver, assets};
use tests::topology::{FRONT_DOOR, INTERFACE, Link, VIRTUAL_ADDRESS};
use tests::traffic::{self, Attempt};
use tests::{Error, Process, Program, Result};

use crate::node::{LIMIT, Load, until};

const MASTERS: [&str; 3] = ["m1", "m2", "m3"];
/// For so long a server that was asked to stop is unready and serves on.
const DELAY: &str = "--shutdown-delay-duration=6s";

/// Three masters, each with an apiserver, all on one etcd, and a front door on the second.
struct Site {
    front_door: Process,
    apiservers: Vec<KubeApiserver>,
    plane: ControlPlane,
    link: Link,
    files: tempfile::TempDir,
}

fn site() -> Result<Site> {
    let link = Link::new(3)?;
    let files = tempfile::Builder::new().prefix("fw-").tempdir();
    let files = files.map_err(Error::system("make", "a directory"))?;
    let hosts = link.masters();
    let etcd = SocketAddr::from((hosts[0].address(), 2379));
    let plane = ControlPlane::start(&assets()?, etcd, hosts[0].namespace())?.with_flags(&[DELAY]);
    let mut apiservers = Vec::new();
    for (host, name) in hosts.iter().zip(MASTERS) {
        let address = SocketAddr::from((host.address(), 6443));
        let apiserver = plane.apiserver(name, address, &[&VIRTUAL_ADDRESS.to_string()], host.namespace())?;
        apiserver.identity().write(files.path(), name)?;
        apiservers.push(apiserver);
    }
    let backends: Vec<String> = hosts
        .iter()
        .zip(MASTERS)
        .map(|(host, name)| format!("{{name: {name}, address: \"{}:6443\"}}", host.address()))
        .collect();
    let config = format!(
        "apiVersion: fairway.dev/v1alpha1\n\
         kind: FrontDoor\n\
         virtualRouter: {{interface: {INTERFACE}, routerId: 51, addresses: [{VIRTUAL_ADDRESS}/32]}}\n\
         frontend: {{listen: \"{FRONT_DOOR}\"}}\n\
         healthCheck: {{interval: 200ms, tls: {{caFile: \"{}\"}}}}\n\
         admin: {{socket: \"{}\"}}\n\
         backends: [{}]\n",
        plane.authority_file().display(),
        files.path().join("control.sock").display(),
        backends.join(", ")
    );
    let file = files.path().join("front-door.yaml");
    std::fs::write(&file, config).map_err(Error::system("write", file.display()))?;
    let program = Program::ours("fairway-lb")?.arguments(["--config".as_ref(), file.as_path()]);
    let front_door = program.inside(hosts[1].namespace()).spawn()?;
    let site = Site { front_door, apiservers, plane, link, files };
    until("the front door has the address", || Ok(site.link.holders()? == [1]))?;
    Ok(site)
}

impl Site {
    /// 50 new TLS connections per second of the client, each with a request that any user may make.
    fn load(&self) -> Result<Load> {
        let file = |name: &str| self.files.path().join(name).display().to_string();
        let mut dial =
            traffic::dial(&FRONT_DOOR.to_string(), ["--protocol", "tls", "--path", "/version", "--each"])?
                .arguments(["--rate", "50", "--milliseconds", "120000", "--timeout-milliseconds", "10000"])
                .arguments(["--authority".into(), self.plane.authority_file().into_os_string()]);
        for name in MASTERS {
            dial = dial.arguments(["--backend", &format!("{name}={}", file(&format!("{name}.crt")))]);
        }
        Load::start(dial.inside(self.link.client().namespace()))
    }
}

fn is_of(name: &str) -> impl Fn(&Attempt) -> bool {
    move |attempt| attempt.backend.as_deref() == Some(name)
}

#[test]
#[cfg_attr(not(real_apiserver), ignore = "KUBEBUILDER_ASSETS is not set: there is no real apiserver")]
fn an_apiserver_that_is_stopped_in_good_order_is_missed_by_nobody() -> Result<()> {
    let mut site = site()?;
    // Until the probes have found all three.
    let warm = site.load()?;
    until("all three are met", || {
        Ok(MASTERS.iter().all(|name| warm.attempts().is_ok_and(|all| all.iter().any(is_of(name)))))
    })?;
    warm.stop()?;
    let load = site.load()?;
    load.await_more(150)?;
    let spread: Vec<usize> = MASTERS
        .iter()
        .map(|name| Ok(load.attempts()?.iter().filter(|it| is_of(name)(it)).count()))
        .collect::<Result<_>>()?;
    let (least, most) = (spread.iter().min(), spread.iter().max());
    // Probes make none of them, and answers may overtake each other.
    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 3), "{spread:?}");

    let leaving = &mut site.apiservers[2];
    leaving.process().signal(Signal::SIGTERM)?;
    until("nobody new is sent to the one that leaves", || {
        let attempts = load.attempts()?;
        Ok(!attempts[attempts.len() - 30..].iter().any(is_of("m3")))
    })?;
    assert_eq!(leaving.admin().request("GET", "/version", None)?.status, 200, "it would still have served");
    leaving.process().wait(LIMIT)?;
    let (errors, _) = load.stop()?;
    assert_eq!(errors, [""; 0], "{}", site.front_door.log()?);
    assert_eq!(site.front_door.ended()?, None);
    Ok(())
}

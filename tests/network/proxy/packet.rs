//! Packets that reach the node for a service: from the world, and from pods that no control group shows.

mod counted;
mod full;
mod health_checks;
mod nodes;
mod policy;
mod site;
mod whole;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::{Namespace, Result, traffic};

use self::site::{
    CLUSTER, CLUSTER6, LOCAL, LOCAL6, REMOTE, REMOTE6, Site, ask_often, connect, exchange_lines, is_dropped,
    is_of_node, is_refused, local_pod,
};
use super::node::until;

/// Whose packets count as those of pods.
const PODS: &str = "--cluster-cidr=10.42.0.0/16,fd42::/16";
/// Of which Node the manifests speak.
const NODE: &str = "--hostname-override=m1";
/// Where the world finds the Service, beside its cluster address.
const PUBLIC: [&str; 3] = ["172.16.60.241:30080", "172.16.60.230:80", "172.16.60.231:80"];
const OUT: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 60, 10));

const EVERY_WAY: [(&str, &str); 4] =
    [("tcp", CLUSTER), ("udp", CLUSTER), ("tcp", CLUSTER6), ("udp", CLUSTER6)];

/// Asks twenty times; who answered, and whom they saw.
fn answers(
    client: &Namespace,
    (protocol, target): (&str, &str),
) -> Result<(BTreeSet<String>, BTreeSet<IpAddr>)> {
    let answers = ask_often(client, protocol, target, 20)?;
    Ok(answers.into_iter().map(|answer| (answer.pod, answer.seen)).unzip())
}

/// A10, where nothing tells pods from others and so nobody is masqueraded.
#[test]
fn the_world_reaches_pods_here_and_elsewhere_by_a_cluster_address() -> Result<()> {
    let site = Site::new()?;
    site.web(&[LOCAL, REMOTE, LOCAL6, REMOTE6])?;
    let _proxy = site.proxy(&[])?;
    for (protocol, target) in EVERY_WAY {
        let (pods, seen) = answers(&site.out, (protocol, target))?;
        assert_eq!(pods, BTreeSet::from(["local".to_owned(), "pod-1".to_owned()]), "{protocol} {target}");
        let client: IpAddr = if target == CLUSTER {
            [172, 16, 60, 10].into()
        } else {
            [0xfd60, 0, 0, 0, 0, 0, 0, 0x10].into()
        };
        assert_eq!(seen, BTreeSet::from([client]), "{protocol} {target}");
    }
    Ok(())
}

/// A8, by a pod that no control group shows, as a virtual machine is.
#[test]
fn a_pod_reaches_itself_by_its_own_service() -> Result<()> {
    let site = Site::new()?;
    site.web(&[LOCAL, LOCAL6])?;
    let _proxy = site.proxy(&[])?;
    for (protocol, target) in EVERY_WAY {
        let (pods, seen) = answers(&site.local, (protocol, target))?;
        assert_eq!(pods, BTreeSet::from(["local".to_owned()]), "{protocol} {target}");
        assert!(seen.iter().all(|address| is_of_node(*address)), "{protocol} {target}: {seen:?}");
    }
    Ok(())
}

/// A12.
#[test]
fn a_service_without_endpoints_refuses_the_world_at_once() -> Result<()> {
    let site = Site::new()?;
    site.web(&[])?;
    let _proxy = site.proxy(&[])?;
    for (protocol, target) in EVERY_WAY {
        for client in [&site.out, &site.bad, &site.local] {
            assert!(is_refused(client, protocol, target)?, "{protocol} {target} from {}", client.name());
        }
    }
    // An address that is nobody's is none of ours: the node has no route.
    assert!(!is_refused(&site.out, "tcp", "10.254.0.99:80")?);
    assert!(!is_dropped(&site.out, "tcp", "10.254.0.99:80")?, "the node says that it has no route");
    Ok(())
}

/// A10, B1, C1 and C15.
#[test]
fn the_world_is_masqueraded_where_every_endpoint_may_serve_it() -> Result<()> {
    let site = Site::new()?;
    site.public("Cluster", &[LOCAL], &[REMOTE], &[])?;
    let _proxy = site.proxy(&[PODS, NODE])?;
    for target in PUBLIC.into_iter().chain([CLUSTER]) {
        for protocol in ["tcp", "udp"] {
            let (pods, seen) = answers(&site.out, (protocol, target))?;
            assert_eq!(pods, BTreeSet::from(["local".to_owned(), "pod-1".to_owned()]), "{protocol} {target}");
            assert!(seen.iter().all(|address| is_of_node(*address)), "{protocol} {target}: {seen:?}");
        }
    }
    Ok(())
}

/// C2, C3 and C4.
#[test]
fn a_local_policy_keeps_the_address_of_the_world_and_leaves_pods_alone() -> Result<()> {
    let site = Site::new()?;
    site.public("Local", &[LOCAL], &[REMOTE], &[])?;
    let _proxy = site.proxy(&[PODS, NODE])?;
    for target in PUBLIC {
        for protocol in ["tcp", "udp"] {
            let (pods, seen) = answers(&site.out, (protocol, target))?;
            assert_eq!(pods, BTreeSet::from(["local".to_owned()]), "{protocol} {target}");
            assert_eq!(seen, BTreeSet::from([OUT]), "{protocol} {target}");
        }
    }
    site.public("Local", &[], &[REMOTE], &[])?;
    until("no endpoint is here any more", || is_dropped(&site.out, "tcp", PUBLIC[0]))?;
    for target in PUBLIC {
        for protocol in ["tcp", "udp"] {
            assert!(is_dropped(&site.out, protocol, target)?, "{protocol} {target}");
            let (pods, _) = answers(&site.local, (protocol, target))?;
            assert_eq!(pods, BTreeSet::from(["pod-1".to_owned()]), "a pod: {protocol} {target}");
        }
    }
    let dropped = "fairway_proxy_packets_dropped_total{reason=\"no_local_endpoint\"}";
    assert!(site.node.metric(dropped)?.is_some_and(|dropped| dropped >= 6.0));
    Ok(())
}

/// C10.
#[test]
fn a_load_balancer_lets_in_whom_it_is_told_to() -> Result<()> {
    let site = Site::new()?;
    site.public("Cluster", &[LOCAL], &[], &["172.16.60.0/26"])?;
    let _proxy = site.proxy(&[PODS, NODE])?;
    for protocol in ["tcp", "udp"] {
        assert_eq!(ask_often(&site.out, protocol, PUBLIC[1], 3)?.len(), 3);
        assert!(is_dropped(&site.bad, protocol, PUBLIC[1])?, "{protocol}");
        // It says nothing about node ports.
        assert_eq!(ask_often(&site.bad, protocol, PUBLIC[0], 3)?.len(), 3);
    }
    Ok(())
}

/// A14 and A9: the backend is a process of the node, which answers by itself.
#[test]
fn a_process_of_the_node_serves_the_world_in_the_name_of_the_service() -> Result<()> {
    let site = Site::new()?;
    // Each at the address of the endpoint: one that listens at every address answers datagrams from any, and a client
    // of kube-proxy would not know it either.
    let addresses = ["10.1.0.254", "fd00:1::254"];
    let _servers = ["10.1.0.254:8080", "[fd00:1::254]:8080"]
        .map(|address| traffic::serve(&site.node.namespace, "host", address))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    site.web(&addresses)?;
    let _proxy = site.proxy(&[PODS])?;
    for (protocol, target) in EVERY_WAY {
        let (pods, seen) = answers(&site.out, (protocol, target))?;
        assert_eq!(pods, BTreeSet::from(["host".to_owned()]), "{protocol} {target}");
        assert!(!seen.iter().any(|address| is_of_node(*address)), "{protocol} {target}: {seen:?}");
    }
    Ok(())
}

/// H8: killed and started again, and upgraded as far as anybody can tell.
#[test]
fn connections_of_the_world_outlive_the_process() -> Result<()> {
    let site = Site::new()?;
    site.web(&[LOCAL, REMOTE])?;
    let mut proxy = site.proxy(&[PODS])?;
    let open = || {
        let target: SocketAddr = CLUSTER.parse().map_err(io::Error::other)?;
        (0..4).map(|_| connect(target, Duration::from_secs(2))).collect::<io::Result<Vec<_>>>()
    };
    let mut streams = site.out.run(open)?.map_err(failed)?;
    let mut answers =
        || streams.iter_mut().map(exchange_lines).collect::<io::Result<Vec<_>>>().map_err(failed);
    let before = answers()?;
    for _ in 0..3 {
        proxy.kill()?;
        assert_eq!(ask_often(&site.out, "tcp", CLUSTER, 5)?.len(), 5, "nobody runs, and the world is served");
        proxy = site.proxy(&[PODS])?;
        assert_eq!(before, answers()?, "the same pods, by the same ports");
    }
    Ok(())
}

/// A new pod's interface, and one that somebody took the programs off, have them again in no time.
#[test]
fn interfaces_that_come_are_served() -> Result<()> {
    let site = Site::new()?;
    site.web(&[REMOTE])?;
    let _proxy = site.proxy(&[PODS])?;
    let late = local_pod(&site.node, "late", "6")?;
    until("the new pod is served", || Ok(ask_often(&late, "tcp", CLUSTER, 1).is_ok()))?;
    let state = site.node.settings().bpf_fs;
    let pins = || pins(&state);
    let all = pins()?;
    assert_eq!(all.len(), 8, "two for each of four interfaces: {all:?}");
    for pin in &all {
        fs::remove_file(pin).map_err(failed)?;
    }
    until("the links are back", || Ok(pins()?.len() == 8))?;
    site.node.namespace.ip(&["link", "delete", "pod6"])?;
    until("nothing is left of the pod", || Ok(pins()?.len() == 6))
}

/// E1.
#[test]
fn a_client_from_the_world_comes_back_to_its_pod() -> Result<()> {
    let site = Site::new()?;
    site.public("Cluster", &[LOCAL], &[REMOTE, "10.1.0.2"], &[])?;
    let _proxy = site.proxy(&[PODS, NODE])?;
    let service = site::both(tests::objects::service("web", "10.254.0.10"), 80);
    let sticky = service.with("/spec", "sessionAffinity", "ClientIP").json();
    let slice = site::slice("web", &[LOCAL, REMOTE, "10.1.0.2"]);
    site.objects(&[sticky, slice])?;
    until("a client has one pod", || Ok(answers(&site.out, ("tcp", CLUSTER))?.0.len() == 1))?;
    let (first, _) = answers(&site.out, ("tcp", CLUSTER))?;
    let (second, _) = answers(&site.out, ("tcp", CLUSTER))?;
    assert_eq!(first, second);
    Ok(())
}

/// The links of the packet programs below a directory of state.
fn pins(state: &Path) -> Result<Vec<PathBuf>> {
    let mut pins = Vec::new();
    for version in fs::read_dir(state).map_err(failed)? {
        for pin in fs::read_dir(version.map_err(failed)?.path().join("links")).map_err(failed)? {
            let pin = pin.map_err(failed)?.path();
            let name = pin.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with("packet_") && !name.ends_with("_next") {
                pins.push(pin);
            }
        }
    }
    Ok(pins)
}

fn failed(error: io::Error) -> tests::Error {
    tests::Error::system("talk to", CLUSTER)(error)
}

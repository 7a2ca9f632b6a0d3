//! Packets that reach the node for a service: from the world, and from pods that no control group shows.

mod site;

use std::collections::BTreeSet;
use std::net::IpAddr;

use tests::{Namespace, Result};

use self::site::{
    CLUSTER, CLUSTER6, LOCAL, LOCAL6, REMOTE, REMOTE6, Site, ask_often, is_dropped, is_of_node, is_refused,
};

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

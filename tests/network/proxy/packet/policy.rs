//! Network policies of the node: rules of netfilter in FORWARD, as many networks of clusters have them.

use std::collections::BTreeSet;

use tests::Result;

use super::site::{LOCAL, LOCAL6, REMOTE, REMOTE6, Site, ask_often, is_dropped, is_of_node};
use super::{CLUSTER, CLUSTER6, EVERY_WAY, NODE, PODS, PUBLIC};

/// Nothing is forwarded but to pods, and not from `bad`; nor what belongs to no connection. The policy speaks of clients and
/// pods, as with kube-proxy, and knows nothing of services.
const POLICY: &str = "
    table inet policies {
        chain forward {
            type filter hook forward priority 0; policy drop;
            ct state invalid drop
            ct state established,related accept
            ip saddr 172.16.60.200 drop
            ip6 saddr fd60::200 drop
            ip daddr { 10.42.1.5, 10.1.0.1 } meta l4proto { tcp, udp } th dport 8080 accept
            ip6 daddr { fd42:1::5, fd00:1::1 } meta l4proto { tcp, udp } th dport 8080 accept
        }
    }";

#[test]
fn through_the_stack_policies_see_clients_and_pods() -> Result<()> {
    let site = Site::new()?;
    site.public("Cluster", &[LOCAL], &[REMOTE], &[])?;
    site.node.namespace.command("nft", &[POLICY])?;
    let _proxy = site.proxy(&[PODS, NODE, "--packet-forwarding=stack"])?;
    for target in PUBLIC.into_iter().chain([CLUSTER]) {
        for protocol in ["tcp", "udp"] {
            let answers = ask_often(&site.out, protocol, target, 20)?;
            let pods: BTreeSet<&str> = answers.iter().map(|answer| answer.pod.as_str()).collect();
            assert_eq!(pods, BTreeSet::from(["local", "pod-1"]), "{protocol} {target}");
            assert!(answers.iter().all(|answer| is_of_node(answer.seen)), "{protocol} {target}: {answers:?}");
            assert!(is_dropped(&site.bad, protocol, target)?, "{protocol} {target}");
        }
    }
    Ok(())
}

/// Nobody is masqueraded, and both families.
#[test]
fn through_the_stack_clients_keep_their_address_where_they_do() -> Result<()> {
    let site = Site::new()?;
    site.web(&[LOCAL, REMOTE, LOCAL6, REMOTE6])?;
    site.node.namespace.command("nft", &[POLICY])?;
    let _proxy = site.proxy(&["--packet-forwarding=stack"])?;
    for (protocol, target) in EVERY_WAY {
        let answers = ask_often(&site.out, protocol, target, 20)?;
        let pods: BTreeSet<&str> = answers.iter().map(|answer| answer.pod.as_str()).collect();
        assert_eq!(pods, BTreeSet::from(["local", "pod-1"]), "{protocol} {target}");
        assert!(!answers.iter().any(|answer| is_of_node(answer.seen)), "{protocol} {target}: {answers:?}");
        assert!(is_dropped(&site.bad, protocol, target)?, "{protocol} {target}");
        // Itself, among others.
        assert_eq!(ask_often(&site.local, protocol, target, 4)?.len(), 4, "a pod, {protocol} {target}");
    }
    Ok(())
}

/// Without being told, packets go straight on, and no policy of the node's netfilter sees them: README.md says so.
#[test]
fn otherwise_packets_pass_policies_by() -> Result<()> {
    let site = Site::new()?;
    site.web(&[LOCAL, LOCAL6])?;
    site.node.namespace.command("nft", &[POLICY])?;
    let _proxy = site.proxy(&[])?;
    for target in [CLUSTER, CLUSTER6] {
        assert_eq!(ask_often(&site.bad, "tcp", target, 3)?.len(), 3, "{target}");
    }
    Ok(())
}

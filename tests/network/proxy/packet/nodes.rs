//! Two nodes for the same clients and pods, and a network that takes another way.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tests::{BpfFs, Cgroup, Namespace, Process, Program, Result, objects};

use super::site::{Site, connect, exchange_lines};
use super::{CLUSTER, failed, site};
use crate::proxy::node::LIMIT;

const PODS: [&str; 2] = ["10.1.0.1", "10.1.0.2"];
/// So many connections that with two pods one in a million rounds meets a single pod.
const CONNECTIONS: usize = 20;

/// The other node: beside the site's own on both sides, with a proxy that is told the same.
struct Other {
    _proxy: Process,
    _state: (Cgroup, BpfFs),
    _namespace: Namespace,
}

impl Other {
    fn beside(site: &Site) -> Result<Self> {
        let namespace = Namespace::new("other")?;
        site.node.switch.attach(&namespace, "eth0", &["10.1.0.253/24"])?;
        site.outside.attach(&namespace, "eth1", &["172.16.60.242/24"])?;
        namespace.forward()?;
        let (cgroup, bpf_fs) = (Cgroup::new("other")?, BpfFs::new()?);
        let state = bpf_fs.path().join("fairway");
        let program = Program::ours("fairway-proxy")?.arguments([
            "--manifests".as_ref(),
            site.node.directory(),
            "--cgroup".as_ref(),
            cgroup.path(),
            "--bpf-fs".as_ref(),
            state.as_path(),
        ]);
        let mut proxy = program.inside(&namespace).in_cgroup(&cgroup).spawn()?;
        proxy.wait_for_log("rules written", LIMIT)?;
        Ok(Self { _proxy: proxy, _state: (cgroup, bpf_fs), _namespace: namespace })
    }
}

/// The network takes both directions by the other node, which has seen none of the connections: under Maglev it sends them
/// where they were.
#[test]
fn connections_that_come_by_another_node_go_on() -> Result<()> {
    let mut site = Site::new()?;
    let service = objects::service("web", "10.254.0.10").port("t", "TCP", 80);
    let service =
        service.with("/metadata", "annotations", serde_json::json!({"fairway.dev/scheduler": "maglev"}));
    site.objects(&[service.json(), site::slice("web", &PODS)])?;
    let _proxy = site.proxy(&[])?;
    let _other = Other::beside(&site)?;
    let open = || -> io::Result<Vec<TcpStream>> {
        let target: SocketAddr = CLUSTER.parse().map_err(io::Error::other)?;
        (0..CONNECTIONS).map(|_| connect(target, Duration::from_secs(5))).collect()
    };
    let mut streams = site.out.run(open)?.map_err(failed)?;
    let answers = |streams: &mut Vec<TcpStream>| {
        streams.iter_mut().map(exchange_lines).collect::<io::Result<Vec<_>>>().map_err(failed)
    };
    let mut before = answers(&mut streams)?;
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), CONNECTIONS, "each by a port of its own");
    let pods: BTreeSet<_> = before.iter().filter_map(|answer| answer.split(' ').next()).collect();
    assert_eq!(pods.len(), PODS.len(), "both pods have some");
    // In another order than they came, so that it is no turn that leads them back.
    let mut met: Vec<(String, TcpStream)> = before.drain(..).zip(streams).collect();
    met.sort_by(|(left, _), (right, _)| left.cmp(right));
    let (before, mut streams): (Vec<_>, Vec<_>) = met.into_iter().unzip();
    site.out.ip(&["route", "replace", "default", "via", "172.16.60.242"])?;
    for pod in 1..=2 {
        site.node.pod(pod)?.ip(&["route", "replace", "default", "via", "10.1.0.253"])?;
    }
    assert_eq!(answers(&mut streams)?, before, "the same pods go on");
    Ok(())
}

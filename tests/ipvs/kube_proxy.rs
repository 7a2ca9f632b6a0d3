//! A real kube-proxy in mode ipvs: the proxy takes over from it, and it from the proxy. `FAIRWAY_KUBE_PROXY` names its
//! binary, which wants `iptables`, `ipset` and `conntrack`.

use std::path::PathBuf;
use std::time::Duration;

use plan::{Frontend, Port, Protocol};
use tests::{Process, Program, admin, objects, wait};

use crate::process::{Cluster, METRICS_PORT};
use crate::site::{Held, SERVERS, frontend};

/// A guest without hardware support is slow, and kube-proxy runs many programs.
const LIMIT: Duration = Duration::from_mins(2);

/// Starts kube-proxy and waits until it serves.
fn start_kube_proxy(cluster: &Cluster) -> Process {
    let binary = PathBuf::from(std::env::var_os("FAIRWAY_KUBE_PROXY").unwrap());
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig().display());
    let program = Program::new(binary).arguments([
        kubeconfig.as_str(),
        "--proxy-mode=ipvs",
        "--hostname-override=guest",
        "--cluster-cidr=10.3.0.0/16",
        "--kube-api-content-type=application/json",
        // The stub has slices of today alone.
        "--feature-gates=EndpointSliceProxying=false",
        // They are the whole machine's, and not to be had inside of a namespace.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--v=2",
    ]);
    let process = cluster.site.inside_director(program).spawn().unwrap();
    wait::until("kube-proxy has written its rules", LIMIT, || {
        let metrics =
            admin::metrics(&cluster.site.director, METRICS_PORT, LIMIT).unwrap().unwrap_or_default();
        admin::value(&metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
            .is_some_and(|at: f64| at > 0.0)
    })
    .unwrap();
    assert!(process.log().unwrap().contains("Using ipvs Proxier"));
    cluster.await_backends(&SERVERS);
    process
}

fn all_answer(held: &mut [Held], after: &str) {
    for held in held {
        assert_eq!(held.ask().unwrap(), held.name, "{after}");
    }
}

/// Each virtual service with its servers, without counts.
fn services(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.listed();
    let services = listed.lines().skip(3);
    services.map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect()
}

/// Where virtual services are.
fn addresses(services: &[String]) -> Vec<&str> {
    services.iter().filter_map(|line| line.strip_prefix("TCP ")?.split(':').next()).collect()
}

fn node_port(address: &str) -> Frontend {
    Frontend::new(address.parse().unwrap(), Port::new(30_443).unwrap(), Protocol::Tcp)
}

fn chains(cluster: &Cluster) -> Vec<String> {
    let saved = cluster.site.tool("iptables-save", &[]);
    saved.lines().filter(|line| line.starts_with(":KUBE")).map(str::to_owned).collect()
}

#[test]
#[cfg_attr(not(real_kube_proxy), ignore = "FAIRWAY_KUBE_PROXY is not set: there is no real kube-proxy")]
fn a_real_kube_proxy_is_followed_and_follows() {
    let cluster = Cluster::new();
    cluster.put(objects::node("guest", "10.1.0.1").json());
    let service = objects::service("web", "10.254.0.1").port("https", "TCP", 443);
    cluster.put(service.with("/spec", "type", "NodePort").with("/spec/ports/0", "nodePort", 30_443).json());
    let mut kube_proxy = start_kube_proxy(&cluster);
    let before = services(&cluster);
    assert!(!chains(&cluster).is_empty());
    let mut held: Vec<Held> = SERVERS.iter().map(|_| cluster.site.hold(frontend())).collect();
    kube_proxy.terminate(LIMIT).unwrap();

    let mut process = cluster.start();
    all_answer(&mut held, "taken over");
    assert_eq!(services(&cluster), before, "nothing was to be changed");
    held.extend(SERVERS.iter().map(|_| cluster.site.hold(frontend())));
    assert!(process.terminate(LIMIT).unwrap().success());

    let mut kube_proxy = start_kube_proxy(&cluster);
    all_answer(&mut held, "given back");
    assert_eq!(services(&cluster), before, "nothing was to be changed");
    kube_proxy.terminate(LIMIT).unwrap();

    let mut process = cluster.start();
    all_answer(&mut held, "taken over again");
    let clear = Program::ours("fairway-proxy").unwrap().arguments(["cleanup", "--kube-proxy"]);
    let (status, said) = cluster.site.inside_director(clear).run(LIMIT).unwrap();
    assert!(status.success(), "{said}");
    all_answer(&mut held, "what kube-proxy left is cleared away");
    cluster.await_backends(&SERVERS);
    cluster.site.await_servers(node_port("10.1.0.1"), &SERVERS);
    let is_ours = |address: &&str| !["10.2.0.1", "10.3.0.1", "127.0.0.1"].contains(address);
    let after: Vec<String> = addresses(&services(&cluster)).iter().map(ToString::to_string).collect();
    let expected: Vec<&str> = addresses(&before).into_iter().filter(is_ours).collect();
    assert_eq!(after, expected, "node ports are at the address of the Node alone");
    // Those are the kubelet's, too, and others use them.
    let shared = [":KUBE-FIREWALL - [0:0]", ":KUBE-MARK-DROP - [0:0]", ":KUBE-MARK-MASQ - [0:0]"];
    assert_eq!(chains(&cluster), shared);
    assert_eq!(cluster.site.tool("ipset", &["list", "-n"]), "");
    assert!(process.terminate(LIMIT).unwrap().success());
}

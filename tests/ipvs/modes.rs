//! From one mode to the other and back: clients notice nothing, and nothing of the former mode stays.

use std::path::Path;
use std::time::Duration;

use tests::traffic::{self, Dialing};
use tests::{Cgroup, Process, wait};

use crate::process::Cluster;
use crate::site::{SERVERS, frontend};

const LIMIT: Duration = Duration::from_mins(1);

/// Mode ebpf, at the sockets of nobody.
pub(crate) fn start_ebpf(cluster: &Cluster, cgroup: &Path, drain_deadline: &str) -> Process {
    let cgroup = format!("--cgroup={}", cgroup.display());
    let arguments = ["--proxy-mode=ebpf", &cgroup, &format!("--drain-deadline={drain_deadline}")];
    let mut process = cluster.program(&arguments).spawn().unwrap();
    process.wait_for_log("adopting", LIMIT).unwrap();
    process
}

/// What virtual services leave in the kernel.
fn leftovers(cluster: &Cluster) -> Vec<&'static str> {
    let site = &cluster.site;
    let signs = [
        ("TCP", cluster.listed()),
        ("kube-ipvs0", site.tool("ip", &["link"])),
        ("fairway-proxy", site.tool("nft", &["list", "tables"])),
    ];
    signs.into_iter().filter(|(sign, shown)| shown.contains(sign)).map(|(sign, _)| sign).collect()
}

#[test]
fn one_mode_follows_the_other_and_leaves_nothing_of_it() {
    let cluster = Cluster::new();
    let cgroup = Cgroup::new("nobody").unwrap();
    let mut process = cluster.start();
    let mut held = cluster.site.hold_on_director(frontend());
    let target = format!("{}:443", frontend().address());
    let log = tempfile::NamedTempFile::new().unwrap();
    let client =
        traffic::dial(&target, ["--rate=10", "--milliseconds=120000", "--timeout-milliseconds=10000"]);
    let client = client.unwrap().inside(&cluster.site.client);
    let mut client = Dialing::start(client, log.path()).unwrap();

    // Those who are connected may finish, whoever waits for it.
    process.terminate(LIMIT).unwrap();
    let mut process = start_ebpf(&cluster, cgroup.path(), "1h");
    wait::until("nobody new is sent to virtual services", LIMIT, || {
        let listed = cluster.listed();
        listed.contains("Masq    0") && !listed.contains("Masq    1")
    })
    .unwrap();
    assert_eq!(leftovers(&cluster), ["TCP", "kube-ipvs0", "fairway-proxy"]);
    assert_eq!(held.ask().unwrap(), held.name, "it goes on");
    process.terminate(LIMIT).unwrap();
    assert_eq!(held.ask().unwrap(), held.name, "it goes on");
    let mut process = start_ebpf(&cluster, cgroup.path(), "1s");
    process.wait_for_log("virtual services of mode ipvs are gone", LIMIT).unwrap();
    assert_eq!(leftovers(&cluster), [""; 0]);
    cluster.await_backends(&SERVERS);

    process.terminate(LIMIT).unwrap();
    let _process = cluster.start();
    wait::until("the programs are gone", LIMIT, || !cluster.pinned().exists()).unwrap();
    cluster.await_backends(&SERVERS);

    assert_eq!(client.ended().unwrap(), None);
    let dials = client.dials().unwrap();
    assert!(!dials.is_empty() && dials.iter().all(|dial| dial.outcome.is_ok()), "{dials:?}");
}

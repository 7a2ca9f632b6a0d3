//! On Linux 5.10, Debian 11's: mode ebpf is refused by the name of what is missing, and mode ipvs serves.

use std::time::Duration;

use tests::{BpfFs, Cgroup, Namespace, Program};

use crate::process::Cluster;
use crate::site::{each, frontend};

const LIMIT: Duration = Duration::from_mins(1);

#[test]
fn mode_ebpf_is_refused_by_the_name_of_what_is_missing() {
    let (node, cgroup, bpf_fs) =
        (Namespace::new("node").unwrap(), Cgroup::new("nobody").unwrap(), BpfFs::new().unwrap());
    let manifests = tempfile::Builder::new().prefix("fw-").tempdir().unwrap();
    let pinned = bpf_fs.path().join("fairway");
    let places = [("cgroup", cgroup.path()), ("bpf-fs", &pinned), ("manifests", manifests.path())];
    let arguments = places.map(|(flag, path)| format!("--{flag}={}", path.display()));
    let program = Program::ours("fairway-proxy").unwrap().arguments(arguments);
    let (status, said) = program.arguments(["--proxy-mode=ebpf"]).inside(&node).run(LIMIT).unwrap();
    assert_eq!(status.code(), Some(69), "{said}");
    for lacking in [
        "the kernel lacks atomic operations with a result in eBPF (Linux 5.12)",
        // Without these it would do.
        "bpf_loop (Linux 5.17)",
        "bpf_set_retval in connect and sendmsg hooks (Linux 6.1)",
    ] {
        assert!(said.contains(lacking), "{lacking}: {said}");
    }
}

/// This kernel does not load the module for who asks for virtual services.
#[test]
fn mode_ipvs_names_its_module_and_serves_once_that_is_loaded() {
    let cluster = Cluster::new();
    let (status, said) = cluster.program(&["--proxy-mode=ipvs"]).run(LIMIT).unwrap();
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(said.contains("the kernel lacks IPVS (module ip_vs)"), "{said}");
    cluster.site.tool("modprobe", &["ip_vs"]);
    let mut process = cluster.start();
    assert_eq!(cluster.site.dial(frontend(), 9).unwrap(), each(3));
    // Forwarding is the kernel's own.
    process.kill().unwrap();
    assert_eq!(cluster.site.dial(frontend(), 9).unwrap(), each(3));
}

//! The program in mode ipvs: it follows an apiserver, and clients notice nothing of what it goes through.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tests::apiserver::{Options, Store, Stub};
use tests::certificates::Authority;
use tests::objects::{self, Object};
use tests::{BpfFs, Process, Program, admin, kubeconfig, wait};

use crate::site::{SERVERS, Site, each, frontend};

/// A guest without hardware support is slow.
const LIMIT: Duration = Duration::from_mins(1);
const APISERVER: &str = "127.0.0.1:6443";
pub(crate) const METRICS_PORT: u16 = 10249;
/// The addresses of the site's servers.
const ADDRESSES: [&str; 3] = ["10.2.0.11", "10.2.0.12", "10.2.0.13"];
/// Those of apiservers that nobody here reaches.
const APISERVERS: [&str; 3] = ["172.16.60.241", "172.16.60.242", "172.16.60.243"];
/// What an operator expects to see, to the blank.
const LISTED: &str = "TCP  10.254.0.2:443 rr
  -> 172.16.60.241:6443           Masq    1      0          0         
  -> 172.16.60.242:6443           Masq    1      0          0         
  -> 172.16.60.243:6443           Masq    1      0          0         
";

/// A director with an apiserver of its own.
pub(crate) struct Cluster {
    _stub: Stub,
    store: Store,
    files: TempDir,
    bpf_fs: BpfFs,
    pub(crate) site: Site,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        let files = tempfile::Builder::new().prefix("fw-").tempdir().unwrap();
        let authority = Authority::new("cluster").unwrap();
        let certificate = files.path().join("ca.crt");
        std::fs::write(&certificate, authority.pem()).unwrap();
        let mut options = Options::new("one", authority.server("one", &["127.0.0.1"]).unwrap());
        options.tokens = vec!["token".to_owned()];
        std::fs::write(files.path().join("kubeconfig"), kubeconfig(APISERVER, &certificate, "token"))
            .unwrap();
        let listener = site.on_director(|| TcpListener::bind(APISERVER)).unwrap();
        let store = Store::default();
        let stub = Stub::serve(listener, options, &store).unwrap();
        let cluster = Self { _stub: stub, store, files, bpf_fs: BpfFs::new().unwrap(), site };
        cluster.serve("apiserver", "10.254.0.2", &APISERVERS);
        cluster.serve("web", &frontend().address().to_string(), &ADDRESSES);
        cluster
    }

    /// The service at this address has these endpoints from now on.
    fn serve(&self, name: &str, address: &str, endpoints: &[&str]) {
        let service = objects::service(name, address).port("https", "TCP", 443);
        let slice = objects::slice(name, &format!("{name}-1")).port("https", "TCP", 6443).ready(endpoints);
        // For those who know no slices.
        let listed = objects::endpoints(name).port("https", "TCP", 6443).ready(endpoints);
        for object in [service, slice, listed].map(Object::json) {
            self.put(object);
        }
    }

    pub(crate) fn put(&self, object: Value) {
        self.store.put(object).unwrap();
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.files.path().join("kubeconfig")
    }

    /// Where the programs of mode ebpf are pinned.
    pub(crate) fn pinned(&self) -> PathBuf {
        self.bpf_fs.path().join("fairway")
    }

    pub(crate) fn program(&self, arguments: &[&str]) -> Program {
        let program = Program::ours("fairway-proxy").unwrap();
        let own = ["--kubeconfig".into(), self.kubeconfig(), "--bpf-fs".into(), self.pinned()];
        self.site.inside_director(program.arguments(own).arguments(arguments))
    }

    /// Writes a configuration file with this section `ipvs`, and says where it is.
    fn configure(&self, ipvs: &str) -> String {
        let (file, kubeconfig) = (self.files.path().join("config.conf"), self.kubeconfig());
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\nipvs: {ipvs}\n\
             clientConnection: {{kubeconfig: {}}}\n",
            kubeconfig.display()
        );
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> (ExitStatus, String) {
        self.program(arguments).run(LIMIT).unwrap()
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(&self) -> Process {
        let mut process = self.program(&["--proxy-mode=ipvs"]).spawn().unwrap();
        process.wait_for_log("adopting", LIMIT).unwrap();
        self.await_backends(&SERVERS);
        process
    }

    pub(crate) fn await_backends(&self, names: &[&str]) {
        self.site.await_servers(frontend(), names);
    }

    pub(crate) fn listed(&self) -> String {
        self.site.tool("ipvsadm", &["-Ln"])
    }

    fn ask(&self, path: &str) -> String {
        self.site.on_director(|| admin::ask(METRICS_PORT, path, LIMIT)).unwrap()
    }
}

#[test]
fn services_of_the_apiserver_are_served_by_packets() {
    let cluster = Cluster::new();
    let mut process = cluster.start();
    assert_eq!(cluster.site.dial(frontend(), 30).unwrap(), each(10));
    assert!(cluster.listed().contains(LISTED), "{}", cluster.listed());
    assert!(cluster.ask("/proxyMode").ends_with("ipvs"));

    // One that leaves keeps the connections it has, and may return.
    let mut held = cluster.site.hold(frontend());
    let others: Vec<&str> = ADDRESSES.into_iter().filter(|address| server_at(address) != held.name).collect();
    cluster.serve("web", &frontend().address().to_string(), &others);
    let left: Vec<&str> = others.iter().map(|address| server_at(address)).collect();
    cluster.await_backends(&left);
    assert_eq!(held.ask().unwrap(), held.name);
    let listed = cluster.listed();
    assert!(listed.lines().any(|line| line.split_whitespace().nth(3) == Some("0")), "{listed}");
    cluster.serve("web", &frontend().address().to_string(), &ADDRESSES);
    cluster.await_backends(&SERVERS);
    assert_eq!(held.ask().unwrap(), held.name);
    cluster.serve("web", &frontend().address().to_string(), &ADDRESSES[1..]);
    cluster.await_backends(&SERVERS[1..]);

    // Whatever ends it, connections and new ones go on, and the next one goes on from there.
    let mut held = cluster.site.hold(frontend());
    process.kill().unwrap();
    cluster.await_backends(&SERVERS[1..]);
    cluster.serve("web", &frontend().address().to_string(), &ADDRESSES);
    let mut process = cluster.start();
    assert_eq!(held.ask().unwrap(), held.name, "it is not noticed");
    let (status, said) = cluster.run(&["--proxy-mode=ipvs"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("kube-ipvs0 is in use by another fairway-proxy"), "{said}");
    assert!(process.terminate(LIMIT).unwrap().success());
    assert_eq!(held.ask().unwrap(), held.name);

    for _ in 0..2 {
        let (status, said) = cluster.run(&["--cleanup"]);
        assert!(status.success(), "{said}");
        assert!(!cluster.listed().contains("TCP"), "{}", cluster.listed());
        assert!(!cluster.site.tool("ip", &["link"]).contains("kube-ipvs0"));
    }
}

#[test]
fn what_somebody_takes_away_is_back_long_before_the_next_whole_sync() {
    const SOON: Duration = Duration::from_secs(10);
    let cluster = Cluster::new();
    let process = cluster.start();
    let faults: [&[&str]; 5] = [
        &["ipvsadm", "-d", "-t", "10.254.0.2:443", "-r", "172.16.60.242:6443"],
        &["ipvsadm", "-C"],
        &["ip", "link", "delete", "kube-ipvs0"],
        &["ip", "address", "delete", "10.254.0.1/32", "dev", "kube-ipvs0"],
        &["ipvsadm", "-E", "-t", "10.254.0.2:443", "-s", "sed"],
    ];
    for (count, fault) in faults.iter().enumerate() {
        cluster.site.tool(fault[0], &fault[1..]);
        wait::until(&format!("{fault:?} is repaired"), SOON, || {
            process.log().is_ok_and(|log| log.matches("rules written").count() == count + 2)
        })
        .unwrap();
        cluster.await_backends(&SERVERS);
        assert!(cluster.listed().contains(LISTED), "{fault:?}: {}", cluster.listed());
    }
    let log = process.log().unwrap();
    let repairs = log.lines().filter_map(|line| line.split_once("seconds_since_noticed=")?.1.parse().ok());
    let repairs: Vec<f64> = repairs.collect();
    assert_eq!(repairs.len(), faults.len(), "{log}");
    assert!(repairs.iter().all(|seconds| *seconds < 2.0), "{repairs:?}");
}

#[test]
fn what_kube_proxy_made_is_taken_over_and_left_to_it() {
    let cluster = Cluster::new();
    let site = &cluster.site;
    // As its mode ipvs leaves it (pkg/proxy/ipvs/proxier.go).
    for setting in ["vs.conntrack", "vs.expire_nodest_conn", "vs.expire_quiescent_template", "ip_forward"] {
        site.tool("sysctl", &["-w", &format!("net.ipv4.{setting}=1")]);
    }
    site.tool("ip", &["link", "add", "kube-ipvs0", "type", "dummy"]);
    for (address, servers) in [("10.254.0.1", ADDRESSES), ("10.254.0.2", APISERVERS)] {
        let service = format!("{address}:443");
        site.tool("ip", &["address", "add", &format!("{address}/32"), "dev", "kube-ipvs0"]);
        site.tool("ipvsadm", &["-A", "-t", &service, "-s", "rr"]);
        for server in servers {
            site.tool("ipvsadm", &["-a", "-t", &service, "-r", &format!("{server}:6443"), "-m", "-w", "1"]);
        }
    }
    let places = || site.tool("ip", &["-brief", "address", "show", "dev", "kube-ipvs0"]);
    let mut held: Vec<_> = (0..3).map(|_| site.hold(frontend())).collect();
    let before = (cluster.listed(), places());
    let mut process = cluster.start();
    let log = process.log().unwrap();
    assert!(log.contains("adopting") && !log.contains("rules written"), "nothing is to be written: {log}");
    for held in &mut held {
        assert_eq!(held.ask().unwrap(), held.name, "the connection goes on");
    }
    assert!(process.terminate(LIMIT).unwrap().success());
    for held in &mut held {
        assert_eq!(held.ask().unwrap(), held.name, "the connection goes on");
    }
    drop(held);
    // Connections that ended are remembered for a while: only they may differ.
    let without_counts = |listed: &str| -> Vec<String> {
        listed.lines().map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(without_counts(&cluster.listed()), without_counts(&before.0));
    assert_eq!(places(), before.1);
}

#[test]
fn services_that_are_left_to_others_are_not_touched_and_said() {
    let cluster = Cluster::new();
    cluster.site.tool("ip", &["link", "add", "kube-ipvs0", "type", "dummy"]);
    cluster.site.tool("ip", &["address", "add", "10.254.0.2/32", "dev", "kube-ipvs0"]);
    cluster.site.tool("ipvsadm", &["-A", "-t", "10.254.0.2:443", "-s", "sed"]);
    let file = cluster.configure("{excludeCIDRs: [10.254.0.2/32], strictARP: true, tcpTimeout: 20m}");
    let mut process = cluster.program(&["--config", &file]).spawn().unwrap();
    process.wait_for_log("left out", LIMIT).unwrap();
    cluster.await_backends(&SERVERS);
    assert!(process.log().unwrap().contains("TCP 10.254.0.2:443: its address is left to others"));
    assert!(cluster.listed().contains("10.254.0.2:443 sed"), "{}", cluster.listed());
    assert!(cluster.listed().contains("10.254.0.1:443 rr"), "{}", cluster.listed());
    let timeouts = cluster.site.tool("ipvsadm", &["-L", "--timeout"]);
    assert!(timeouts.contains("1200 120 300"), "{timeouts}");
    for (setting, expected) in
        [("conf.all.arp_ignore", "1"), ("conf.all.arp_announce", "2"), ("vs.conntrack", "1")]
    {
        assert_eq!(cluster.site.tool("sysctl", &["-n", &format!("net.ipv4.{setting}")]).trim(), expected);
    }

    let mut held = cluster.site.hold(frontend());
    cluster.configure("{strictARP: true, tcpTimeout: 10m, scheduler: lc}");
    process.wait_for_log("configuration changed in place", LIMIT).unwrap();
    wait::until("what is left to others no more is served, by the new scheduler", LIMIT, || {
        let listed = cluster.listed();
        listed.contains("10.254.0.1:443 lc") && listed.contains("10.254.0.2:443 lc")
    })
    .unwrap();
    let timeouts = cluster.site.tool("ipvsadm", &["-L", "--timeout"]);
    assert!(timeouts.contains("600 120 300"), "{timeouts}");
    assert_eq!(held.ask().unwrap(), held.name, "the connection goes on");
    assert_eq!(process.ended().unwrap(), None);
}

fn server_at(address: &str) -> &'static str {
    let position = ADDRESSES.iter().position(|known| *known == address).unwrap();
    SERVERS[position]
}

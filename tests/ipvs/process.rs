//! The program in mode ipvs: it follows an apiserver, and clients notice nothing of what it goes through.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tests::apiserver::{Options, Store, Stub};
use tests::certificates::Authority;
use tests::objects::{self, Object};
use tests::{BpfFs, Process, Program, admin, kubeconfig, wait};

use crate::site::{SERVERS, Site, frontend};

/// A guest without hardware support is slow.
const LIMIT: Duration = Duration::from_mins(1);
const APISERVER: &str = "127.0.0.1:6443";
const METRICS_PORT: u16 = 10249;
/// The addresses of the site's servers.
const ADDRESSES: [&str; 3] = ["10.2.0.11", "10.2.0.12", "10.2.0.13"];
/// What an operator expects to see, to the blank.
const LISTED: &str = "TCP  10.254.0.2:443 rr
  -> 172.16.60.241:6443           Masq    1      0          0         
  -> 172.16.60.242:6443           Masq    1      0          0         
  -> 172.16.60.243:6443           Masq    1      0          0         
";

/// A director with an apiserver of its own.
struct Cluster {
    _stub: Stub,
    store: Store,
    files: TempDir,
    bpf_fs: BpfFs,
    site: Site,
}

impl Cluster {
    fn new() -> Self {
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
        cluster.serve("apiserver", "10.254.0.2", &["172.16.60.241", "172.16.60.242", "172.16.60.243"]);
        cluster.serve("web", &frontend().address().to_string(), &ADDRESSES);
        cluster
    }

    /// The service at this address has these endpoints from now on.
    fn serve(&self, name: &str, address: &str, endpoints: &[&str]) {
        let service = objects::service(name, address).port("https", "TCP", 443);
        let slice = objects::slice(name, &format!("{name}-1")).port("https", "TCP", 6443).ready(endpoints);
        for object in [service, slice].map(Object::json) {
            self.put(object);
        }
    }

    fn put(&self, object: Value) {
        self.store.put(object).unwrap();
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let program = Program::ours("fairway-proxy").unwrap();
        let state = self.bpf_fs.path().join("fairway");
        let kubeconfig = self.files.path().join("kubeconfig");
        let own = ["--kubeconfig".into(), kubeconfig, "--bpf-fs".into(), state];
        self.site.inside_director(program.arguments(own).arguments(arguments))
    }

    fn run(&self, arguments: &[&str]) -> (ExitStatus, String) {
        self.program(arguments).run(LIMIT).unwrap()
    }

    /// Starts it and waits until it serves.
    fn start(&self) -> Process {
        let mut process = self.program(&["--proxy-mode=ipvs"]).spawn().unwrap();
        process.wait_for_log("adopting", LIMIT).unwrap();
        self.await_backends(&SERVERS);
        process
    }

    fn await_backends(&self, names: &[&str]) {
        wait::until("these backends answer, and no others", LIMIT, || {
            let turn = self.site.dial(frontend(), names.len());
            turn.is_ok_and(|answers| answers == names.iter().map(|name| ((*name).to_owned(), 1)).collect())
        })
        .unwrap();
    }

    fn listed(&self) -> String {
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
    let each: BTreeMap<String, usize> = SERVERS.iter().map(|name| ((*name).to_owned(), 10)).collect();
    assert_eq!(cluster.site.dial(frontend(), 30).unwrap(), each);
    assert!(cluster.listed().contains(LISTED), "{}", cluster.listed());
    assert!(cluster.ask("/proxyMode").ends_with("ipvs"));
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
fn services_that_are_left_to_others_are_not_touched_and_said() {
    let cluster = Cluster::new();
    cluster.site.tool("ip", &["link", "add", "kube-ipvs0", "type", "dummy"]);
    cluster.site.tool("ip", &["address", "add", "10.254.0.2/32", "dev", "kube-ipvs0"]);
    cluster.site.tool("ipvsadm", &["-A", "-t", "10.254.0.2:443", "-s", "sed"]);
    let arguments = [
        "--proxy-mode=ipvs",
        "--ipvs-exclude-cidrs=10.254.0.2/32",
        "--ipvs-strict-arp",
        "--ipvs-tcp-timeout=20m",
    ];
    let mut process = cluster.program(&arguments).spawn().unwrap();
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
}

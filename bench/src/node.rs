//! A node with a proxy, an API server and two pods.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::apiserver::{Options, Store, Stub};
use tests::certificates::Authority;
use tests::{
    Api, BpfFs, Cgroup, Error, Namespace, Process, Program, Result, admin, kubeconfig, objects, wait,
};

use crate::usage::{self, Usage};

/// The Service whose endpoint changes.
const FRONTEND: &str = "10.254.0.80:80";
/// Where the API server is, on the node.
pub(crate) const API: &str = "127.0.0.1:6443";
const METRICS_PORT: u16 = 10_249;
/// A guest without hardware support is slow.
const PATIENCE: Duration = Duration::from_mins(5);

/// How its proxy forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By programs at sockets and interfaces.
    Ebpf,
    /// By the kernel's IP virtual server, which few kernels have: mostly in a guest.
    Ipvs,
}

/// Everything on it ends when it is dropped.
pub struct Node {
    // Dropped in this order: processes, then what they used.
    proxy: Process,
    _pods: Vec<Process>,
    _stub: Stub,
    store: Store,
    cgroup: Cgroup,
    network: Namespace,
    _pod_networks: Vec<Namespace>,
    _bpf_fs: BpfFs,
    _folder: tempfile::TempDir,
}

/// How long a start took.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// From the start of the proxy until its Services answered, the way of the lists from the API server included.
    pub took: Duration,
    /// The way of the lists by itself: for a client that asks for the same pages, both kinds at a time, and does nothing
    /// with them. It connects anew for each, which takes a little more.
    pub lists: Duration,
}

impl Node {
    /// Starts it in a cluster with so many more Services, of so many `endpoints` each, and waits until its own answers.
    pub fn among(others: u32, endpoints: u32, mode: Mode) -> Result<(Self, Start)> {
        let folder = tempfile::tempdir().map_err(Error::system("make", "a temporary directory"))?;
        let network = Namespace::new("node")?;
        let (pods, pod_networks) = start_pods(&network, folder.path())?;
        let store = services()?;
        for number in 0..others {
            store.put(other_service(number))?;
            store.put(other_slice(number, endpoints, 0))?;
        }
        let authority = Authority::new("bench")?;
        let identity = authority.server("stub", &["127.0.0.1"])?;
        let listener = network.run(|| TcpListener::bind(API))?.map_err(Error::system("bind", API))?;
        let stub = Stub::serve(listener, Options::new("bench", identity), &store)?;
        let lists = read_lists(&Api::new(stub.address(), authority.pem())?.inside(&network))?;
        let (cgroup, bpf_fs) = (Cgroup::new("node")?, BpfFs::new()?);
        let started = wait::now();
        let proxy = Program::ours("fairway-proxy")?
            .arguments(["--kubeconfig".into(), write_kubeconfig(folder.path(), &authority)?])
            .arguments(["--cgroup".as_ref(), cgroup.path(), "--bpf-fs".as_ref(), bpf_fs.path()])
            .arguments((mode == Mode::Ipvs).then_some("--proxy-mode=ipvs"))
            .inside(&network)
            .log_to(folder.path().join("fairway-proxy"))
            .spawn()?;
        let node = Self {
            proxy,
            _pods: pods,
            _stub: stub,
            store,
            cgroup,
            network,
            _pod_networks: pod_networks,
            _bpf_fs: bpf_fs,
            _folder: folder,
        };
        node.join()?;
        node.network.run(|| {
            wait::until("the Service answers", PATIENCE, || answerer().is_ok_and(|name| name == "pod1"))
        })??;
        Ok((node, Start { took: wait::now() - started, lists }))
    }

    /// What the proxy has used so far.
    pub fn usage(&self) -> Result<Usage> {
        usage::of_process(self.proxy.id())
    }

    /// Changes the endpoints of so many other Services at once; returns how long it took until the proxy had written
    /// all of them.
    pub fn burst(&self, changes: u32, endpoints: u32) -> Result<Duration> {
        let written = || -> Result<u64> {
            let metrics = admin::metrics(&self.network, METRICS_PORT, PATIENCE)?.unwrap_or_default();
            Ok(admin::value(&metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_total")
                .unwrap_or_default())
        };
        let before = written()?;
        let start = wait::now();
        for number in 0..changes {
            self.store.put(other_slice(number, endpoints, 1))?;
        }
        wait::until_some("every change is written", PATIENCE, || {
            Ok((written()? >= before + u64::from(changes)).then_some(()))
        })?;
        Ok(wait::now() - start)
    }

    /// For each of `rounds` changes of the only endpoint: from its commit in the API server until a new connection
    /// reaches the new endpoint. The watch event takes part of it, so this is more than the proxy's own share.
    pub fn endpoint_changes(&self, rounds: u32) -> Result<Vec<Duration>> {
        let change = |round: u32| {
            let expected = if round.is_multiple_of(2) { "pod2" } else { "pod1" };
            let endpoint = endpoint_of_web(round + 1);
            let start = wait::now();
            self.store.put(endpoint)?;
            let deadline = start + PATIENCE;
            while wait::now() < deadline {
                if answerer().map_err(Error::system("ask", FRONTEND))? == expected {
                    return Ok(wait::now() - start);
                }
            }
            Err(Error::Timeout { what: format!("connections reach {expected}"), limit: PATIENCE })
        };
        self.network.run(|| (0..rounds).map(change).collect())?
    }

    /// Makes this process one of the node's, so that its sockets are translated.
    fn join(&self) -> Result<()> {
        let members = self.cgroup.path().join("cgroup.procs");
        std::fs::write(&members, std::process::id().to_string())
            .map_err(Error::system("join", members.display()))
    }
}

/// Reads what the proxy lists, in pages as large as it asks for.
fn read_lists(api: &Api) -> Result<Duration> {
    let pages = |path: &str| -> Result<()> {
        let mut next = String::new();
        loop {
            let page = api.request("GET", &format!("{path}?limit=500{next}"), None)?;
            if page.status != 200 {
                return Err(Error::system("list", path)(std::io::Error::other(page.body)));
            }
            let Some((_, token)) = page.body.split_once("\"continue\":\"") else { return Ok(()) };
            let token = token.split('"').next().unwrap_or_default();
            next = format!("&continue={}", token.replace('/', "%2F"));
        }
    };
    let start = wait::now();
    std::thread::scope(|scope| {
        let slices = scope.spawn(|| pages("/apis/discovery.k8s.io/v1/endpointslices"));
        pages("/api/v1/services")?;
        slices.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(wait::now() - start)
}

/// Two pods that answer with their names.
fn start_pods(network: &Namespace, folder: &Path) -> Result<(Vec<Process>, Vec<Namespace>)> {
    let (mut pods, mut pod_networks) = (Vec::new(), Vec::new());
    for pod in ["1", "2"] {
        let name = format!("pod{pod}");
        let pod_network = Namespace::new(&name)?;
        network.cable(&name, &pod_network, "eth0")?;
        network.address(&name, &format!("10.42.{pod}.254/24"))?;
        pod_network.address("eth0", &format!("10.42.{pod}.1/24"))?;
        let arguments = ["serve", &format!("10.42.{pod}.1:8080"), "--name", &name];
        pods.push(listening(arguments, &pod_network, folder.join(&name))?);
        pod_networks.push(pod_network);
    }
    Ok((pods, pod_networks))
}

fn services() -> Result<Store> {
    let store = Store::default();
    store.put(objects::service("web", "10.254.0.80").port("http", "TCP", 80).json())?;
    store.put(endpoint_of_web(0))?;
    Ok(store)
}

pub(crate) fn write_kubeconfig(folder: &Path, authority: &Authority) -> Result<PathBuf> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(Error::system("write", path.display()))?;
        Ok(path)
    };
    let authority = write("ca.crt", authority.pem())?;
    write("kubeconfig", &kubeconfig(API, &authority, "none"))
}

/// A server of the program `traffic`, once it listens.
fn listening<const N: usize>(arguments: [&str; N], network: &Namespace, log: PathBuf) -> Result<Process> {
    let mut server = Program::ours("traffic")?.arguments(arguments).inside(network).log_to(log).spawn()?;
    server.wait_for_log("listening", PATIENCE)?;
    Ok(server)
}

/// Pod 1 in even rounds, pod 2 in odd ones.
fn endpoint_of_web(round: u32) -> serde_json::Value {
    let address = if round.is_multiple_of(2) { "10.42.1.1" } else { "10.42.2.1" };
    objects::slice("web", "web-1").port("http", "TCP", 8080).ready(&[address]).json()
}

/// The address of another Service: they count up from 10.96.0.0.
pub(crate) const fn other_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + number)
}

/// Its endpoints: they count up from 100.64.0.0.
pub(crate) fn other_endpoints(number: u32, endpoints: u32) -> impl Iterator<Item = Ipv4Addr> {
    let base = Ipv4Addr::new(100, 64, 0, 0).to_bits() + number * (endpoints + 1);
    (base..base + endpoints).map(Ipv4Addr::from_bits)
}

pub(crate) fn other_service(number: u32) -> serde_json::Value {
    let address = other_address(number);
    objects::service(&format!("other-{number}"), &address.to_string()).port("http", "TCP", 80).json()
}

/// `shift` moves the endpoints so far; each Service has one address to spare.
pub(crate) fn other_slice(number: u32, endpoints: u32, shift: u32) -> serde_json::Value {
    let name = format!("other-{number}");
    let addresses: Vec<String> = other_endpoints(number, endpoints)
        .map(|address| Ipv4Addr::from_bits(address.to_bits() + shift).to_string())
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    objects::slice(&name, &format!("{name}-1")).port("http", "TCP", 8080).ready(&addresses).json()
}

/// Who answers at the Service.
fn answerer() -> std::io::Result<String> {
    let address: SocketAddr = FRONTEND.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"who\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.split(' ').next().unwrap_or_default().to_owned())
}

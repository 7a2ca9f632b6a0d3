//! Nodes between a pod, the world and pods behind them, each with cables and addresses of its own.
//!
//! ```text
//!   pod     10.80.n.1 ---- 10.80.n.254  node n  10.81.n.254 ---- 10.81.n.x  backends
//!   outside 10.82.n.1 ---- 10.82.n.254
//! ```
//!
//! The pod, the world and the backends are one namespace each, which all nodes share.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path as FilePath;
use std::time::Duration;

use tempfile::TempDir;
use tests::apiserver::{Options, Store, Stub};
use tests::certificates::Authority;
use tests::traffic::{self, LoadReport, Work};
use tests::{BpfFs, Cgroup, Error, Namespace, Process, Program, Result, objects, wait};

use super::contender::{BACKEND_PORT, Contender, Kernel, NODE_PORT, Path, SERVICE_PORT, Way};
use super::rules::{OTHER_ENDPOINTS, rules};
use crate::ends::{self, settle};
use crate::machine::version;
use crate::measure::Run;
use crate::node::{API, other_service, other_slice, write_kubeconfig};
use crate::usage;

const PATIENCE: Duration = Duration::from_mins(1);
/// Pods, for whom nothing is masqueraded: clients of [`Path::Local`] and backends.
pub(super) const PODS: &str = "10.80.0.0/15";
/// The services that are measured: one for each path.
const MEASURED: u32 = 2;

/// How many services there are beside those that are measured.
pub(super) fn others(contender: Contender) -> u32 {
    contender.services().map_or(0, |services| services.saturating_sub(MEASURED))
}

/// Everything in it ends when it is dropped.
pub(super) struct Site {
    // Dropped in this order: processes, then what they used.
    nodes: Vec<Node>,
    server: Process,
    pod: Namespace,
    outside: Namespace,
    _backends: Namespace,
    not_run: Option<String>,
    folder: TempDir,
}

struct Node {
    contender: Contender,
    /// Where clients on the node are, for a proxy at their sockets.
    proxy: Option<Proxy>,
    _network: Namespace,
}

/// fairway-proxy and what it needs.
struct Proxy {
    _process: Process,
    _stub: Stub,
    cgroup: Cgroup,
    _bpf_fs: BpfFs,
}

impl Site {
    /// Starts all contenders that can be started, and waits until they answer.
    pub(super) fn start(kernel: Kernel) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fw-bench-").tempdir();
        let folder = folder.map_err(Error::system("make", "a temporary directory"))?;
        let [pod, outside, backends] =
            [Namespace::new("pod")?, Namespace::new("outside")?, Namespace::new("backends")?];
        for namespace in [&pod, &outside, &backends] {
            settle(namespace)?;
        }
        let not_run = match version("nft")? {
            Some(_) => None,
            None => Some("nft is not installed: ./setup.sh bench installs it".to_owned()),
        };
        let takes_part = |contender: &Contender| contender.way != Way::Nftables || not_run.is_none();
        let mut networks = Vec::new();
        for contender in kernel.contenders().filter(takes_part) {
            networks.push((contender, connect(contender, [&pod, &outside, &backends])?));
        }
        let server =
            start_server(&backends, networks.iter().map(|(contender, _)| *contender), folder.path())?;
        let mut nodes = Vec::new();
        for (contender, network) in networks {
            let proxy = match contender.way {
                Way::Direct => None,
                Way::Ebpf | Way::Ipvs => Some(start_proxy(contender, &network, folder.path())?),
                Way::Nftables => {
                    write_rules(contender, &network)?;
                    None
                }
            };
            nodes.push(Node { contender, proxy, _network: network });
        }
        let site = Self { nodes, server, pod, outside, _backends: backends, not_run, folder };
        site.await_answers(kernel.moment())?;
        Ok(site)
    }

    /// Who takes part.
    pub(super) fn contenders(&self) -> impl Iterator<Item = Contender> {
        self.nodes.iter().map(|node| node.contender)
    }

    /// Why nftables does not, if so.
    pub(super) fn not_run(&self) -> Option<&str> {
        self.not_run.as_deref()
    }

    /// Puts one load on one contender for a while; returns the client's report and the seconds of processor time that
    /// client, server and the kernel's packet threads used.
    pub(super) fn load(
        &self,
        path: Path,
        contender: Contender,
        run: Run,
        milliseconds: u32,
    ) -> Result<(LoadReport, f64)> {
        let used =
            || Ok::<_, Error>(usage::of_process(self.server.id())?.cpu_seconds + usage::of_packet_threads()?);
        let before = used()?;
        let limit = Duration::from_millis(milliseconds.into()) + PATIENCE;
        let report: LoadReport = traffic::report(self.client(path, contender, run, milliseconds)?, limit)?;
        let used = used()? - before + report.cpu_seconds;
        Ok((report, used))
    }

    fn client(&self, path: Path, contender: Contender, run: Run, milliseconds: u32) -> Result<Program> {
        let frontends =
            contender.frontends(path).into_iter().map(|frontend| OsString::from(frontend.to_string()));
        let namespace = match path {
            Path::Local => &self.pod,
            Path::Across => &self.outside,
        };
        let program = Program::ours("traffic")?
            .arguments(["load"])
            .arguments(frontends)
            .arguments(["--work", run.work.name()])
            .arguments(["--connections", &run.connections.to_string()])
            .arguments(["--milliseconds", &milliseconds.to_string()])
            .inside(namespace)
            .log_to(self.folder.path().join("client.log"));
        let node = self.nodes.iter().find(|node| node.contender == contender);
        Ok(match node.and_then(|node| node.proxy.as_ref()) {
            // What comes from outside is not a process of the node.
            Some(proxy) if path == Path::Local => program.in_cgroup(&proxy.cgroup),
            Some(_) | None => program,
        })
    }

    fn await_answers(&self, moment: u32) -> Result<()> {
        for contender in self.contenders() {
            for (path, work) in [
                (Path::Local, Work::Requests),
                (Path::Local, Work::Datagrams),
                (Path::Across, Work::Requests),
                (Path::Across, Work::Datagrams),
            ] {
                let what = format!("{} answers {} by {}", contender.name(), work.name(), path.name());
                wait::until_some(&what, PATIENCE, || {
                    let (report, _) = self.load(path, contender, Run { work, connections: 1 }, moment)?;
                    Ok((report.answered > 0 && report.failed == 0).then_some(()))
                })?;
            }
        }
        Ok(())
    }
}

/// Makes a node and its cables.
fn connect(contender: Contender, [pod, outside, backends]: [&Namespace; 3]) -> Result<Namespace> {
    let number = contender.number();
    let node = Namespace::new(&format!("node{number}"))?;
    let theirs = format!("node{number}");
    for (side, namespace, network) in [("pod", pod, 80), ("backends", backends, 81), ("outside", outside, 82)]
    {
        node.cable(side, namespace, &theirs)?;
        node.address(side, &format!("10.{network}.{number}.254/24"))?;
        if side != "backends" {
            namespace.address(&theirs, &format!("10.{network}.{number}.1/24"))?;
        }
    }
    for path in Path::ALL {
        for backend in contender.backends(path) {
            backends.address(&theirs, &format!("{backend}/24"))?;
        }
    }
    let gateway = |network: u8| format!("10.{network}.{number}.254");
    for (namespace, network) in [(pod, 80), (outside, 82)] {
        namespace.route(&format!("10.81.{number}.0/24"), &gateway(network))?;
        backends.route(&format!("10.{network}.{number}.0/24"), &gateway(81))?;
    }
    pod.route(&format!("{}/24", std::net::Ipv4Addr::new(10, 254, number, 0)), &gateway(80))?;
    node.forward()?;
    Ok(node)
}

/// One server at every backend's address.
fn start_server(
    network: &Namespace,
    contenders: impl Iterator<Item = Contender>,
    folder: &FilePath,
) -> Result<Process> {
    Authority::new("bench")?.server("server", &["10.81.1.1"])?.write(folder, "server")?;
    let addresses = contenders.flat_map(|contender| {
        let backends = Path::ALL.into_iter().flat_map(move |path| contender.backends(path));
        backends.map(|backend| OsString::from(SocketAddr::from((backend, BACKEND_PORT)).to_string()))
    });
    ends::start_server(network, addresses, folder, PATIENCE)
}

fn start_proxy(contender: Contender, network: &Namespace, folder: &FilePath) -> Result<Proxy> {
    let folder = folder.join(format!("node{}", contender.number()));
    std::fs::create_dir(&folder).map_err(Error::system("make", folder.display()))?;
    let authority = Authority::new("bench")?;
    let identity = authority.server("stub", &["127.0.0.1"])?;
    let listener = network.run(|| TcpListener::bind(API))?.map_err(Error::system("bind", API))?;
    let stub = Stub::serve(listener, Options::new("bench", identity), &services(contender)?)?;
    let (cgroup, bpf_fs) = (Cgroup::new("node")?, BpfFs::new()?);
    let process = Program::ours("fairway-proxy")?
        .arguments(["--kubeconfig".into(), write_kubeconfig(&folder, &authority)?])
        .arguments(["--cgroup".as_ref(), cgroup.path(), "--bpf-fs".as_ref(), bpf_fs.path()])
        .arguments([&format!("--cluster-cidr={PODS}"), "--hostname-override=node"])
        .arguments((contender.way == Way::Ipvs).then_some("--proxy-mode=ipvs"))
        .inside(network)
        .log_to(folder.join("fairway-proxy"))
        .spawn()?;
    Ok(Proxy { _process: process, _stub: stub, cgroup, _bpf_fs: bpf_fs })
}

fn services(contender: Contender) -> Result<Store> {
    let store = Store::default();
    let both = |object: objects::Object, port| object.port("t", "TCP", port).port("u", "UDP", port);
    let slice = |name: &str, path| {
        let addresses: Vec<String> = contender.backends(path).map(|backend| backend.to_string()).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        both(objects::slice(name, &format!("{name}-1")), BACKEND_PORT).ready(&addresses).json()
    };
    let cluster_ip = contender.cluster_ip();
    let public = std::net::Ipv4Addr::from_bits(cluster_ip.to_bits() + 1);
    store.put(objects::node("node", &contender.node_ip().to_string()).json())?;
    store.put(both(objects::service("web", &cluster_ip.to_string()), SERVICE_PORT).json())?;
    store.put(slice("web", Path::Local))?;
    let public = both(objects::service("public", &public.to_string()), SERVICE_PORT)
        .with("/spec", "type", "NodePort")
        .with("/spec/ports/0", "nodePort", NODE_PORT)
        .with("/spec/ports/1", "nodePort", NODE_PORT);
    store.put(public.json())?;
    store.put(slice("public", Path::Across))?;
    for number in 0..others(contender) {
        store.put(other_service(number))?;
        store.put(other_slice(number, OTHER_ENDPOINTS, 0))?;
    }
    Ok(store)
}

fn write_rules(contender: Contender, network: &Namespace) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new().map_err(Error::system("make", "a file of rules"))?;
    file.write_all(rules(contender).as_bytes()).map_err(Error::system("write", "rules"))?;
    let path = file.path().display().to_string();
    network.command("nft", &["-f", &path]).map(drop)
}

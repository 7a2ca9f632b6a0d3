//! A node with pods behind it, and clients on it whose connections `fairway-proxy` is to translate.
//!
//! ```text
//!     node .254   pod-1 .1   pod-2 .2   pod-3 .3   (apiserver .100)
//!        |           |          |          |             |
//!   -----+-----------+----------+----------+-------------+----- 10.1.0.0/24, fd00:1::/64
//! ```
//!
//! The node has no default route: what is not translated does not leave it, and the client is told so at once.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use dataplane::Settings;
use tempfile::TempDir;
use tests::traffic::{self, Attempt, DialReport};
use tests::{BpfFs, Cgroup, Error, Namespace, Process, Program, Result, Switch, admin, wait};

/// Longer than anything here takes on the busiest machine: only a failure ever waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Where pods listen, TCP and UDP.
pub(crate) const POD_PORT: u16 = 8080;
/// What a client is told about an address that nobody translates.
pub(crate) const UNREACHABLE: &str = "Network is unreachable (os error 101)";
/// What it is told about a service without endpoints.
pub(crate) const REFUSED: &str = "Connection refused (os error 111)";
/// Everything a client may speak.
pub(crate) const PROTOCOLS: [&str; 3] = ["tcp", "udp", "connected-udp"];

/// Where the proxy serves its metrics unless told otherwise.
pub(crate) const METRICS_PORT: u16 = 10249;

/// A node, its pods, and what the proxy on it needs of the machine.
pub(crate) struct Node {
    // Dropped in this order: processes, then what they are in.
    pods: Vec<Process>,
    pod_namespaces: BTreeMap<u8, Namespace>,
    /// That of a pod whose processes are the clients.
    client: Cgroup,
    cgroup: Cgroup,
    bpf_fs: BpfFs,
    files: TempDir,
    pub(crate) namespace: Namespace,
    pub(crate) switch: Switch,
}

impl Node {
    /// A node without pods.
    pub(crate) fn new() -> Result<Self> {
        let (namespace, switch) = (Namespace::new("node")?, Switch::new("lan")?);
        // A router asks for neighbours from its link-local address, which is not to be waited for.
        namespace.command("sysctl", &["-qw", "net.ipv6.conf.default.accept_dad=0"])?;
        switch.attach(&namespace, "eth0", &["10.1.0.254/24", "fd00:1::254/64"])?;
        let cgroup = Cgroup::new("node")?;
        let files = tempfile::Builder::new().prefix("fw-").tempdir();
        Ok(Self {
            pods: Vec::new(),
            pod_namespaces: BTreeMap::new(),
            client: cgroup.child("pod")?,
            cgroup,
            bpf_fs: BpfFs::new()?,
            files: files.map_err(Error::system("make", "a directory"))?,
            namespace,
            switch,
        })
    }

    /// With pod-1, pod-2 and pod-3, which serve at [`POD_PORT`].
    pub(crate) fn with_pods() -> Result<Self> {
        let mut node = Self::new()?;
        for number in 1..=3 {
            node.serve(number, &format!("pod-{number}"), POD_PORT)?;
        }
        Ok(node)
    }

    /// Serves in pod number `number` as `name`, TCP and UDP, both families.
    pub(crate) fn serve(&mut self, number: u8, name: &str, port: u16) -> Result<()> {
        let namespace = self.pod(number)?;
        self.pods.push(traffic::serve(&namespace, name, &format!("[::]:{port}"))?);
        Ok(())
    }

    /// Serves at `address`, which is its name too: in the pod that has the address, or else on the node itself.
    pub(crate) fn serve_at(&mut self, address: SocketAddr) -> Result<()> {
        let number = match address.ip() {
            IpAddr::V4(ip) if ip.octets()[..3] == [10, 1, 0] => Some(ip.octets()[3]),
            IpAddr::V6(ip) if ip.segments()[..7] == [0xfd00, 1, 0, 0, 0, 0, 0] => Some(ip.octets()[15]),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        };
        let namespace = if let Some(number) = number {
            self.pod(number)?
        } else {
            self.namespace
                .address("lo", &format!("{}/{}", address.ip(), if address.is_ipv4() { 32 } else { 128 }))?;
            self.namespace.clone()
        };
        let address = address.to_string();
        self.pods.push(traffic::serve(&namespace, &address, &address)?);
        Ok(())
    }

    /// Ends what was served first of all that is still served, as a pod ends.
    pub(crate) fn end_oldest(&mut self) -> Result<()> {
        self.pods.remove(0).kill()
    }

    /// The namespace of pod number `number`.
    pub(crate) fn pod(&mut self, number: u8) -> Result<Namespace> {
        if let Some(namespace) = self.pod_namespaces.get(&number) {
            return Ok(namespace.clone());
        }
        let namespace = self.attach(&format!("pod{number}"), number)?;
        self.pod_namespaces.insert(number, namespace.clone());
        Ok(namespace)
    }

    fn attach(&self, label: &str, number: u8) -> Result<Namespace> {
        let namespace = Namespace::new(label)?;
        let addresses = [format!("10.1.0.{number}/24"), format!("fd00:1::{number}/64")];
        self.switch.attach(&namespace, "eth0", &addresses.each_ref().map(String::as_str))?;
        Ok(namespace)
    }

    /// Writes a file whole, as an editor does, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let (path, draft) = (self.files.path().join(name), self.files.path().join("draft"));
        fs::write(&draft, text).map_err(Error::system("write", draft.display()))?;
        fs::rename(&draft, &path).map_err(Error::system("rename to", path.display()))?;
        Ok(path)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.files.path().join(name);
        fs::remove_file(&path).map_err(Error::system("remove", path.display()))
    }

    /// The directory of the node's files.
    pub(crate) fn directory(&self) -> &Path {
        self.files.path()
    }

    /// Where the proxy attaches and pins.
    pub(crate) fn settings(&self) -> Settings {
        Settings { cgroup: self.cgroup.path().to_owned(), bpf_fs: self.bpf_fs.path().join("fairway") }
    }

    /// Whether nothing of ours is pinned. The kernel puts files for debugging into some new bpffs.
    pub(crate) fn is_bare(&self) -> Result<bool> {
        let listed = || Error::system("list", self.bpf_fs.path().display());
        for entry in fs::read_dir(self.bpf_fs.path()).map_err(listed())? {
            let entry = entry.map_err(listed())?;
            if !entry.file_name().as_encoded_bytes().ends_with(b".debug") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `fairway-proxy` with this node's control group and state, itself a process of the node.
    pub(crate) fn program(&self, arguments: &[&str]) -> Result<Program> {
        let Settings { cgroup, bpf_fs } = self.settings();
        let own = ["--cgroup".into(), cgroup, "--bpf-fs".into(), bpf_fs];
        let program = Program::ours("fairway-proxy")?.arguments(own).arguments(arguments);
        Ok(program.inside(&self.namespace).in_cgroup(&self.cgroup))
    }

    /// Starts it, and waits until it has written what its source says.
    pub(crate) fn proxy(&self, arguments: &[&str]) -> Result<Process> {
        let mut proxy = self.program(arguments)?.spawn()?;
        self.await_step(&mut proxy)?;
        Ok(proxy)
    }

    /// Starts it with the node's own directory of manifests.
    pub(crate) fn proxy_of_files(&self) -> Result<Process> {
        self.proxy(&["--manifests", &self.files.path().display().to_string()])
    }

    /// Runs `fairway-proxy cleanup`.
    pub(crate) fn clean_up(&self) -> Result<(ExitStatus, String)> {
        self.cleaner()?.run(LIMIT)
    }

    /// That program.
    pub(crate) fn cleaner(&self) -> Result<Program> {
        let state = self.settings().bpf_fs;
        let program = Program::ours("fairway-proxy")?.arguments([
            "cleanup".as_ref(),
            "--bpf-fs".as_ref(),
            state.as_path(),
        ]);
        Ok(program.inside(&self.namespace))
    }

    pub(crate) fn await_step(&self, proxy: &mut Process) -> Result<()> {
        let written = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}";
        wait::until_some("the proxy is in step", LIMIT, || {
            if let Some(status) = proxy.ended()? {
                return Err(Error::Ended { program: "fairway-proxy".to_owned(), status: status.to_string() });
            }
            Ok(self.metric(written)?.map(drop))
        })
    }

    /// The value of a metric, named with its labels; `None` while it is not served.
    pub(crate) fn metric(&self, name: &str) -> Result<Option<f64>> {
        let Some((_, text)) = self.get(METRICS_PORT, "/metrics")? else { return Ok(None) };
        Ok(admin::value(&text, name))
    }

    /// Waits until a metric has this value.
    pub(crate) fn await_metric(&self, name: &str, value: f64) -> Result<()> {
        until(&format!("{name} is {value}"), || {
            Ok(self.metric(name)?.is_some_and(|found| (found - value).abs() < 0.5))
        })
    }

    /// GETs from the node's loopback: status and body, or `None` where nobody answers.
    pub(crate) fn get(&self, port: u16, path: &str) -> Result<Option<(u16, String)>> {
        self.namespace.run(|| {
            let text = admin::ask(port, path, Duration::from_secs(5)).ok()?;
            let (head, body) = text.split_once("\r\n\r\n")?;
            Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
        })
    }

    /// A client on the node.
    pub(crate) fn client(&self, program: Program) -> Program {
        program.inside(&self.namespace).in_cgroup(&self.client)
    }

    /// `count` new connections, or exchanges of datagrams, of a pod on the node.
    pub(crate) fn dial(&self, protocol: &str, target: &str, count: u32) -> Result<DialReport> {
        let milliseconds = (count * 1000).div_ceil(DIALS_PER_SECOND).to_string();
        let rate = DIALS_PER_SECOND.to_string();
        let arguments = ["--protocol", protocol, "--rate", &rate, "--milliseconds", &milliseconds];
        traffic::report(self.client(traffic::dial(target, arguments)?), LIMIT)
    }

    /// Waits until connections of every protocol reach these pods, each of them and nobody else.
    pub(crate) fn await_backends(&self, target: &str, pods: &[&str]) -> Result<()> {
        self.await_answer(target, |report| report.failed == 0 && report.backends.keys().eq(pods))
    }

    /// Waits until every connection of every protocol fails for this reason.
    pub(crate) fn await_error(&self, target: &str, error: &str) -> Result<()> {
        self.await_answer(target, |report| report.errors.get(error) == Some(&report.attempts))
    }

    fn await_answer(&self, target: &str, expected: impl Fn(&DialReport) -> bool) -> Result<()> {
        PROTOCOLS.into_iter().try_for_each(|protocol| {
            until(&format!("{protocol} to {target} is answered as expected"), || {
                Ok(expected(&self.dial(protocol, target, 6)?))
            })
        })
    }

    /// Starts 100 connections per second, which go on until told to stop.
    pub(crate) fn load(&self, target: &str) -> Result<Load> {
        self.load_of(target, 100)
    }

    /// As [`Node::load`], with so many connections per second.
    pub(crate) fn load_of(&self, target: &str, rate: u32) -> Result<Load> {
        let rate = rate.to_string();
        let dial = traffic::dial(target, ["--rate", &rate, "--milliseconds", "120000", "--each"])?;
        Load::start(self.client(dial))
    }

    /// Opens 50 connections and keeps them for so long.
    pub(crate) fn hold(&self, target: &str, milliseconds: u32) -> Result<Process> {
        let arguments = ["--connections", "50", "--milliseconds", &milliseconds.to_string()];
        let mut holder = self.client(traffic::hold(target, arguments)?).spawn()?;
        holder.wait_for_log("holding", LIMIT)?;
        Ok(holder)
    }
}

const DIALS_PER_SECOND: u32 = 300;

/// New connections at a steady rate.
pub(crate) struct Load(Process);

impl Load {
    /// Starts a client that prints each attempt.
    pub(crate) fn start(dial: Program) -> Result<Self> {
        let load = Self(dial.spawn()?);
        load.await_more(10)?;
        Ok(load)
    }

    /// What became of those that have ended.
    pub(crate) fn attempts(&self) -> Result<Vec<Attempt>> {
        let log = self.0.log()?;
        // The first line says when it began; the last may be half written.
        let lines = log.split_inclusive('\n').skip(1).filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).map_err(Error::json(line))).collect()
    }

    /// Waits until so many more have ended.
    pub(crate) fn await_more(&self, count: usize) -> Result<()> {
        let before = self.attempts()?.len();
        until("more connections were tried", || Ok(self.attempts()?.len() >= before + count))
    }

    /// Ends it, when those that are under way now have been answered or given up. Returns the errors, and how many
    /// connections each pod has had.
    pub(crate) fn stop(mut self) -> Result<(Vec<String>, BTreeMap<String, usize>)> {
        // An attempt is given up after a second.
        self.await_more(110)?;
        self.0.kill()?;
        let (mut errors, mut backends) = (Vec::new(), BTreeMap::new());
        for attempt in self.attempts()? {
            errors.extend(attempt.error);
            if let Some(backend) = attempt.backend {
                *backends.entry(backend).or_default() += 1;
            }
        }
        Ok((errors, backends))
    }
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::until_some(what, LIMIT, || Ok(condition()?.then_some(())))
}

/// So many connections to each of the three pods.
pub(crate) fn each(count: usize) -> BTreeMap<String, usize> {
    (1..=3).map(|number| (format!("pod-{number}"), count)).collect()
}

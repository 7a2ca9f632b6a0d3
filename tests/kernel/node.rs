//! A node of a test's own, with everything fairway-proxy needs and nothing else.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dataplane::{Capacity, Dataplane, Ebpf, Feature, Settings};
use plan::{Backend, Change, Frontend, Port, Protocol, Rules, Service};
use tests::{BpfFs, Cgroup, Namespace};

/// One process, one control group: one node at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A namespace, a control group with this process in it, and a bpffs.
pub(crate) struct Node {
    // Dropped in this order: the process goes home before its control group goes.
    _home: Home,
    cgroup: Cgroup,
    bpf_fs: BpfFs,
    namespace: Namespace,
    _turn: MutexGuard<'static, ()>,
}

impl Node {
    pub(crate) fn new(label: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = Namespace::new(label).unwrap();
        for address in ["fd00::1/128", "fd00::2/128", "fd00::3/128"] {
            namespace.address("lo", address).unwrap();
        }
        let cgroup = Cgroup::new(label).unwrap();
        let home = Home::leave_for(cgroup.path());
        Self { _home: home, cgroup, bpf_fs: BpfFs::new().unwrap(), namespace, _turn: turn }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings { cgroup: self.cgroup.path().to_owned(), bpf_fs: self.state() }
    }

    /// Where the state is pinned.
    pub(crate) fn state(&self) -> PathBuf {
        self.bpf_fs.path().join("fairway")
    }

    pub(crate) fn open(&self) -> Ebpf {
        Ebpf::open(&self.settings()).unwrap()
    }

    /// As if the kernel lacked these.
    pub(crate) fn open_lacking(&self, features: &[Feature]) -> Ebpf {
        let lacking = features.iter().copied().collect();
        Ebpf::open_lacking(&self.settings(), Capacity::default(), lacking).unwrap()
    }

    pub(crate) fn open_sized(&self, services: u32, backends: u32) -> Ebpf {
        Ebpf::open_sized(&self.settings(), Capacity { services, backends }).unwrap()
    }

    /// The node's network.
    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs `work` inside the node's network.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }
}

/// The control group this process came from; it returns on drop.
struct Home {
    path: PathBuf,
}

impl Home {
    fn leave_for(cgroup: &Path) -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let path = tests::mount_point("cgroup2").unwrap().join(own);
        enter(cgroup);
        Self { path }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        enter(&self.path);
    }
}

fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

const TOLD: &str = "FAIRWAY_TEST_TOLD";

/// This program again, to run one ignored test as a process of its own; `word` is for that test.
pub(crate) fn another_process(test: &str, settings: &Settings, word: &str) -> Command {
    let [cgroup, bpf_fs] = [&settings.cgroup, &settings.bpf_fs].map(|path| path.display().to_string());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(TOLD, [&cgroup, &bpf_fs, word].join(" "));
    command
}

/// What [`another_process`] was told; a test that needs this is not to be run by hand.
pub(crate) fn told() -> (Settings, String) {
    let told = std::env::var(TOLD).unwrap();
    let [cgroup, bpf_fs, word] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    (Settings { cgroup: cgroup.into(), bpf_fs: bpf_fs.into() }, word.to_owned())
}

/// A frontend from `tcp 10.254.0.1:80`.
pub(crate) fn frontend(text: &str) -> Frontend {
    let (protocol, address) = text.split_once(' ').unwrap();
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => panic!("{other} is no protocol of these tests"),
    };
    let (address, port) = address_and_port(address.parse().unwrap());
    Frontend::new(address, port, protocol)
}

/// The backend at a server's address.
pub(crate) fn backend(address: SocketAddr) -> Backend {
    let (address, port) = address_and_port(address);
    Backend::new(address, port)
}

fn address_and_port(address: SocketAddr) -> (IpAddr, Port) {
    (address.ip(), Port::new(address.port()).unwrap())
}

/// Adds `frontend` with these backends.
pub(crate) fn serve(ebpf: &mut Ebpf, frontend: Frontend, backends: &[SocketAddr]) {
    serve_by(ebpf, frontend, Rules::default(), backends);
}

/// Adds `frontend` with these rules and backends.
pub(crate) fn serve_by(ebpf: &mut Ebpf, frontend: Frontend, rules: Rules, backends: &[SocketAddr]) {
    let service = Service { rules, ..backends.iter().copied().map(backend).collect() };
    apply(ebpf, &[Change::AddService { frontend, service }]);
}

/// Applies changes that must succeed.
pub(crate) fn apply(ebpf: &mut Ebpf, changes: &[Change]) {
    let failures = ebpf.apply(changes);
    assert!(failures.is_empty(), "{failures:?}");
}

//! The program as a supervisor sees it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use lb::config;
use lb::probe::Probe;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::lab::within;
use crate::tls::{Authority, Behaviour, READY, Server, UNREADY};

/// A directory with a certificate authority and a configuration for one backend.
pub(crate) struct Place {
    directory: TempDir,
    pub(crate) authority: Authority,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = TempDir::with_prefix("fw-").unwrap();
        let authority = Authority::new();
        fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        Self { directory, authority }
    }

    pub(crate) fn configure(&self, backend: SocketAddr, interval: &str) -> PathBuf {
        let file = self.directory.path().join("fairway-lb.yaml");
        let authority = self.directory.path().join("ca.crt");
        let text = format!(
            "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nfrontend: {{listen: '127.0.0.1:0'}}\n\
             backends: [{{name: m1, address: '{backend}'}}]\n\
             healthCheck: {{interval: {interval}, timeout: 1m, tls: {{caFile: {}}}}}\n\
             admin: {{listen: '127.0.0.1:0', socket: {}}}\n",
            authority.display(),
            self.directory.path().join("control.sock").display()
        );
        fs::write(&file, text).unwrap();
        file
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_fairway-lb");

fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn check(file: &Path) -> Output {
    within("check", program().arg("check").arg(file).output()).await.unwrap()
}

/// A running `fairway-lb` and where it listens.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) frontend: SocketAddr,
    admin: SocketAddr,
}

impl Running {
    pub(crate) async fn start(config: &Path) -> Self {
        Self::run(program(), config).await
    }

    /// With no more than so many file descriptors, and no right to raise the limit.
    pub(crate) async fn start_within(descriptors: u32, config: &Path) -> Self {
        let mut shell = Command::new("prlimit");
        shell.arg(format!("--nofile={descriptors}:{descriptors}")).arg(PROGRAM);
        Self::run(shell, config).await
    }

    async fn run(mut command: Command, config: &Path) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.arg("--config").arg(config).args(["--log-format", "json"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = within("first log line", lines.next_line()).await.unwrap().expect("a log line");
        // Somebody has to read the rest.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, frontend: address_in(&line, "frontend"), admin: address_in(&line, "admin") }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = within("connect to admin", TcpStream::connect(self.admin)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("admin's answer", stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) async fn until_healthz(&self, status: u16) {
        within("healthz", async { while self.get("/healthz").await.0 != status {} }).await;
    }

    pub(crate) async fn until_metric(&self, line: &str) {
        within(line, async { while !self.get("/metrics").await.1.lines().any(|found| found == line) {} })
            .await;
    }

    /// The value of a series that holds whole numbers, labels included, without the common prefix.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let text = self.get("/metrics").await.1;
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("fairway_lb_{series} ")));
        value.unwrap_or_else(|| panic!("{series} in {text}")).parse().unwrap()
    }

    /// The exit code after SIGTERM.
    pub(crate) async fn terminate(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        within("exit", self.child.wait()).await.unwrap().code()
    }
}

/// The address that a JSON log line holds in a field.
fn address_in(line: &str, field: &str) -> SocketAddr {
    let start = format!("\"{field}\":\"");
    let (_, rest) = line.split_once(&start).unwrap_or_else(|| panic!("{field} in {line}"));
    rest.split('"').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_ok_or_every_problem() {
    let place = Place::new();
    let file = place.configure("127.0.0.1:6443".parse().unwrap(), "20ms");
    let good = check(&file).await;
    assert_eq!(good.status.code(), Some(0));
    assert_eq!(String::from_utf8(good.stdout).unwrap(), format!("{}: ok\n", file.display()));

    fs::write(&file, "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nbackends: []\n").unwrap();
    let bad = check(&file).await;
    assert_eq!(bad.status.code(), Some(78));
    let expected =
        "frontend: is required\nbackends: must list 1 to 64 backends, found 0\nhealthCheck: is required\n";
    assert_eq!(String::from_utf8(bad.stderr).unwrap(), expected);

    let run = within("run", program().arg("--config").arg(&file).output()).await.unwrap();
    assert_eq!((run.status.code(), String::from_utf8(run.stderr).unwrap().as_str()), (Some(78), expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_congestion_control_that_the_kernel_does_not_offer_ends_the_start() {
    let place = Place::new();
    let file = place.configure("127.0.0.1:6443".parse().unwrap(), "20ms");
    let text = fs::read_to_string(&file).unwrap();
    let named = text.replacen("frontend: {", "frontend: {congestionControl: nonesuch, ", 1);
    fs::write(&file, named).unwrap();
    // Another kernel may offer it.
    assert_eq!(check(&file).await.status.code(), Some(0));
    let run = within("run", program().arg("--config").arg(&file).output()).await.unwrap();
    assert_eq!(run.status.code(), Some(78));
    let complaint = String::from_utf8(run.stderr).unwrap();
    assert!(complaint.contains("frontend.congestionControl: nonesuch is not offered"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_until_told_to_stop() {
    let place = Place::new();
    let server = Server::start(&place.authority.sign("127.0.0.1"), None, READY).await;
    let file = place.configure(server.address, "20ms");
    let running = Running::start(&file).await;
    running.until_healthz(200).await;

    // A probe is a client like any other.
    let config = config::read(&file).unwrap();
    let client = Probe::new(running.frontend, &config.health_check);
    within("request through the front door", client.ask()).await.unwrap();
    running.until_metric("fairway_lb_connections_total{backend=\"m1\"} 1").await;
    running.until_metric("fairway_lb_connections_active{backend=\"m1\"} 0").await;

    server.behave(UNREADY);
    running.until_metric("fairway_lb_backend_up{backend=\"m1\"} 0").await;
    assert!(client.ask().await.is_err(), "a client reached a backend that is not ready");
    running.until_metric("fairway_lb_connections_refused_total{reason=\"down\"} 1").await;
    assert_eq!(running.get("/healthz").await.0, 200, "the front door is well, whatever its backends are");
    assert_eq!(running.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_accepts_nobody_before_the_first_probe_has_ended() {
    let place = Place::new();
    let server = Server::start(&place.authority.sign("127.0.0.1"), None, Behaviour::Silence).await;
    let running = Running::start(&place.configure(server.address, "20ms")).await;
    within("first probe", async {
        while server.connections() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(running.get("/healthz").await.0, 503);
    // In the kernel's queue.
    within("connect", TcpStream::connect(running.frontend)).await.unwrap();
    assert_eq!(running.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_metrics_are_there_before_anything_happens() {
    let place = Place::new();
    let server = Server::start(&place.authority.sign("127.0.0.1"), None, Behaviour::Silence).await;
    let running = Running::start(&place.configure(server.address, "20ms")).await;
    let (_, body) = running.get("/metrics").await;
    let families: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter(|line| !line.starts_with("fairway_lb_vrrp"))
        .collect();
    let expected = BTreeSet::from([
        "fairway_lb_backend_up gauge",
        "fairway_lb_build_info gauge",
        "fairway_lb_bytes_total counter",
        "fairway_lb_connect_failures_total counter",
        "fairway_lb_connections_active gauge",
        "fairway_lb_connections_ended_total counter",
        "fairway_lb_connections_moved_total counter",
        "fairway_lb_connections_idle gauge",
        "fairway_lb_connections_refused_total counter",
        "fairway_lb_connections_total counter",
        "fairway_lb_probe_duration_seconds histogram",
        "fairway_lb_probes_total counter",
        "fairway_lb_rebalance_excess_connections gauge",
        "fairway_lb_reloads_total counter",
        "fairway_lb_tls_reloads_total counter",
    ]);
    assert_eq!(families, expected);
    assert_eq!(running.terminate().await, Some(0));
}

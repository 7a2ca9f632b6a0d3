//! Client, balancer and server, each in a namespace, one after the other.
//!
//! ```text
//!   client 10.80.0.1 ---- 10.80.0.254 balancer 10.81.0.254 ---- 10.81.0.1 server
//!                         10.80.0.1x  (routes too)              10.81.0.1x
//! ```
//!
//! All balancers run all the time, on addresses of their own; only one at a time has work.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tests::certificates::Authority;
use tests::traffic::{self, LoadReport, Work};
use tests::{Error, Namespace, Process, Program, Result, wait};

use super::variant::Variant;
use crate::ends::{self, settle};
use crate::machine::version;
use crate::measure::Run;
use crate::rest::Rest;
use crate::usage;

const PATIENCE: Duration = Duration::from_secs(20);

/// Everything in it ends when it is dropped.
pub(super) struct Site {
    // Dropped in this order: processes, then what they used.
    balancers: Vec<(Variant, State)>,
    _server: Process,
    client: Namespace,
    _networks: [Namespace; 2],
    folder: TempDir,
}

/// The process, where there is one; or why the variant does not take part.
type State = std::result::Result<Option<Process>, String>;

impl Site {
    /// Starts all that can be started and waits until it answers. A rival that cannot is kept with the reason.
    pub(super) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fw-bench-").tempdir();
        let folder = folder.map_err(Error::system("make", "a temporary directory"))?;
        let [client, balancer, server_network] = connect()?;
        let server = start_server(&server_network, folder.path())?;
        let mut balancers = Vec::new();
        for variant in Variant::ALL {
            balancers.push((variant, start(variant, &balancer, &client, folder.path())?));
        }
        Ok(Self { balancers, _server: server, client, _networks: [balancer, server_network], folder })
    }

    /// Who takes part.
    pub(super) fn variants(&self) -> Vec<Variant> {
        self.balancers.iter().filter(|(_, state)| state.is_ok()).map(|(variant, _)| *variant).collect()
    }

    /// Who does not, and why.
    pub(super) fn not_run(&self) -> Vec<(Variant, String)> {
        let reason = |(variant, state): &'_ (Variant, State)| Some((*variant, state.as_ref().err()?.clone()));
        self.balancers.iter().filter_map(reason).collect()
    }

    /// Puts one load on one variant for a while; returns the client's report and the seconds of processor time that
    /// the balancer used, where there is one.
    pub(super) fn load(
        &self,
        variant: Variant,
        run: Run,
        milliseconds: u32,
    ) -> Result<(LoadReport, Option<f64>)> {
        let process = self.process(variant);
        let cpu =
            || process.map(usage::of_process).transpose().map(|usage| usage.map(|usage| usage.cpu_seconds));
        let before = cpu()?;
        let limit = Duration::from_millis(milliseconds.into()) + PATIENCE;
        let report = traffic::report(self.client(variant, run, milliseconds)?, limit)?;
        let used = cpu()?.zip(before).map(|(after, before)| after - before);
        Ok((report, used))
    }

    /// MiB that the balancer holds at rest while `connections` idle through it; `None` where there is no balancer.
    pub(super) fn resident_with_idle(&self, variant: Variant, connections: u32) -> Result<Option<f64>> {
        let Some(process) = self.process(variant) else { return Ok(None) };
        let mut client =
            self.client(variant, Run { work: Work::Idle, connections }, LONGEST_IDLE)?.spawn()?;
        client.wait_for_log(&format!("opened {connections}\n"), PATIENCE)?;
        let mut rest = Rest::default();
        let resident = wait::until_some("its memory is at rest", PATIENCE, || {
            let resident = usage::of_process(process)?.resident;
            Ok(rest.reached(wait::now(), resident).then_some(resident))
        })?;
        client.kill()?;
        Ok(Some(resident))
    }

    fn client(&self, variant: Variant, run: Run, milliseconds: u32) -> Result<Program> {
        Ok(Program::ours("traffic")?
            .arguments(["load", &variant.frontend().to_string(), "--work", run.work.name()])
            .arguments(["--connections", &run.connections.to_string()])
            .arguments(["--milliseconds", &milliseconds.to_string()])
            .inside(&self.client)
            .log_to(self.folder.path().join("client.log")))
    }

    fn process(&self, variant: Variant) -> Option<u32> {
        let (_, state) = self.balancers.iter().find(|(one, _)| *one == variant)?;
        state.as_ref().ok()?.as_ref().map(Process::id)
    }
}

/// Longer than opening the connections and coming to rest may take, which is [`PATIENCE`] for each.
const LONGEST_IDLE: u32 = 60_000;

/// Makes client, balancer and server.
fn connect() -> Result<[Namespace; 3]> {
    let [client, balancer, server] =
        [Namespace::new("client")?, Namespace::new("balancer")?, Namespace::new("server")?];
    client.cable("eth0", &balancer, "eth0")?;
    balancer.cable("eth1", &server, "eth0")?;
    client.address("eth0", "10.80.0.1/24")?;
    balancer.address("eth0", "10.80.0.254/24")?;
    balancer.address("eth1", "10.81.0.254/24")?;
    server.address("eth0", "10.81.0.1/24")?;
    for variant in Variant::ALL {
        server.address("eth0", &format!("{}/24", variant.backend().ip()))?;
        if variant.program().is_some() {
            balancer.address("eth0", &format!("{}/24", variant.frontend().ip()))?;
        }
    }
    client.route("default", "10.80.0.254")?;
    server.route("default", "10.81.0.254")?;
    balancer.forward()?;
    for namespace in [&client, &balancer, &server] {
        settle(namespace)?;
    }
    Ok([client, balancer, server])
}

fn start_server(network: &Namespace, folder: &Path) -> Result<Process> {
    let authority = Authority::new("bench")?;
    let names = Variant::ALL.map(|variant| variant.backend().ip().to_string());
    authority.server("server", &names.each_ref().map(String::as_str))?.write(folder, "server")?;
    write(&folder.join(AUTHORITY), authority.pem())?;
    ends::start_server(network, ["0.0.0.0:6443".into()], folder, PATIENCE)
}

const AUTHORITY: &str = "ca.crt";

/// Starts a variant and waits until it answers. The inner error is why a rival does not take part.
fn start(variant: Variant, balancer: &Namespace, client: &Namespace, folder: &Path) -> Result<State> {
    let mut process = match variant.program() {
        None => None,
        Some(program) if variant.is_rival() && version(program)?.is_none() => {
            return Ok(Err(format!("{program} is not installed: ./setup.sh bench installs it")));
        }
        Some(_) => Some(spawn(variant, balancer, folder)?),
    };
    let answered = wait::until_some("the balancer answers", PATIENCE, || {
        let ended = process.as_mut().map(Process::ended).transpose()?.flatten();
        match ended {
            Some(status) => {
                Err(Error::Ended { program: variant.name().to_owned(), status: status.to_string() })
            }
            None => Ok(client.run(|| ask(variant))?.ok()),
        }
    });
    match answered {
        Ok(()) => Ok(Ok(process)),
        Err(error) if variant.is_rival() => {
            let log = process.as_ref().map(Process::log).transpose()?.unwrap_or_default();
            Ok(Err(format!("{error:?}; it said {:?}", log.lines().last().unwrap_or_default())))
        }
        Err(error) => Err(error),
    }
}

fn spawn(variant: Variant, balancer: &Namespace, folder: &Path) -> Result<Process> {
    let own = folder.join(variant.frontend().ip().to_string());
    std::fs::create_dir(&own).map_err(Error::system("make", own.display()))?;
    let configuration = own.join("configuration");
    let mut text = variant.configuration(&folder.join(AUTHORITY).display().to_string());
    if variant == Variant::Fairway {
        text.extend(["admin: {socket: ", &own.join("control.sock").display().to_string(), "}\n"]);
    }
    write(&configuration, &text)?;
    let configuration = configuration.into_os_string();
    let program = match variant {
        Variant::Fairway | Variant::Direct => {
            Program::ours("fairway-lb")?.arguments(["--config".into(), configuration])
        }
        Variant::HaproxySplice | Variant::HaproxyCopy => {
            Program::new("haproxy").arguments(["-db".into(), "-f".into(), configuration])
        }
        Variant::Nginx => {
            let arguments = ["-p".into(), own.clone().into_os_string(), "-c".into(), configuration];
            Program::new("nginx").arguments(arguments).arguments(["-e", "stderr"])
        }
    };
    program.inside(balancer).log_to(own.join("log")).spawn()
}

/// One request of the smallest kind.
fn ask(variant: Variant) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&variant.frontend().into(), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(&[Work::Requests as u8, 0, 0, 0, 1, 0, 0, 0, 1, b'?'])?;
    stream.read_exact(&mut [0])
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::system("write", path.display()))
}

//! Three masters and a client on one link; each master runs an apiserver and a front door.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::certificates::Authority;
use tests::topology::{FRONT_DOOR, Host, Link};
use tests::traffic::{self, Dialing};
use tests::{Error, Process, Program, Result, wait};

use super::contender::{self, Contender};
use crate::usage::{self, Usage};

/// The masters.
pub(super) const NAMES: [&str; 3] = ["m1", "m2", "m3"];
/// Where their apiservers listen.
pub(super) const APISERVER_PORT: u16 = 6443;
const PATIENCE: Duration = Duration::from_secs(20);
/// New TLS connections per second.
const RATE: u32 = 100;
/// A dial that takes longer has failed: below one second, after which the kernel sends a lost SYN again.
const DIAL_LIMIT: &str = "900";

/// Everything in it ends when it is dropped.
pub(super) struct Site {
    // Dropped in this order: processes, then what they used.
    pub(super) masters: Vec<Master>,
    pub(super) link: Link,
    contender: Contender,
    advert_interval: u32,
    folder: TempDir,
}

/// What is behind the front doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// Stubs.
    Apiservers,
    /// What answers clients without TLS, too.
    Answers,
}

/// What runs on a master.
pub(super) struct Master {
    /// fairway-lb, or keepalived.
    pub(super) router: Process,
    /// HAProxy, where it is a process of its own.
    pub(super) balancer: Option<Process>,
    pub(super) apiserver: Process,
    /// Front doors that have been succeeded, and whose connections may not have ended yet.
    succeeded: Vec<Process>,
}

impl Site {
    /// Starts the masters one after the other, so that the first one holds the address, and waits until every
    /// apiserver answers through it. `advert_interval` is in milliseconds.
    pub(super) fn start(contender: Contender, advert_interval: u32, servers: Servers) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fw-fail-over-").tempdir();
        let folder = folder.map_err(Error::system("make", "a temporary directory"))?;
        let link = Link::new(3)?;
        let authority = Authority::new("bench")?;
        write(&folder.path().join(AUTHORITY), authority.pem())?;
        let mut apiservers = Vec::new();
        for (name, host) in NAMES.iter().zip(link.masters()) {
            let names = [FRONT_DOOR.ip().to_string(), host.address().to_string()];
            authority.server(name, &names.each_ref().map(String::as_str))?.write(folder.path(), name)?;
            apiservers.push(match servers {
                Servers::Apiservers => start_apiserver(name, host, folder.path())?,
                Servers::Answers => start_answer(name, host, folder.path())?,
            });
        }
        let mut site = Self { masters: Vec::new(), link, contender, advert_interval, folder };
        for (master, apiserver) in apiservers.into_iter().enumerate() {
            let (router, balancer) = site.start_front_door(master)?;
            site.masters.push(Master { router, balancer, apiserver, succeeded: Vec::new() });
            site.wait_for_holder(0)?;
        }
        site.wait_for_service()?;
        Ok(site)
    }

    fn start_front_door(&self, master: usize) -> Result<(Process, Option<Process>)> {
        match self.contender {
            Contender::Fairway => Ok((self.start_fairway(master, &[])?, None)),
            Contender::Pair => self.start_pair(master).map(|(router, balancer)| (router, Some(balancer))),
        }
    }

    fn start_fairway(&self, master: usize, arguments: &[&str]) -> Result<Process> {
        let (configuration, control) =
            (self.file(master, "fairway-lb.yaml"), self.file(master, "control.sock"));
        let text = contender::fairway(&self.link, master, self.advert_interval, &self.authority());
        write(&configuration, &format!("{text}admin: {{socket: {}}}\n", control.display()))?;
        Program::ours("fairway-lb")?
            .arguments(["--config".as_ref(), configuration.as_os_str()])
            .arguments(arguments.iter().copied())
            .inside(self.link.masters()[master].namespace())
            .log_to(self.file(master, &format!("fairway-lb{}.log", arguments.concat())))
            .spawn()
    }

    fn start_pair(&self, master: usize) -> Result<(Process, Process)> {
        let namespace = self.link.masters()[master].namespace();
        let (pid, configuration) = (self.file(master, "haproxy.pid"), self.file(master, "haproxy.cfg"));
        let addresses: Vec<_> = self.link.masters().iter().map(Host::address).collect();
        let socket = self.file(master, "haproxy.sock");
        write(&configuration, &contender::haproxy(&addresses, &self.authority(), &socket))?;
        let balancer = Program::new("haproxy")
            .arguments(["-W".as_ref(), "-db".as_ref(), "-f".as_ref(), configuration.as_os_str()])
            .inside(namespace)
            .log_to(self.file(master, "haproxy.log"))
            .spawn()?;
        write(&pid, &balancer.id().to_string())?;
        let configuration = self.file(master, "keepalived.conf");
        write(&configuration, &contender::keepalived(master, self.advert_interval, &pid))?;
        let router = Program::new("keepalived")
            .arguments(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
            .arguments([&configuration])
            .arguments(["--pid".into(), self.file(master, "keepalived.pid")])
            .arguments(["--vrrp_pid".into(), self.file(master, "keepalived-vrrp.pid")])
            .inside(namespace)
            .log_to(self.file(master, "keepalived.log"))
            .spawn()?;
        Ok((router, balancer))
    }

    /// Puts another process of the same program in the place of what forwards on the holder.
    pub(super) fn upgrade(&mut self) -> Result<()> {
        if self.contender == Contender::Pair {
            // It executes its binary anew.
            return self.masters[0].reload_balancer();
        }
        let mut successor = self.start_fairway(0, &["--take-over"])?;
        successor.wait_for_log("taken over from the former process", PATIENCE)?;
        let holder = &mut self.masters[0];
        holder.succeeded.push(std::mem::replace(&mut holder.router, successor));
        Ok(())
    }

    fn wait_for_holder(&self, master: usize) -> Result<()> {
        wait::until_some("the first master holds the virtual address", PATIENCE, || {
            Ok((self.link.holders()? == [master]).then_some(()))
        })
    }

    /// Returns when all apiservers have answered in one short series without a failure.
    fn wait_for_service(&self) -> Result<()> {
        wait::until_some("every apiserver answers through the front door", PATIENCE, || {
            let client = self.dial(300)?.log_to(self.log("settle"));
            let report: traffic::DialReport = traffic::report(client, PATIENCE)?;
            Ok((report.failed == 0 && report.backends.len() == NAMES.len()).then_some(()))
        })
    }

    /// Dials from the client for so long.
    pub(super) fn dialing(&self, milliseconds: u32) -> Result<Dialing> {
        Dialing::start(self.dial(milliseconds)?, &self.log("dial"))
    }

    fn dial(&self, milliseconds: u32) -> Result<Program> {
        Ok(traffic::dial(&FRONT_DOOR.to_string(), self.tls())?
            .arguments(["--rate", &RATE.to_string(), "--milliseconds", &milliseconds.to_string()])
            .arguments(["--timeout-milliseconds", DIAL_LIMIT])
            .inside(self.link.client().namespace()))
    }

    /// Connections that are held from the client for so long, with a request each every 100 ms.
    pub(super) fn hold(&self, connections: u32, milliseconds: u32) -> Result<Process> {
        let mut process = traffic::hold(&FRONT_DOOR.to_string(), self.tls())?
            .arguments(["--connections", &connections.to_string()])
            .arguments(["--milliseconds", &milliseconds.to_string()])
            .inside(self.link.client().namespace())
            .log_to(self.log("hold"))
            .spawn()?;
        process.wait_for_log("holding", PATIENCE)?;
        Ok(process)
    }

    /// Connections that are opened as fast as can be and say nothing more.
    pub(super) fn idle(&self, connections: u32, milliseconds: u32) -> Result<Process> {
        let mut client = Program::ours("traffic")?
            .arguments(["load", &FRONT_DOOR.to_string(), "--work", "idle"])
            .arguments(["--connections", &connections.to_string()])
            .arguments(["--milliseconds", &milliseconds.to_string()])
            .inside(self.link.client().namespace())
            .log_to(self.log("idle"))
            .spawn()?;
        client.wait_for_log(&format!("opened {connections}\n"), PATIENCE)?;
        Ok(client)
    }

    fn tls(&self) -> Vec<String> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut arguments =
            ["--protocol", "tls", "--path", "/version", "--authority"].map(str::to_owned).to_vec();
        arguments.push(self.authority().display().to_string());
        for name in NAMES {
            arguments.extend(["--backend".to_owned(), format!("{name}={}", path(&format!("{name}.crt")))]);
        }
        arguments
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join(AUTHORITY)
    }

    fn file(&self, master: usize, name: &str) -> PathBuf {
        self.folder.path().join(format!("{}-{name}", NAMES[master]))
    }
}

impl Master {
    /// SIGKILL to everything that runs here.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.router.kill()?;
        if let Some(balancer) = &mut self.balancer {
            balancer.kill()?;
        }
        self.apiserver.kill()
    }

    /// SIGKILL to what forwards.
    pub(super) fn kill_balancer(&mut self) -> Result<()> {
        self.balancer.as_mut().unwrap_or(&mut self.router).kill()
    }

    /// What the processes use that forward.
    pub(super) fn usage(&self) -> Result<Usage> {
        usage::of_process(self.balancer.as_ref().unwrap_or(&self.router).id())
    }

    /// Asks what forwards to read its configuration again: only its first process hears it.
    pub(super) fn reload_balancer(&self) -> Result<()> {
        let (process, signal) = match &self.balancer {
            Some(haproxy) => (haproxy, Signal::SIGUSR2),
            None => (&self.router, Signal::SIGHUP),
        };
        kill(Pid::from_raw(process.id().cast_signed()), signal)
            .map_err(Error::system("signal", "a front door"))
    }
}

const AUTHORITY: &str = "ca.crt";

/// A process of its own, so that it can be stopped in its tracks.
fn start_apiserver(name: &str, host: &Host, folder: &Path) -> Result<Process> {
    let path = |extension: &str| folder.join(format!("{name}.{extension}")).into_os_string();
    let mut process = Program::ours("stub-apiserver")?
        .arguments([format!("{}:{APISERVER_PORT}", host.address())])
        .arguments(["--name", name])
        .arguments(["--certificate".into(), path("crt"), "--key".into(), path("key")])
        .inside(host.namespace())
        .log_to(folder.join(format!("{name}-apiserver.log")))
        .spawn()?;
    process.wait_for_log("listening", PATIENCE)?;
    Ok(process)
}

fn start_answer(name: &str, host: &Host, folder: &Path) -> Result<Process> {
    let path = |extension: &str| folder.join(format!("{name}.{extension}")).into_os_string();
    let mut process = Program::ours("traffic")?
        .arguments(["answer", &format!("{}:{APISERVER_PORT}", host.address())])
        .arguments(["--certificate".into(), path("crt"), "--key".into(), path("key")])
        .inside(host.namespace())
        .log_to(folder.join(format!("{name}-answer.log")))
        .spawn()?;
    process.wait_for_log("listening", PATIENCE)?;
    Ok(process)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::system("write", path.display()))
}

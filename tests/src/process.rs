//! Real processes: spawned in a namespace and a cgroup, logged, and ended with the test.
//!
//! ```no_run
//! use std::time::Duration;
//! use tests::{Cgroup, Namespace, Program};
//!
//! let (node, group) = (Namespace::new("node")?, Cgroup::new("node")?);
//! let mut proxy = Program::ours("fairway-proxy")?
//!     .arguments(["--cgroup", &group.path().display().to_string()])
//!     .inside(&node)
//!     .in_cgroup(&group)
//!     .spawn()?;
//! proxy.wait_for_log("synced", Duration::from_secs(5))?;
//! proxy.kill()?;
//! # Ok::<(), tests::Error>(())
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use crate::error::report_leftover;
use crate::{Cgroup, Error, Namespace, Result, wait};

/// How much of a log is shown on drop.
const TAIL_LINES: usize = 60;

/// What to run and where.
#[derive(Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    namespace: Option<Namespace>,
    cgroup: Option<PathBuf>,
    log: Option<PathBuf>,
}

impl Program {
    /// A program of the system, found in `PATH`, or any by its path.
    pub fn new(program: impl AsRef<Path>) -> Self {
        let path = program.as_ref().to_owned();
        let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
        let (arguments, environment) = (Vec::new(), Vec::new());
        Self { name, path, arguments, environment, namespace: None, cgroup: None, log: None }
    }

    /// A binary of this workspace, from the profile that runs now.
    pub fn ours(name: &str) -> Result<Self> {
        Ok(Self::new(binary(name)?))
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Has it started by another program, which is given these arguments before it and becomes it in the end.
    #[must_use]
    pub fn by<A: Into<OsString>>(
        mut self,
        program: impl AsRef<Path>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let started = std::mem::replace(&mut self.path, program.as_ref().to_owned());
        let before = arguments.into_iter().map(Into::into).chain([started.into()]);
        self.arguments = before.chain(self.arguments).collect();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs it in this namespace, which lives at least as long as the process. `/sys`, and with it bpffs and cgroups,
    /// stays as it is (unlike with `ip netns exec`).
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Runs it in this cgroup from its first instruction.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.path().to_owned());
        self
    }

    /// Writes its output to `path` instead of showing the tail on drop.
    #[must_use]
    pub fn log_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Starts it in a session of its own, so that signals to the test do not reach it and [`Process::kill`] reaches
    /// its children too.
    pub fn spawn(self) -> Result<Process> {
        let log = self.open_log()?;
        let mut command = self.command(&log)?;
        let mut spawn = || command.spawn().map_err(Error::system("start", &self.name));
        let child = match &self.namespace {
            Some(namespace) => namespace.run(spawn)??,
            None => spawn()?,
        };
        Ok(Process { name: self.name, child, log, status: None, _namespace: self.namespace })
    }

    /// Runs it to its end within `limit`; returns its exit status and all it printed.
    pub fn run(self, limit: Duration) -> Result<(ExitStatus, String)> {
        let mut process = self.spawn()?;
        let status = process.wait(limit)?;
        Ok((status, process.log()?))
    }

    fn open_log(&self) -> Result<Log> {
        match &self.log {
            Some(path) => Ok(Log::Kept(path.clone())),
            None => NamedTempFile::with_prefix(format!("fw-{}-", self.name))
                .map(Log::Shown)
                .map_err(Error::system("make a log for", &self.name)),
        }
    }

    /// The shell enters the cgroup and then becomes the program: there is no instant in which it runs outside.
    fn command(&self, log: &Log) -> Result<Command> {
        let output = File::create(log.path()).map_err(Error::system("make", log.path().display()))?;
        let errors = output.try_clone().map_err(Error::system("share", log.path().display()))?;
        let mut command = Command::new("sh");
        match &self.cgroup {
            Some(cgroup) => {
                command.args(["-c", r#"echo $$ >"$0" && exec setsid "$@""#]).arg(cgroup.join("cgroup.procs"))
            }
            None => command.args(["-c", r#"exec setsid "$@""#, "sh"]),
        };
        command.arg(&self.path).args(&self.arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        Ok(command)
    }
}

/// A running process. It is killed on drop, with its children, and the tail of its log goes to the test's output,
/// which is shown when the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Log,
    status: Option<ExitStatus>,
    _namespace: Option<Namespace>,
}

#[derive(Debug)]
enum Log {
    Shown(NamedTempFile),
    Kept(PathBuf),
}

impl Log {
    fn path(&self) -> &Path {
        match self {
            Self::Shown(file) => file.path(),
            Self::Kept(path) => path,
        }
    }
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far, both streams.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(self.log.path()).map_err(Error::system("read", self.log.path().display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Keeps its log where it is, in place of showing the tail on drop: for a program that is not under test.
    pub fn keep_log(&mut self) -> Result<()> {
        let path = self.log.path().to_owned();
        match std::mem::replace(&mut self.log, Log::Kept(path)) {
            Log::Shown(file) => file
                .keep()
                .map(drop)
                .map_err(|error| Error::system("keep the log of", &self.name)(error.error)),
            Log::Kept(_) => Ok(()),
        }
    }

    /// Waits until its log contains `text`; fails at once if it ends without.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<()> {
        wait::until_some(&format!("{} printed {text:?}", self.name), limit, || {
            let ended = self.ended()?;
            match (self.log()?.contains(text), ended) {
                (true, _) => Ok(Some(())),
                (false, None) => Ok(None),
                (false, Some(status)) => {
                    Err(Error::Ended { program: self.name.clone(), status: status.to_string() })
                }
            }
        })
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().map_err(Error::system("wait for", &self.name))?;
        }
        Ok(self.status)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until_some(&format!("{} ended", self.name.clone()), limit, || self.ended())
    }

    /// SIGKILL to it and its children, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(5)).map(drop)
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Sends any signal, for example SIGSTOP. Without effect once it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        match killpg(self.group(), signal) {
            // It has not reached its own session yet: it is still the shell.
            Err(Errno::ESRCH) => nix::sys::signal::kill(self.group(), signal),
            outcome => outcome,
        }
        .map_err(Error::system("signal", &self.name))
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "libtest shows the output of failed tests")]
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            report_leftover(&self.name, &error);
        }
        if let (Log::Shown(_), Ok(log)) = (&self.log, self.log()) {
            let end = self.status.map_or_else(String::new, |status| status.to_string());
            eprintln!("--- log of {} ({end}), last {TAIL_LINES} lines ---", self.name);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"));
        }
    }
}

/// Whether a process ended because of this signal.
pub fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

/// Where a binary of this workspace is: `target/<profile>`, found from the running executable, which is there or in
/// `deps` below it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(Error::system("find", "the running executable"))?;
    let mut directory = own.parent().unwrap_or(Path::new(".")).to_owned();
    if directory.ends_with("deps") {
        directory.pop();
    }
    let path = directory.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        let directory = directory.display().to_string();
        Err(Error::NotBuilt { program: name.to_owned(), directory })
    }
}

//! Removes what the demo made, however it ended.
//!
//! The demo itself is a child process. A panic, Ctrl-C and SIGKILL end it without a word; then its parent, which waits
//! for nothing else, ends the processes in its namespaces and removes those, its control groups and its mounts.
//! Everything else it made is in the folder that the parent gave it.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use nix::mount::{MntFlags, umount2};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};

use crate::{Error, Result, cgroup, label, mount_point, namespace, require_root};

/// What its folder is called.
const LABEL: &str = "demo";
/// What a shell reports for a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// Runs this program again as a child that performs, and cleans up after it. Needs root.
pub(crate) fn supervise() -> Result<ExitCode> {
    require_root("the demo")?;
    sweep_folders()?;
    let folder = std::env::temp_dir().join(label::unique(LABEL));
    fs::create_dir(&folder).map_err(Error::system("make", folder.display()))?;
    signals().thread_block().map_err(Error::system("block", "signals"))?;
    let program = std::env::current_exe().map_err(Error::system("find", "the running executable"))?;
    let child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--child".as_ref(), folder.as_path()])
        .env("TMPDIR", &folder)
        .spawn()
        .map_err(Error::system("start", "the demo"))?;
    let status = wait_for(child)?;
    // The child is dead, so everything with its process id in the name is nobody's.
    namespace::sweep()?;
    cgroup::sweep(&mount_point("cgroup2")?)?;
    unmount_below(&folder)?;
    match status {
        Some(status) if status.success() => remove(&folder).map(|()| ExitCode::SUCCESS),
        Some(status) => {
            say(&format!("logs of every program are in {}, until the next run", folder.display()));
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        None => {
            say("\ninterrupted: everything that was made is removed");
            remove(&folder).map(|()| ExitCode::from(INTERRUPTED))
        }
    }
}

/// Makes this process such a child: it takes signals again, and does not outlive its parent.
pub(crate) fn begin_child() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).map_err(Error::system("tie the demo to", "its supervisor"))?;
    signals().thread_unblock().map_err(Error::system("unblock", "signals"))
}

/// What the parent waits for: to be asked to end, or the child's end.
fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect()
}

/// How the child ended; `None` if the parent was asked to end it. It has nothing to clean up, so it is not asked.
fn wait_for(mut child: std::process::Child) -> Result<Option<ExitStatus>> {
    let mut interrupted = false;
    loop {
        let signal = signals().wait().map_err(Error::system("wait for", "a signal"))?;
        if signal != Signal::SIGCHLD {
            interrupted = true;
            child.kill().map_err(Error::system("end", "the demo"))?;
        }
        if let Some(status) = child.try_wait().map_err(Error::system("wait for", "the demo"))? {
            return Ok((!interrupted).then_some(status));
        }
    }
}

/// Removes the folders of runs that failed, or were killed with their supervisor.
fn sweep_folders() -> Result<()> {
    let parent = std::env::temp_dir();
    for entry in fs::read_dir(&parent).map_err(Error::system("list", parent.display()))? {
        let entry = entry.map_err(Error::system("list", parent.display()))?;
        let is_ours = |name: &str| name.starts_with(&format!("fw-{LABEL}-")) && label::is_orphan(name);
        if entry.file_name().to_str().is_some_and(is_ours) {
            unmount_below(&entry.path())?;
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).map_err(Error::system("remove", folder.display()))
}

fn unmount_below(folder: &Path) -> Result<()> {
    let file = "/proc/self/mountinfo";
    let table = fs::read_to_string(file).map_err(Error::system("read", file))?;
    for point in mounts_below(&table, folder) {
        umount2(point, MntFlags::MNT_DETACH).map_err(Error::system("unmount", point.display()))?;
    }
    Ok(())
}

/// Field 5 of a line is the mount point (proc(5)).
fn mounts_below<'table>(table: &'table str, folder: &Path) -> Vec<&'table Path> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    points.filter(|point| point.starts_with(folder)).collect()
}

#[expect(clippy::print_stderr, reason = "whoever watches must know what is left")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_the_demo_are_its_own() {
        let table = "20 41 0:38 / /sys/fs/bpf rw - bpf bpf rw\n\
                     21 41 0:39 / /tmp/fw-demo-a/fw-bpf-x rw shared:3 - bpf bpf rw\n\
                     22 41 0:40 / /tmp/fw-demo-ab/fw-bpf-y rw - bpf bpf rw\n";
        assert_eq!(mounts_below(table, Path::new("/tmp/fw-demo-a")), [Path::new("/tmp/fw-demo-a/fw-bpf-x")]);
    }
}

//! What this kernel offers: every probe in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, SYSFS_MAGIC, statfs};

use crate::Error;

/// What mode ebpf does without where the kernel lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Many backends are compared by the kernel's own loop.
    Loop,
    /// A hook says what the call of a socket fails with.
    SetRetval,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Loop, Self::SetRetval];

    /// As an administrator would look it up.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loop => "bpf_loop (Linux 5.17)",
            Self::SetRetval => "bpf_set_retval in connect and sendmsg hooks (Linux 6.1)",
        }
    }

    /// How it is without.
    pub const fn instead(self) -> &'static str {
        match self {
            Self::Loop => "least connections compares 4 backends at a time and not 16",
            Self::SetRetval => {
                "a datagram that is refused, and whatever is dropped, fails with EPERM; a TCP connection that is refused is \
                 sent to port 0 of the host itself, and fails as it should"
            }
        }
    }

    /// Those that this kernel lacks. A privilege is needed, as to load programs.
    pub fn lacking() -> Result<BTreeSet<Self>, Error> {
        let failed = |error: ProgramError| match &error {
            ProgramError::SyscallError(call) if is_permission(&call.io_error) => {
                Error::Permission { action: "load and attach eBPF programs" }
            }
            _ => Error::Program { action: "probe the kernel by a", program: "connect4", source: error },
        };
        let mut lacking = BTreeSet::new();
        for feature in Self::ALL {
            if !is_helper_supported(ProgramType::CgroupSockAddr, feature.helper()).map_err(failed)? {
                lacking.insert(feature);
            }
        }
        Ok(lacking)
    }

    pub(crate) const fn helper(self) -> BpfHelper {
        match self {
            Self::Loop => BpfHelper::BPF_FUNC_loop,
            Self::SetRetval => BpfHelper::BPF_FUNC_set_retval,
        }
    }

    /// The word in the programs that says whether it is there.
    pub(crate) const fn global(self) -> &'static str {
        match self {
            Self::Loop => "HAS_LOOP",
            Self::SetRetval => "HAS_SET_RETVAL",
        }
    }
}

/// The root of the cgroup v2 mount, wherever it is: what fairway-proxy serves unless told otherwise.
pub fn default_cgroup() -> Result<PathBuf, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    cgroup_mount(&mounts).ok_or(Error::Kernel { feature: "a mounted cgroup v2" })
}

/// Opens a directory of a cgroup v2.
pub(crate) fn open_cgroup(path: &Path) -> Result<fs::File, Error> {
    let failed = |source| {
        if is_permission(&source) {
            return Error::Permission { action: "attach to the control group" };
        }
        Error::Place { action: "attach to the control group", path: path.to_owned(), source }
    };
    let directory = fs::File::open(path).map_err(failed)?;
    if file_system(path).map_err(failed)? != CGROUP2_SUPER_MAGIC {
        return Err(failed(io::Error::other("this is not a directory of a cgroup v2")));
    }
    Ok(directory)
}

/// The links of control group programs that this process has open and that are attached: which program each runs.
pub(crate) fn attached_links() -> Result<BTreeMap<u32, u32>, Error> {
    let directory = Path::new("/proc/self/fdinfo");
    let failed = |source| Error::File { action: "read", path: directory.to_owned(), source };
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        match fs::read_to_string(entry.map_err(failed)?.path()) {
            Ok(information) => links.extend(attached_link(&information)),
            // Closed meanwhile: another thread's.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(links)
}

/// How many bytes a map takes, by the descriptor that this process has of it. Since Linux 6.4 it tells of every entry that
/// comes or goes; before, it is always the same.
pub(crate) fn map_usage(descriptor: RawFd) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{descriptor}"));
    let information = fs::read_to_string(&path).map_err(|source| Error::File {
        action: "read",
        path: path.clone(),
        source,
    })?;
    field(&information, "memlock").ok_or(Error::Kernel { feature: "memlock of maps in fdinfo (Linux 4.10)" })
}

/// The identifiers of a link and of its program, unless it was detached (`bpf_cgroup_link_show_fdinfo`).
fn attached_link(information: &str) -> Option<(u32, u32)> {
    let cgroup: u64 = field(information, "cgroup_id")?;
    (cgroup != 0).then_some((field(information, "link_id")?, field(information, "prog_id")?))
}

/// A number in what proc(5) says of a descriptor.
fn field<T: FromStr>(information: &str, name: &str) -> Option<T> {
    let value = information.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value?.trim().parse().ok()
}

/// Makes sure that `path` is on a bpffs. Where it is below `/sys/fs/bpf` and nothing is mounted there, mounts one, as
/// service managers do at boot.
pub(crate) fn require_bpf_fs(path: &Path) -> Result<(), Error> {
    let failed = |source| {
        if is_permission(&source) {
            return Error::Permission { action: "use the directory of the pinned state" };
        }
        Error::Place { action: "pin state in", path: path.to_owned(), source }
    };
    if nearest_file_system(path).map_err(failed)? == BPF_FS_MAGIC {
        return Ok(());
    }
    let standard = Path::new("/sys/fs/bpf");
    if !path.starts_with(standard) {
        return Err(failed(io::Error::other("this is not on a bpffs (mount -t bpf bpffs DIRECTORY)")));
    }
    match file_system(standard) {
        // The bare mount point.
        Ok(SYSFS_MAGIC) => mount_bpf_fs(standard),
        Ok(_) => Err(failed(io::Error::other("something else than a bpffs is mounted at /sys/fs/bpf"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Kernel { feature: "bpffs" }),
        Err(error) => Err(failed(error)),
    }
}

/// The feature whose lack explains why a program was not loaded, if that is why.
pub(crate) fn missing_feature(program: &str, error: &ProgramError) -> Option<&'static str> {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        return lacking(program, io_error, &verifier_log.to_string());
    }
    None
}

/// Whether the system refused for want of a privilege.
pub(crate) fn is_permission(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn lacking(program: &str, error: &io::Error, log: &str) -> Option<&'static str> {
    if log.contains("BPF_ATOMIC") || log.contains("BPF_STX uses reserved fields") {
        return Some("atomic operations with a result in eBPF (Linux 5.12)");
    }
    if log.contains("unrecognized bpf_ld_imm64 insn") {
        return Some("pointers to functions in eBPF (Linux 5.13)");
    }
    // A hook that the kernel does not know is refused before its program is looked at.
    if log.is_empty() && error.raw_os_error() == Some(Errno::EINVAL as i32) {
        return Some(if program.starts_with("getpeername") {
            "getpeername hooks of control groups (Linux 5.8)"
        } else if program == "release" {
            "socket release hooks of control groups (Linux 5.9)"
        } else {
            "socket address hooks of control groups (Linux 5.2)"
        });
    }
    None
}

fn mount_bpf_fs(target: &Path) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpffs"), target, Some("bpf"), flags, Some("mode=0700")).map_err(|error| {
        match error {
            Errno::ENODEV => Error::Kernel { feature: "bpffs" },
            Errno::EPERM | Errno::EACCES => Error::Permission { action: "mount a bpffs at /sys/fs/bpf" },
            error => {
                Error::File { action: "mount a bpffs at", path: target.to_owned(), source: error.into() }
            }
        }
    })
}

fn file_system(path: &Path) -> io::Result<FsType> {
    Ok(statfs(path)?.filesystem_type())
}

/// The file system of `path`, or of the nearest directory above it that exists.
fn nearest_file_system(path: &Path) -> io::Result<FsType> {
    for ancestor in path.ancestors() {
        match file_system(if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor }) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

/// The mount point of the first cgroup v2 in a `mountinfo` (`proc_pid_mountinfo(5)`).
fn cgroup_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mount_point = mount.split(' ').nth(4)?;
        (kind.split(' ').next()? == "cgroup2").then(|| PathBuf::from(unescaped(mount_point)))
    })
}

/// Blanks, tabs, line feeds and backslashes are written as three octal digits.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_mount_is_found_wherever_it_is() {
        let hybrid = "\
24 1 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
26 24 0:24 / /sys/fs/cgroup/unified rw,relatime shared:10 master:1 - cgroup2 cgroup2 rw
";
        let pure = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let odd = "31 20 0:27 / /my\\040groups rw - cgroup2 none rw\n";
        for (mountinfo, expected) in [
            (hybrid, Some("/sys/fs/cgroup/unified")),
            (pure, Some("/sys/fs/cgroup")),
            (odd, Some("/my groups")),
            ("25 24 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup2 rw,cpu\n", None),
            ("", None),
        ] {
            assert_eq!(cgroup_mount(mountinfo), expected.map(PathBuf::from), "{mountinfo}");
        }
    }

    #[test]
    fn a_link_without_a_control_group_is_detached() {
        let link = |cgroup| {
            format!(
                "pos:\t0\nflags:\t02000000\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\t0123\nprog_id:\t42\ncgroup_id:\t{cgroup}\nattach_type:\t10\n"
            )
        };
        assert_eq!(attached_link(&link(1893)), Some((7, 42)));
        assert_eq!(attached_link(&link(0)), None);
        assert_eq!(attached_link("pos:\t0\nlink_type:\ttcx\nlink_id:\t7\nprog_id:\t42\n"), None);
    }

    #[test]
    fn a_kernel_that_lacks_something_is_told_what() {
        let invalid = || io::Error::from_raw_os_error(Errno::EINVAL as i32);
        for (program, log, expected) in [
            ("connect6", "53: (db) r1 = atomic\nBPF_STX uses reserved fields", "5.12"),
            ("connect4", "unrecognized bpf_ld_imm64 insn", "5.13"),
            ("getpeername4", "", "5.8"),
            ("recvmsg6", "", "5.2"),
            ("release", "", "5.9"),
        ] {
            let feature = lacking(program, &invalid(), log).expect(log);
            assert!(feature.contains(expected), "{program} {log}: {feature}");
        }
        assert_eq!(lacking("connect4", &invalid(), "0: R1=ctx()\nR0 !read_ok"), None);
        assert_eq!(lacking("connect4", &io::Error::from_raw_os_error(Errno::ENOMEM as i32), ""), None);
    }
}

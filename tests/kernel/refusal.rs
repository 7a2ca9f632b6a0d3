//! Where it cannot work it says why; where it can be made to work it is.

use std::error::Error as _;
use std::path::Path;

use dataplane::{DEFAULT_BPF_FS, Dataplane, Ebpf, Settings};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, SYSFS_MAGIC, statfs};
use nix::unistd::{Uid, setresuid};
use plan::{Frontend, Port, Protocol, Rules, Scheduler, Service};

use crate::node::{Node, another_process, backend, frontend, told};

#[test]
fn a_directory_that_does_not_fit_is_named() {
    let node = Node::new("fit");
    let elsewhere = tempfile::tempdir().unwrap();
    let good = node.settings();
    for (settings, expected) in [
        (Settings { cgroup: elsewhere.path().to_owned(), ..good.clone() }, "not a directory of a cgroup v2"),
        (Settings { cgroup: elsewhere.path().join("absent"), ..good.clone() }, "No such file or directory"),
        (Settings { bpf_fs: elsewhere.path().join("fairway"), ..good.clone() }, "not on a bpffs"),
    ] {
        let error = Ebpf::open(&settings).unwrap_err();
        let cause = error.source().expect("a reason").to_string();
        assert!(error.to_string().contains(&elsewhere.path().display().to_string()), "{error}");
        assert!(cause.contains(expected), "{error}: {cause}");
    }
    // What failed holds nothing: the right settings work.
    Ebpf::open(&good).unwrap();
}

#[test]
fn a_process_without_privileges_is_told_which_it_lacks() {
    let node = Node::new("privilege");
    let output = another_process("refusal::unprivileged", &node.settings(), "").output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        printed.contains("not permitted to load and attach eBPF programs: run as root or with CAP_BPF"),
        "{printed}"
    );
}

#[test]
#[ignore = "the other process of a_process_without_privileges_is_told_which_it_lacks"]
fn unprivileged() {
    let (settings, _) = told();
    let nobody = Uid::from_raw(65_534);
    setresuid(nobody, nobody, nobody).unwrap();
    println!("{}", Ebpf::open(&settings).unwrap_err());
}

#[test]
fn a_bpffs_is_mounted_at_the_usual_place_where_none_is() {
    let node = Node::new("mount");
    let settings = Settings { bpf_fs: DEFAULT_BPF_FS.into(), ..node.settings() };
    let usual = Path::new("/sys/fs/bpf");
    std::thread::scope(|scope| {
        let in_mounts_of_its_own = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            while statfs(usual).unwrap().filesystem_type() != SYSFS_MAGIC {
                umount2(usual, MntFlags::MNT_DETACH).unwrap();
            }
            drop(Ebpf::open(&settings).unwrap());
            assert_eq!(statfs(usual).unwrap().filesystem_type(), BPF_FS_MAGIC);
            drop(Ebpf::open(&settings).unwrap());
            Ebpf::cleanup(&settings.bpf_fs).unwrap();
            umount2(usual, MntFlags::empty()).unwrap();
            assert_eq!(statfs(usual).unwrap().filesystem_type(), SYSFS_MAGIC, "it was mounted once");
        };
        scope.spawn(in_mounts_of_its_own).join().unwrap();
    });
}

#[test]
fn what_cannot_be_served_is_named() {
    let node = Node::new("supports");
    let ebpf = node.open();
    let backends = |address: &str| Service::from_iter([backend(address.parse().unwrap())]);
    let sctp = Frontend::new([10, 254, 0, 1].into(), Port::new(80).unwrap(), Protocol::Sctp);
    for (frontend, service, expected) in [
        (frontend("tcp 10.254.0.1:80"), backends("127.0.0.2:80"), None),
        (frontend("udp [fd00:254::1]:80"), backends("[fd00::1]:80"), None),
        (
            frontend("tcp 10.254.0.1:80"),
            Service {
                rules: Rules { scheduler: Scheduler::NeverQueue, ..Rules::default() },
                ..backends("127.0.0.2:80")
            },
            Some("TCP 10.254.0.1:80: the scheduler never-queue is not served"),
        ),
        (sctp, Service::default(), Some("SCTP 10.254.0.1:80: SCTP is not served")),
        (
            frontend("tcp 10.254.0.1:80"),
            backends("[fd00::1]:80"),
            Some("TCP 10.254.0.1:80: [fd00::1]:80 is of the other address family"),
        ),
    ] {
        let refused = ebpf.supports(frontend, &service).err().map(|unsupported| unsupported.to_string());
        assert_eq!(refused.as_deref(), expected);
    }
}

#[test]
fn the_default_control_group_is_where_cgroup_v2_is_mounted() {
    assert_eq!(dataplane::default_cgroup().unwrap(), tests::mount_point("cgroup2").unwrap());
}

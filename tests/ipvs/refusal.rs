//! A kernel that lacks a module is told apart, and the module is named.

use std::fs;
use std::time::Duration;

use tests::Program;

use crate::site::Site;

const LIMIT: Duration = Duration::from_mins(1);
/// The program that the kernel calls for a module that it misses.
const LOADER: &str = "/proc/sys/kernel/modprobe";

/// Nobody finds a module while this lives.
struct NoModules(String);

impl NoModules {
    fn new() -> Self {
        let is_guest = fs::read_to_string("/proc/cmdline").unwrap().contains("guest.modules");
        assert!(is_guest, "only a guest may be left without modules");
        let loader = fs::read_to_string(LOADER).unwrap();
        fs::write(LOADER, "\n").unwrap();
        Self(loader)
    }
}

impl Drop for NoModules {
    fn drop(&mut self) {
        fs::write(LOADER, &self.0).unwrap();
    }
}

#[test]
fn a_module_that_is_missing_is_named() {
    let site = Site::new();
    let _none = NoModules::new();
    let start = |scheduler: &str| {
        let flags = [
            "--manifests=/tmp".to_owned(),
            "--proxy-mode=ipvs".into(),
            format!("--ipvs-scheduler={scheduler}"),
        ];
        site.inside_director(Program::ours("fairway-proxy").unwrap().arguments(flags)).run(LIMIT).unwrap()
    };
    // No other test loads this one.
    let (status, said) = start("dh");
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(said.contains("the kernel lacks the scheduler dh (module ip_vs_dh)"), "{said}");

    let loaded = fs::read_to_string("/proc/modules").unwrap();
    let names = loaded.lines().filter_map(|line| line.split(' ').next());
    let schedulers: Vec<&str> = names.filter(|name| name.starts_with("ip_vs_")).collect();
    for module in schedulers.into_iter().chain(["ip_vs"]) {
        site.tool("rmmod", &[module]);
    }
    let (status, said) = start("rr");
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(said.contains("the kernel lacks IPVS (module ip_vs)"), "{said}");
}

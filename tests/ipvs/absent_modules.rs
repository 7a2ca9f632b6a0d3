//! A kernel that lacks a module is told apart, and the module is named. By its name this comes first: then nobody uses
//! modules yet, and nobody is waited for.

use std::fs;
use std::time::Duration;

use tests::{Program, wait};

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

/// Removes IPVS from the kernel. Namespaces of tests before this one may hold on to it for a moment.
fn unload(site: &Site) {
    let loaded = || {
        let modules = fs::read_to_string("/proc/modules").unwrap();
        let names = modules.lines().filter_map(|line| line.split(' ').next());
        let mut names: Vec<String> =
            names.filter(|name| name.starts_with("ip_vs")).map(str::to_owned).collect();
        // The schedulers use it.
        names.sort_unstable_by_key(|name| name == "ip_vs");
        names
    };
    wait::until("IPVS is gone", LIMIT, || {
        loaded().iter().all(|module| site.director.command("rmmod", &[module]).is_ok())
    })
    .unwrap();
}

#[test]
fn a_module_that_is_missing_is_named() {
    let site = Site::new();
    let start = |scheduler: &str| {
        let flags = [
            "--manifests=/tmp".to_owned(),
            "--proxy-mode=ipvs".into(),
            format!("--ipvs-scheduler={scheduler}"),
        ];
        let program = Program::ours("fairway-proxy").unwrap().arguments(flags);
        let (status, said) = site.inside_director(program).run(LIMIT).unwrap();
        assert_eq!(status.code(), Some(69), "{said}");
        said
    };
    unload(&site);
    let none = NoModules::new();
    let said = start("rr");
    assert!(said.contains("the kernel lacks IPVS (module ip_vs)"), "{said}");
    drop(none);
    // It loads all that there is to load but this scheduler.
    drop(site.open());
    let _none = NoModules::new();
    let said = start("dh");
    assert!(said.contains("the kernel lacks the scheduler dh (module ip_vs_dh)"), "{said}");
}

//! What the doctor goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use dataplane::{Feature, Ipvs};
use nix::ifaddrs::getifaddrs;
use serde::Deserialize;

use crate::ask::{AskError, ask};
use crate::{interfaces, kube_proxy};

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// What the running proxy says; `None` where none answers.
    pub(super) running: Option<Running>,
    /// Why none answers.
    pub(super) unreachable: String,
    /// Below `/proc/sys`, as far as they could be read.
    pub(super) sysctls: BTreeMap<String, String>,
    /// What mode ebpf does without here; `None` where the kernel did not say.
    pub(super) lacking: Option<BTreeSet<Feature>>,
    pub(super) own_addresses: BTreeSet<IpAddr>,
    /// Of kube-proxy.
    pub(super) leftovers: Vec<String>,
    /// Programs that would tell of such and are not there.
    pub(super) unseen: Vec<&'static str>,
}

/// What a running proxy says.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) frontends: Vec<FrontendState>,
    /// In the Prometheus text format.
    pub(super) metrics: String,
    /// As `/proxyMode` has it.
    pub(super) mode: String,
}

/// One frontend, as `/frontends` tells of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FrontendState {
    #[serde(rename = "frontend")]
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) in_force: bool,
}

impl Running {
    /// The sum of a metric over its labels.
    pub(super) fn total(&self, name: &str) -> f64 {
        let of_metric = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        self.metrics.lines().filter_map(of_metric).sum()
    }

    /// The kinds of objects that the API server is not connected for.
    pub(super) fn away(&self) -> Vec<&str> {
        let kind = |line| {
            let (kind, value) =
                str::strip_prefix(line, "fairway_proxy_apiserver_connected{kind=\"")?.split_once("\"} ")?;
            (value == "0").then_some(kind)
        };
        self.metrics.lines().filter_map(kind).collect()
    }
}

impl Facts {
    pub(super) fn service_addresses(&self) -> BTreeSet<IpAddr> {
        let frontends = self.running.iter().flat_map(|running| &running.frontends);
        frontends.map(|frontend| frontend.address).collect()
    }

    /// The interfaces at which the source of a packet must be reached by that interface (`rp_filter` of 1; the larger of
    /// `all` and the interface's own counts).
    pub(super) fn strict_interfaces(&self) -> impl Iterator<Item = &str> {
        let value = |interface: &str| self.sysctls.get(&rp_filter(interface)).map_or("0", String::as_str);
        let interfaces = self.sysctls.keys().filter_map(|path| {
            path.strip_prefix("net/ipv4/conf/")?.strip_suffix("/rp_filter").filter(|name| *name != "all")
        });
        interfaces.filter(move |interface| value(interface).max(value("all")) == "1")
    }
}

fn rp_filter(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/rp_filter")
}

/// Asks the proxy that serves its metrics at `at`, and looks at the machine.
pub(crate) fn gather(at: SocketAddr) -> io::Result<Facts> {
    let own_addresses = interfaces::addresses()?;
    let mut facts = Facts { own_addresses, lacking: Feature::lacking().ok(), ..Facts::default() };
    facts.own_addresses.retain(|address| !address.is_loopback());
    match running(at) {
        Ok(running) => facts.running = Some(running),
        Err(error) => facts.unreachable = error.to_string(),
    }
    let names: BTreeSet<String> = getifaddrs()?.map(|interface| interface.interface_name).collect();
    let paths =
        ["net/ipv4/ip_forward".to_owned(), "net/ipv6/conf/all/forwarding".to_owned(), rp_filter("all")];
    for path in paths.into_iter().chain(names.iter().filter(|name| *name != "lo").map(|name| rp_filter(name)))
    {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(&path)) {
            facts.sysctls.insert(path, value.trim().to_owned());
        }
    }
    let is_in_use = facts.running.as_ref().is_some_and(|running| running.mode == "ipvs");
    if names.contains(Ipvs::INTERFACE) && !is_in_use {
        facts.leftovers.push(format!("the interface {}", Ipvs::INTERFACE));
    }
    facts.look_for_tables();
    Ok(facts)
}

fn running(at: SocketAddr) -> Result<Running, AskError> {
    let frontends = ask(at, "/frontends")?;
    let frontends = serde_json::from_str(&frontends).map_err(AskError::Read)?;
    Ok(Running { frontends, metrics: ask(at, "/metrics")?, mode: ask(at, "/proxyMode")? })
}

impl Facts {
    /// By the programs that show them: they know both of the kernel's ways to keep rules.
    fn look_for_tables(&mut self) {
        match output("nft", &["list", "tables"]) {
            Some(tables) => {
                let tables = tables.lines().filter(|line| line.ends_with(" kube-proxy"));
                self.leftovers.extend(tables.map(|table| format!("nftables {table}")));
            }
            None => self.unseen.push("nft"),
        }
        for (program, family) in [("iptables-save", "IPv4"), ("ip6tables-save", "IPv6")] {
            match output(program, &[]) {
                Some(rules) => {
                    let chains = rules.lines().filter(|line| is_chain_of_kube_proxy(line)).count();
                    if chains > 0 {
                        self.leftovers.push(format!("iptables ({family}): {chains} chains KUBE-…"));
                    }
                }
                None => self.unseen.push(program),
            }
        }
    }
}

/// Whether a line of iptables-save declares a chain of kube-proxy's.
pub(super) fn is_chain_of_kube_proxy(line: &str) -> bool {
    kube_proxy::declared_chain(line).is_some_and(kube_proxy::is_chain)
}

/// What a program prints, if it is installed and succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

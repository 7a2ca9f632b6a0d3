//! How Services are served, in the words of a `KubeProxyConfiguration`.

use plan::Scheduler;

use super::check::Reading;
use super::mode::{self, Mode};
use crate::translate::{NodePortAddresses, Settings};

/// What `reading` comes to. Of `detectLocalMode` only matters whether it can tell anything: a pod of this node is known by
/// where its packets come from.
pub(super) fn settings(reading: &Reading) -> Settings {
    let networks = reading.texts("nodePortAddresses").filter_map(|text| text.trim().parse().ok()).collect();
    let is_given = |path| reading.text(path).is_some();
    Settings {
        scheduler: match mode::mode(reading) {
            Mode::Ipvs(settings) => settings.scheduler,
            Mode::Ebpf => reading.text("ipvs.scheduler").and_then(nearest_scheduler).unwrap_or_default(),
        },
        node_port_addresses: match reading.texts("nodePortAddresses").next() {
            None | Some("primary") => NodePortAddresses::Primary,
            Some(_) => NodePortAddresses::Within(networks),
        },
        masquerade_all: reading.flag("iptables.masqueradeAll") || reading.flag("nftables.masqueradeAll"),
        detects_local: match reading.text("detectLocalMode") {
            Some("NodeCIDR") => true,
            Some("BridgeInterface") => is_given("detectLocal.bridgeInterface"),
            Some("InterfaceNamePrefix") => is_given("detectLocal.interfaceNamePrefix"),
            Some(_) | None => is_given("clusterCIDR"),
        },
        ..Settings::default()
    }
}

/// What comes nearest to a scheduler of IPVS (`ipvs.scheduler`), where anything does; our own names are taken too. No
/// endpoint has a weight, so the weighted ones are what they are without.
pub(super) fn nearest_scheduler(name: &str) -> Option<Scheduler> {
    match name {
        "rr" | "wrr" => Some(Scheduler::RoundRobin),
        "lc" | "wlc" => Some(Scheduler::LeastConnections),
        "mh" => Some(Scheduler::Maglev),
        name => Scheduler::named(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read;

    fn serving(text: &str) -> Settings {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        read(&format!("{head}{text}")).expect("valid").0.serving
    }

    #[test]
    fn node_ports_are_at_the_primary_addresses_unless_networks_are_given() {
        let within = |texts: &[&str]| {
            NodePortAddresses::Within(texts.iter().map(|text| text.parse().expect("a network")).collect())
        };
        let cases = [
            ("", NodePortAddresses::Primary),
            ("nodePortAddresses: []\n", NodePortAddresses::Primary),
            ("nodePortAddresses: [primary]\n", NodePortAddresses::Primary),
            ("nodePortAddresses: [10.0.0.0/8, 'fd00::/8']\n", within(&["10.0.0.0/8", "fd00::/8"])),
        ];
        for (text, expected) in cases {
            assert_eq!(serving(text).node_port_addresses, expected, "{text}");
        }
    }

    #[test]
    fn pods_are_told_apart_where_there_is_something_to_tell_them_by() {
        let cases = [
            ("", false),
            ("clusterCIDR: 10.0.0.0/8\n", true),
            ("detectLocalMode: NodeCIDR\n", true),
            ("detectLocalMode: BridgeInterface\nclusterCIDR: 10.0.0.0/8\n", false),
            ("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}\n", true),
            ("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n", true),
        ];
        for (text, expected) in cases {
            assert_eq!(serving(text).detects_local, expected, "{text}");
        }
    }

    #[test]
    fn schedulers_of_ipvs_have_their_like_here() {
        let cases = [
            ("", Scheduler::RoundRobin),
            ("wrr", Scheduler::RoundRobin),
            ("wlc", Scheduler::LeastConnections),
            ("mh", Scheduler::Maglev),
            ("random", Scheduler::Random),
            ("sed", Scheduler::RoundRobin),
        ];
        for (name, expected) in cases {
            assert_eq!(serving(&format!("ipvs: {{scheduler: '{name}'}}\n")).scheduler, expected, "{name}");
        }
    }

    #[test]
    fn either_mode_masquerades_all() {
        for (text, expected) in [
            ("", false),
            ("iptables: {masqueradeAll: true}\n", true),
            ("nftables: {masqueradeAll: true}\n", true),
        ] {
            assert_eq!(serving(text).masquerade_all, expected, "{text}");
        }
    }
}

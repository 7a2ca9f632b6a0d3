//! What the dataplane is told of packets, and what it tells of them.

use dataplane::{PacketCounter, PacketCounters, PacketForwarding, PacketSettings, Surroundings};
use ipnet::IpNet;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};
use serde_json::Value;

use crate::config::Config;
use crate::metrics::gauge;

/// Which packets are served, and which of them come from pods (`detectLocalMode`).
pub(crate) fn settings(
    config: &Config,
    interfaces: Vec<String>,
    forwarding: PacketForwarding,
    flow_entries: u32,
) -> PacketSettings {
    let text = |path: &str| config.document.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (mut pods, mut pod_interfaces) = (Vec::new(), Vec::new());
    match text("/detectLocalMode") {
        "" | "ClusterCIDR" => pods = first_of_each_family(text("/clusterCIDR")),
        "BridgeInterface" => pod_interfaces.push(text("/detectLocal/bridgeInterface").to_owned()),
        "InterfaceNamePrefix" => {
            pod_interfaces.push(format!("{}*", text("/detectLocal/interfaceNamePrefix")));
        }
        mode => tracing::warn!(
            mode,
            "pods are not told from others by this mode, all packets count as from outside"
        ),
    }
    PacketSettings { interfaces, pods, pod_interfaces, forwarding, flow_entries }
}

/// The same for mode ipvs.
pub(crate) fn surroundings(config: &Config) -> Surroundings {
    let PacketSettings { pods, pod_interfaces, .. } =
        settings(config, Vec::new(), PacketForwarding::default(), PacketSettings::default().flow_entries);
    let bit = config.document.pointer("/iptables/masqueradeBit").and_then(Value::as_u64);
    let bit = bit.and_then(|bit| u8::try_from(bit).ok());
    let kept = Surroundings::default().masquerade_bit;
    Surroundings { pods, pod_interfaces, masquerade_bit: bit.unwrap_or(kept) }
}

/// As kube-proxy, which runs once per family.
fn first_of_each_family(networks: &str) -> Vec<IpNet> {
    let networks: Vec<IpNet> =
        networks.split(',').filter_map(|network| network.trim().parse().ok()).collect();
    let first = |ipv4: bool| networks.iter().find(|network| network.addr().is_ipv4() == ipv4).copied();
    [first(true), first(false)].into_iter().flatten().collect()
}

/// One name of an interface, whole or with `*` at its end.
pub(crate) fn interface_name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 15;
    let name = text.strip_suffix('*').unwrap_or(text);
    let odd = |letter: char| letter.is_whitespace() || letter == '/' || letter == '*';
    if text.is_empty() || name.len() > LONGEST || name.contains(odd) {
        return Err(format!("must be the name of an interface, as in eth0 or cali*, found {text:?}"));
    }
    Ok(text.to_owned())
}

/// How packets go on.
pub(crate) fn forwarding(text: &str) -> Result<PacketForwarding, String> {
    match text {
        "redirect" => Ok(PacketForwarding::Redirect),
        "stack" => Ok(PacketForwarding::Stack),
        _ => Err(format!("must be redirect or stack, found {text:?}")),
    }
}

/// The counters of the packet programs, read from the kernel when somebody asks.
pub(crate) struct PacketMetrics {
    counters: PacketCounters,
    packets: IntCounter,
    bytes: IntCounter,
    opened: IntCounter,
    resumed: IntCounter,
    restored: IntCounter,
    flow_entries: IntGauge,
    flow_capacity: IntGauge,
    dropped: IntCounterVec,
}

impl PacketMetrics {
    /// Publishes them in `registry`. Fails where a name is taken.
    pub(crate) fn register(registry: &Registry, counters: PacketCounters) -> prometheus::Result<()> {
        let dropped = Opts::new(
            "fairway_proxy_packets_dropped_total",
            "Packets for services that were not forwarded, by reason",
        );
        registry.register(Box::new(Self {
            counters,
            packets: IntCounter::new("fairway_proxy_packets_total", "Packets translated")?,
            bytes: IntCounter::new("fairway_proxy_packet_bytes_total", "Bytes of packets translated")?,
            opened: IntCounter::new(
                "fairway_proxy_packet_connections_total",
                "Conversations that began packet by packet",
            )?,
            resumed: IntCounter::new(
                "fairway_proxy_packet_connections_resumed_total",
                "TCP connections met under way whose entry was lost, or kept by another node",
            )?,
            restored: IntCounter::new(
                "fairway_proxy_packet_connections_restored_total",
                "Entries of live conversations pushed out of the full table and put back",
            )?,
            flow_entries: IntGauge::new(
                "fairway_proxy_packet_flow_entries",
                "Entries of the table of conversations that live, two for each conversation",
            )?,
            flow_capacity: IntGauge::new(
                "fairway_proxy_packet_flow_capacity",
                "Entries that the table of conversations has room for",
            )?,
            dropped: IntCounterVec::new(dropped, &["reason"])?,
        }))
    }

    fn update(&self) -> Result<(), dataplane::Error> {
        for counter in PacketCounter::ALL {
            let (metric, value) = (self.metric(counter), self.counters.read(counter)?);
            metric.inc_by(value.saturating_sub(metric.get()));
        }
        self.flow_entries.set(gauge(self.counters.flow_entries()));
        self.flow_capacity.set(gauge(self.counters.flow_capacity()));
        Ok(())
    }

    fn metric(&self, counter: PacketCounter) -> IntCounter {
        let dropped = |reason: &str| self.dropped.with_label_values(&[reason]);
        match counter {
            PacketCounter::Packets => self.packets.clone(),
            PacketCounter::Bytes => self.bytes.clone(),
            PacketCounter::Opened => self.opened.clone(),
            PacketCounter::Resumed => self.resumed.clone(),
            PacketCounter::Restored => self.restored.clone(),
            PacketCounter::Refused => dropped("refused"),
            PacketCounter::NoLocalBackend => dropped("no_local_endpoint"),
            PacketCounter::Unallocated => dropped("unallocated_address"),
            PacketCounter::SourceRange => dropped("source_range"),
            PacketCounter::NoPort => dropped("no_port"),
            PacketCounter::NoRoute => dropped("no_route"),
            PacketCounter::TooBig => dropped("too_big"),
            PacketCounter::HopLimit => dropped("hop_limit"),
            PacketCounter::Failed => dropped("failed"),
        }
    }
}

impl Collector for PacketMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let simple = [&self.packets, &self.bytes, &self.opened, &self.resumed, &self.restored];
        let gauges = [&self.flow_entries, &self.flow_capacity].into_iter().flat_map(Collector::desc);
        simple.into_iter().flat_map(Collector::desc).chain(gauges).chain(self.dropped.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Err(error) = self.update() {
            tracing::warn!(error = daemon::exit::chain(&error), "counters of packets not read");
        }
        let simple = [&self.packets, &self.bytes, &self.opened, &self.resumed, &self.restored];
        let gauges = [&self.flow_entries, &self.flow_capacity].into_iter().flat_map(Collector::collect);
        simple.into_iter().flat_map(Collector::collect).chain(gauges).chain(self.dropped.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_of(text: &str) -> PacketSettings {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let (config, _) = crate::config::read(&format!("{head}{text}")).expect("valid");
        settings(&config, vec!["*".to_owned()], PacketForwarding::Redirect, 1024)
    }

    #[test]
    fn pods_are_known_as_kube_proxy_knows_them() {
        let networks = |networks: &[&str]| -> Vec<IpNet> {
            networks.iter().map(|network| network.parse().expect("a network")).collect()
        };
        for (text, pods, interfaces) in [
            ("", &[][..], &[][..]),
            ("clusterCIDR: 10.42.0.0/16,10.43.0.0/16,fd42::/56", &["10.42.0.0/16", "fd42::/56"], &[]),
            (
                "clusterCIDR: 10.42.0.0/16\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
                &[],
                &["cni0"],
            ),
            (
                "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}",
                &[],
                &["cali*"],
            ),
        ] {
            let found = settings_of(text);
            assert_eq!(found.pods, networks(pods), "{text}");
            assert_eq!(found.pod_interfaces, interfaces, "{text}");
        }
    }

    #[test]
    fn an_interface_has_a_name_that_one_can_have() {
        for good in ["eth0", "cali*", "*", "bond0.100"] {
            assert_eq!(interface_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "eth 0", "a*b", "**", "../eth0", "sixteen-letters-"] {
            assert!(interface_name(bad).is_err(), "{bad}");
        }
    }
}

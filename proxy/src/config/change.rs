//! What another configuration than the one in force asks for. Pure.

use dataplane::IpvsSettings;
use serde_json::Value;

use super::table::FIELDS;
use super::{Config, Logging, Mode};

/// What only a start applies: connections, programs and rules are made by it.
const AT_START: &[&str] = &[
    "hostnameOverride",
    "mode",
    "detectLocalMode",
    "clusterCIDR",
    "clientConnection.kubeconfig",
    "detectLocal.bridgeInterface",
    "detectLocal.interfaceNamePrefix",
    "iptables.masqueradeBit",
];
/// In mode `ebpf` it matters to what an earlier mode left alone, which is told once.
const EXCLUDED: &str = "ipvs.excludeCIDRs";

/// How another configuration comes into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Only a start applies these fields; with them waits whatever else is different.
    AtStart(Vec<&'static str>),
    /// Everything is followed at once. Whoever reads the configuration is to be given the new one after these steps.
    InPlace {
        /// The fields that are different.
        fields: Vec<&'static str>,
        /// What is to be set beyond, in this order: what can be refused comes first.
        steps: Vec<Step>,
    },
}

/// Something that belongs to the whole process or the whole node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The kernel's IP virtual server.
    VirtualServer(IpvsSettings),
    /// How log lines are written, and which.
    Logging(Logging),
    /// How unlikely the kernel is to kill this process.
    OomScore(i64),
}

/// What is to be done so that `new` is in force where `old` is; `None` where both say the same.
pub(crate) fn change(old: &Config, new: &Config) -> Option<Change> {
    let differs = |path: &str| value(&old.document, path) != value(&new.document, path);
    let fields = || FIELDS.iter().filter(|field| differs(field.path));
    let mode = Some(new.mode.name());
    let at_start = fields().filter(|field| match field.path {
        EXCLUDED => new.mode == Mode::Ebpf,
        path => AT_START.contains(&path) && field.not_followed(mode).is_none(),
    });
    let at_start: Vec<_> = at_start.map(|field| field.path).collect();
    if !at_start.is_empty() {
        return Some(Change::AtStart(at_start));
    }
    let fields: Vec<_> = fields().map(|field| field.path).collect();
    (!fields.is_empty()).then(|| Change::InPlace { fields, steps: steps(old, new) })
}

fn steps(old: &Config, new: &Config) -> Vec<Step> {
    let virtual_server = match new.mode {
        Mode::Ipvs(settings) if new.mode != old.mode => Some(Step::VirtualServer(settings)),
        Mode::Ipvs(_) | Mode::Ebpf => None,
    };
    let logging = (new.logging != old.logging).then_some(Step::Logging(new.logging));
    let oom_score = new.oom_score_adjustment;
    let oom_score = (oom_score != old.oom_score_adjustment).then_some(Step::OomScore(oom_score));
    [virtual_server, logging, oom_score].into_iter().flatten().collect()
}

fn value<'document>(document: &'document Value, path: &str) -> &'document Value {
    path.split('.').fold(document, |section, name| &section[name])
}

#[cfg(test)]
mod tests {
    use daemon::telemetry::Format;
    use dataplane::Timeouts;
    use plan::Scheduler;

    use super::*;
    use crate::config::field::Effect;
    use crate::config::read;

    fn config(text: &str) -> Config {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        read(&format!("{head}{text}\n")).expect("valid").0
    }

    fn in_place(fields: &[&'static str], steps: &[Step]) -> Change {
        Change::InPlace { fields: fields.to_vec(), steps: steps.to_vec() }
    }

    fn at_start(fields: &[&'static str]) -> Change {
        Change::AtStart(fields.to_vec())
    }

    #[test]
    fn what_says_the_same_is_no_change() {
        let cases = [
            ("bindAddressHardFail: true", "# a remark\nbindAddressHardFail: true"),
            ("", "iptables: {syncPeriod: 30s}"),
            ("ipvs: {syncPeriod: 60s}", "ipvs: {syncPeriod: 1m}"),
            ("mode: iptables", "mode: nftables"),
        ];
        for (old, new) in cases {
            assert_eq!(change(&config(old), &config(new)), None, "{old:?} {new:?}");
        }
    }

    #[test]
    fn what_is_safe_is_followed_in_place() {
        let json = Logging { format: Format::Json, verbosity: 4 };
        let cases = [
            ("healthzBindAddress: 127.0.0.1:1", in_place(&["healthzBindAddress"], &[])),
            // The default of both addresses.
            (
                "bindAddress: '::'",
                in_place(&["bindAddress", "healthzBindAddress", "metricsBindAddress"], &[]),
            ),
            ("bindAddressHardFail: true", in_place(&["bindAddressHardFail"], &[])),
            ("nodePortAddresses: [10.0.0.0/8]", in_place(&["nodePortAddresses"], &[])),
            ("iptables: {masqueradeAll: true}", in_place(&["iptables.masqueradeAll"], &[])),
            ("ipvs: {scheduler: mh}", in_place(&["ipvs.scheduler"], &[])),
            ("oomScoreAdj: 5", in_place(&["oomScoreAdj"], &[Step::OomScore(5)])),
            (
                "logging: {format: json, verbosity: 4}",
                in_place(&["logging.format", "logging.verbosity"], &[Step::Logging(json)]),
            ),
            // It has no effect, and `/configz` shows it.
            ("conntrack: {min: 1}", in_place(&["conntrack.min"], &[])),
            ("iptables: {masqueradeBit: 5}", in_place(&["iptables.masqueradeBit"], &[])),
        ];
        for (new, expected) in cases {
            assert_eq!(change(&config(""), &config(new)), Some(expected), "{new:?}");
        }
    }

    #[test]
    fn the_virtual_server_is_told_what_concerns_it() {
        let settings = IpvsSettings {
            scheduler: Scheduler::ShortestExpectedDelay,
            strict_arp: true,
            timeouts: Timeouts { tcp: std::time::Duration::from_mins(1), ..Timeouts::default() },
            ..IpvsSettings::default()
        };
        let fields = ["ipvs.scheduler", "ipvs.strictARP", "ipvs.tcpTimeout"];
        let cases = [
            (
                "scheduler: sed, strictARP: true, tcpTimeout: 1m",
                in_place(&fields, &[Step::VirtualServer(settings)]),
            ),
            ("excludeCIDRs: [10.0.0.0/8]", in_place(&["ipvs.excludeCIDRs"], &[])),
            ("syncPeriod: 1s, minSyncPeriod: 1s", in_place(&["ipvs.syncPeriod", "ipvs.minSyncPeriod"], &[])),
        ];
        for (new, expected) in cases {
            let new = config(&format!("mode: ipvs\nipvs: {{{new}}}"));
            assert_eq!(change(&config("mode: ipvs"), &new), Some(expected));
        }
    }

    #[test]
    fn what_programs_rules_and_connections_are_made_by_waits_for_a_start() {
        let cases = [
            ("", "mode: ipvs", at_start(&["mode"])),
            ("", "hostnameOverride: n1", at_start(&["hostnameOverride"])),
            ("", "clusterCIDR: 10.0.0.0/8\noomScoreAdj: 5", at_start(&["clusterCIDR"])),
            ("", "clientConnection: {kubeconfig: /k}", at_start(&["clientConnection.kubeconfig"])),
            ("", "ipvs: {excludeCIDRs: [10.0.0.0/8]}", at_start(&["ipvs.excludeCIDRs"])),
            ("mode: ipvs", "mode: ipvs\niptables: {masqueradeBit: 5}", at_start(&["iptables.masqueradeBit"])),
        ];
        for (old, new, expected) in cases {
            assert_eq!(change(&config(old), &config(new)), Some(expected), "{old:?} {new:?}");
        }
    }

    /// A field that is new must be thought of here.
    #[test]
    fn every_field_that_is_followed_is_known_to_be_safe_or_not() {
        let safe = [
            "bindAddress",
            "healthzBindAddress",
            "metricsBindAddress",
            "bindAddressHardFail",
            "nodePortAddresses",
            "oomScoreAdj",
            "logging.format",
            "logging.verbosity",
            "iptables.masqueradeAll",
            "nftables.masqueradeAll",
            "ipvs.syncPeriod",
            "ipvs.minSyncPeriod",
            "ipvs.scheduler",
            EXCLUDED,
            "ipvs.strictARP",
            "ipvs.tcpTimeout",
            "ipvs.tcpFinTimeout",
            "ipvs.udpTimeout",
        ];
        let followed = FIELDS.iter().filter(|field| !matches!(field.effect, Effect::None(_)));
        for field in followed {
            assert!(
                AT_START.contains(&field.path) ^ safe.contains(&field.path),
                "{} is followed in place, or not",
                field.path
            );
        }
    }
}

//! `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`), read so that every problem is named at once.
//!
//! Every field of kube-proxy's is known. Those that mean nothing to this proxy, or nothing yet, are read past; where one
//! is set to anything but its default that is worth a warning, for its author expects something of it. A field that
//! kube-proxy does not know either is a mistake.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use daemon::document::{Document, Section, parse_duration};
use daemon::problems::{Problem, Problems};
use serde_json::Value;

use super::{Access, Config, HEALTHZ_PORT, METRICS_PORT, Source, bind_address};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// `mode`: how services are to be implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not said, or `ebpf`.
    Ebpf,
    /// One of kube-proxy's own. An existing configuration must start, and clients cannot tell the difference, so eBPF
    /// is used and the log says so.
    KubeProxys(&'static str),
}

impl Mode {
    /// The values of `mode` and `--proxy-mode`.
    pub const CHOICES: [(&'static str, Self); 5] = [
        ("", Self::Ebpf),
        ("ebpf", Self::Ebpf),
        ("iptables", Self::KubeProxys("iptables")),
        ("ipvs", Self::KubeProxys("ipvs")),
        ("nftables", Self::KubeProxys("nftables")),
    ];

    /// What there is to say about it.
    pub fn warning(self) -> Option<String> {
        match self {
            Self::Ebpf => None,
            Self::KubeProxys(name) => Some(format!("{name} is not offered, ebpf is used instead")),
        }
    }
}

/// Reads the text of a `KubeProxyConfiguration`: what it comes to with what there is to warn of, or all its problems.
pub fn read(text: &str) -> Result<(Config, Vec<Problem>), Problems> {
    let mut warnings = Problems::default();
    let (config, problems) = Document::parse(text).read(|root| read_root(root, &mut warnings));
    Ok((problems.or(Some(config))?, warnings.list().to_vec()))
}

fn read_root(root: &mut Section<'_>, warnings: &mut Problems) -> Config {
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let found = root.choice(field, &[(expected, ())]);
        root.require(field, found);
    }
    if let Some(warning) = root.choice("mode", &Mode::CHOICES).and_then(Mode::warning) {
        warnings.add("mode", warning);
    }
    let bind = root.parsed::<IpAddr>("bindAddress", "an IP address").unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let defaults = Config::default();
    let connection = root.section("clientConnection", |section| {
        past(section, CLIENT_CONNECTION, warnings);
        section.text("kubeconfig").filter(|path| !path.is_empty()).map(PathBuf::from)
    });
    let config = Config {
        source: Source::Cluster(Access { kubeconfig: connection.flatten(), master: None }),
        hostname_override: root.text("hostnameOverride").as_deref().and_then(node_name),
        healthz: Some(bound(root, "healthzBindAddress", unspecified(bind), HEALTHZ_PORT)),
        metrics: Some(bound(root, "metricsBindAddress", loopback(bind), METRICS_PORT)),
        bind_address_hard_fail: root.flag("bindAddressHardFail").unwrap_or(defaults.bind_address_hard_fail),
        ..defaults
    };
    past(root, TOP, warnings);
    for (name, fields) in SECTIONS {
        root.section(name, |section| past(section, fields, warnings));
    }
    for free in FREE {
        let given = root.section(free, |section| !section.accept_rest().values().all(is_zero));
        if given == Some(true) {
            warnings.add(*free, WITHOUT_EFFECT);
        }
    }
    config
}

/// A node's name as Kubernetes spells it; `None` for nothing but blanks.
pub(crate) fn node_name(text: &str) -> Option<String> {
    Some(text.trim().to_lowercase()).filter(|name| !name.is_empty())
}

const fn unspecified(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

const fn loopback(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    }
}

/// An address to serve at; absent or empty is the default, of the family of `bindAddress`.
fn bound(root: &mut Section<'_>, field: &str, default: IpAddr, port: u16) -> SocketAddr {
    let default = SocketAddr::new(default, port);
    match root.text(field) {
        None => default,
        Some(text) if text.is_empty() => default,
        Some(text) => bind_address(&text, port).unwrap_or_else(|wrong| {
            root.problem(field, format!("{wrong}, found {text:?}"));
            default
        }),
    }
}

const WITHOUT_EFFECT: &str = "has no effect in this version";

/// A field that is read past: its type and what it is when nobody set it.
#[derive(Clone, Copy)]
enum Past {
    /// Text, by default empty.
    Text,
    /// Text with a default.
    TextOr(&'static str),
    /// True or false.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A duration.
    Duration(&'static str),
    /// A list, by default empty.
    List,
}

impl Past {
    /// The name of the type, unless `value` is of it.
    fn mismatch(self, value: &Value) -> Option<&'static str> {
        let (fits, expected) = match self {
            Self::Text | Self::TextOr(_) => (value.is_string(), "text"),
            Self::Flag(_) => (value.is_boolean(), "true or false"),
            Self::Number(_) => (value.is_number(), "a number"),
            Self::List => (value.is_array(), "a list"),
            Self::Duration(_) => (
                value.as_str().is_some_and(|text| parse_duration(text).is_some()),
                "a duration such as 100ms or 1m30s",
            ),
        };
        (!fits).then_some(expected)
    }

    fn is_default(self, value: &Value) -> bool {
        let default = match self {
            Self::Text | Self::List => return is_zero(value),
            Self::TextOr(text) => value.as_str() == Some(text),
            Self::Flag(flag) => return value.as_bool() == Some(flag),
            Self::Number(number) => value.as_i64() == Some(number),
            Self::Duration(text) => value.as_str().and_then(parse_duration) == parse_duration(text),
        };
        // Where a default is not the zero value, kube-proxy reads zero as "not set".
        default || is_zero(value)
    }
}

/// What Go writes for a field that nobody set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => {
            matches!(text.as_str(), "" | "0") || parse_duration(text).is_some_and(|it| it.is_zero())
        }
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_zero),
    }
}

fn past(section: &mut Section<'_>, fields: &[(&str, Past)], warnings: &mut Problems) {
    for &(field, expected) in fields {
        let Some(value) = section.value(field) else { continue };
        match expected.mismatch(&value) {
            Some(expected) => section.problem(field, format!("must be {expected}, found {value}")),
            None if expected.is_default(&value) => {}
            None => warnings.add(section.path(field), WITHOUT_EFFECT),
        }
    }
}

type Fields = &'static [(&'static str, Past)];

const TOP: Fields = &[
    ("clusterCIDR", Past::Text),
    ("configSyncPeriod", Past::Duration("15m")),
    ("detectLocalMode", Past::TextOr("ClusterCIDR")),
    ("enableProfiling", Past::Flag(false)),
    ("nodePortAddresses", Past::List),
    ("oomScoreAdj", Past::Number(-999)),
    ("portRange", Past::Text),
    ("showHiddenMetricsForVersion", Past::Text),
    ("windowsRunAsService", Past::Flag(false)),
];

const CLIENT_CONNECTION: Fields = &[
    ("acceptContentTypes", Past::Text),
    ("contentType", Past::TextOr("application/vnd.kubernetes.protobuf")),
    ("qps", Past::Number(5)),
    ("burst", Past::Number(10)),
];

const SECTIONS: &[(&str, Fields)] = &[
    (
        "conntrack",
        &[
            ("maxPerCore", Past::Number(32_768)),
            ("min", Past::Number(131_072)),
            ("tcpEstablishedTimeout", Past::Duration("24h")),
            ("tcpCloseWaitTimeout", Past::Duration("1h")),
            ("tcpBeLiberal", Past::Flag(false)),
            ("udpTimeout", Past::Duration("0s")),
            ("udpStreamTimeout", Past::Duration("0s")),
        ],
    ),
    ("detectLocal", &[("bridgeInterface", Past::Text), ("interfaceNamePrefix", Past::Text)]),
    (
        "iptables",
        &[
            ("masqueradeBit", Past::Number(14)),
            ("masqueradeAll", Past::Flag(false)),
            ("localhostNodePorts", Past::Flag(true)),
            ("syncPeriod", Past::Duration("30s")),
            ("minSyncPeriod", Past::Duration("1s")),
        ],
    ),
    (
        "ipvs",
        &[
            ("syncPeriod", Past::Duration("30s")),
            ("minSyncPeriod", Past::Duration("0s")),
            ("scheduler", Past::TextOr("rr")),
            ("excludeCIDRs", Past::List),
            ("strictARP", Past::Flag(false)),
            ("tcpTimeout", Past::Duration("0s")),
            ("tcpFinTimeout", Past::Duration("0s")),
            ("udpTimeout", Past::Duration("0s")),
        ],
    ),
    (
        "nftables",
        &[
            ("masqueradeBit", Past::Number(14)),
            ("masqueradeAll", Past::Flag(false)),
            ("syncPeriod", Past::Duration("30s")),
            ("minSyncPeriod", Past::Duration("1s")),
        ],
    ),
    (
        "winkernel",
        &[
            ("networkName", Past::Text),
            ("sourceVip", Past::Text),
            ("enableDSR", Past::Flag(false)),
            ("rootHnsEndpointName", Past::Text),
            ("forwardHealthCheckVip", Past::Flag(false)),
        ],
    ),
];

/// Sections whose fields are not kube-proxy's to name: a map of gates, and the logging of component-base.
const FREE: &[&str] = &["featureGates", "logging"];

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn warnings(text: &str) -> Vec<String> {
        let (_, warnings) = read(&format!("{HEAD}{text}")).expect("valid");
        warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_kubeadm_configuration_starts_as_it_is() {
        let text = include_str!("../../../tests/fixtures/kube-proxy-config.yaml");
        let (config, warnings) = read(text).expect("valid");
        let kubeconfig = Some(PathBuf::from("/var/lib/kube-proxy/kubeconfig.conf"));
        let source = Source::Cluster(Access { kubeconfig, master: None });
        assert_eq!(config, Config { source, ..Config::default() });
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, ["clusterCIDR: has no effect in this version"]);
    }

    #[test]
    fn the_configuration_of_the_daemon_set_is_flawless() {
        let text = include_str!("../../deploy/config.yaml");
        let map: Value = serde_saphyr::from_str(text).expect("a ConfigMap");
        let (config, warnings) = read(map["data"]["config.yaml"].as_str().expect("a file")).expect("valid");
        assert_eq!(warnings, []);
        assert!(matches!(config.source, Source::Cluster(Access { kubeconfig: Some(_), .. })));
    }

    #[test]
    fn nothing_but_the_head_is_the_default() {
        assert_eq!(read(HEAD), Ok((Config::default(), Vec::new())));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = "apiVersion: v1\nbindAdress: 0.0.0.0\nbindAddress: nowhere\nmode: userspace\n\
            healthzBindAddress: here\nbindAddressHardFail: maybe\niptables:\n  syncPeriod: 30\n  colour: red\n\
            nodePortAddresses: 10.0.0.0/8\nfeatureGates: [A]\n";
        let problems = read(text).expect_err("invalid").to_string();
        let expected = [
            "apiVersion: must be one of kubeproxy.config.k8s.io/v1alpha1, found \"v1\"",
            "kind: is required",
            "mode: must be one of ebpf, iptables, ipvs, nftables, found \"userspace\"",
            "bindAddress: must be an IP address, found \"nowhere\"",
            "healthzBindAddress: must be an IP address with or without a port, as in 127.0.0.1:10249, found \"here\"",
            "bindAddressHardFail: must be true or false, found \"maybe\"",
            "nodePortAddresses: must be a list, found \"10.0.0.0/8\"",
            "iptables.syncPeriod: must be a duration such as 100ms or 1m30s, found 30",
            "iptables.colour: unknown field",
            "featureGates: must be a mapping, found [\"A\"]",
            "bindAdress: unknown field",
        ];
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_has_no_effect_is_said_once_and_defaults_are_not_worth_it() {
        let defaults = "configSyncPeriod: 15m0s\noomScoreAdj: -999\niptables: {masqueradeBit: 14, syncPeriod: 30s}\n\
            ipvs: {scheduler: rr}\nlogging: {verbosity: 0}\n";
        assert_eq!(warnings(defaults), [""; 0]);
        let set = "mode: ipvs\nipvs: {scheduler: wrr, strictARP: true}\niptables: {localhostNodePorts: false}\n\
            featureGates: {A: true}\n";
        let expected = [
            "mode: ipvs is not offered, ebpf is used instead",
            "iptables.localhostNodePorts: has no effect in this version",
            "ipvs.scheduler: has no effect in this version",
            "ipvs.strictARP: has no effect in this version",
            "featureGates: has no effect in this version",
        ];
        assert_eq!(warnings(set), expected);
    }

    #[test]
    fn addresses_and_names_are_read_as_kube_proxy_reads_them() {
        let (config, _) =
            read(&format!("{HEAD}bindAddress: '::'\nmetricsBindAddress: 0.0.0.0\nhostnameOverride: ' N1'\n"))
                .expect("valid");
        assert_eq!(config.healthz.map(|address| address.to_string()).as_deref(), Some("[::]:10256"));
        assert_eq!(config.metrics.map(|address| address.to_string()).as_deref(), Some("0.0.0.0:10249"));
        assert_eq!(config.hostname_override.as_deref(), Some("n1"));
    }
}

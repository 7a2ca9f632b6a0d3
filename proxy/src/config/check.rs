//! `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`), read so that every problem is named at once.
//!
//! Every field of kube-proxy's is known. Those that mean nothing to this proxy, or nothing yet, are read past; where one
//! is set to anything but its default that is worth a warning, for its author expects something of it. A field that
//! kube-proxy does not know either is a mistake. Flags come here as the document that they stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use daemon::document::{Document, Section};
use daemon::problems::{Problem, Problems};
use daemon::telemetry::Format;
use dataplane::Ipvs;
use serde_json::Value;

use super::effective::effective;
use super::field::Field;
use super::table::FIELDS;
use super::{
    Access, Config, HEALTHZ_PORT, Logging, METRICS_PORT, OOM_SCORE_ADJUSTMENT, Source, bind_address, mode,
    serving,
};

pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// The addresses to serve at: empty in a file means the default, empty behind a flag means nowhere.
const SERVED_AT: [&str; 2] = ["healthzBindAddress", "metricsBindAddress"];

/// What a document says, each field as it was found and every one of its kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    given: BTreeMap<&'static str, Value>,
    /// What its author should hear.
    pub(crate) warnings: Vec<Problem>,
}

/// Reads the text of a `KubeProxyConfiguration`: what it comes to with what there is to warn of, or all its problems.
pub fn read(text: &str) -> Result<(Config, Vec<Problem>), Problems> {
    let reading = read_file(text)?;
    Ok((reading.config(), reading.warnings))
}

/// Reads a file.
pub(crate) fn read_file(text: &str) -> Result<Reading, Problems> {
    let mut reading = read_document(text)?;
    for field in SERVED_AT {
        if reading.text(field).is_none() {
            reading.given.remove(field);
        }
    }
    Ok(reading)
}

/// Reads what flags stand for, in the words of a file.
pub(crate) fn read_document(text: &str) -> Result<Reading, Problems> {
    let mut warnings = Problems::default();
    let (given, problems) = Document::parse(text).read(|root| read_root(root, &mut warnings));
    Ok(Reading { given: problems.or(Some(given))?, warnings: warnings.list().to_vec() })
}

fn read_root(root: &mut Section<'_>, warnings: &mut Problems) -> BTreeMap<&'static str, Value> {
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let found = root.choice(field, &[(expected, ())]);
        root.require(field, found);
    }
    let mut given = BTreeMap::new();
    read_fields("", root, &mut given, warnings);
    let sections: BTreeSet<&str> = FIELDS.iter().map(Field::section).collect();
    for name in sections.into_iter().filter(|name| !name.is_empty()) {
        root.section(name, |section| read_fields(name, section, &mut given, warnings));
    }
    given
}

fn read_fields(
    name: &str,
    section: &mut Section<'_>,
    given: &mut BTreeMap<&'static str, Value>,
    warnings: &mut Problems,
) {
    for field in FIELDS.iter().filter(|field| field.section() == name) {
        let Some(value) = section.value(field.name()) else { continue };
        if let Some(expected) = field.kind.mismatch(&value) {
            section.problem(field.name(), format!("must be {expected}, found {value}"));
            continue;
        }
        // The root is read before its sections.
        let mode = given.get("mode").and_then(Value::as_str);
        if let Some(warning) = field.warning(&value, mode) {
            warnings.add(field.path, warning);
        }
        if let ("mode", Some(mode @ ("iptables" | "nftables"))) = (field.path, value.as_str()) {
            // An existing configuration must start, and clients cannot tell the difference.
            warnings.add(field.path, format!("{mode} is not offered, ebpf is used instead"));
        }
        if let ("ipvs.scheduler", Some(text)) = (field.path, value.as_str().filter(|text| !text.is_empty())) {
            if mode == Some("ipvs") && mode::scheduler(text).is_none() {
                let names: Vec<&str> = Ipvs::schedulers().map(|(name, _)| name).collect();
                section.problem(field.name(), format!("must be one of {}, found {value}", names.join(", ")));
                continue;
            }
            if mode != Some("ipvs") && serving::nearest_scheduler(text).is_none() {
                warnings.add(field.path, format!("{text} is not offered, round-robin is used instead"));
            }
        }
        given.insert(field.path, value);
    }
}

impl Reading {
    /// Whether a field was given, if only its default.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.given.contains_key(path)
    }

    /// Whether a flag is set.
    pub(super) fn flag(&self, path: &str) -> bool {
        self.given.get(path) == Some(&Value::Bool(true))
    }

    /// The texts of a list.
    pub(super) fn texts(&self, path: &str) -> impl Iterator<Item = &str> {
        self.given.get(path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// Text that is not empty.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.given.get(path).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Sets a text.
    pub(crate) fn set(&mut self, path: &'static str, text: impl Into<String>) {
        self.given.insert(path, Value::String(text.into()));
    }

    /// Takes over what `over` says about the fields that `chosen` chooses.
    pub(crate) fn overlay(&mut self, over: &Self, chosen: impl Fn(&str) -> bool) {
        let chosen = over.given.iter().filter(|(path, _)| chosen(path));
        self.given.extend(chosen.map(|(path, value)| (*path, value.clone())));
    }

    /// What it comes to.
    pub(crate) fn config(&self) -> Config {
        let bind = self.text("bindAddress").and_then(|text| text.parse().ok());
        let bind: IpAddr = bind.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let healthz = self.served_at("healthzBindAddress", unspecified(bind), HEALTHZ_PORT);
        let metrics = self.served_at("metricsBindAddress", loopback(bind), METRICS_PORT);
        let kubeconfig = self.text("clientConnection.kubeconfig").map(PathBuf::from);
        let verbosity = self.given.get("logging.verbosity").and_then(Value::as_u64).unwrap_or_default();
        let oom_score = self.given.get("oomScoreAdj").and_then(Value::as_i64);
        let (default, (period, least_interval)) = (Config::default(), mode::periods(self));
        let json = self.text("logging.format") == Some("json");
        Config {
            source: Source::Cluster(Access { kubeconfig, master: None }),
            hostname_override: self.text("hostnameOverride").and_then(node_name),
            healthz,
            metrics,
            bind_address_hard_fail: self.flag("bindAddressHardFail"),
            mode: mode::mode(self),
            serving: serving::settings(self),
            scope: mode::scope(self),
            virtual_scope: mode::virtual_scope(self),
            sync_period: period.unwrap_or(default.sync_period),
            least_sync_interval: least_interval.unwrap_or(default.least_sync_interval),
            oom_score_adjustment: oom_score.unwrap_or(OOM_SCORE_ADJUSTMENT),
            logging: Logging { format: if json { Format::Json } else { Format::Text }, verbosity },
            document: effective(&self.given, healthz, metrics),
            ..default
        }
    }

    /// `None` for nowhere. Absent is the default, of the family of `bindAddress`.
    fn served_at(&self, path: &str, default: IpAddr, port: u16) -> Option<SocketAddr> {
        match self.given.get(path).and_then(Value::as_str) {
            None => Some(SocketAddr::new(default, port)),
            Some(text) => bind_address(text, port).ok(),
        }
    }
}

/// A node's name as Kubernetes spells it; `None` for nothing but blanks.
pub(crate) fn node_name(text: &str) -> Option<String> {
    Some(text.trim().to_lowercase()).filter(|name| !name.is_empty())
}

const fn unspecified(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

const fn loopback(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate;

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
        let document = config.document.clone();
        let serving = translate::Settings { detects_local: true, ..translate::Settings::default() };
        assert_eq!(config, Config { source, serving, document, ..Config::default() });
        assert_eq!(warnings, []);
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
            "featureGates: must be a mapping of names to true or false, found [\"A\"]",
            "bindAddress: must be an IP address, found \"nowhere\"",
            "healthzBindAddress: must be an IP address with or without a port, as in 127.0.0.1:10249, found \"here\"",
            "bindAddressHardFail: must be true or false, found \"maybe\"",
            "mode: must be one of ebpf, iptables, ipvs, nftables, found \"userspace\"",
            "nodePortAddresses: must be a list of CIDRs, or primary alone, found \"10.0.0.0/8\"",
            "iptables.syncPeriod: must be a duration such as 100ms or 1m30s, found 30",
            "iptables.colour: unknown field",
            "bindAdress: unknown field",
        ];
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_has_no_effect_is_said_once_and_defaults_are_not_worth_it() {
        let defaults = "configSyncPeriod: 15m0s\noomScoreAdj: -999\niptables: {masqueradeBit: 14, syncPeriod: 30s}\n\
            ipvs: {scheduler: rr}\nlogging: {verbosity: 0}\n";
        assert_eq!(warnings(defaults), [""; 0]);
        let set = "mode: nftables\nipvs: {scheduler: sed, strictARP: true}\niptables: {localhostNodePorts: false}\n\
            featureGates: {A: true}\n";
        let expected = [
            "featureGates: has no effect: nothing here is behind a gate",
            "mode: nftables is not offered, ebpf is used instead",
            "iptables.localhostNodePorts: has no effect: node ports are not served at loopback addresses, as in nftables mode",
            "ipvs.scheduler: sed is not offered, round-robin is used instead",
            "ipvs.strictARP: has no effect: the mode is not ipvs",
        ];
        assert_eq!(warnings(set), expected);
    }

    #[test]
    fn ipvs_takes_no_scheduler_for_another() {
        let problems =
            read(&format!("{HEAD}mode: ipvs\nipvs: {{scheduler: fastest}}\n")).expect_err("invalid");
        let expected =
            "ipvs.scheduler: must be one of rr, wrr, lc, wlc, mh, sh, dh, sed, nq, found \"fastest\"";
        assert_eq!(problems.to_string().trim_end(), expected);
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

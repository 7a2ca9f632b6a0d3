//! The configuration as it is in force, in the words of a `KubeProxyConfiguration`: every field, defaults included.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::document::parse_duration;
use serde_json::{Map, Value, json};

use super::check::{API_VERSION, KIND, node_name};
use super::field::{Kind, is_zero};
use super::table::{FIELDS, ZERO_IS_SAID};

/// What `given` comes to, served at these addresses.
pub(super) fn effective(
    given: &BTreeMap<&'static str, Value>,
    healthz: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
) -> Value {
    let mut document = json!({ "apiVersion": API_VERSION, "kind": KIND });
    for field in FIELDS {
        let said =
            |value: &&Value| field.kind.is_flag() || ZERO_IS_SAID.contains(&field.path) || !is_zero(value);
        let value = given.get(field.path).filter(said).cloned().unwrap_or_else(|| field.kind.default());
        set(&mut document, field.path, field.kind.written_out(value));
    }
    let text = |address: Option<SocketAddr>| json!(address.map_or_else(String::new, |it| it.to_string()));
    set(&mut document, "healthzBindAddress", text(healthz));
    set(&mut document, "metricsBindAddress", text(metrics));
    // Others are served by it, too.
    if document["mode"] != "ipvs" {
        set(&mut document, "mode", json!("ebpf"));
    }
    let name = given.get("hostnameOverride").and_then(Value::as_str).and_then(node_name);
    set(&mut document, "hostnameOverride", json!(name.unwrap_or_default()));
    document
}

/// Every flag that stands for a field, by name, with the field's value in such a document.
pub(crate) fn flags_in_force(document: &Value) -> BTreeMap<&'static str, String> {
    let fields = FIELDS.iter().filter(|field| !field.flag.is_empty());
    let told = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    let value = |path: &str| path.split('.').fold(document, |section, name| &section[name]);
    fields.map(|field| (field.flag, told(value(field.path)))).collect()
}

/// Puts `value` at a path such as `iptables.syncPeriod`.
pub(super) fn set(document: &mut Value, path: &str, value: Value) {
    let place = path.split('.').fold(document, |section, name| {
        if !section.is_object() {
            *section = Value::Object(Map::new());
        }
        &mut section[name]
    });
    *place = value;
}

impl Kind {
    const fn is_flag(self) -> bool {
        matches!(self, Self::Flag(_))
    }

    /// The value as Go would write it.
    fn written_out(self, value: Value) -> Value {
        match (self, value.as_str().and_then(parse_duration)) {
            (Self::Duration(_) | Self::Interval(_), Some(duration)) => json!(go_duration(duration)),
            _ => value,
        }
    }
}

/// As Go's `Duration.String`: `15m0s`, `1.5s`, `100ms`.
fn go_duration(duration: Duration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    let decimal = |whole: u64, rest: u32, digits: usize| {
        let rest = format!("{rest:0digits$}");
        let text = format!("{whole}.{rest}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match (seconds, nanoseconds) {
        (0, 0) => "0s".to_owned(),
        (0, 1..1_000) => format!("{nanoseconds}ns"),
        (0, 1_000..1_000_000) => {
            format!("{}µs", decimal(u64::from(nanoseconds / 1_000), nanoseconds % 1_000, 3))
        }
        (0, _) => format!("{}ms", decimal(u64::from(nanoseconds / 1_000_000), nanoseconds % 1_000_000, 6)),
        (_, _) => {
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = format!("{}s", decimal(seconds % 60, nanoseconds, 9));
            match (hours, minutes) {
                (0, 0) => rest,
                (0, _) => format!("{minutes}m{rest}"),
                (_, _) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

/// A document as YAML, one line per scalar.
pub(crate) fn yaml(document: &Value) -> String {
    match document {
        Value::Object(fields) => fields.iter().map(|(name, value)| line(name, value, "")).collect(),
        scalar => format!("{scalar}\n"),
    }
}

fn line(name: &str, value: &Value, indent: &str) -> String {
    let name = key(name);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let deeper = format!("{indent}  ");
            let lines = fields.iter().map(|(name, value)| line(name, value, &deeper));
            std::iter::once(format!("{indent}{name}:\n")).chain(lines).collect()
        }
        // JSON is YAML, on one line.
        other => format!("{indent}{name}: {other}\n"),
    }
}

/// A name that YAML could take for something else is quoted.
fn key(name: &str) -> String {
    let plain = name.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric());
    if plain { name.to_owned() } else { json!(name).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, read};

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
            bindAddress: '::'\nhostnameOverride: N1\nnodePortAddresses: [10.0.0.0/8]\n\
            featureGates: {A: true}\niptables: {syncPeriod: 90s, masqueradeBit: 0, localhostNodePorts: false}\n\
            ipvs: {minSyncPeriod: 0s}\nlogging: {verbosity: 4, format: json, options: {json: {infoBufferSize: '0'}}}\n";
        let (config, _) = read(text).expect("valid");
        assert_eq!(read(&yaml(&config.document)).expect("valid").0, config);
        assert_eq!(read(&yaml(&Config::default().document)), Ok((Config::default(), vec![])));
        let expected = [
            ("/iptables/syncPeriod", json!("1m30s")),
            ("/iptables/minSyncPeriod", json!("1s")),
            ("/iptables/masqueradeBit", json!(0)),
            ("/iptables/localhostNodePorts", json!(false)),
            ("/conntrack/maxPerCore", json!(32_768)),
            ("/healthzBindAddress", json!("[::]:10256")),
            ("/hostnameOverride", json!("n1")),
            ("/mode", json!("ebpf")),
            ("/featureGates", json!({ "A": true })),
        ];
        for (path, value) in expected {
            assert_eq!(config.document.pointer(path), Some(&value), "{path}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let texts = ["0s", "5ns", "1.5µs", "100ms", "1.5s", "30s", "1m30s", "15m0s", "24h0m0s", "1h0m0.25s"];
        for text in texts {
            let duration = parse_duration(text).expect("a duration");
            assert_eq!(go_duration(duration), text);
        }
    }
}

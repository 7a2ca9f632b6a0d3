//! What a field of a `KubeProxyConfiguration` may hold, however it is spelt: in a file or behind a flag.

use std::net::IpAddr;

use daemon::document::parse_duration;
use serde_json::{Value, json};

use super::bind_address;

/// A field, the flag that sets it, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Where it is in the file: `iptables.syncPeriod`. Empty for a flag that no field corresponds to.
    pub(crate) path: &'static str,
    /// The flag, without dashes. Empty for a field that only a file can set.
    pub(crate) flag: &'static str,
    /// What it may hold.
    pub(crate) kind: Kind,
    /// What becomes of it.
    pub(crate) effect: Effect,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    /// It is followed.
    Honoured,
    /// It is followed in mode `ipvs`, and read past in others.
    Ipvs,
    /// It is read past, for this reason, which is said where anything but the default is asked for.
    None(&'static str),
}

/// The type of a field, and what it is when nobody set it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Any text.
    Text(&'static str),
    /// One of these; the first is the default, and empty text means the default too.
    Choice(&'static [&'static str]),
    /// True or false.
    Flag(bool),
    /// A whole number from a range.
    Number(i64, (i64, i64)),
    /// A number, whole or not.
    Rate(i64),
    /// A duration such as `1m30s`.
    Duration(&'static str),
    /// A duration, or a whole number of nanoseconds.
    Interval(&'static str),
    /// An IP address.
    Address(&'static str),
    /// An IP address with or without a port.
    Bind(&'static str),
    /// Text with CIDRs between commas.
    CidrText,
    /// A list of CIDRs.
    Cidrs,
    /// A list of CIDRs, or nothing but the word `primary`.
    NodePortAddresses,
    /// A mapping from names to true or false.
    Gates,
    /// A list of patterns of file names, each with a verbosity.
    Modules,
    /// A mapping that is not looked into.
    Mapping,
}

impl Field {
    /// The section of the file that it is in; empty for the root.
    pub(crate) fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within the section.
    pub(crate) fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// Why it is not followed in this mode.
    pub(crate) fn not_followed(&self, mode: Option<&str>) -> Option<&'static str> {
        match self.effect {
            Effect::None(reason) => Some(reason),
            Effect::Ipvs if mode != Some("ipvs") => Some("the mode is not ipvs"),
            Effect::Ipvs | Effect::Honoured => None,
        }
    }

    /// What there is to say where it is `value` and is not followed in this mode.
    pub(crate) fn warning(&self, value: &Value, mode: Option<&str>) -> Option<String> {
        let reason = self.not_followed(mode)?;
        (!self.kind.is_default(value)).then(|| format!("has no effect: {reason}"))
    }
}

impl Kind {
    /// What it should have been, unless `value` is of this kind.
    pub(crate) fn mismatch(self, value: &Value) -> Option<String> {
        let text = value.as_str();
        let (fits, expected) = match self {
            Self::Text(_) => (text.is_some(), "text"),
            Self::Choice(choices) => {
                let fits = text.is_some_and(|text| text.is_empty() || choices.contains(&text));
                return (!fits).then(|| format!("one of {}", choices.join(", ")));
            }
            Self::Flag(_) => (value.is_boolean(), "true or false"),
            Self::Number(_, (low, high)) => {
                let fits = value.as_i64().is_some_and(|number| (low..=high).contains(&number));
                return (!fits).then(|| format!("a whole number from {low} to {high}"));
            }
            Self::Rate(_) => (value.is_number(), "a number"),
            Self::Duration(_) => (is_duration(value), "a duration such as 100ms or 1m30s"),
            Self::Interval(_) => {
                (value.is_u64() || is_duration(value), "a duration such as 100ms or 1m30s, or nanoseconds")
            }
            Self::Address(_) => {
                let fits = text.is_some_and(|text| text.is_empty() || text.parse::<IpAddr>().is_ok());
                (fits, "an IP address")
            }
            Self::Bind(_) => {
                let wrong = text.map(|text| bind_address(text, 0).err().filter(|_| !text.is_empty()));
                (matches!(wrong, Some(None)), "an IP address with or without a port, as in 127.0.0.1:10249")
            }
            Self::CidrText => {
                let fits = text.is_some_and(|text| text.is_empty() || text.split(',').all(is_cidr));
                (fits, "CIDRs separated by commas, as in 10.0.0.0/8,fd00::/8")
            }
            Self::Cidrs => (all(value, is_cidr), "a list of CIDRs"),
            Self::NodePortAddresses => {
                let fits = *value == json!(["primary"]) || all(value, is_cidr);
                (fits, "a list of CIDRs, or primary alone")
            }
            Self::Gates => {
                let fits = value.as_object().is_some_and(|gates| gates.values().all(Value::is_boolean));
                (fits, "a mapping of names to true or false")
            }
            Self::Modules => (value.as_array().is_some_and(|modules| modules.iter().all(is_module)), {
                "a list of file patterns with a verbosity each"
            }),
            Self::Mapping => (value.is_object(), "a mapping"),
        };
        (!fits).then(|| expected.to_owned())
    }

    /// What it is when nobody set it.
    pub(crate) fn default(self) -> Value {
        match self {
            Self::Text(text)
            | Self::Duration(text)
            | Self::Interval(text)
            | Self::Address(text)
            | Self::Bind(text) => json!(text),
            Self::Choice(choices) => json!(choices.first()),
            Self::Flag(flag) => json!(flag),
            Self::Number(number, _) | Self::Rate(number) => json!(number),
            Self::CidrText => json!(""),
            Self::Cidrs | Self::NodePortAddresses | Self::Modules => json!([]),
            Self::Gates | Self::Mapping => json!({}),
        }
    }

    /// Whether `value` asks for nothing. Where a default is not the zero value, kube-proxy reads zero as "not set".
    pub(crate) fn is_default(self, value: &Value) -> bool {
        match self {
            Self::Flag(flag) => value.as_bool() == Some(flag),
            Self::Duration(default) | Self::Interval(default) if is_duration(value) => {
                is_zero(value) || value.as_str().and_then(parse_duration) == parse_duration(default)
            }
            Self::Text(_)
            | Self::Choice(_)
            | Self::Number(..)
            | Self::Rate(_)
            | Self::Duration(_)
            | Self::Interval(_)
            | Self::Address(_)
            | Self::Bind(_)
            | Self::CidrText
            | Self::Cidrs
            | Self::NodePortAddresses
            | Self::Gates
            | Self::Modules
            | Self::Mapping => is_zero(value) || *value == self.default(),
        }
    }

    /// What the values of a flag mean, in the order in which they were given. What they cannot mean is left as text, for
    /// [`Kind::mismatch`] to find.
    pub(crate) fn of_flag(self, values: &[String]) -> Value {
        let last = values.last().map_or("", String::as_str);
        let items = || values.iter().flat_map(|value| value.split(',')).filter(|item| !item.is_empty());
        match self {
            Self::Text(_)
            | Self::Choice(_)
            | Self::Duration(_)
            | Self::Interval(_)
            | Self::Address(_)
            | Self::Bind(_)
            | Self::CidrText
            | Self::Mapping => json!(last),
            Self::Flag(_) => boolean(last).map_or_else(|| json!(last), Value::Bool),
            Self::Number(..) => last.parse::<i64>().map_or_else(|_| json!(last), |number| json!(number)),
            Self::Rate(_) => last
                .parse::<i64>()
                .map(|number| json!(number))
                .or_else(|_| last.parse::<f64>().map(|number| json!(number)))
                .ok()
                .filter(Value::is_number)
                .unwrap_or_else(|| json!(last)),
            Self::Cidrs | Self::NodePortAddresses => items().map(|item| json!(item)).collect(),
            Self::Gates => {
                let gate = |item: &str| {
                    let (name, value) = item.split_once('=')?;
                    Some((name.trim().to_owned(), Value::Bool(boolean(value.trim())?)))
                };
                let gates: Option<serde_json::Map<String, Value>> = items().map(gate).collect();
                gates.map_or_else(|| json!(values.join(",")), Value::Object)
            }
            Self::Modules => {
                let module = |item: &str| {
                    let (pattern, verbosity) = item.split_once('=')?;
                    Some(json!({ "filePattern": pattern, "verbosity": verbosity.parse::<u32>().ok()? }))
                };
                let modules: Option<Vec<Value>> = items().map(module).collect();
                modules.map_or_else(|| json!(values.join(",")), Value::Array)
            }
        }
    }
}

/// True or false in the spellings of Go's `strconv.ParseBool`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// What Go writes for a field that nobody set.
pub(super) fn is_zero(value: &Value) -> bool {
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

fn is_duration(value: &Value) -> bool {
    value.as_str().is_some_and(|text| parse_duration(text).is_some())
}

fn all(list: &Value, fits: impl Fn(&str) -> bool) -> bool {
    list.as_array().is_some_and(|items| items.iter().all(|item| item.as_str().is_some_and(&fits)))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.trim().split_once('/') else { return false };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= longest)
}

fn is_module(module: &Value) -> bool {
    module["filePattern"].is_string() && module["verbosity"].is_u64()
}

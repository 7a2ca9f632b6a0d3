//! Reads a YAML document so that one pass finds every problem, each with its path.
//!
//! A derived deserialiser stops at the first mistake; an operator wants them all. So the text is parsed into a tree and
//! the caller takes out what it knows, section by section; what nobody took is unknown and is said so.
//!
//! ```
//! use daemon::document::Document;
//!
//! let (port, problems) = Document::parse("port: 70000\nprot: 1\n").read(|root| root.number("port", 1..=65_535));
//! assert_eq!(port, None);
//! assert_eq!(problems.to_string(), "port: must be from 1 to 65535, found 70000\nprot: unknown field");
//! ```

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use crate::problems::Problems;

/// A parsed document, or why it could not be parsed.
#[derive(Debug)]
pub struct Document {
    root: Value,
    problems: Problems,
}

impl Document {
    /// Text that is no YAML, or no mapping, becomes a problem of the document as a whole.
    pub fn parse(text: &str) -> Self {
        let mut problems = Problems::default();
        let root = serde_saphyr::from_str(text).unwrap_or_else(|error| {
            problems.add("", format!("not valid YAML: {error}"));
            Value::Null
        });
        Self { root, problems }
    }

    /// Lets `read` take what it knows out of the root section, then notes every field that was not taken.
    pub fn read<T>(mut self, read: impl FnOnce(&mut Section<'_>) -> T) -> (T, Problems) {
        let unread = !self.problems.list().is_empty();
        let fields = if unread { BTreeMap::new() } else { mapping("", self.root, &mut self.problems) };
        // Of a document that could not be parsed, only that is worth saying.
        let mut aside = Problems::default();
        let problems = if unread { &mut aside } else { &mut self.problems };
        let mut section = Section { path: String::new(), fields, problems };
        let value = read(&mut section);
        section.refuse_unknown();
        (value, self.problems)
    }
}

/// One mapping of the document. Each method takes a field out; a wrong value is noted and read as absent.
#[derive(Debug)]
pub struct Section<'document> {
    path: String,
    fields: BTreeMap<String, Value>,
    problems: &'document mut Problems,
}

impl Section<'_> {
    /// The path of a field of this section.
    pub fn path(&self, field: &str) -> String {
        match (self.path.is_empty(), field.is_empty()) {
            (true, _) => field.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{field}", self.path),
        }
    }

    /// Notes a problem with a field of this section; with the section itself where `field` is empty.
    pub fn problem(&mut self, field: &str, what: impl Into<String>) {
        let path = self.path(field);
        self.problems.add(path, what);
    }

    /// Notes that a field is missing unless `value` is there.
    pub fn require<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        let path = self.path(field);
        let said = self.problems.list().iter().any(|problem| problem.path == path);
        if value.is_none() && !said {
            self.problems.add(path, "is required");
        }
        value
    }

    /// Whether the field is given, whatever its value; it is not taken out.
    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Takes a field out as it is.
    pub fn value(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field).filter(|value| !value.is_null())
    }

    /// Takes out text.
    pub fn text(&mut self, field: &str) -> Option<String> {
        match self.value(field)? {
            Value::String(text) => Some(text),
            other => self.wrong(field, "text", &other),
        }
    }

    /// Takes out `true` or `false`.
    pub fn flag(&mut self, field: &str) -> Option<bool> {
        match self.value(field)? {
            Value::Bool(flag) => Some(flag),
            other => self.wrong(field, "true or false", &other),
        }
    }

    /// Takes out a whole number within `range`.
    pub fn number<N>(&mut self, field: &str, range: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i64> + Into<i64> + Copy,
    {
        let (low, high) = ((*range.start()).into(), (*range.end()).into());
        let value = self.value(field)?;
        let number = value.as_i64().filter(|number| (low..=high).contains(number));
        let number = number.and_then(|number| N::try_from(number).ok());
        if number.is_none() {
            self.problem(field, format!("must be from {low} to {high}, found {}", shown(&value)));
        }
        number
    }

    /// Takes out text that parses as `T`; `expected` says what that is, as in "an IP address".
    pub fn parsed<T: FromStr>(&mut self, field: &str, expected: &str) -> Option<T> {
        let value = self.value(field)?;
        match value.as_str().and_then(|text| text.parse().ok()) {
            Some(parsed) => Some(parsed),
            None => self.wrong(field, expected, &value),
        }
    }

    /// Takes out a duration as Kubernetes writes it: `1m30s`, `100ms`, `0s`.
    pub fn duration(&mut self, field: &str) -> Option<Duration> {
        let value = self.value(field)?;
        match value.as_str().and_then(parse_duration) {
            Some(duration) => Some(duration),
            None => self.wrong(field, "a duration such as 100ms or 1m30s", &value),
        }
    }

    /// Takes out one of the named choices. A choice named "" is taken and not advertised.
    pub fn choice<T: Copy>(&mut self, field: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.value(field)?;
        let chosen = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
        if let Some((_, choice)) = chosen {
            return Some(*choice);
        }
        let names: Vec<&str> =
            choices.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        self.wrong(field, &format!("one of {}", names.join(", ")), &value)
    }

    /// Takes out a list of texts that each parse as `T`; those that do not are noted and left out.
    pub fn parsed_list<T: FromStr>(&mut self, field: &str, expected: &str) -> Option<Vec<T>> {
        let items = self.items(field)?;
        let mut list = Vec::new();
        for (position, value) in items.into_iter().enumerate() {
            match value.as_str().and_then(|text| text.parse().ok()) {
                Some(parsed) => list.push(parsed),
                None => {
                    let _: Option<T> = self.wrong(&format!("{field}[{position}]"), expected, &value);
                }
            }
        }
        Some(list)
    }

    /// Takes out one text that parses as `T`, or a [list](Self::parsed_list) of them.
    pub fn parsed_one_or_more<T: FromStr>(&mut self, field: &str, expected: &str) -> Option<Vec<T>> {
        if self.fields.get(field).is_some_and(Value::is_array) {
            return self.parsed_list(field, expected);
        }
        self.parsed(field, expected).map(|only| vec![only])
    }

    /// Reads a nested section; `None` where it is absent.
    pub fn section<T>(&mut self, field: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> Option<T> {
        let value = self.value(field)?;
        Some(self.nested(field, value, read))
    }

    /// Reads a list of sections; `None` where it is absent.
    pub fn sections<T>(
        &mut self,
        field: &str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> Option<Vec<T>> {
        let items = self.items(field)?;
        let read_item = |(position, value)| self.nested(&format!("{field}[{position}]"), value, &mut read);
        Some(items.into_iter().enumerate().map(read_item).collect())
    }

    /// Takes out every field that is left, so that none is refused as unknown. For sections that are accepted whole.
    pub fn accept_rest(&mut self) -> BTreeMap<String, Value> {
        std::mem::take(&mut self.fields)
    }

    fn items(&mut self, field: &str) -> Option<Vec<Value>> {
        match self.value(field)? {
            Value::Array(items) => Some(items),
            other => self.wrong(field, "a list", &other),
        }
    }

    fn nested<T>(&mut self, field: &str, value: Value, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let path = self.path(field);
        let fields = mapping(&path, value, self.problems);
        let mut section = Section { path, fields, problems: &mut *self.problems };
        let value = read(&mut section);
        section.refuse_unknown();
        value
    }

    fn wrong<T>(&mut self, field: &str, expected: &str, found: &Value) -> Option<T> {
        self.problem(field, format!("must be {expected}, found {}", shown(found)));
        None
    }

    fn refuse_unknown(&mut self) {
        for field in std::mem::take(&mut self.fields).into_keys() {
            self.problem(&field, "unknown field");
        }
    }
}

/// `1h2m3.5s`, `100ms`; as Go's `time.ParseDuration` without sign. `None` for anything else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters =
            tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

fn mapping(path: &str, value: Value, problems: &mut Problems) -> BTreeMap<String, Value> {
    match value {
        Value::Object(fields) => fields.into_iter().collect(),
        Value::Null => BTreeMap::new(),
        other => {
            problems.add(path, format!("must be a mapping, found {}", shown(&other)));
            BTreeMap::new()
        }
    }
}

/// A value in one short line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let text = "name: 5\npeers:\n  - address: 10.0.0.1\n  - address: nonsense\n    colour: red\nwait: 5 minutes\n";
        let ((), problems) = Document::parse(text).read(|root| {
            root.text("name");
            root.sections("peers", |peer| peer.parsed::<std::net::IpAddr>("address", "an IP address"));
            root.duration("wait");
            let missing = root.text("interface");
            root.require("interface", missing);
        });
        let lines = problems.to_string();
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "name: must be text, found 5",
                "peers[1].address: must be an IP address, found \"nonsense\"",
                "peers[1].colour: unknown field",
                "wait: must be a duration such as 100ms or 1m30s, found \"5 minutes\"",
                "interface: is required",
            ]
        );
    }

    #[test]
    fn a_wrong_value_is_not_also_called_missing() {
        let ((), problems) = Document::parse("port: x\n").read(|root| {
            let port = root.number::<u16>("port", 1..=65_535);
            root.require("port", port);
        });
        assert_eq!(problems.list().len(), 1, "{problems}");
    }

    #[test]
    fn text_that_is_no_yaml_is_one_problem() {
        let ((), problems) = Document::parse("a: [1,\nb").read(|root| {
            let a = root.text("a");
            root.require("a", a);
        });
        assert_eq!(problems.list().len(), 1, "{problems}");
        assert!(problems.to_string().starts_with("not valid YAML"), "{problems}");
    }

    #[test]
    fn one_text_is_a_list_of_one() {
        let cases = [
            ("port: '1'", Some(vec![1])),
            ("port: ['1', '2']", Some(vec![1, 2])),
            ("port: []", Some(vec![])),
            ("{}", None),
        ];
        for (text, expected) in cases {
            let (ports, problems) =
                Document::parse(text).read(|root| root.parsed_one_or_more::<u16>("port", "a port"));
            assert_eq!((ports, problems.list().len()), (expected, 0), "{text}");
        }
        for (text, path) in [("port: x", "port"), ("port: ['1', x]", "port[1]")] {
            let (_, problems) =
                Document::parse(text).read(|root| root.parsed_one_or_more::<u16>("port", "a port"));
            assert_eq!(problems.to_string(), format!("{path}: must be a port, found \"x\""));
        }
    }

    #[test]
    fn durations_are_read_as_kubernetes_writes_them() {
        let cases =
            [("100ms", 100), ("1m30s", 90_000), ("0s", 0), ("0", 0), ("1.5s", 1500), ("1h", 3_600_000)];
        for (text, milliseconds) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "-1s", "1d", "1..5s", "99999999999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}

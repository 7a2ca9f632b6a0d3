//! The flags of kube-proxy's command line. They stand for a `KubeProxyConfiguration` and are read as one, so that a value
//! means the same and is refused with the same words wherever it is given.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use daemon::problems::{Problem, Problems};
use serde_json::{Value, json};

use super::bind::bind_address;
use super::check::{API_VERSION, KIND, Reading, read_document};
use super::effective::set;
use super::field::{Effect, Field, Kind};
use super::table::{FIELDS, HEALTHZ_PORT_FLAG, METRICS_PORT_FLAG, STRAY_FLAGS};

/// The flags that were given, each with its values in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(&'static Field, Value)>,
}

impl Flags {
    /// What they come to, or everything that is wrong with them.
    pub(crate) fn read(&self) -> Result<Reading, Problems> {
        let mut document = json!({ "apiVersion": API_VERSION, "kind": KIND });
        let (mut problems, mut warnings) = (Problems::default(), Vec::new());
        for (field, value) in &self.given {
            if !field.path.is_empty() {
                set(&mut document, field.path, value.clone());
            } else if let Some(expected) = field.kind.mismatch(value) {
                problems.add(format!("--{}", field.flag), format!("must be {expected}, found {value}"));
            } else if let Some(what) = field.warning(value, None) {
                warnings.push(Problem { path: format!("--{}", field.flag), what });
            }
        }
        let read = read_document(&document.to_string());
        let wrong = read.as_ref().err().map(Problems::list).unwrap_or_default();
        for problem in wrong {
            problems.add(spelt_as_flag(&problem.path), problem.what.clone());
        }
        let mut reading = problems.or(read.ok())?;
        for warning in &mut reading.warnings {
            warning.path = spelt_as_flag(&warning.path);
        }
        reading.warnings.append(&mut warnings);
        self.serve_at(&mut reading, "healthzBindAddress", HEALTHZ_PORT_FLAG);
        self.serve_at(&mut reading, "metricsBindAddress", METRICS_PORT_FLAG);
        Ok(reading)
    }

    /// The flags that were given and that a file replaces: all but those of logging and the node's name.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = &'static str> {
        let replaced = self.given.iter().filter(|(field, _)| {
            let port = [HEALTHZ_PORT_FLAG, METRICS_PORT_FLAG].contains(&field.flag);
            port || (!field.path.is_empty() && !beside_a_file(field.path))
        });
        replaced.map(|(field, _)| field.flag)
    }

    /// The deprecated port is that of an address without one; where it is 0, nothing is served. It does not change the
    /// default address, which has a port.
    fn serve_at(&self, reading: &mut Reading, path: &'static str, port_flag: &str) {
        let port = self.given.iter().find(|(field, _)| field.flag == port_flag);
        let port = port.and_then(|(_, port)| u16::try_from(port.as_u64()?).ok());
        if port.is_some() {
            let what = "is deprecated, the port belongs to the bind address".to_owned();
            reading.warnings.push(Problem { path: format!("--{port_flag}"), what });
        }
        let default = FIELDS.iter().find(|field| field.path == path).map(|field| field.kind.default());
        let default = default.as_ref().and_then(Value::as_str).unwrap_or_default();
        let address = match (port, reading.text(path)) {
            (Some(0), _) => String::new(),
            (Some(port), Some(address)) => {
                bind_address(address, port).map_or_else(|_| String::new(), |address| address.to_string())
            }
            (None, Some(address)) => address.to_owned(),
            (_, None) if reading.has(path) => String::new(),
            (_, None) => default.to_owned(),
        };
        reading.set(path, address);
    }
}

/// Whether a flag for this field acts beside `--config`.
pub(crate) fn beside_a_file(path: &str) -> bool {
    path == "hostnameOverride" || path.starts_with("logging.")
}

/// The flag for a path in a document, or for a place below it.
fn spelt_as_flag(path: &str) -> String {
    let flag = FIELDS.iter().filter(|field| !field.flag.is_empty()).find_map(|field| {
        let rest = path.strip_prefix(field.path)?;
        let whole = rest.is_empty() || rest.starts_with(['.', '[']);
        whole.then(|| format!("--{}{rest}", field.flag))
    });
    flag.unwrap_or_else(|| path.to_owned())
}

fn table() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().chain(STRAY_FLAGS).filter(|field| !field.flag.is_empty())
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given.clear();
        for field in table() {
            let values = matches.try_get_many::<String>(field.flag);
            let values = values.map_err(|error| clap::Error::raw(ErrorKind::UnknownArgument, error))?;
            if let Some(values) = values {
                let values: Vec<String> = values.cloned().collect();
                self.given.push((field, field.kind.of_flag(&values)));
            }
        }
        Ok(())
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(table().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(field: &'static Field) -> Arg {
    let set = |path: &str, when: &str| match field.kind.default() {
        Value::String(text) if text.is_empty() => format!("Sets {path}{when}"),
        Value::String(text) => format!("Sets {path}{when} [default: {text}]"),
        other => format!("Sets {path}{when} [default: {other}]"),
    };
    let help = match (field.effect, field.path) {
        (Effect::Honoured, "") => "Deprecated: the port of the bind address; 0 serves nowhere".to_owned(),
        (Effect::Honoured, path) => set(path, ""),
        (Effect::Ipvs, path) => set(path, ", in mode ipvs"),
        (Effect::None(reason), _) => format!("Has no effect: {reason}"),
    };
    let argument = Arg::new(field.flag)
        .long(field.flag)
        .help(help)
        .help_heading("Flags of kube-proxy")
        .action(ArgAction::Append)
        .hide_short_help(matches!(field.effect, Effect::None(_)))
        .value_name("VALUE")
        .allow_hyphen_values(true);
    let argument = match field.kind {
        Kind::Flag(_) => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Text(_)
        | Kind::Choice(_)
        | Kind::Number(..)
        | Kind::Rate(_)
        | Kind::Duration(_)
        | Kind::Interval(_)
        | Kind::Address(_)
        | Kind::Bind(_)
        | Kind::CidrText
        | Kind::Cidrs
        | Kind::NodePortAddresses
        | Kind::Gates
        | Kind::Modules
        | Kind::Mapping => argument.num_args(1),
    };
    match field.flag {
        "v" => argument.short('v'),
        "logging-format" => argument.alias("log-format"),
        _ => argument,
    }
}

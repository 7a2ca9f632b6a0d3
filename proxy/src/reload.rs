//! Follows the configuration file: what is safe is changed in place, for the rest the process ends, as kube-proxy does,
//! for its supervisor to start it again. A file that is not usable changes nothing.
//!
//! It is read every few seconds instead of being watched: a file of a `ConfigMap` is a link into a directory that is a
//! link, which is replaced, and a file on a network file system tells nobody.

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::exit::chain;
use daemon::problems::Problem;
use daemon::telemetry::Logs;
use dataplane::Ipvs;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::arguments::{ConfigError, Run};
use crate::config::{Change, Config, Step, change};
use crate::{adjust_oom_score, warn};

/// How often the file is compared with what is in force. A `ConfigMap` takes a minute to arrive.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Only a start applies what the file says now.
#[derive(Debug, thiserror::Error)]
#[error("{} has changed in {}: starting again applies it", file.display(), fields.join(", "))]
pub(crate) struct StartNeeded {
    file: PathBuf,
    fields: Vec<&'static str>,
}

/// Who keeps to the file.
pub(crate) struct Reload {
    arguments: Run,
    in_force: watch::Sender<Config>,
    logs: Logs,
    metrics: ReloadMetrics,
    /// What was last said to be wrong with the file.
    said: Vec<Problem>,
}

impl Reload {
    /// For a process that was started with `arguments`. Fails where the name of a metric is taken.
    pub(crate) fn new(
        arguments: Run,
        in_force: watch::Sender<Config>,
        logs: Logs,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let metrics = ReloadMetrics::register(registry)?;
        Ok(Self { arguments, in_force, logs, metrics, said: Vec::new() })
    }

    /// Returns once only a start applies what the file says; never, where there is no file.
    pub(crate) async fn run(mut self) -> StartNeeded {
        let Some(file) = self.arguments.config.clone() else { return std::future::pending().await };
        loop {
            sleep(READ_EVERY).await;
            let arguments = self.arguments.clone();
            let read = spawn_blocking(move || arguments.config()).await;
            let fields = match read {
                Ok(Ok((config, warnings))) => self.follow(&file, config, &warnings),
                Ok(Err(ConfigError::Invalid(problems))) => self.refuse(problems.list().to_vec()),
                Ok(Err(error @ ConfigError::Read { .. })) => self.refuse(vec![of(&file, chain(&error))]),
                Err(died) => self.refuse(vec![of(&file, chain(&died))]),
            };
            if let Some(fields) = fields {
                return StartNeeded { file, fields };
            }
        }
    }

    /// Goes on by `config`. Returns the fields that only a start applies, and then nothing is different.
    fn follow(&mut self, file: &Path, config: Config, warnings: &[Problem]) -> Option<Vec<&'static str>> {
        let change = change(&self.in_force.borrow(), &config);
        let (fields, steps) = match change {
            None => {
                self.note_usable();
                return None;
            }
            Some(Change::AtStart(fields)) => return Some(fields),
            Some(Change::InPlace { fields, steps }) => (fields, steps),
        };
        for step in steps {
            if let Err(what) = self.take(step) {
                return self.refuse(vec![of(file, what)]);
            }
        }
        self.in_force.send_replace(config);
        tracing::info!(fields = fields.join(", "), "configuration changed in place");
        warn(warnings);
        self.metrics.reloads.with_label_values(&["applied"]).inc();
        self.said.clear();
        self.metrics.usable.set(1);
        None
    }

    fn take(&self, step: Step) -> Result<(), String> {
        match step {
            Step::VirtualServer(settings) => Ipvs::set_up(settings).map_err(|error| chain(&error)),
            Step::Logging(logging) => {
                self.logs.change(logging.filter(), logging.format).map_err(|error| chain(&error))
            }
            Step::OomScore(adjustment) => {
                adjust_oom_score(adjustment);
                Ok(())
            }
        }
    }

    /// What is in force stays, which is said once.
    fn refuse(&mut self, problems: Vec<Problem>) -> Option<Vec<&'static str>> {
        if self.said != problems {
            for Problem { path, what } in &problems {
                tracing::error!(
                    field = path,
                    problem = what,
                    "configuration file not usable, the one in force stays"
                );
            }
            self.metrics.reloads.with_label_values(&["refused"]).inc();
            self.metrics.usable.set(0);
            self.said = problems;
        }
        None
    }

    fn note_usable(&mut self) {
        if !std::mem::take(&mut self.said).is_empty() {
            tracing::info!("configuration file is as it was");
            self.metrics.usable.set(1);
        }
    }
}

/// A problem of the whole file.
fn of(file: &Path, what: String) -> Problem {
    Problem { path: file.display().to_string(), what }
}

/// What became of changes of the file.
struct ReloadMetrics {
    usable: IntGauge,
    reloads: IntCounterVec,
}

impl ReloadMetrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let usable = IntGauge::new(
            "fairway_proxy_configuration_usable",
            "Whether the configuration file, as it is now, could be applied: 0 where an earlier one is in force",
        )?;
        let reloads =
            Opts::new("fairway_proxy_reloads_total", "Changes of the configuration file, by result");
        let reloads = IntCounterVec::new(reloads, &["result"])?;
        for result in ["applied", "refused"] {
            reloads.with_label_values(&[result]);
        }
        usable.set(1);
        registry.register(Box::new(usable.clone()))?;
        registry.register(Box::new(reloads.clone()))?;
        Ok(Self { usable, reloads })
    }
}

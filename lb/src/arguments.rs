//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use daemon::telemetry::Format;

/// The front door of a Kubernetes control plane: a virtual IP (VRRP) and a load balancer for its apiservers.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "fairway-lb",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The configuration file.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,

    /// How log lines are written to standard error.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: Format,

    /// What is logged: error, warn, info, debug or trace; also per module, as in info,vrrp=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Print every problem of this configuration file; touch nothing.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Be the front door until told to stop.
    Serve {
        /// The configuration file.
        config: PathBuf,
        /// How log lines are written.
        log_format: Format,
        /// What is logged.
        log_level: String,
    },
}

impl From<Arguments> for Task {
    #[expect(clippy::expect_used, reason = "`required = true`: clap has refused a line with neither")]
    fn from(arguments: Arguments) -> Self {
        let Arguments { command, config, log_format, log_level } = arguments;
        match command {
            Some(Command::Check { file }) => Self::Check { file },
            None => Self::Serve {
                config: config.expect("clap requires --config where no subcommand is given"),
                log_format,
                log_level,
            },
        }
    }
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Print every problem of a configuration file and exit 78, or say that it is ok; touches nothing.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(line: &str) -> Option<Task> {
        Arguments::try_parse_from(line.split_whitespace()).ok().map(Task::from)
    }

    #[test]
    fn a_line_is_one_task_or_refused() {
        let serve = |log_format, log_level: &str| Task::Serve {
            config: "a.yaml".into(),
            log_format,
            log_level: log_level.to_owned(),
        };
        let cases = [
            ("fairway-lb --config a.yaml", Some(serve(Format::Text, "info"))),
            (
                "fairway-lb --config a.yaml --log-format json --log-level debug",
                Some(serve(Format::Json, "debug")),
            ),
            ("fairway-lb check a.yaml", Some(Task::Check { file: "a.yaml".into() })),
            ("fairway-lb", None),
            ("fairway-lb check", None),
            ("fairway-lb --config a.yaml check a.yaml", None),
            ("fairway-lb --config a.yaml --log-format xml", None),
        ];
        for (line, expected) in cases {
            assert_eq!(task(line), expected, "{line}");
        }
    }
}

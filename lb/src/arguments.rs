//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use daemon::telemetry::Format;

use crate::config::defaults;

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

    /// Take the place of the front door that runs with the same admin.socket, if one does: no connection is refused or
    /// broken, and the virtual addresses stay.
    #[arg(long)]
    take_over: bool,

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
    /// Say how the front door behind this socket is.
    Status {
        /// Its control socket.
        socket: PathBuf,
        /// As JSON, not as a table.
        json: bool,
    },
    /// Tell the front door behind this socket to give a backend no new connections, or some again.
    Drain {
        /// Its control socket.
        socket: PathBuf,
        /// The backend.
        backend: String,
        /// Whether it is to get none.
        drained: bool,
    },
    /// Be the front door until told to stop.
    Serve {
        /// The configuration file.
        config: PathBuf,
        /// Whether to take the place of one that runs.
        take_over: bool,
        /// How log lines are written.
        log_format: Format,
        /// What is logged.
        log_level: String,
    },
}

impl From<Arguments> for Task {
    #[expect(clippy::expect_used, reason = "`required = true`: clap has refused a line with neither")]
    fn from(arguments: Arguments) -> Self {
        let Arguments { command, config, take_over, log_format, log_level } = arguments;
        match command {
            Some(Command::Check { file }) => Self::Check { file },
            Some(Command::Status { json, socket: Socket { socket } }) => Self::Status { socket, json },
            Some(Command::Drain { backend, socket: Socket { socket } }) => {
                Self::Drain { socket, backend, drained: true }
            }
            Some(Command::Undrain { backend, socket: Socket { socket } }) => {
                Self::Drain { socket, backend, drained: false }
            }
            None => Self::Serve {
                config: config.expect("clap requires --config where no subcommand is given"),
                take_over,
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
    /// Say how the running front door is: roles, peers, backends, connections.
    Status {
        /// As JSON, whose field names are stable.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Give a backend no new connections; those it has stay. It holds until `undrain`, also across reloads and upgrades.
    Drain {
        /// Its name.
        backend: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Give a drained backend new connections again.
    Undrain {
        /// Its name.
        backend: String,
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Clone, Debug, Args)]
struct Socket {
    /// What the configuration of the front door calls admin.socket.
    #[arg(long, value_name = "PATH", default_value = defaults::CONTROL_SOCKET)]
    socket: PathBuf,
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
            take_over: false,
            log_format,
            log_level: log_level.to_owned(),
        };
        let drain =
            |socket: &str, drained| Task::Drain { socket: socket.into(), backend: "m1".to_owned(), drained };
        let default = "/run/fairway-lb/control.sock";
        let cases = [
            ("fairway-lb status", Some(Task::Status { socket: default.into(), json: false })),
            ("fairway-lb status --json --socket /s", Some(Task::Status { socket: "/s".into(), json: true })),
            ("fairway-lb drain m1", Some(drain(default, true))),
            ("fairway-lb undrain m1 --socket /s", Some(drain("/s", false))),
            ("fairway-lb drain", None),
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

//! The command line, in kube-proxy's spellings.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use daemon::document::parse_duration;
use daemon::problems::{Problem, Problems};
use dataplane::{PacketForwarding, PacketSettings};

use crate::config::{self, Access, Config, Flags, Reading, Source, beside_a_file, boolean};
use crate::explain::{Destination, Sender};
use crate::packet::{forwarding, interface_name};

/// Programs Services into the kernel of a node: a drop-in for kube-proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairway-proxy", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: Run,
}

/// What to do other than to run.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Remove everything this proxy ever put into the kernel, and exit.
    Cleanup {
        /// Where the state is pinned.
        #[arg(long, value_name = "PATH", default_value = dataplane::DEFAULT_BPF_FS)]
        bpf_fs: PathBuf,
        /// Remove what kube-proxy left instead, and nothing of this proxy, which may run.
        #[arg(long)]
        kube_proxy: bool,
    },
    /// Read a configuration file, say everything that is wrong with it, and exit.
    Check {
        /// A `KubeProxyConfiguration`.
        file: PathBuf,
    },
    /// Ask the running proxy what becomes of a flow, and why.
    Explain {
        /// Who sends: an address. With pod:, node: or outside: before it where the address does not tell.
        #[arg(value_name = "SOURCE")]
        sender: Sender,
        /// Where to; TCP unless said otherwise.
        #[arg(value_name = "ADDRESS:PORT[/PROTOCOL]")]
        destination: Destination,
        #[command(flatten)]
        asking: Asking,
    },
    /// Look for what is wrong with Services on this node, and exit: 0 where nothing is, 1 where something is.
    Doctor {
        #[command(flatten)]
        asking: Asking,
    },
}

/// Whom to ask, and how to answer.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Asking {
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the proxy serves its metrics; by default what its configuration says, or 127.0.0.1:10249.
    #[arg(long = "metrics-bind-address", value_name = "ADDRESS:PORT", conflicts_with = "config")]
    pub(crate) at: Option<SocketAddr>,
    /// The `KubeProxyConfiguration` it runs with.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// How to run. The flags of a configuration are those of [`Flags`].
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Run {
    /// A KubeProxyConfiguration; it replaces the other flags of kube-proxy except --hostname-override and logging.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Write the configuration that is in force, defaults included, to this file, and exit.
    #[arg(long, value_name = "FILE")]
    pub(crate) write_config_to: Option<PathBuf>,

    /// The API server's URL, in place of the kubeconfig's.
    #[arg(long, value_name = "URL")]
    pub(crate) master: Option<String>,

    /// Take Services and EndpointSlices from the YAML and JSON files of this directory, and not from a cluster.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"])]
    pub(crate) manifests: Option<PathBuf>,

    /// The control group whose processes are served; by default all.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,

    /// The directory, on a bpf file system, where state is pinned.
    #[arg(long, value_name = "PATH", default_value = dataplane::DEFAULT_BPF_FS)]
    pub(crate) bpf_fs: PathBuf,

    /// The interfaces at which packets for services are served, by name; a * at the end stands for anything.
    #[arg(long, value_name = "NAMES", default_value = "*", value_delimiter = ',', value_parser = interface_name)]
    pub(crate) packet_interfaces: Vec<String>,

    /// Keep in force what an API server lists no more when nearly everything vanishes at once. SIGUSR1 lets it go.
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    pub(crate) guard_emptiness: bool,

    /// How packets for services go on: redirect, straight to the neighbour; or stack, through the node's netfilter, as network
    /// policies in its FORWARD chains want it.
    #[arg(long, value_name = "WAY", default_value = "redirect", value_parser = forwarding)]
    pub(crate) packet_forwarding: PacketForwarding,

    /// In mode ipvs, for how long an endpoint that is gone keeps its connections.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub(crate) drain_deadline: Duration,

    /// Entries of the table of conversations translated packet by packet, two for each. A table that is there keeps its size.
    #[arg(long, value_name = "NUMBER", default_value_t = PacketSettings::default().flow_entries, value_parser = clap::value_parser!(u32).range(1024..))]
    pub(crate) packet_flow_entries: u32,

    /// Load and attach the programs, and exit. To run takes the same privileges all the same.
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    pub(crate) init_only: bool,

    /// Remove everything this proxy ever put into the kernel, and exit.
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    pub(crate) cleanup: bool,

    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It could, and this is wrong with it or with the command line.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

impl Arguments {
    /// Reads the command line of this process. What cannot be read, and `--help` and `--version`, end it.
    pub fn of_process() -> Self {
        Self::parse_from(std::env::args_os().map(with_dashes))
    }
}

/// `--cluster_cidr` is `--cluster-cidr`, as for every component of Kubernetes.
fn with_dashes(argument: OsString) -> OsString {
    match argument.to_str().and_then(|text| text.strip_prefix("--")) {
        Some(flag) if !flag.is_empty() => {
            let (name, value) = flag.find('=').map_or((flag, ""), |position| flag.split_at(position));
            format!("--{}{value}", name.replace('_', "-")).into()
        }
        Some(_) | None => argument,
    }
}

/// Reads and checks a configuration file.
pub(crate) fn read_config(path: &Path) -> Result<Reading, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    Ok(config::read_file(&text)?)
}

impl Run {
    /// What the command line, and the file it may name, come to; with what there is to warn of.
    pub(crate) fn config(&self) -> Result<(Config, Vec<Problem>), ConfigError> {
        let reading = match &self.config {
            Some(path) => self.beside(read_config(path))?,
            None => self.flags.read()?,
        };
        let (mut config, mut warnings) = (reading.config(), reading.warnings);
        config.guard_emptiness = self.guard_emptiness;
        match (&self.manifests, &mut config.source) {
            (None, Source::Cluster(access)) => access.master.clone_from(&self.master),
            (None, Source::Manifests(_)) => {}
            (Some(directory), source) => {
                if *source != Source::Cluster(Access::default()) {
                    let what = "the cluster is not asked, manifests are served instead".into();
                    warnings.push(Problem { path: "--manifests".into(), what });
                }
                *source = Source::Manifests(directory.clone());
            }
        }
        Ok((config, warnings))
    }

    /// A file, with the flags that act beside it. `--master` acts beside a file too, as in kube-proxy.
    fn beside(&self, file: Result<Reading, ConfigError>) -> Result<Reading, ConfigError> {
        let (mut file, flags) = match (file, self.flags.read()) {
            (Ok(file), Ok(flags)) => (file, flags),
            (Err(ConfigError::Invalid(mut problems)), Err(flags)) => {
                for problem in flags.list() {
                    problems.add(problem.path.clone(), problem.what.clone());
                }
                return Err(problems.into());
            }
            (Err(error), _) => return Err(error),
            (Ok(_), Err(problems)) => return Err(problems.into()),
        };
        let replaced: BTreeSet<String> = self.flags.replaced().map(|flag| format!("--{flag}")).collect();
        file.overlay(&flags, beside_a_file);
        file.warnings.extend(flags.warnings.into_iter().filter(|warning| !replaced.contains(&warning.path)));
        let replaced = |path| Problem { path, what: "has no effect beside --config".into() };
        file.warnings.extend(self.flags.replaced().map(|flag| replaced(format!("--{flag}"))));
        Ok(file)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "must be a duration such as 90s or 1h30m".into())
}

/// The value of a flag that is true or false, as kube-proxy reads it.
fn switch(text: &str) -> Result<bool, String> {
    boolean(text).ok_or_else(|| "must be true or false".into())
}

#[cfg(test)]
mod tests;

//! The command line, in kube-proxy's spellings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use daemon::problems::{Problem, Problems};
use daemon::telemetry::Format;

use crate::config::{self, Access, Config, HEALTHZ_PORT, METRICS_PORT, Mode, Source, bind_address};

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
    },
    /// Read a configuration file, say everything that is wrong with it, and exit.
    Check {
        /// A `KubeProxyConfiguration`.
        file: PathBuf,
    },
}

/// How to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Run {
    /// A KubeProxyConfiguration; it replaces the other configuration flags except --hostname-override.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// How to reach the API server; without it and --master: as a pod of the cluster.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The API server's URL, in place of the kubeconfig's.
    #[arg(long, value_name = "URL")]
    pub(crate) master: Option<String>,

    /// The node's name, where it is not the host's.
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname_override: Option<String>,

    /// Take Services and EndpointSlices from the YAML and JSON files of this directory, and not from a cluster.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"])]
    pub(crate) manifests: Option<PathBuf>,

    /// The control group whose processes are served; by default all.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,

    /// The directory, on a bpf file system, where state is pinned.
    #[arg(long, value_name = "PATH", default_value = dataplane::DEFAULT_BPF_FS)]
    pub(crate) bpf_fs: PathBuf,

    /// Where /healthz and /livez are served [default: 0.0.0.0:10256]; empty: nowhere.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) healthz_bind_address: Option<String>,

    /// Where /metrics and /proxyMode are served [default: 127.0.0.1:10249]; empty: nowhere.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_bind_address: Option<String>,

    /// End if an address cannot be bound, instead of trying again every five seconds.
    #[arg(long)]
    pub(crate) bind_address_hard_fail: bool,

    /// How services are implemented: ebpf.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub(crate) proxy_mode: Option<Mode>,

    /// Remove everything this proxy ever put into the kernel, and exit.
    #[arg(long)]
    pub(crate) cleanup: bool,

    /// How log lines are written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub(crate) log_format: Format,

    /// How much is logged: 0 to 3 the operator's timeline, from 4 each change, from 8 everything.
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0)]
    pub(crate) verbosity: u8,
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

/// Reads and checks a configuration file.
pub(crate) fn read_config(path: &Path) -> Result<(Config, Vec<Problem>), ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    Ok(config::read(&text)?)
}

impl Run {
    /// What the command line, and the file it may name, come to; with what there is to warn of.
    pub(crate) fn config(&self) -> Result<(Config, Vec<Problem>), ConfigError> {
        let (mut config, mut warnings) = match &self.config {
            Some(path) => {
                let (config, mut warnings) = read_config(path)?;
                let replaced = |flag: &&str| Problem {
                    path: format!("--{flag}"),
                    what: "has no effect beside --config".into(),
                };
                warnings.extend(self.replaced_flags().iter().map(replaced));
                (config, warnings)
            }
            None => (self.config_from_flags()?, self.mode_warning()),
        };
        let name = self.hostname_override.as_deref().and_then(config::node_name);
        config.hostname_override = name.or(config.hostname_override);
        match (&self.manifests, &mut config.source) {
            (None, Source::Cluster(access)) if self.master.is_some() => {
                access.master.clone_from(&self.master);
            }
            (None, Source::Cluster(_) | Source::Manifests(_)) => {}
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

    /// The flags that were given and that a file replaces. `--master` acts beside a file, as in kube-proxy.
    fn replaced_flags(&self) -> Vec<&'static str> {
        let flags = [
            ("kubeconfig", self.kubeconfig.is_some()),
            ("healthz-bind-address", self.healthz_bind_address.is_some()),
            ("metrics-bind-address", self.metrics_bind_address.is_some()),
            ("bind-address-hard-fail", self.bind_address_hard_fail),
            ("proxy-mode", self.proxy_mode.is_some()),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }

    fn mode_warning(&self) -> Vec<Problem> {
        let what = self.proxy_mode.and_then(Mode::warning);
        what.into_iter().map(|what| Problem { path: "--proxy-mode".into(), what }).collect()
    }

    fn config_from_flags(&self) -> Result<Config, Problems> {
        let defaults = Config::default();
        let mut problems = Problems::default();
        let mut bound = |flag: &str, text: &Option<String>, port, default| match text.as_deref() {
            None => default,
            Some("") => None,
            Some(text) => bind_address(text, port)
                .map_err(|wrong| problems.add(flag, format!("{wrong}, found {text:?}")))
                .ok(),
        };
        let healthz =
            bound("--healthz-bind-address", &self.healthz_bind_address, HEALTHZ_PORT, defaults.healthz);
        let metrics =
            bound("--metrics-bind-address", &self.metrics_bind_address, METRICS_PORT, defaults.metrics);
        let access = Access { kubeconfig: self.kubeconfig.clone(), master: self.master.clone() };
        problems.or(Some(Config {
            source: Source::Cluster(access),
            healthz,
            metrics,
            bind_address_hard_fail: self.bind_address_hard_fail,
            ..defaults
        }))
    }

    /// The log filter for the verbosity, on klog's scale.
    pub(crate) const fn log_filter(&self) -> &'static str {
        match self.verbosity {
            0..=3 => "info,kube_client=error,kube_runtime=error",
            4..=7 => "info,kube_client=error,kube_runtime=error,proxy=debug,dataplane=debug,daemon=debug",
            8.. => "debug,proxy=trace,dataplane=trace,daemon=trace",
        }
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    let chosen = Mode::CHOICES.iter().find(|(name, _)| *name == text);
    chosen.map(|(_, mode)| *mode).ok_or_else(|| "must be ebpf".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/kube-proxy-config.yaml");

    fn config(arguments: &[&str]) -> Result<(Config, Vec<String>), String> {
        let arguments = std::iter::once(&"fairway-proxy").chain(arguments);
        let parsed = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let (config, warnings) = parsed.run.config().map_err(|error| error.to_string())?;
        Ok((config, warnings.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn without_flags_the_defaults_hold() {
        assert_eq!(config(&[]), Ok((Config::default(), vec![])));
    }

    #[test]
    fn flags_are_read_as_kube_proxy_reads_them() {
        let (config, _) = config(&[
            "--kubeconfig=/k",
            "--master=https://10.0.0.1:6443",
            "--hostname-override=Node-1",
            "--healthz-bind-address=127.0.0.1",
            "--metrics-bind-address=",
            "--v=2",
        ])
        .expect("valid");
        let access = Access { kubeconfig: Some("/k".into()), master: Some("https://10.0.0.1:6443".into()) };
        assert_eq!(config.source, Source::Cluster(access));
        assert_eq!(config.hostname_override.as_deref(), Some("node-1"));
        assert_eq!(config.healthz, Some(([127, 0, 0, 1], HEALTHZ_PORT).into()));
        assert_eq!(config.metrics, None);
    }

    #[test]
    fn a_file_replaces_flags_and_says_so() {
        let (config, warnings) = config(&[
            "--config",
            FIXTURE,
            "--kubeconfig=/other",
            "--hostname-override=n1",
            "--proxy-mode=ebpf",
        ])
        .expect("valid");
        let kubeconfig = Some(PathBuf::from("/var/lib/kube-proxy/kubeconfig.conf"));
        assert_eq!(config.source, Source::Cluster(Access { kubeconfig, master: None }));
        assert_eq!(config.hostname_override.as_deref(), Some("n1"));
        let expected = [
            "clusterCIDR: has no effect in this version",
            "--kubeconfig: has no effect beside --config",
            "--proxy-mode: has no effect beside --config",
        ];
        assert_eq!(warnings, expected);
    }

    #[test]
    fn manifests_need_no_cluster() {
        let (with_file, warnings) = config(&["--config", FIXTURE, "--manifests=/m"]).expect("valid");
        assert_eq!(with_file.source, Source::Manifests("/m".into()));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert_eq!(config(&["--manifests=/m"]).expect("valid").1, [""; 0]);
        assert!(config(&["--manifests=/m", "--kubeconfig=/k"]).is_err());
    }

    #[test]
    fn every_wrong_flag_is_reported_at_once() {
        let problems =
            config(&["--healthz-bind-address=x", "--metrics-bind-address=y"]).expect_err("invalid");
        assert_eq!(problems.lines().count(), 2, "{problems}");
    }

    #[test]
    fn the_modes_of_kube_proxy_start_with_a_warning() {
        let (_, warnings) = config(&["--proxy-mode=iptables"]).expect("valid");
        assert_eq!(warnings, ["--proxy-mode: iptables is not offered, ebpf is used instead"]);
        assert!(config(&["--proxy-mode=userspace"]).is_err());
    }
}

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
mod tests {
    use daemon::telemetry::Format;
    use serde_json::json;

    use super::*;
    use crate::config::HEALTHZ_PORT;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/kube-proxy-config.yaml");
    fn config(arguments: &[&str]) -> Result<(Config, Vec<String>), String> {
        let arguments = std::iter::once(&"fairway-proxy").chain(arguments);
        let arguments = arguments.map(|argument| with_dashes(argument.into()));
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
        let (config, warnings) = config(&[
            "--kubeconfig=/k",
            "--master=https://10.0.0.1:6443",
            "--hostname_override=Node-1",
            "--healthz-bind-address=127.0.0.1",
            "--metrics-bind-address=",
            "--bind-address-hard-fail",
            "-v=2",
            "--v",
            "5",
            "--log-format=json",
        ])
        .expect("valid");
        let access = Access { kubeconfig: Some("/k".into()), master: Some("https://10.0.0.1:6443".into()) };
        assert_eq!(config.source, Source::Cluster(access));
        assert_eq!(config.hostname_override.as_deref(), Some("node-1"));
        assert_eq!(config.healthz, Some(([127, 0, 0, 1], HEALTHZ_PORT).into()));
        assert_eq!(config.metrics, None);
        assert!(config.bind_address_hard_fail);
        assert_eq!((config.logging.verbosity, config.logging.format), (5, Format::Json));
        assert_eq!(config.document["metricsBindAddress"], "");
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn a_file_replaces_flags_and_says_so() {
        let (config, warnings) = config(&[
            "--config",
            FIXTURE,
            "--kubeconfig=/other",
            "--hostname-override=n1",
            "--proxy-mode=ipvs",
            "--healthz-port=0",
            "-v=4",
            "--log-dir=/var/log",
        ])
        .expect("valid");
        let kubeconfig = Some(PathBuf::from("/var/lib/kube-proxy/kubeconfig.conf"));
        assert_eq!(config.source, Source::Cluster(Access { kubeconfig, master: None }));
        assert_eq!(config.hostname_override.as_deref(), Some("n1"));
        assert_eq!(config.document["hostnameOverride"], "n1");
        assert_eq!(config.logging.verbosity, 4);
        assert_eq!(config.healthz, Some(([0, 0, 0, 0], HEALTHZ_PORT).into()));
        let expected = [
            "--log-dir: has no effect: logs go to standard error, in one stream",
            "--proxy-mode: has no effect beside --config",
            "--kubeconfig: has no effect beside --config",
            "--healthz-port: has no effect beside --config",
        ];
        assert_eq!(warnings, expected);
    }

    #[test]
    fn manifests_need_no_cluster() {
        let (with_file, warnings) = config(&["--config", FIXTURE, "--manifests=/m"]).expect("valid");
        assert_eq!(with_file.source, Source::Manifests("/m".into()));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(config(&["--manifests=/m"]).expect("valid").1, [""; 0]);
        assert!(config(&["--manifests=/m", "--kubeconfig=/k"]).is_err());
    }

    #[test]
    fn every_wrong_flag_is_reported_at_once() {
        let wrong = [
            ("--feature-gates=A", "a mapping of names to true or false, found \"A\""),
            ("--bind-address=here", "an IP address, found \"here\""),
            (
                "--metrics-bind-address=y",
                "an IP address with or without a port, as in 127.0.0.1:10249, found \"y\"",
            ),
            ("--proxy-mode=userspace", "one of ebpf, iptables, ipvs, nftables, found \"userspace\""),
            (
                "--cluster-cidr=10.0.0.0",
                "CIDRs separated by commas, as in 10.0.0.0/8,fd00::/8, found \"10.0.0.0\"",
            ),
            (
                "--nodeport-addresses=primary,10.0.0.0/8",
                "a list of CIDRs, or primary alone, found [\"primary\",\"10.0.0.0/8\"]",
            ),
            ("--oom-score-adj=-1001", "a whole number from -1000 to 1000, found -1001"),
            ("--v=loud", "a whole number from 0 to 2147483647, found \"loud\""),
            ("--conntrack-min=1.5", "a whole number from 0 to 2147483647, found \"1.5\""),
            ("--iptables-masquerade-bit=32", "a whole number from 0 to 31, found 32"),
            ("--masquerade-all=maybe", "true or false, found \"maybe\""),
            ("--ipvs-sync-period=30", "a duration such as 100ms or 1m30s, found \"30\""),
            ("--healthz-port=http", "a whole number from 0 to 65535, found \"http\""),
        ];
        let arguments: Vec<&str> = wrong.iter().map(|(argument, _)| *argument).collect();
        let expected = |(argument, what): &(&str, &str)| {
            let flag = argument.split('=').next().unwrap_or_default();
            format!("{flag}: must be {what}")
        };
        let mut expected: Vec<String> = wrong.iter().map(expected).collect();
        for file in [&[][..], &["--config", FIXTURE]] {
            let problems = config(&[file, &arguments[..]].concat()).expect_err("invalid");
            let mut problems: Vec<&str> = problems.lines().collect();
            problems.sort_unstable();
            expected.sort_unstable();
            assert_eq!(problems, expected);
        }
    }

    #[test]
    fn the_modes_of_kube_proxy_start_with_a_warning() {
        let (_, warnings) = config(&["--proxy-mode=iptables"]).expect("valid");
        assert_eq!(warnings, ["--proxy-mode: iptables is not offered, ebpf is used instead"]);
        assert!(config(&["--proxy-mode=userspace"]).is_err());
    }

    #[test]
    fn every_flag_of_kube_proxy_is_taken_and_its_default_is_silent() {
        let defaults = "--feature-gates= --kubeconfig= --kube-api-content-type=application/vnd.kubernetes.protobuf \
            --kube-api-burst=10 --kube-api-qps=5 --hostname-override= --bind-address=0.0.0.0 \
            --healthz-bind-address=0.0.0.0:10256 --metrics-bind-address=127.0.0.1:10249 \
            --bind-address-hard-fail=false --profiling=false --show-hidden-metrics-for-version= --proxy-mode= \
            --iptables-masquerade-bit=14 --masquerade-all=false --iptables-localhost-nodeports \
            --iptables-sync-period=30s --iptables-min-sync-period=1s --ipvs-sync-period=30s \
            --ipvs-min-sync-period=0s --ipvs-scheduler= --ipvs-exclude-cidrs= --ipvs-strict-arp=F \
            --ipvs-tcp-timeout=0s --ipvs-tcpfin-timeout=0 --ipvs-udp-timeout=0s --detect-local-mode= \
            --pod-bridge-interface= --pod-interface-name-prefix= --cluster-cidr= --nodeport-addresses= \
            --oom-score-adj=-999 --conntrack-max-per-core=32768 --conntrack-min=131072 \
            --conntrack-tcp-timeout-established=24h --conntrack-tcp-timeout-close-wait=1h \
            --conntrack-tcp-be-liberal=0 --conntrack-udp-timeout=0s --conntrack-udp-timeout-stream=0s \
            --config-sync-period=15m --v=0 --vmodule= --logging-format=text --log-flush-frequency=5s \
            --log-json-split-stream=false --log-json-info-buffer-size=0 --log-text-split-stream=false \
            --log-text-info-buffer-size=0 --boot-id-file= --machine-id-file= --init-only=false --cleanup=false";
        let arguments: Vec<&str> = defaults.split_whitespace().collect();
        assert_eq!(config(&arguments), Ok((Config::default(), vec![])));
    }

    #[test]
    fn command_lines_of_kube_proxy_start_unchanged() {
        let old = "--bind-address=0.0.0.0 --hostname-override=node1 --cluster-cidr=172.20.0.0/16 \
            --kubeconfig=/etc/kubernetes/kube-proxy.kubeconfig --proxy-mode=ipvs --ipvs-scheduler=rr \
            --ipvs-min-sync-period=5s --ipvs-sync-period=5s --masquerade-all=true --logtostderr=true \
            --alsologtostderr --log-dir=/var/log/kubernetes --v=2 --feature-gates=SupportIPVSProxyMode=true,A=false \
            --nodeport-addresses 10.0.0.0/8 --nodeport-addresses fd00::/8,192.168.0.0/16 --oom-score-adj -998 \
            --vmodule=proxier=4 --kube-api-qps=2.5 --healthz-port=10256";
        let arguments: Vec<&str> = old.split_whitespace().collect();
        let (started, warnings) = config(&arguments).expect("valid");
        assert_eq!(started.healthz, Config::default().healthz);
        assert_eq!(started.oom_score_adjustment, -998);
        assert_eq!(started.mode.name(), "ipvs");
        let values = [
            ("/featureGates", json!({ "SupportIPVSProxyMode": true, "A": false })),
            ("/nodePortAddresses", json!(["10.0.0.0/8", "fd00::/8", "192.168.0.0/16"])),
            ("/oomScoreAdj", json!(-998)),
            ("/clientConnection/qps", json!(2.5)),
            ("/logging/vmodule", json!([{ "filePattern": "proxier", "verbosity": 4 }])),
            ("/clusterCIDR", json!("172.20.0.0/16")),
        ];
        for (path, value) in values {
            assert_eq!(started.document.pointer(path), Some(&value), "{path}");
        }
        let of: Vec<&str> = warnings.iter().filter_map(|warning| warning.split(": ").next()).collect();
        let expected = ["--feature-gates", "--kube-api-qps", "--vmodule", "--log-dir", "--healthz-port"];
        assert_eq!(of.iter().collect::<BTreeSet<_>>(), expected.iter().collect(), "each once");
        assert_eq!(of.len(), expected.len(), "{warnings:?}");
    }

    #[test]
    fn the_deprecated_ports_fill_a_gap_or_serve_nowhere() {
        let cases: [(&[&str], Option<&str>); 5] = [
            (&["--healthz-port=0"], None),
            (&["--healthz-port=7"], Some("0.0.0.0:10256")),
            (&["--healthz-port=7", "--healthz-bind-address=10.0.0.1"], Some("10.0.0.1:7")),
            (&["--healthz-port=7", "--healthz-bind-address=[::1]:8"], Some("[::1]:8")),
            (&["--healthz-port=7", "--healthz-bind-address=::1"], Some("[::1]:7")),
        ];
        for (arguments, expected) in cases {
            let (config, warnings) = config(arguments).expect("valid");
            assert_eq!(
                config.healthz,
                expected.map(|text| text.parse().expect("an address")),
                "{arguments:?}"
            );
            assert_eq!(warnings.len(), 1, "{warnings:?}");
        }
    }
}

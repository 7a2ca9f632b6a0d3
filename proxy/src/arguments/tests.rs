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
        assert_eq!(config.healthz, expected.map(|text| text.parse().expect("an address")), "{arguments:?}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}

//! Every field of kube-proxy's configuration and every flag of its command line, as of Kubernetes 1.36
//! (`cmd/kube-proxy/app/options.go`, `staging/src/k8s.io/kube-proxy/config/v1alpha1/types.go`).

use super::OOM_SCORE_ADJUSTMENT;
use super::field::Effect::{Honoured, Ipvs};
use super::field::Kind::{
    Address, Bind, Choice, CidrText, Cidrs, Duration, Flag, Gates, Interval, Mapping, Modules,
    NodePortAddresses, Number, Rate, Text,
};
use super::field::{Effect, Field, Kind};

const NO_MARKS: Effect = Effect::None("what is to be masqueraded carries no mark");
const NO_CONNTRACK: Effect = Effect::None("the kernel's connection tracking keeps its settings");
const NO_LOCALHOST: Effect =
    Effect::None("node ports are not served at loopback addresses, as in nftables mode");
const NO_RULES: Effect = Effect::None("each change is written as it comes");
const NO_WINDOWS: Effect = Effect::None("this is not Windows");
const NO_REQUESTS: Effect = Effect::None("the API server is asked for two lists and then watched");
const NO_LOG_FILES: Effect = Effect::None("logs go to standard error, in one stream");
const NO_SOURCE_FILES: Effect = Effect::None("log lines are not told apart by source file");
const RETIRED: Effect = Effect::None("kube-proxy has given it up too");

const BIT: Kind = Number(14, (0, 31));
const COUNT: (i64, i64) = (0, i32::MAX as i64);

/// The port of `--healthz-bind-address` where that has none; 0: nowhere. Deprecated.
pub(crate) const HEALTHZ_PORT_FLAG: &str = "healthz-port";
/// The port of `--metrics-bind-address` where that has none; 0: nowhere. Deprecated.
pub(crate) const METRICS_PORT_FLAG: &str = "metrics-port";

/// Every field, with the flag that sets it.
pub(crate) const FIELDS: &[Field] = &[
    field("featureGates", "feature-gates", Gates, Effect::None("nothing here is behind a gate")),
    field("hostnameOverride", "hostname-override", Text(""), Honoured),
    field("bindAddress", "bind-address", Address("0.0.0.0"), Honoured),
    field("healthzBindAddress", "healthz-bind-address", Bind("0.0.0.0:10256"), Honoured),
    field("metricsBindAddress", "metrics-bind-address", Bind("127.0.0.1:10249"), Honoured),
    field("bindAddressHardFail", "bind-address-hard-fail", Flag(false), Honoured),
    field("enableProfiling", "profiling", Flag(false), Effect::None("there is no profile to serve")),
    field(
        "showHiddenMetricsForVersion",
        "show-hidden-metrics-for-version",
        Text(""),
        Effect::None("no metric is hidden"),
    ),
    field("mode", "proxy-mode", Choice(&["ebpf", "iptables", "ipvs", "nftables"]), Honoured),
    field(
        "detectLocalMode",
        "detect-local-mode",
        Choice(&["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]),
        Honoured,
    ),
    field("clusterCIDR", "cluster-cidr", CidrText, Honoured),
    field("nodePortAddresses", "nodeport-addresses", NodePortAddresses, Honoured),
    field("oomScoreAdj", "oom-score-adj", Number(OOM_SCORE_ADJUSTMENT, (-1000, 1000)), Honoured),
    field("configSyncPeriod", "config-sync-period", Duration("15m0s"), NO_REQUESTS),
    field("portRange", "proxy-port-range", Text(""), RETIRED),
    field("windowsRunAsService", "windows-service", Flag(false), NO_WINDOWS),
    field("clientConnection.kubeconfig", "kubeconfig", Text(""), Honoured),
    field("clientConnection.acceptContentTypes", "", Text(""), Effect::None("JSON is asked for")),
    field(
        "clientConnection.contentType",
        "kube-api-content-type",
        Text("application/vnd.kubernetes.protobuf"),
        Effect::None("JSON is asked for"),
    ),
    field("clientConnection.qps", "kube-api-qps", Rate(5), NO_REQUESTS),
    field("clientConnection.burst", "kube-api-burst", Number(10, COUNT), NO_REQUESTS),
    field("logging.format", "logging-format", Choice(&["text", "json"]), Honoured),
    field("logging.verbosity", "v", Number(0, COUNT), Honoured),
    field(
        "logging.flushFrequency",
        "log-flush-frequency",
        Interval("5s"),
        Effect::None("each line is written at once"),
    ),
    field("logging.vmodule", "vmodule", Modules, NO_SOURCE_FILES),
    field("logging.options", "", Mapping, NO_LOG_FILES),
    field("conntrack.maxPerCore", "conntrack-max-per-core", Number(32_768, COUNT), NO_CONNTRACK),
    field("conntrack.min", "conntrack-min", Number(131_072, COUNT), NO_CONNTRACK),
    field(
        "conntrack.tcpEstablishedTimeout",
        "conntrack-tcp-timeout-established",
        Duration("24h0m0s"),
        NO_CONNTRACK,
    ),
    field(
        "conntrack.tcpCloseWaitTimeout",
        "conntrack-tcp-timeout-close-wait",
        Duration("1h0m0s"),
        NO_CONNTRACK,
    ),
    field("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Flag(false), NO_CONNTRACK),
    field("conntrack.udpTimeout", "conntrack-udp-timeout", Duration("0s"), NO_CONNTRACK),
    field("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", Duration("0s"), NO_CONNTRACK),
    field("detectLocal.bridgeInterface", "pod-bridge-interface", Text(""), Honoured),
    field("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", Text(""), Honoured),
    field("iptables.masqueradeBit", "iptables-masquerade-bit", BIT, Ipvs),
    field("iptables.masqueradeAll", "masquerade-all", Flag(false), Honoured),
    field("iptables.localhostNodePorts", "iptables-localhost-nodeports", Flag(true), NO_LOCALHOST),
    field("iptables.syncPeriod", "iptables-sync-period", Duration("30s"), NO_RULES),
    field("iptables.minSyncPeriod", "iptables-min-sync-period", Duration("1s"), NO_RULES),
    field("ipvs.syncPeriod", "ipvs-sync-period", Duration("30s"), Ipvs),
    field("ipvs.minSyncPeriod", "ipvs-min-sync-period", Duration("0s"), Ipvs),
    field("ipvs.scheduler", "ipvs-scheduler", Text("rr"), Honoured),
    field("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", Cidrs, Ipvs),
    field("ipvs.strictARP", "ipvs-strict-arp", Flag(false), Ipvs),
    field("ipvs.tcpTimeout", "ipvs-tcp-timeout", Duration("0s"), Ipvs),
    field("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout", Duration("0s"), Ipvs),
    field("ipvs.udpTimeout", "ipvs-udp-timeout", Duration("0s"), Ipvs),
    field("nftables.masqueradeBit", "", BIT, NO_MARKS),
    field("nftables.masqueradeAll", "", Flag(false), Honoured),
    field("nftables.syncPeriod", "", Duration("30s"), NO_RULES),
    field("nftables.minSyncPeriod", "", Duration("1s"), NO_RULES),
    field("winkernel.networkName", "network-name", Text(""), NO_WINDOWS),
    field("winkernel.sourceVip", "source-vip", Text(""), NO_WINDOWS),
    field("winkernel.enableDSR", "enable-dsr", Flag(false), NO_WINDOWS),
    field("winkernel.rootHnsEndpointName", "root-hnsendpoint-name", Text(""), NO_WINDOWS),
    field("winkernel.forwardHealthCheckVip", "forward-healthcheck-vip", Flag(false), NO_WINDOWS),
];

/// The flags that no field corresponds to: of today, of the logging library's past, and of kube-proxy's own.
pub(crate) const STRAY_FLAGS: &[Field] = &[
    stray(HEALTHZ_PORT_FLAG, Number(10_256, (0, 65_535)), Honoured),
    stray(METRICS_PORT_FLAG, Number(10_249, (0, 65_535)), Honoured),
    stray("boot-id-file", Text(""), Effect::None("the boot is not asked for")),
    stray("machine-id-file", Text(""), Effect::None("the machine is not asked for")),
    stray("log-json-split-stream", Flag(false), NO_LOG_FILES),
    stray("log-json-info-buffer-size", Text("0"), NO_LOG_FILES),
    stray("log-text-split-stream", Flag(false), NO_LOG_FILES),
    stray("log-text-info-buffer-size", Text("0"), NO_LOG_FILES),
    stray("logtostderr", Flag(true), NO_LOG_FILES),
    stray("alsologtostderr", Flag(true), NO_LOG_FILES),
    stray("log-dir", Text(""), NO_LOG_FILES),
    stray("log-file", Text(""), NO_LOG_FILES),
    stray("log-file-max-size", Text("1800"), NO_LOG_FILES),
    stray("log-backtrace-at", Text(":0"), NO_SOURCE_FILES),
    stray("stderrthreshold", Text("2"), NO_LOG_FILES),
    stray("add-dir-header", Flag(false), NO_SOURCE_FILES),
    stray("skip-headers", Flag(false), NO_SOURCE_FILES),
    stray("skip-log-headers", Flag(false), NO_SOURCE_FILES),
    stray("one-output", Flag(false), NO_LOG_FILES),
    stray("cleanup-ipvs", Flag(true), RETIRED),
    stray("conntrack-max", Number(0, COUNT), RETIRED),
    stray("resource-container", Text(""), RETIRED),
    stray("udp-timeout", Duration("250ms"), RETIRED),
];

/// Fields that Go keeps as pointers: there zero is a value, and only null is none.
pub(crate) const ZERO_IS_SAID: &[&str] = &[
    "conntrack.maxPerCore",
    "conntrack.min",
    "conntrack.tcpEstablishedTimeout",
    "conntrack.tcpCloseWaitTimeout",
    "iptables.masqueradeBit",
    "iptables.localhostNodePorts",
    "nftables.masqueradeBit",
    "oomScoreAdj",
];

const fn field(path: &'static str, flag: &'static str, kind: Kind, effect: Effect) -> Field {
    Field { path, flag, kind, effect }
}

const fn stray(flag: &'static str, kind: Kind, effect: Effect) -> Field {
    Field { path: "", flag, kind, effect }
}

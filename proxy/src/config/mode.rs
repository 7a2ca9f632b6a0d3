//! Which part of the kernel forwards, in the words of a `KubeProxyConfiguration`.

use std::time::Duration;

use daemon::document::parse_duration;
use dataplane::{Ipvs, IpvsSettings, Timeouts};
use plan::{Scheduler, Scope};

use super::check::Reading;

/// Which part of the kernel forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// eBPF programs, at the socket and at interfaces.
    #[default]
    Ebpf,
    /// Its IP virtual server.
    Ipvs(IpvsSettings),
}

impl Mode {
    /// As `/proxyMode` tells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Ipvs(_) => "ipvs",
        }
    }
}

/// What `reading` comes to.
pub(super) fn mode(reading: &Reading) -> Mode {
    if !is_ipvs(reading) {
        return Mode::Ebpf;
    }
    // kube-proxy's are whole seconds too, and zero is no timeout at all.
    let timeout = |path| duration(reading, path).map_or(0, |timeout| timeout.as_millis().div_ceil(1000));
    let seconds = |path| Duration::from_secs(u64::try_from(timeout(path)).unwrap_or(u64::MAX));
    Mode::Ipvs(IpvsSettings {
        scheduler: reading.text("ipvs.scheduler").and_then(scheduler).unwrap_or_default(),
        strict_arp: reading.flag("ipvs.strictARP"),
        timeouts: Timeouts {
            tcp: seconds("ipvs.tcpTimeout"),
            tcp_fin: seconds("ipvs.tcpFinTimeout"),
            udp: seconds("ipvs.udpTimeout"),
        },
        ..IpvsSettings::default()
    })
}

/// What is not left to others in this mode.
pub(super) fn scope(reading: &Reading) -> Scope {
    if is_ipvs(reading) { virtual_scope(reading) } else { Scope::everything() }
}

/// Which virtual services are not left to others (`ipvs.excludeCIDRs`).
pub(super) fn virtual_scope(reading: &Reading) -> Scope {
    let excluded = reading.texts("ipvs.excludeCIDRs");
    Scope::AllBut(excluded.filter_map(|text| text.trim().parse().ok()).collect())
}

/// The time from one comparison with the kernel to the next, and the least between two syncs, where they are given.
pub(super) fn periods(reading: &Reading) -> (Option<Duration>, Option<Duration>) {
    let given = |path| duration(reading, path).filter(|period| !period.is_zero() && is_ipvs(reading));
    (given("ipvs.syncPeriod"), given("ipvs.minSyncPeriod"))
}

/// A scheduler of IPVS, by the kernel's name or ours.
pub(super) fn scheduler(name: &str) -> Option<Scheduler> {
    Ipvs::scheduler(name).or_else(|| Ipvs::schedulers().map(|(_, it)| it).find(|it| it.name() == name))
}

fn is_ipvs(reading: &Reading) -> bool {
    reading.text("mode") == Some("ipvs")
}

fn duration(reading: &Reading, path: &str) -> Option<Duration> {
    reading.text(path).and_then(parse_duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, read};

    fn config(text: &str) -> Config {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let (config, warnings) = read(&format!("{head}{text}")).expect("valid");
        assert_eq!(warnings, [], "{text}");
        config
    }

    #[test]
    fn ipvs_is_set_up_as_its_section_says() {
        let all = config(
            "mode: ipvs\nipvs: {scheduler: sed, strictARP: true, tcpTimeout: 15m, tcpFinTimeout: 1500ms, \
             syncPeriod: 10s, minSyncPeriod: 1s, excludeCIDRs: [172.16.60.250/32, 'fd00::/64']}\n",
        );
        let timeouts =
            Timeouts { tcp: Duration::from_mins(15), tcp_fin: Duration::from_secs(2), udp: Duration::ZERO };
        let scheduler = Scheduler::ShortestExpectedDelay;
        assert_eq!(
            all.mode,
            Mode::Ipvs(IpvsSettings { scheduler, strict_arp: true, timeouts, ..IpvsSettings::default() })
        );
        assert_eq!(all.serving.scheduler, scheduler);
        assert_eq!((all.sync_period.as_secs(), all.least_sync_interval.as_secs()), (10, 1));
        let excluded = ["172.16.60.250/32", "fd00::/64"].map(|text| text.parse().expect("a network"));
        assert_eq!(all.scope, Scope::AllBut(excluded.into()));
        assert_eq!(all.document["mode"], "ipvs");

        let none = config("mode: ipvs\n");
        assert_eq!(none.mode, Mode::Ipvs(IpvsSettings::default()));
        assert_eq!((none.sync_period, none.scope), (Duration::from_secs(30), Scope::everything()));
    }

    #[test]
    fn every_scheduler_of_ipvs_is_known_by_either_name() {
        for (name, expected) in Ipvs::schedulers() {
            for spelt in [name, expected.name()] {
                let found = config(&format!("mode: ipvs\nipvs: {{scheduler: {spelt}}}\n"));
                assert_eq!(found.serving.scheduler, expected, "{spelt}");
            }
        }
        assert_eq!(Ipvs::schedulers().map(|(name, _)| name).collect::<Vec<_>>().len(), 9);
        assert_eq!(scheduler("random"), None);
    }
}

//! What is measured about virtual routers.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use vrrp::{Priority, Rejected, Role};

use super::RouterConfig;

/// The families of metrics that all virtual routers share. The label `instance` says which one it is about: see
/// [`RouterConfig::instance`].
#[derive(Clone, Debug)]
pub struct RouterMetrics {
    state: IntGaugeVec,
    priority: IntGaugeVec,
    transitions: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    rejected: IntCounterVec,
    late: IntCounterVec,
    conflicts: IntCounterVec,
}

/// Those of one virtual router.
#[derive(Debug)]
pub(super) struct InstanceMetrics {
    pub(super) instance: String,
    families: RouterMetrics,
}

impl RouterMetrics {
    /// Makes the metrics known to `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| {
            let options = Opts::new(format!("fairway_lb_vrrp_{name}"), help);
            let family = IntGaugeVec::new(options, &["instance"])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(format!("fairway_lb_vrrp_{name}"), help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        Ok(Self {
            state: gauges("state", "Role of the virtual router: 0 initialize, 1 backup, 2 master.")?,
            priority: gauges(
                "priority",
                "Priority as tracked facts leave it; 0 while a fault keeps the router from taking part.",
            )?,
            transitions: counters(
                "transitions_total",
                "Changes of role, by the new role.",
                &["instance", "to"],
            )?,
            received: counters(
                "adverts_received_total",
                "Adverts of other routers that passed every check.",
                &["instance"],
            )?,
            sent: counters(
                "adverts_sent_total",
                "Adverts sent, farewells included; where peers are listed, one for each.",
                &["instance"],
            )?,
            rejected: counters(
                "adverts_rejected_total",
                "Packets that were no advert for this virtual router, by what was found wrong first.",
                &["instance", "reason"],
            )?,
            late: counters(
                "late_timers_total",
                "Timers that were noticed later than a tenth of the advert interval.",
                &["instance"],
            )?,
            conflicts: counters(
                "address_conflicts_total",
                "Claims of others, by ARP or neighbour advertisement, to a virtual address that this node held.",
                &["instance"],
            )?,
        })
    }

    /// Shows a router of which nothing is known yet.
    #[cfg(test)]
    pub(crate) fn introduce(&self, config: &RouterConfig) {
        drop(self.of(config));
    }

    /// Those of one virtual router. Every label value is there from now on, at 0 if the router is new.
    pub(super) fn of(&self, config: &RouterConfig) -> InstanceMetrics {
        let metrics = InstanceMetrics { instance: config.instance(), families: self.clone() };
        let instance = metrics.instance.as_str();
        self.state.with_label_values(&[instance]);
        self.priority.with_label_values(&[instance]);
        self.received.with_label_values(&[instance]);
        self.sent.with_label_values(&[instance]);
        self.late.with_label_values(&[instance]);
        self.conflicts.with_label_values(&[instance]);
        for role in Role::ALL {
            self.transitions.with_label_values(&[instance, role.label()]);
        }
        for reason in Rejected::LABELS {
            self.rejected.with_label_values(&[instance, reason]);
        }
        metrics
    }
}

impl InstanceMetrics {
    pub(super) fn changed(&self, to: Role) {
        self.families.state.with_label_values(&[&self.instance]).set(match to {
            Role::Initialize => 0,
            Role::Backup => 1,
            Role::Master => 2,
        });
        self.families.transitions.with_label_values(&[self.instance.as_str(), to.label()]).inc();
    }

    /// `None` while there is a fault.
    pub(super) fn priority(&self, priority: Option<Priority>) {
        let number = priority.map_or(0, |priority| priority.number().into());
        self.families.priority.with_label_values(&[&self.instance]).set(number);
    }

    pub(super) fn received(&self) {
        self.families.received.with_label_values(&[&self.instance]).inc();
    }

    pub(super) fn sent(&self) {
        self.families.sent.with_label_values(&[&self.instance]).inc();
    }

    pub(super) fn conflict(&self) {
        self.families.conflicts.with_label_values(&[&self.instance]).inc();
    }

    pub(super) fn late(&self) {
        self.families.late.with_label_values(&[&self.instance]).inc();
    }

    pub(super) fn rejected(&self, reason: Rejected) {
        self.families.rejected.with_label_values(&[self.instance.as_str(), reason.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::config;

    #[test]
    fn the_published_names_are_there_before_anything_happens_to_a_router() {
        let registry = Registry::new();
        let metrics = RouterMetrics::register(&registry).unwrap();
        let _one = metrics.of(&config("172.16.60.250/32", &[]));
        let _other = metrics.of(&config("fd00::fa/128", &[]));
        let series: Vec<(String, usize)> = registry
            .gather()
            .iter()
            .map(|family| (family.name().to_owned(), family.get_metric().len()))
            .collect();
        let expected = [
            ("fairway_lb_vrrp_address_conflicts_total", 2),
            ("fairway_lb_vrrp_adverts_received_total", 2),
            ("fairway_lb_vrrp_adverts_rejected_total", 2 * Rejected::LABELS.len()),
            ("fairway_lb_vrrp_adverts_sent_total", 2),
            ("fairway_lb_vrrp_late_timers_total", 2),
            ("fairway_lb_vrrp_priority", 2),
            ("fairway_lb_vrrp_state", 2),
            ("fairway_lb_vrrp_transitions_total", 6),
        ];
        assert_eq!(series, expected.map(|(name, count)| (name.to_owned(), count)));
        let labels = registry.gather()[6]
            .get_metric()
            .iter()
            .map(|it| it.get_label()[0].value().to_owned())
            .collect::<Vec<_>>();
        assert_eq!(labels, ["eth0-51-ipv4", "eth0-51-ipv6"]);
    }
}

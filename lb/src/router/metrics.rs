//! What is measured about the virtual router.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use vrrp::{Rejected, Role};

/// The counters of one virtual router.
#[derive(Clone, Debug)]
pub struct RouterMetrics {
    state: IntGauge,
    transitions: IntCounterVec,
    received: IntCounter,
    sent: IntCounter,
    rejected: IntCounterVec,
}

impl RouterMetrics {
    /// Makes the metrics known to `registry`. Every label value is there from the start, at 0.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            state: IntGauge::new(
                "fairway_lb_vrrp_state",
                "Role of the virtual router: 0 initialize, 1 backup, 2 master.",
            )?,
            transitions: IntCounterVec::new(
                Opts::new("fairway_lb_vrrp_transitions_total", "Changes of role, by the new role."),
                &["to"],
            )?,
            received: IntCounter::new(
                "fairway_lb_vrrp_adverts_received_total",
                "Adverts of other routers that passed every check.",
            )?,
            sent: IntCounter::new(
                "fairway_lb_vrrp_adverts_sent_total",
                "Adverts sent, farewells included; where peers are listed, one for each.",
            )?,
            rejected: IntCounterVec::new(
                Opts::new(
                    "fairway_lb_vrrp_adverts_rejected_total",
                    "Packets that were no advert for this virtual router, by what was found wrong first.",
                ),
                &["reason"],
            )?,
        };
        for role in Role::ALL {
            metrics.transitions.with_label_values(&[role.label()]);
        }
        for reason in Rejected::LABELS {
            metrics.rejected.with_label_values(&[reason]);
        }
        registry.register(Box::new(metrics.state.clone()))?;
        registry.register(Box::new(metrics.transitions.clone()))?;
        registry.register(Box::new(metrics.received.clone()))?;
        registry.register(Box::new(metrics.sent.clone()))?;
        registry.register(Box::new(metrics.rejected.clone()))?;
        Ok(metrics)
    }

    pub(super) fn changed(&self, to: Role) {
        self.state.set(match to {
            Role::Initialize => 0,
            Role::Backup => 1,
            Role::Master => 2,
        });
        self.transitions.with_label_values(&[to.label()]).inc();
    }

    pub(super) fn received(&self) {
        self.received.inc();
    }

    pub(super) fn sent(&self) {
        self.sent.inc();
    }

    pub(super) fn rejected(&self, reason: Rejected) {
        self.rejected.with_label_values(&[reason.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_names_are_there_before_anything_happens() {
        let registry = Registry::new();
        RouterMetrics::register(&registry).unwrap();
        let series: Vec<(String, usize)> = registry
            .gather()
            .iter()
            .map(|family| (family.name().to_owned(), family.get_metric().len()))
            .collect();
        let expected = [
            ("fairway_lb_vrrp_adverts_received_total", 1),
            ("fairway_lb_vrrp_adverts_rejected_total", Rejected::LABELS.len()),
            ("fairway_lb_vrrp_adverts_sent_total", 1),
            ("fairway_lb_vrrp_state", 1),
            ("fairway_lb_vrrp_transitions_total", 3),
        ];
        assert_eq!(series, expected.map(|(name, count)| (name.to_owned(), count)));
    }
}

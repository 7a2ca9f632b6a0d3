//! What the kernel counted of each port of a Service: of those with the most connections by name, of the rest as one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use dataplane::{ServiceCount, ServiceCounters, ServiceLatency, ServiceTally};
use plan::Frontend;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounterVec, Opts, Registry};

use crate::explain::{SharedView, View};

/// So many ports of Services have series of their own.
const MOST: usize = 100;
/// What the series of all others has in place of a name. No Service has it, nor one without a namespace.
const OTHERS: &str = "others";

/// The counters of Services, read from the kernel when somebody asks.
pub(crate) struct ServiceMetrics {
    counters: ServiceCounters,
    view: SharedView,
    account: Mutex<Account>,
    connections: Opts,
    refused: Opts,
    bytes: Opts,
    latency: Opts,
    descriptions: Vec<Desc>,
}

const PORT_LABELS: [&str; 3] = ["namespace", "name", "port"];
const CONNECTION_LABELS: [&str; 4] = ["namespace", "name", "port", "path"];

impl ServiceMetrics {
    /// Publishes them in `registry`. Fails where a name is taken.
    pub(crate) fn register(
        registry: &Registry,
        counters: ServiceCounters,
        view: SharedView,
    ) -> prometheus::Result<()> {
        let mut metrics = Self {
            counters,
            view,
            account: Mutex::default(),
            connections: Opts::new(
                "fairway_proxy_service_connections_total",
                "Connections and exchanges of datagrams, translated at a socket or packet by packet",
            ),
            refused: Opts::new(
                "fairway_proxy_service_refused_total",
                "Connections and packets that met no endpoint",
            ),
            bytes: Opts::new(
                "fairway_proxy_service_bytes_total",
                "Bytes of packets translated; what a socket of the node moves is not seen",
            ),
            latency: Opts::new(
                "fairway_proxy_service_connect_duration_seconds",
                "From connect to the end of the handshake, of TCP connections translated at a socket",
            ),
            descriptions: Vec::new(),
        };
        let series = metrics.series()?;
        metrics.descriptions =
            series.iter().flat_map(|series| series.desc().into_iter().cloned().collect::<Vec<_>>()).collect();
        let labels = PORT_LABELS.map(str::to_owned).to_vec();
        let Opts { name, help, .. } = metrics.latency.clone();
        metrics.descriptions.push(Desc::new(name, help, labels, HashMap::new())?);
        registry.register(Box::new(metrics))
    }

    fn series(&self) -> prometheus::Result<[IntCounterVec; 3]> {
        Ok([
            IntCounterVec::new(self.connections.clone(), &CONNECTION_LABELS)?,
            IntCounterVec::new(self.refused.clone(), &PORT_LABELS)?,
            IntCounterVec::new(self.bytes.clone(), &PORT_LABELS)?,
        ])
    }

    /// Takes in what was counted since. In the middle of a sync nobody can be named: then it waits for the next time.
    fn update(&self, account: &mut Account) -> Result<(), dataplane::Error> {
        let counts = self.counters.read()?;
        if let Some(view) = self.view.try_lock() {
            account.take_in(&counts, |frontend| named(&view, frontend), MOST);
        }
        Ok(())
    }
}

impl Collector for ServiceMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // No one panics while holding it, and if so: it is plain data.
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.update(&mut account) {
            tracing::warn!(error = daemon::exit::chain(&error), "counters of services not read");
        }
        let [connections, refused, bytes] = match self.series() {
            Ok(series) => series,
            Err(error) => {
                tracing::error!(%error, "counters of services not shown");
                return Vec::new();
            }
        };
        let others = ServicePort { name: OTHERS.to_owned(), ..ServicePort::default() };
        let mut latency = MetricFamily::default();
        latency.set_name(self.latency.name.clone());
        latency.set_help(self.latency.help.clone());
        latency.set_field_type(MetricType::HISTOGRAM);
        let mut latencies = Vec::new();
        for (port, Sum { tally, latency }) in account.shown.iter().chain([(&others, &account.rest)]) {
            let labels = [port.namespace.as_str(), &port.name, &port.port];
            let [namespace, name, number] = labels;
            for (path, count) in [("socket", tally.socket_connections), ("packet", tally.packet_connections)]
            {
                connections.with_label_values(&[namespace, name, number, path]).inc_by(count);
            }
            refused.with_label_values(&labels).inc_by(tally.refused);
            bytes.with_label_values(&labels).inc_by(tally.bytes);
            latencies.push(histogram(&labels, latency));
        }
        latency.set_metric(latencies);
        let counters = [connections, refused, bytes];
        counters.iter().flat_map(Collector::collect).chain([latency]).collect()
    }
}

/// In the form in which histograms are shown: each bucket holds what those before it do.
fn histogram(labels: &[&str; 3], latency: &ServiceLatency) -> Metric {
    #[expect(clippy::cast_precision_loss, reason = "exact for a hundred days")]
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let mut so_far = 0;
    let buckets = ServiceLatency::LIMITS.iter().zip(latency.counts).map(|(limit, count)| {
        so_far += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(seconds(*limit));
        bucket.set_cumulative_count(so_far);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(latency.counts.iter().sum());
    histogram.set_sample_sum(seconds(latency.total));
    let label = |(name, value): (&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    let mut labels: Vec<LabelPair> = PORT_LABELS.into_iter().zip(labels.iter().copied()).map(label).collect();
    labels.sort_unstable_by(|one, other| one.name().cmp(other.name()));
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

/// A port of a Service, as labels name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct ServicePort {
    namespace: String,
    name: String,
    /// Its name, or its number where it has none.
    port: String,
}

/// Whose a frontend is.
fn named(view: &View, frontend: Frontend) -> Option<ServicePort> {
    let name = view.planner.holder(frontend)?;
    let service = view.planner.cluster().service(name)?;
    let is_at = |address: &BTreeSet<IpAddr>| address.contains(&frontend.address());
    let at_own_port =
        [&service.addresses, &service.external_addresses, &service.balancer_addresses].into_iter().any(is_at);
    let port = service.ports.iter().find(|port| {
        let number = if at_own_port { Some(port.port) } else { port.node_port };
        port.protocol == frontend.protocol() && number == Some(frontend.port())
    })?;
    let port = if port.name.is_empty() { port.port.number().to_string() } else { port.name.to_string() };
    Some(ServicePort { namespace: name.namespace.to_string(), name: name.name.to_string(), port })
}

/// Who counts by name, and for how much. Every series only ever grows: what is counted of a port while it is among those
/// with the most connections is added to its own, and what is counted while it is not to that of the rest.
#[derive(Debug, Default)]
struct Account {
    /// As last read, of each frontend.
    last: BTreeMap<u32, Sum>,
    totals: BTreeMap<ServicePort, Sum>,
    shown: BTreeMap<ServicePort, Sum>,
    rest: Sum,
}

/// All that is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    tally: ServiceTally,
    latency: ServiceLatency,
}

impl Sum {
    fn of(count: &ServiceCount) -> Self {
        Self { tally: count.tally, latency: count.latency }
    }

    fn add(&mut self, more: Self) {
        *self = Self { tally: self.tally.plus(more.tally), latency: self.latency.plus(more.latency) };
    }

    /// What came after `before`. The kernel may have forgotten that, and begun again from nothing.
    fn since(self, before: Self) -> Self {
        Self {
            tally: self.tally.since(before.tally).unwrap_or(self.tally),
            latency: self.latency.since(before.latency).unwrap_or(self.latency),
        }
    }
}

impl Account {
    fn take_in(
        &mut self,
        counts: &[ServiceCount],
        named: impl Fn(Frontend) -> Option<ServicePort>,
        most: usize,
    ) {
        let mut news: BTreeMap<Option<ServicePort>, Sum> = BTreeMap::new();
        let last = std::mem::take(&mut self.last);
        for count in counts {
            let before = last.get(&count.id).copied().unwrap_or_default();
            let sum = Sum::of(count);
            news.entry(count.frontend.and_then(&named)).or_default().add(sum.since(before));
            self.last.insert(count.id, sum);
        }
        for (port, since) in news.iter().filter_map(|(port, since)| Some((port.clone()?, since))) {
            self.totals.entry(port).or_default().add(*since);
        }
        self.totals.retain(|port, _| news.contains_key(&Some(port.clone())));
        let mut ranking: Vec<(&ServicePort, &Sum)> = self.totals.iter().collect();
        ranking.sort_by_key(|(_, Sum { tally: total, .. })| {
            let met = total.socket_connections.saturating_add(total.packet_connections);
            Reverse(met.saturating_add(total.refused))
        });
        let busiest: BTreeSet<ServicePort> =
            ranking.into_iter().take(most).map(|(port, _)| port.clone()).collect();
        self.shown.retain(|port, _| busiest.contains(port));
        for (port, since) in news {
            match port.filter(|port| busiest.contains(port)) {
                Some(port) => self.shown.entry(port).or_default().add(since),
                None => self.rest.add(since),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plan::{Port, Protocol};

    use super::*;

    fn frontend(last: u8) -> Frontend {
        Frontend::new([10, 0, 0, last].into(), Port::new(80).expect("not 0"), Protocol::Tcp)
    }

    fn port(last: u8) -> ServicePort {
        ServicePort { namespace: "default".into(), name: format!("web-{last}"), port: "http".into() }
    }

    /// Frontends 1 and 11 are of one port, as a cluster address and a node port are.
    fn named(of: Frontend) -> Option<ServicePort> {
        (1..=30).find(|last| frontend(*last) == of).map(|last| port(last % 10))
    }

    fn count(last: u8, connections: u64) -> ServiceCount {
        let tally = ServiceTally { socket_connections: connections, bytes: 10, ..ServiceTally::default() };
        ServiceCount {
            id: last.into(),
            frontend: Some(frontend(last)),
            tally,
            latency: ServiceLatency::default(),
        }
    }

    fn shown(account: &Account) -> Vec<(ServicePort, u64)> {
        account.shown.iter().map(|(port, sum)| (port.clone(), sum.tally.socket_connections)).collect()
    }

    #[test]
    fn the_busiest_ports_are_named_and_no_series_ever_falls() {
        let mut account = Account::default();
        account.take_in(&[count(1, 5), count(11, 3), count(2, 7), count(3, 1)], named, 2);
        assert_eq!(shown(&account), [(port(1), 8), (port(2), 7)], "all frontends of a port together");
        assert_eq!(account.rest.tally.socket_connections, 1);
        // The third overtakes the second, which keeps what it has in nobody's series.
        account.take_in(&[count(1, 6), count(11, 3), count(2, 8), count(3, 21)], named, 2);
        assert_eq!(shown(&account), [(port(1), 9), (port(3), 20)]);
        assert_eq!(account.rest.tally.socket_connections, 2, "the one that the second had since");
        assert_eq!(account.rest.tally.bytes, 10, "those that the third had before");
    }

    #[test]
    fn what_the_kernel_forgot_is_counted_anew_and_what_is_gone_among_the_rest() {
        let mut account = Account::default();
        account.take_in(&[count(1, 5)], named, 2);
        account.take_in(&[count(1, 2)], named, 2);
        assert_eq!(shown(&account), [(port(1), 7)]);
        let gone = ServiceCount { frontend: None, ..count(1, 4) };
        account.take_in(&[gone], named, 2);
        assert_eq!(shown(&account), []);
        assert_eq!(account.rest.tally.socket_connections, 2);
    }

    #[test]
    fn a_histogram_adds_up_from_its_first_bucket_to_its_last() {
        let mut latency = ServiceLatency { total: 2_500_000_000, ..ServiceLatency::default() };
        (latency.counts[0], latency.counts[6], latency.counts[8]) = (3, 2, 1);
        let metric = histogram(&["default", "web", "http"], &latency);
        let shown = metric.get_histogram();
        let buckets: Vec<u64> = shown.get_bucket().iter().map(Bucket::cumulative_count).collect();
        assert_eq!(buckets, [3, 3, 3, 3, 3, 3, 5, 5]);
        assert_eq!((shown.get_sample_count(), shown.get_sample_sum()), (6, 2.5));
    }
}

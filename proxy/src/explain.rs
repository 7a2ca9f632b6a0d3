//! What becomes of a flow, and why: the plan's own derivation, told by the running proxy.

mod question;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use daemon::admin::Answer;
use daemon::exit::chain;
use dataplane::LiveServices;
use hyper::StatusCode;
use plan::{Frontend, Observed, ObservedService, Packet, Source, Verdict, matching};
use serde::Serialize;
use serde_json::json;

pub(crate) use self::question::{Destination, Question, Sender};
use crate::cluster::{Cluster, Here};
use crate::planner::Planner;
use crate::translate::{Derivation, Exposure, Judgement, List, Topology, derive};

/// The plan, and what the kernel was last brought to; `None` before the first sync. `live` is what the kernel holds now, of
/// a dataplane that can be asked while it works.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) planner: Planner,
    pub(crate) applied: Option<Observed>,
    pub(crate) live: Option<LiveServices>,
}

impl View {
    /// What the kernel forwards at a frontend.
    fn kernel(&self, frontend: Frontend) -> Result<Option<ObservedService>, dataplane::Error> {
        match &self.live {
            Some(live) => live.read(frontend),
            None => Ok(self.applied.as_ref().and_then(|applied| applied.services.get(&frontend).cloned())),
        }
    }

    /// Where it forwards something.
    fn in_kernel(&self) -> Result<BTreeSet<Frontend>, dataplane::Error> {
        match &self.live {
            Some(live) => live.frontends(),
            None => Ok(self.applied.iter().flat_map(|applied| applied.services.keys().copied()).collect()),
        }
    }
}

/// The view that the sync thread keeps and the admin server reads. It is held for as long as a sync takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedView(Arc<Mutex<View>>);

impl SharedView {
    /// No one panics while holding it, and if so: the next sync reads everything anew.
    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers `/explain`. It does not wait for a sync that is under way.
    pub(crate) fn answer(&self, query: &str) -> Answer {
        let question = match query.parse::<Question>() {
            Ok(question) => question,
            Err(wrong) => return Answer::text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
        };
        let Some(view) = self.try_lock() else { return busy() };
        let explanation = match explain(&view, &question) {
            Ok(explanation) => explanation,
            Err(error) => return unread(&error),
        };
        match serde_json::to_value(&explanation) {
            Ok(value) if question.json => Answer::json(StatusCode::OK, &value),
            Ok(_) => Answer::text(StatusCode::OK, explanation.to_string()),
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

impl SharedView {
    /// Answers `/frontends`: all that are planned, and those that are forwarded and not planned.
    pub(crate) fn frontends(&self) -> Answer {
        let Some(view) = self.try_lock() else { return busy() };
        if view.applied.is_none() {
            return Answer::text(StatusCode::SERVICE_UNAVAILABLE, "nothing was written yet, ask again\n");
        }
        let planner = &view.planner;
        let desired = planner.forwarding();
        let state = |frontend: Frontend| {
            let found = view.kernel(frontend)?.as_ref().map(ObservedService::forwarding);
            Ok(json!({
                "frontend": frontend.to_string(),
                "address": frontend.address(),
                "service": planner.holder(frontend).map(ToString::to_string),
                "inForce": desired.get(&frontend) == found.as_ref(),
            }))
        };
        let states = view.in_kernel().and_then(|mut all| {
            all.extend(desired.keys());
            all.into_iter().map(state).collect::<Result<_, dataplane::Error>>()
        });
        match states {
            Ok(states) => Answer::json(StatusCode::OK, &states),
            Err(error) => unread(&error),
        }
    }

    /// `None` in the middle of a sync.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, View>> {
        match self.0.try_lock() {
            Ok(view) => Some(view),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn busy() -> Answer {
    Answer::text(StatusCode::SERVICE_UNAVAILABLE, "a sync is under way, ask again\n")
}

fn unread(error: &dataplane::Error) -> Answer {
    Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", chain(error)))
}

/// What becomes of a flow. The fields are those of the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// Who sends.
    sender: IpAddr,
    /// `pod`, `node` or `outside`.
    source: &'static str,
    /// Whether the source was found out, and not said.
    source_was_guessed: bool,
    /// What it is sent to.
    destination: String,
    /// `pass`, `refuse`, `drop` or `forward`.
    verdict: &'static str,
    /// Whether the endpoint sees an address of the node.
    masqueraded: bool,
    /// What it matches; absent where no Service is concerned.
    matched: Option<Matched>,
    /// What the kernel does at that frontend now, or in mode ipvs what it was last found or told to do; absent where that
    /// is nothing.
    kernel: Option<Kernel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Matched {
    frontend: String,
    /// `namespace/name`.
    service: String,
    port: String,
    /// In what capacity the address is there.
    exposure: &'static str,
    /// `Cluster` or `Local`: which endpoints the traffic policy leaves.
    policy: &'static str,
    /// `everywhere`, `same-zone` or `same-node`: how hints narrow the policy `Cluster`.
    topology: &'static str,
    rules: String,
    endpoints: Vec<Candidate>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    endpoint: String,
    node: Option<String>,
    is_taken: bool,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    backends: Vec<String>,
    /// Those that keep connections and get no new ones.
    draining: Vec<String>,
    rules: String,
    /// Whether that is what the plan wants.
    as_planned: bool,
}

fn explain(view: &View, question: &Question) -> Result<Explanation, dataplane::Error> {
    let planner = &view.planner;
    let Question { sender, destination, .. } = *question;
    let source = sender.source.unwrap_or_else(|| find_source(sender.address, planner.cluster()));
    let packet = Packet {
        source,
        sender: sender.address,
        destination: destination.address,
        port: destination.port,
        protocol: destination.protocol,
    };
    let met = matching(|frontend| planner.desired(frontend), packet);
    let desired = met.map(|(_, service)| service);
    let verdict = plan::verdict(desired, || planner.ground(packet.destination), packet);
    let everyone = Frontend::new(packet.destination, packet.port, packet.protocol);
    let frontend = met.map_or(everyone, |(frontend, _)| frontend);
    Ok(Explanation {
        sender: sender.address,
        source: place(source),
        source_was_guessed: sender.source.is_none(),
        destination: everyone.to_string(),
        verdict: match verdict {
            Verdict::Pass => "pass",
            Verdict::Refuse => "refuse",
            Verdict::Drop => "drop",
            Verdict::Forward { .. } => "forward",
        },
        masqueraded: matches!(verdict, Verdict::Forward { masqueraded: true, .. }),
        matched: met.and_then(|(frontend, _)| matched(planner, frontend)),
        kernel: view.kernel(frontend)?.map(|found| kernel(&found, desired)),
    })
}

fn matched(planner: &Planner, frontend: Frontend) -> Option<Matched> {
    let name = planner.holder(frontend)?;
    let cluster = planner.cluster();
    let service = cluster.service(name)?;
    let slices = cluster.slices(name);
    let derived = derive(name, service, &slices, cluster.here(), planner.settings());
    let Derivation { port, exposure, list, endpoints, rules, .. } =
        derived.into_iter().find(|derivation| derivation.frontend == frontend)?;
    let candidates = endpoints.judged(list).map(|(backend, endpoint, judgement)| Candidate {
        endpoint: backend.to_string(),
        node: endpoint.node.as_deref().map(str::to_owned),
        is_taken: judgement.is_taken(),
        reason: reason(judgement),
    });
    Some(Matched {
        frontend: frontend.to_string(),
        service: name.to_string(),
        port: port.to_owned(),
        exposure: match exposure {
            Exposure::NodePort => "node port",
            Exposure::ExternalAddress => "external address",
            Exposure::LoadBalancer => "load balancer",
            Exposure::ClusterAddress => "cluster address",
        },
        policy: match list {
            List::Cluster => "Cluster",
            List::Local => "Local",
        },
        topology: match (list, endpoints.topology) {
            (List::Cluster, Topology::SameNode) => "same-node",
            (List::Cluster, Topology::SameZone) => "same-zone",
            (List::Cluster, Topology::Everywhere) | (List::Local, _) => "everywhere",
        },
        rules: rules.to_string(),
        endpoints: candidates.collect(),
    })
}

fn kernel(found: &ObservedService, desired: Option<&plan::Service>) -> Kernel {
    let named = |draining: bool| {
        let backends = found.backends.iter().filter(move |(_, backend)| backend.draining == draining);
        backends.map(|(backend, _)| backend.to_string()).collect()
    };
    Kernel {
        backends: named(false),
        draining: named(true),
        rules: found.rules.to_string(),
        as_planned: desired == Some(&found.forwarding()),
    }
}

/// Where an address is, as far as can be told. A pod that is behind no Service is not known.
fn find_source(address: IpAddr, cluster: &Cluster) -> Source {
    let Here { name, addresses, interfaces, .. } = cluster.here();
    if address.is_loopback() || addresses.contains(&address) || interfaces.contains(&address) {
        return Source::Node;
    }
    let mut local = cluster.endpoints().filter(|endpoint| endpoint.node.as_deref() == Some(name));
    if local.any(|endpoint| endpoint.address == address) { Source::Pod } else { Source::Outside }
}

const fn place(source: Source) -> &'static str {
    match source {
        Source::Pod => "pod",
        Source::Node => "node",
        Source::Outside => "outside",
    }
}

const fn reason(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Ready => "ready",
        Judgement::LastResort => "terminating, and nobody is ready",
        Judgement::Unready => "not ready",
        Judgement::Gone => "terminating and not serving",
        Judgement::Leaving => "terminating, and others are ready",
        Judgement::Elsewhere => "on another node",
        Judgement::OtherNode => "meant for other nodes",
        Judgement::OtherZone => "meant for other zones",
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guessed = if self.source_was_guessed { ", by its address" } else { "" };
        writeln!(
            formatter,
            "flow      {} from {} ({}{guessed})",
            self.destination, self.sender, self.source
        )?;
        let masqueraded = if self.masqueraded { ", masqueraded" } else { "" };
        writeln!(formatter, "verdict   {}{masqueraded}", self.verdict)?;
        let Some(Matched { frontend, service, port, exposure, policy, topology, rules, endpoints }) =
            &self.matched
        else {
            writeln!(formatter, "service   none has this address and port")?;
            return self.fmt_kernel(formatter);
        };
        let port = if port.is_empty() { String::new() } else { format!(" port {port}") };
        writeln!(formatter, "service   {service}{port}, {exposure} ({frontend})")?;
        writeln!(formatter, "endpoints policy {policy}, hints: {topology}")?;
        for Candidate { endpoint, node, is_taken, reason } in endpoints {
            let node = node.as_deref().unwrap_or("nowhere in particular");
            writeln!(formatter, "  {} {endpoint} on {node}: {reason}", if *is_taken { '+' } else { '-' })?;
        }
        writeln!(formatter, "rules     {rules}")?;
        self.fmt_kernel(formatter)
    }
}

impl Explanation {
    fn fmt_kernel(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Kernel { backends, draining, rules, as_planned }) = &self.kernel else {
            return writeln!(formatter, "kernel    nothing is written for this");
        };
        let agrees = if *as_planned { "as planned" } else { "NOT as planned" };
        writeln!(formatter, "kernel    {agrees}: {} ({rules})", backends.join(" "))?;
        if draining.is_empty() {
            Ok(())
        } else {
            writeln!(formatter, "          draining: {}", draining.join(" "))
        }
    }
}

#[cfg(test)]
mod tests;

//! Follows Services and their endpoints in a cluster: the only module that talks to the API server.
//!
//! Each kind is listed in pages, then watched from there on; a broken watch resumes where it was, one that cannot is
//! listed anew. A list takes effect as a whole, so what vanished meanwhile is removed and a half-read list does nothing.
//! A malformed object is refused with one line for each of its versions, and what was known of it stays in force.
//!
//! Endpoints come as `EndpointSlice`s or, from servers that do not serve `discovery.k8s.io/v1` (before Kubernetes 1.21),
//! as Endpoints.
//!
//! Beside them the Node that this process runs on is followed, for its addresses, its zone and `/healthz`. Forwarding
//! waits for it at the start, but not for ever.

mod connection;
mod events;
mod node;
mod object;
mod resume;
mod service_cidrs;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::chain;
use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use self::object::Object;
use self::resume::{can_resume, spread, status};
use self::service_cidrs::ServiceCidrs;
use crate::clock;
use crate::cluster::{
    Delta, HEADLESS_LABEL, Kind, Name, Node, PROXY_NAME_LABEL, Refusal, Slice, Update, kind,
};
use crate::config::Access;
use crate::metrics::SourceMetrics;
use crate::notice::{Notice, Notices};

pub(crate) use self::connection::AccessError;
use self::connection::{Link, client, cluster_config};
use self::events::Publisher;
pub(crate) use self::node::OwnNode;

/// While a list is read, the server must go on with it this often.
const LIST_WITHIN: Duration = Duration::from_mins(1);
/// Forwarding waits so long for the Node: without its addresses the node ports of an earlier run would be given up.
const NODE_WITHIN: Duration = Duration::from_secs(5);
/// The first delay after a failure; it doubles up to [`LONGEST_DELAY`], which keeps us within seconds of a server that
/// comes back, and is spread so that not all nodes come at once.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(3);
/// A server that asks to be left alone for longer is asked again after this long all the same.
const LONGEST_REST: Duration = Duration::from_mins(1);
/// A server that answered for this long before it failed was well.
const WELL_AFTER: Duration = Duration::from_secs(5);

/// The watches of a cluster.
pub(crate) struct Watch {
    services: Follower<crate::cluster::Service>,
    endpoints: Endpoints,
    node: Follower<Node>,
    service_cidrs: ServiceCidrs,
    publisher: Publisher,
    updates: mpsc::Sender<Update>,
}

/// The endpoints, in whichever kind of object the server has them.
struct Endpoints {
    slices: Follower<Slice>,
    /// Follows Endpoints objects.
    old: Follower<Slice>,
}

impl Watch {
    /// Prepares the connections; nothing is sent yet.
    pub(crate) async fn prepare(
        access: &Access,
        node: OwnNode,
        listeners: &Listeners,
        notices: mpsc::Receiver<Notice>,
    ) -> Result<Self, AccessError> {
        let config = cluster_config(access).await?;
        tracing::info!(server = %config.cluster_url, "watching the cluster");
        let requests = &listeners.metrics.requests;
        let follower = |kind| -> Result<_, AccessError> {
            let link = Arc::new(Link::new(kind, listeners.metrics.clone()));
            let answers = Arc::clone(&link);
            let client = client(&config, requests.clone(), move || answers.answered(clock::now()))?;
            Ok((client, Following { kind, link, listeners: listeners.clone() }))
        };
        let failures = listeners.metrics.events.failures.clone();
        let publisher =
            Publisher::new(client(&config, requests.clone(), || ())?, node.name.clone(), notices, failures);
        let (client, following) = follower(Kind::Service)?;
        let services = Follower::new(client, following, kind::service, Update::Services);
        let (client, following) = follower(Kind::EndpointSlice)?;
        let slices = Follower::new(client, following, kind::endpoint_slice, Update::Slices);
        let (old_client, following) = follower(Kind::Endpoints)?;
        let old = Follower::new(old_client, following, kind::endpoints, Update::Slices);
        let (node_client, following) = follower(Kind::Node)?;
        let node = node.follower(node_client, following);
        let (cidr_client, following) = follower(Kind::ServiceCidr)?;
        let service_cidrs = ServiceCidrs::new(cidr_client, following);
        let endpoints = Endpoints { slices, old };
        Ok(Self { services, endpoints, node, service_cidrs, publisher, updates: listeners.updates.clone() })
    }

    /// Follows the cluster until nobody listens any more.
    pub(crate) async fn run(self) {
        let Self { mut services, mut endpoints, mut node, mut service_cidrs, publisher, updates } = self;
        let services = async { while services.follow().await == Ended::Broken {} };
        let node = async { while node.follow().await == Ended::Broken {} };
        let patience = async {
            sleep(NODE_WITHIN).await;
            // Where nobody listens any more, nobody waits either.
            drop(updates.send(Update::NodeUnknown).await);
            drop(updates);
        };
        let followed =
            async { tokio::join!(services, endpoints.follow(), node, service_cidrs.follow(), patience) };
        tokio::select! {
            _ = followed => {}
            // The followers leave notices themselves: this is never the first to end.
            () = publisher.run() => {}
        }
    }
}

impl Endpoints {
    /// Slices where the server has them, else Endpoints. It is asked anew whenever a watch cannot go on.
    async fn follow(&mut self) {
        loop {
            let ended = match self.slices.is_served().await {
                Some(true) => self.slices.follow().await,
                Some(false) => self.follow_old().await,
                None => Ended::Broken,
            };
            match ended {
                Ended::Broken => {}
                Ended::Unheard => return,
            }
        }
    }

    async fn follow_old(&mut self) -> Ended {
        tracing::info!("no EndpointSlices are served, watching Endpoints");
        self.slices.following.link.forget();
        let ended = self.old.follow().await;
        self.old.following.link.forget();
        ended
    }
}

/// Why a watch is not followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It cannot go on from where it was.
    Broken,
    /// Nobody listens.
    Unheard,
}

struct Following {
    kind: Kind,
    link: Arc<Link>,
    listeners: Listeners,
}

/// Who hears what the cluster says.
#[derive(Clone)]
pub(crate) struct Listeners {
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) notices: Notices,
    pub(crate) metrics: SourceMetrics,
}

/// Follows the objects of one kind.
struct Follower<T> {
    client: Client,
    following: Following,
    read: fn(Value) -> Result<Option<T>, Refusal>,
    /// What is to be selected of the kind's objects.
    selection: watcher::Config,
    /// What the sync thread is told.
    update: Box<dyn FnMut(Delta<T>) -> Update + Send>,
    /// Versions that were refused already, so that each is said once.
    refused: BTreeMap<Name, String>,
    /// The list being read.
    list: BTreeMap<Name, T>,
    list_refused: BTreeSet<Name>,
    delay: Duration,
}

impl<T> Follower<T> {
    fn new(
        client: Client,
        following: Following,
        read: fn(Value) -> Result<Option<T>, Refusal>,
        update: impl FnMut(Delta<T>) -> Update + Send + 'static,
    ) -> Self {
        let labels = format!("!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}");
        Self {
            client,
            following,
            read,
            selection: watcher::Config::default().labels(&labels),
            update: Box::new(update),
            refused: BTreeMap::new(),
            list: BTreeMap::new(),
            list_refused: BTreeSet::new(),
            delay: FIRST_DELAY,
        }
    }

    /// Whether the server has this kind at all; `None`, after a pause, where it does not say.
    async fn is_served(&mut self) -> Option<bool> {
        let kind = self.following.kind;
        match self.client.list_api_group_resources(kind.api_version()).await {
            Ok(list) => Some(list.resources.iter().any(|resource| resource.name == kind.plural())),
            Err(kube::Error::Api(status)) if status.code == 404 => Some(false),
            Err(error) => {
                self.failed(&watcher::Error::InitialListFailed(error)).await;
                None
            }
        }
    }

    /// Lists, then watches, until that cannot go on.
    async fn follow(&mut self) -> Ended {
        let api: Api<Object> = Api::all_with(self.client.clone(), &self.following.kind);
        let mut events = pin!(watcher(api, self.selection.clone()));
        let mut listing = true;
        loop {
            let event = match timeout(LIST_WITHIN, events.next()).await {
                // Quiet is normal for a watch; the watcher itself renews one that is quiet for five minutes.
                Err(_elapsed) if !listing => match events.next().await {
                    Some(event) => event,
                    None => return Ended::Broken,
                },
                Err(_elapsed) => {
                    self.pause("the list does not go on", Duration::ZERO).await;
                    return Ended::Broken;
                }
                Ok(None) => return Ended::Broken,
                Ok(Some(event)) => event,
            };
            match event {
                Ok(event) => {
                    listing = match event {
                        Event::Init | Event::InitApply(_) => true,
                        Event::InitDone | Event::Apply(_) | Event::Delete(_) => false,
                    };
                    if let Some(delta) = self.read_event(event) {
                        self.delay = FIRST_DELAY;
                        let update = (self.update)(delta);
                        if self.following.listeners.updates.send(update).await.is_err() {
                            return Ended::Unheard;
                        }
                    }
                }
                Err(error) => {
                    match status(&error) {
                        // It answers well enough; only that it has forgotten where we were.
                        Some(status) if status.code == 410 => {
                            tracing::info!(
                                kind = self.following.kind.name(),
                                reason = status.message,
                                "listing anew"
                            );
                            self.wait_longer(Duration::ZERO).await;
                        }
                        Some(_) | None => self.failed(&error).await,
                    }
                    if !can_resume(&error) {
                        return Ended::Broken;
                    }
                }
            }
        }
    }

    /// What an event says, as far as it is complete and understood.
    fn read_event(&mut self, event: Event<Object>) -> Option<Delta<T>> {
        match event {
            Event::Init => {
                self.list.clear();
                self.list_refused.clear();
                None
            }
            Event::InitApply(object) => {
                match self.read_object(object) {
                    Some((name, Ok(Some(read)))) => {
                        self.list.insert(name, read);
                    }
                    Some((name, Err(Refused))) => {
                        self.list_refused.insert(name);
                    }
                    Some((_, Ok(None))) | None => {}
                }
                None
            }
            Event::InitDone => {
                let objects = std::mem::take(&mut self.list);
                let refused = std::mem::take(&mut self.list_refused);
                self.refused.retain(|name, _| refused.contains(name));
                tracing::debug!(kind = self.following.kind.name(), objects = objects.len(), "listed");
                Some(Delta::Listed { objects, refused })
            }
            Event::Apply(object) => match self.read_object(object)? {
                (name, Ok(Some(read))) => Some(Delta::Applied(name, read)),
                (name, Ok(None)) => Some(Delta::Removed(name)),
                (_, Err(Refused)) => None,
            },
            Event::Delete(object) => {
                let name = kind::name(&object.value).ok()?;
                self.refused.remove(&name);
                Some(Delta::Removed(name))
            }
        }
    }

    /// `None` for an object without a name.
    fn read_object(&mut self, object: Object) -> Option<(Name, Result<Option<T>, Refused>)> {
        let version = object.resource_version().unwrap_or_default();
        let uid = object.value["metadata"]["uid"].as_str().map(str::to_owned);
        let name = match kind::name(&object.value) {
            Ok(name) => name,
            Err(refusal) => {
                self.note_refusal("(nameless)", &version, &refusal);
                return None;
            }
        };
        match (self.read)(object.value) {
            Ok(read) => {
                self.refused.remove(&name);
                Some((name, Ok(read)))
            }
            Err(refusal) => {
                if self.refused.get(&name) != Some(&version) {
                    self.note_refusal(&name.to_string(), &version, &refusal);
                    let notice = Notice::refused(self.following.kind, name.clone(), uid, &refusal);
                    self.following.listeners.notices.leave(notice);
                    self.refused.insert(name.clone(), version);
                }
                Some((name, Err(Refused)))
            }
        }
    }

    fn note_refusal(&self, object: &str, version: &str, refusal: &Refusal) {
        let kind = self.following.kind.name();
        self.following.listeners.metrics.objects_refused.with_label_values(&[kind]).inc();
        tracing::warn!(kind, object, version, reason = %refusal, "object refused, what was known of it stays in force");
    }

    async fn failed(&mut self, error: &watcher::Error) {
        match status(error) {
            Some(status) => {
                let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                let reason = format!("{} {}: {}", status.code, status.reason, status.message);
                // Without the right to see them, the node and networks are asked for now and then.
                let barred =
                    matches!(self.following.kind, Kind::Node | Kind::ServiceCidr) && status.code == 403;
                if barred && self.following.kind == Kind::Node {
                    // Where nobody listens any more, this ends by itself.
                    drop(self.following.listeners.updates.send(Update::NodeUnknown).await);
                }
                let asked = if barred { LONGEST_REST } else { Duration::from_secs(asked.into()) };
                self.pause(&reason, asked).await;
            }
            None => self.pause(&chain(error), Duration::ZERO).await,
        }
    }

    /// Waits before the next attempt, at least for as long as the server asked to.
    async fn pause(&mut self, reason: &str, asked: Duration) {
        if self.following.link.failed(reason, clock::now()) >= WELL_AFTER {
            self.delay = FIRST_DELAY;
        }
        tracing::debug!(kind = self.following.kind.name(), reason, "request to the apiserver failed");
        self.wait_longer(asked).await;
    }

    /// Waits for at least `asked`, longer each time, and not at all where nobody listens any more.
    async fn wait_longer(&mut self, asked: Duration) {
        let delay = spread(self.delay).max(asked.min(LONGEST_REST));
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        tokio::select! {
            () = sleep(delay) => {}
            () = self.following.listeners.updates.closed() => {}
        }
    }
}

/// The object was not understood, and that has been said.
struct Refused;

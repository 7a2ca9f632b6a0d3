//! Writes Events (`events.k8s.io/v1`), one at a time and at most one a second: a thousand nodes may have the same to say.
//!
//! API servers before 1.19 do not have them: the log has it all. Up to 1.20 they take those about objects without a namespace,
//! such as Nodes, in `kube-system` only, where later ones want them in `default` first of all.

use std::time::Duration;

use daemon::exit::chain;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::clock;
use crate::notice::{Notice, Subject};

/// The least time from one Event to the next.
const PACE: Duration = Duration::from_secs(1);
/// An API server that does not answer is tried again after this long, ...
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// ... so many times (client-go's number).
const ATTEMPTS: u32 = 12;
/// The API takes no longer ones, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Who writes them.
const CONTROLLER: &str = "fairway-proxy";
/// Where old API servers take those about objects without a namespace.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// Writes what is left with it.
pub(super) struct Publisher {
    client: Client,
    recorder: Recorder,
    /// Whether the API server takes those about objects without a namespace in [`SYSTEM_NAMESPACE`] only.
    is_old: bool,
    /// The name of this node.
    node: String,
    notices: mpsc::Receiver<Notice>,
    failures: IntCounter,
    /// Whether it has been said that they cannot be written.
    barred: bool,
}

impl Publisher {
    pub(super) fn new(
        client: Client,
        node: String,
        notices: mpsc::Receiver<Notice>,
        failures: IntCounter,
    ) -> Self {
        let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(node.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, recorder, is_old: false, node, notices, failures, barred: false }
    }

    /// Goes on until nobody leaves notices any more.
    pub(super) async fn run(mut self) {
        while let Some(notice) = self.notices.recv().await {
            self.publish(&notice).await;
            sleep(PACE).await;
        }
    }

    async fn publish(&mut self, notice: &Notice) {
        let (event, regarding) = (event(notice), regarding(&notice.about, &self.node));
        for _ in 0..ATTEMPTS {
            let outcome = if self.is_old && regarding.namespace.is_none() {
                self.publish_in_system(&event, &regarding).await
            } else {
                self.recorder.publish(&event, &regarding).await
            };
            match outcome {
                Ok(()) => return self.barred = false,
                Err(kube::Error::Api(status))
                    if status.code == 422 && regarding.namespace.is_none() && !self.is_old =>
                {
                    self.is_old = true;
                }
                // It will not be taken another time either.
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    if !std::mem::replace(&mut self.barred, true) {
                        let reason = format!("{} {}: {}", status.code, status.reason, status.message);
                        tracing::warn!(reason, "events are not taken, the log has what they would say");
                    }
                    break;
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "event not written, trying again");
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
        self.failures.inc();
    }

    /// What a [`Recorder`] would write, but for the namespace.
    async fn publish_in_system(&self, event: &Event, regarding: &ObjectReference) -> Result<(), kube::Error> {
        let at = clock::wall();
        let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        let event = api::Event {
            metadata: ObjectMeta {
                namespace: Some(SYSTEM_NAMESPACE.into()),
                // Unique, as client-go makes them.
                name: Some(format!("{}.{:x}", self.node, since.as_nanos())),
                ..ObjectMeta::default()
            },
            action: Some(event.action.clone()),
            event_time: at.try_into().ok().map(MicroTime),
            note: event.note.clone(),
            reason: Some(event.reason.clone()),
            regarding: Some(regarding.clone()),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(self.node.clone()),
            type_: Some(
                match event.type_ {
                    EventType::Normal => "Normal",
                    EventType::Warning => "Warning",
                }
                .into(),
            ),
            ..api::Event::default()
        };
        let events: Api<api::Event> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        events.create(&PostParams::default(), &event).await.map(drop)
    }
}

fn event(notice: &Notice) -> Event {
    let Notice { warns, reason, action, note, .. } = notice;
    let end = note.floor_char_boundary(LONGEST_NOTE);
    Event {
        type_: if *warns { EventType::Warning } else { EventType::Normal },
        reason: (*reason).into(),
        note: Some(note[..end].to_owned()),
        action: (*action).into(),
        secondary: None,
    }
}

/// A Node's events name it in place of its uid, as the kubelet's and kube-proxy's do: `kubectl describe node` asks for it.
fn regarding(about: &Subject, node: &str) -> ObjectReference {
    match about {
        Subject::Node => ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        Subject::Object { kind, name, uid } => ObjectReference {
            api_version: Some(kind.api_version().into()),
            kind: Some(kind.name().into()),
            namespace: Some(name.namespace.to_string()),
            name: Some(name.name.to_string()),
            uid: uid.clone(),
            ..ObjectReference::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = format!("x{}", "ü".repeat(LONGEST_NOTE));
        let cut = event(&Notice { note, ..Notice::held_back() }).note.expect("a note");
        assert_eq!((cut.len(), cut.chars().count()), (1023, 512));
    }
}

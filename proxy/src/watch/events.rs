//! Writes Events (`events.k8s.io/v1`), one at a time and at most one a second: a thousand nodes may have the same to say.
//!
//! API servers before 1.19 do not have them, and some up to 1.20 take none about Nodes (422): the log has it all.

use std::time::Duration;

use daemon::exit::chain;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::notice::{Notice, Subject};

/// The least time from one Event to the next.
const PACE: Duration = Duration::from_secs(1);
/// An API server that does not answer is tried again after this long, ...
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// ... so many times (client-go's number).
const ATTEMPTS: u32 = 12;
/// The API takes no longer ones, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Writes what is left with it.
pub(super) struct Publisher {
    recorder: Recorder,
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
        let reporter = Reporter { controller: "fairway-proxy".into(), instance: Some(node.clone()) };
        Self { recorder: Recorder::new(client, reporter), node, notices, failures, barred: false }
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
            match self.recorder.publish(&event, &regarding).await {
                Ok(()) => return self.barred = false,
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

//! WATCH: a response that does not end.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, interval_at, sleep_until};

use super::history::Sight;
use super::selector::Selection;
use super::status::Refusal;
use super::store::Store;

/// How a test ends the watches of a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As at the end of their time.
    Close,
    /// In the middle of an event.
    Cut,
}

/// One watch, checked and ready to start.
#[derive(Debug)]
pub(super) struct Watch {
    /// What happened and happens.
    pub(super) store: Store,
    /// To which objects.
    pub(super) selection: Selection,
    /// After which revision; `None`: the state as it is, and then on.
    pub(super) revision: Option<u64>,
    /// How often to send bookmarks, if at all.
    pub(super) bookmark_every: Option<Duration>,
    /// How long it lasts.
    pub(super) lifetime: Duration,
}

/// The body of the response.
#[derive(Debug)]
pub(super) struct Stream(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }
}

/// Nobody listens any more, or the watch has said all it had to say.
struct Ended;

impl Watch {
    /// Starts it as a task that ends with its client, or when a test says so.
    pub(super) fn start(self, mut ends: broadcast::Receiver<End>) -> Stream {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            tokio::select! {
                Ok(()) | Err(Ended) = self.run(&sender) => {}
                end = ends.recv() => {
                    if end == Ok(End::Cut) {
                        let half = Bytes::from_static(br#"{"type":"MODIFIED","object":{"kind":"#);
                        let cut = io::Error::other("cut by a test");
                        // A client that is gone already needs no cutting.
                        let _gone = (sender.send(Ok(half)).await, sender.send(Err(cut)).await);
                    }
                }
                () = sender.closed() => {}
            }
        });
        Stream(receiver)
    }

    async fn run(&self, sender: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), Ended> {
        let deadline = Instant::now() + self.lifetime;
        let mut changes = self.store.changes();
        let mut revision = match self.revision {
            Some(revision) => revision,
            None => self.send_state(sender).await?,
        };
        let mut bookmarks = self.bookmark_every.map(|every| interval_at(Instant::now() + every, every));
        loop {
            changes.mark_unchanged();
            revision = self.send_changes(sender, revision).await?;
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_store_is_gone| Ended)?,
                () = next(&mut bookmarks) => send(sender, "BOOKMARK", &self.bookmark(revision)).await?,
                () = sleep_until(deadline) => {
                    if bookmarks.is_some() {
                        send(sender, "BOOKMARK", &self.bookmark(revision)).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn send_state(&self, sender: &mpsc::Sender<io::Result<Bytes>>) -> Result<u64, Ended> {
        let page = self.store.read(|history| history.list(&self.selection, None, None, 0));
        let page = match page {
            Ok(page) => page,
            Err(refusal) => return fail(sender, &refusal).await,
        };
        for object in &page.objects {
            send(sender, "ADDED", object).await?;
        }
        Ok(page.revision)
    }

    /// Sends what happened after `revision`; returns up to where that is.
    async fn send_changes(
        &self,
        sender: &mpsc::Sender<io::Result<Bytes>>,
        revision: u64,
    ) -> Result<u64, Ended> {
        let changes = self.store.read(|history| {
            history.since(revision, &self.selection).map(|changes| (changes, history.revision()))
        });
        let (changes, reached) = match changes {
            Ok(changes) => changes,
            Err(refusal) => return fail(sender, &refusal).await,
        };
        for (sight, object) in &changes {
            let kind = match sight {
                Sight::Added => "ADDED",
                Sight::Modified => "MODIFIED",
                Sight::Deleted => "DELETED",
            };
            send(sender, kind, object).await?;
        }
        // A client may know a later revision than we do: then it waits for what comes after that.
        Ok(reached.max(revision))
    }

    fn bookmark(&self, revision: u64) -> Value {
        let resource = self.selection.resource;
        json!({
            "kind": resource.kind(), "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        })
    }
}

async fn next(bookmarks: &mut Option<tokio::time::Interval>) {
    match bookmarks {
        Some(interval) => {
            interval.tick().await;
        }
        None => pending().await,
    }
}

/// Ends the watch with an ERROR event.
async fn fail<T>(sender: &mpsc::Sender<io::Result<Bytes>>, refusal: &Refusal) -> Result<T, Ended> {
    send(sender, "ERROR", &refusal.status()).await?;
    Err(Ended)
}

async fn send(sender: &mpsc::Sender<io::Result<Bytes>>, kind: &str, object: &Value) -> Result<(), Ended> {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    sender.send(Ok(Bytes::from(line))).await.map_err(|_client_is_gone| Ended)
}

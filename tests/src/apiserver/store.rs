//! One history that several stubs, and the test, share: the stub's etcd.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::history::{History, Key};
use super::resource::Resource;
use super::selector::Selection;
use super::status::Refusal;
use crate::{Error, Result};

/// How many changes are remembered by default.
const WINDOW: usize = 10_000;

/// Shared by clones.
#[derive(Clone, Debug)]
pub struct Store {
    history: Arc<Mutex<History>>,
    /// Apart, as clusters that have many keep them (`--etcd-servers-overrides`): what clients say of themselves changes no
    /// revision that several stubs must agree on.
    events: Arc<Mutex<History>>,
    revision: Arc<watch::Sender<u64>>,
}

impl Default for Store {
    fn default() -> Self {
        Self::with_window(WINDOW)
    }
}

impl Store {
    /// Remembers the last `window` changes; watches from before are answered by 410.
    pub fn with_window(window: usize) -> Self {
        let history = History::new(window);
        let revision = Arc::new(watch::Sender::new(history.revision()));
        let events = Arc::new(Mutex::new(History::new(window)));
        Self { history: Arc::new(Mutex::new(history)), events, revision }
    }

    /// Creates an object or replaces the one of its name. Beyond `apiVersion`, `kind` and `metadata.name` nothing is
    /// checked, so a test can store what no client could parse. Returns the `resourceVersion`.
    pub fn put(&self, object: Value) -> Result<u64> {
        let key = key(&object)?;
        self.change(|history| match history.get(&key) {
            Ok(_) => history.replace(&key, object),
            Err(_) => history.create(&key, object),
        })
    }

    /// Removes the object that has the resource, namespace and name of `object`.
    pub fn delete(&self, object: &Value) -> Result<u64> {
        let key = key(object)?;
        self.change(|history| history.delete(&key))
    }

    /// Forgets the past: a client that comes back is told 410, on a watch and on a `continue`.
    pub fn compact(&self) {
        self.write(History::compact);
    }

    /// The Events that clients have written, in the order of their names.
    pub fn events(&self) -> Vec<Arc<Value>> {
        let page = self.with_events(|events| events.list(&Selection::all(Resource::Events), None, None, 0));
        page.map_or_else(|_| Vec::new(), |page| page.objects)
    }

    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.lock().revision()
    }

    fn change(
        &self,
        change: impl FnOnce(&mut History) -> std::result::Result<Arc<Value>, Refusal>,
    ) -> Result<u64> {
        let outcome = self.write(|history| change(history).map(|_| history.revision()));
        outcome.map_err(|refusal| Error::Object { reason: refusal.status()["message"].to_string() })
    }

    /// Changes the history and wakes the watchers.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        let mut history = self.lock();
        let outcome = change(&mut history);
        self.revision.send_replace(history.revision());
        outcome
    }

    pub(super) fn with_events<T>(&self, work: impl FnOnce(&mut History) -> T) -> T {
        work(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.lock())
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// A test that panicked while it held the lock left a whole history: every change is made by one call.
    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key that an object names.
fn key(object: &Value) -> Result<Key> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let missing = |what: &str| Error::Object { reason: format!("{what} is missing or unknown") };
    let resource = Resource::of(text("/apiVersion").unwrap_or_default(), text("/kind").unwrap_or_default());
    let resource = resource.ok_or_else(|| missing("apiVersion or kind"))?;
    let name = text("/metadata/name").ok_or_else(|| missing("metadata.name"))?.to_owned();
    let namespace = match text("/metadata/namespace") {
        Some(namespace) => namespace,
        None if resource.is_namespaced() => "default",
        None => "",
    };
    Ok(Key { resource, namespace: namespace.to_owned(), name })
}

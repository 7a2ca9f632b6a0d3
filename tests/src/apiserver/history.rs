//! The objects and their past: what etcd and the watch cache are to a real apiserver. Pure.
//!
//! One counter, the revision, numbers every change. The past is a list of changes that can be undone, so any state
//! within the window can be listed again: that is what makes paging consistent and lets a watch resume. What lies
//! before the window is *compacted*, and asking for it is answered by 410.
//!
//! Everything filled in is a function of the sequence of writes: two histories given the same writes are equal.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Value, json};

use super::resource::Resource;
use super::selector::Selection;
use super::status::Refusal;

/// When every object says it was made. Nothing we test depends on it, and a constant keeps equal histories equal.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// What identifies an object. The order is that of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Its resource.
    pub(super) resource: Resource,
    /// Its namespace; empty where there is none.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
}

/// One change.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// Its number.
    pub(super) revision: u64,
    key: Key,
    before: Option<Arc<Value>>,
    /// The new state, or the last one where the object was deleted; its `resourceVersion` is this revision.
    object: Arc<Value>,
    deleted: bool,
}

/// What a watcher is told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// ADDED: new to the watcher's selection.
    Added,
    /// MODIFIED.
    Modified,
    /// DELETED, or no longer selected.
    Deleted,
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Page {
    /// The revision that this list, and every further page of it, shows.
    pub(super) revision: u64,
    /// The objects.
    pub(super) objects: Vec<Arc<Value>>,
    /// The last key of this page if there are more, and how many more. As with the apiserver, nobody counts them where
    /// labels or fields select.
    pub(super) rest: Option<(Key, Option<usize>)>,
}

/// All objects, now and within the window.
#[derive(Clone, Debug)]
pub(super) struct History {
    revision: u64,
    compacted: u64,
    window: usize,
    objects: BTreeMap<Key, Arc<Value>>,
    events: VecDeque<Event>,
}

impl History {
    /// Without objects; remembers the last `window` changes.
    pub(super) const fn new(window: usize) -> Self {
        Self { revision: 1, compacted: 0, window, objects: BTreeMap::new(), events: VecDeque::new() }
    }

    /// The number of the last change.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub(super) fn get(&self, key: &Key) -> Result<Arc<Value>, Refusal> {
        self.objects.get(key).map(Arc::clone).ok_or_else(|| not_found(key))
    }

    /// Stores a new object.
    pub(super) fn create(&mut self, key: &Key, object: Value) -> Result<Arc<Value>, Refusal> {
        if self.objects.contains_key(key) {
            let message = format!("{} \"{}\" already exists", key.resource.plural(), key.name);
            return Err(Refusal::AlreadyExists(message));
        }
        self.store(key, object)
    }

    /// Stores a new state of an object. A `resourceVersion` in it must be the current one; the same state again is no
    /// change.
    pub(super) fn replace(&mut self, key: &Key, mut object: Value) -> Result<Arc<Value>, Refusal> {
        let current = self.get(key)?;
        let known = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        if !known.is_empty() && Some(known) != current["metadata"]["resourceVersion"].as_str() {
            return Err(Refusal::Conflict(format!(
                "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes \
                 to the latest version and try again",
                key.resource.plural(),
                key.name
            )));
        }
        complete(key, &mut object, Some(&current), self.revision)?;
        object["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
        if object == *current { Ok(current) } else { self.store(key, object) }
    }

    /// Removes an object and returns its last state.
    pub(super) fn delete(&mut self, key: &Key) -> Result<Arc<Value>, Refusal> {
        let before = self.objects.remove(key).ok_or_else(|| not_found(key))?;
        self.revision += 1;
        let object = at_revision(&before, self.revision);
        self.remember(Event {
            revision: self.revision,
            key: key.clone(),
            before: Some(before),
            object: Arc::clone(&object),
            deleted: true,
        });
        Ok(object)
    }

    /// The selected objects as of revision `at` (`None`: now), those after `after`, at most `limit` (0: all).
    pub(super) fn list(
        &self,
        selection: &Selection,
        at: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page, Refusal> {
        let revision = at.unwrap_or(self.revision);
        let objects = self.objects_at(revision)?;
        let mut selected = objects
            .range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
            .filter(|(key, object)| key.resource == selection.resource && selection.matches(object));
        let limit = if limit == 0 { usize::MAX } else { limit };
        let page: Vec<_> = selected.by_ref().take(limit).collect();
        let more = selected.next().is_some();
        let remaining = (more && !selection.is_by_label_or_field()).then(|| 1 + selected.count());
        let rest = page.last().filter(|_| more).map(|(key, _)| ((*key).clone(), remaining));
        Ok(Page { revision, objects: page.into_iter().map(|(_, object)| Arc::clone(object)).collect(), rest })
    }

    /// What a watcher of `selection` has missed since `revision`.
    pub(super) fn since(
        &self,
        revision: u64,
        selection: &Selection,
    ) -> Result<Vec<(Sight, Arc<Value>)>, Refusal> {
        self.require(revision)?;
        let events = self.events.iter().filter(|event| event.revision > revision);
        Ok(events.filter_map(|event| event.seen_by(selection)).collect())
    }

    /// Whether the changes after `revision` are still known.
    pub(super) const fn require(&self, revision: u64) -> Result<(), Refusal> {
        if revision < self.compacted {
            return Err(Refusal::Expired { asked: revision, oldest: self.compacted });
        }
        Ok(())
    }

    /// Forgets the past: whoever asks for anything older than now is told 410.
    ///
    /// The revision goes on by one, as it does for a busy apiserver whose other resources change: otherwise a watcher
    /// that knows the latest change would have missed nothing and could not be told so.
    pub(super) fn compact(&mut self) {
        self.revision += 1;
        self.compacted = self.revision;
        self.events.clear();
    }

    fn store(&mut self, key: &Key, mut object: Value) -> Result<Arc<Value>, Refusal> {
        let before = self.objects.get(key).map(Arc::clone);
        complete(key, &mut object, before.as_deref(), self.revision + 1)?;
        self.revision += 1;
        let object = at_revision(&object, self.revision);
        self.objects.insert(key.clone(), Arc::clone(&object));
        self.remember(Event {
            revision: self.revision,
            key: key.clone(),
            before,
            object: Arc::clone(&object),
            deleted: false,
        });
        Ok(object)
    }

    fn remember(&mut self, event: Event) {
        self.events.push_back(event);
        while self.events.len() > self.window {
            if let Some(forgotten) = self.events.pop_front() {
                self.compacted = forgotten.revision;
            }
        }
    }

    /// The objects as they were: later changes undone.
    fn objects_at(&self, revision: u64) -> Result<Cow<'_, BTreeMap<Key, Arc<Value>>>, Refusal> {
        if revision > self.revision {
            return Err(Refusal::TooLarge { asked: revision, current: self.revision });
        }
        self.require(revision)?;
        if revision == self.revision {
            return Ok(Cow::Borrowed(&self.objects));
        }
        let mut objects = self.objects.clone();
        for event in self.events.iter().rev().take_while(|event| event.revision > revision) {
            match &event.before {
                Some(before) => objects.insert(event.key.clone(), Arc::clone(before)),
                None => objects.remove(&event.key),
            };
        }
        Ok(Cow::Owned(objects))
    }
}

impl Event {
    /// A change can bring an object into a selection or take it out: the watcher is told so.
    fn seen_by(&self, selection: &Selection) -> Option<(Sight, Arc<Value>)> {
        if self.key.resource != selection.resource {
            return None;
        }
        let before = self.before.as_ref().filter(|object| selection.matches(object));
        let after = (!self.deleted && selection.matches(&self.object)).then_some(&self.object);
        match (before, after) {
            (None, None) => None,
            (None, Some(after)) => Some((Sight::Added, Arc::clone(after))),
            (Some(_), Some(after)) => Some((Sight::Modified, Arc::clone(after))),
            (Some(before), None) => Some((Sight::Deleted, at_revision(before, self.revision))),
        }
    }
}

fn not_found(key: &Key) -> Refusal {
    Refusal::NotFound(format!("{} \"{}\" not found", key.resource.plural(), key.name))
}

/// Fills in what the server owns. The object's content is not checked: tests store malformed ones on purpose.
fn complete(key: &Key, object: &mut Value, before: Option<&Value>, revision: u64) -> Result<(), Refusal> {
    if !object.is_object() || !object["metadata"].is_object() {
        return Err(Refusal::Invalid("an object must have metadata".to_owned()));
    }
    object["apiVersion"] = key.resource.api_version().into();
    object["kind"] = key.resource.kind().into();
    let metadata = &mut object["metadata"];
    metadata["name"] = key.name.as_str().into();
    if key.resource.is_namespaced() {
        metadata["namespace"] = key.namespace.as_str().into();
    }
    let inherit =
        |field: &str, otherwise: Value| before.map_or(otherwise, |old| old["metadata"][field].clone());
    metadata["uid"] = inherit("uid", format!("00000000-0000-4000-8000-{revision:012x}").into());
    metadata["creationTimestamp"] = inherit("creationTimestamp", CREATED.into());
    Ok(())
}

fn at_revision(object: &Value, revision: u64) -> Arc<Value> {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    Arc::new(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { resource: Resource::Services, namespace: "default".to_owned(), name: name.to_owned() }
    }

    fn labelled(value: &str) -> Value {
        json!({"metadata": {"labels": {"app": value}}})
    }

    fn all() -> Selection {
        Selection::all(Resource::Services)
    }

    fn names(page: &Page) -> Vec<&str> {
        page.objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect()
    }

    #[test]
    fn the_server_fills_in_what_is_its_own() {
        let mut history = History::new(10);
        let made = history.create(&key("a"), labelled("x")).unwrap();
        assert_eq!(made["metadata"]["resourceVersion"], "2");
        assert_eq!(made["metadata"]["namespace"], "default");
        let changed = history.replace(&key("a"), labelled("y")).unwrap();
        assert_eq!(changed["metadata"]["resourceVersion"], "3");
        assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
        history.delete(&key("a")).unwrap();
        let again = history.create(&key("a"), labelled("x")).unwrap();
        assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);
    }

    #[test]
    fn equal_writes_make_equal_histories() {
        let run = || {
            let mut history = History::new(10);
            history.create(&key("a"), labelled("x")).unwrap();
            history.create(&key("b"), labelled("x")).unwrap();
            history.delete(&key("a")).unwrap();
            history.list(&all(), None, None, 0).unwrap()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn the_same_state_again_is_no_change_and_a_stale_one_a_conflict() {
        let mut history = History::new(10);
        let made = history.create(&key("a"), labelled("x")).unwrap();
        history.replace(&key("a"), labelled("x")).unwrap();
        assert_eq!(history.revision(), 2);
        history.replace(&key("a"), labelled("y")).unwrap();
        let stale = history.replace(&key("a"), (*made).clone()).unwrap_err();
        assert_eq!(stale.code(), 409);
        assert_eq!(history.replace(&key("b"), labelled("x")).unwrap_err().code(), 404);
        assert_eq!(history.create(&key("a"), labelled("x")).unwrap_err().code(), 409);
    }

    #[test]
    fn pages_show_one_moment_whatever_happens_between_them() {
        let mut history = History::new(10);
        for name in ["a", "b", "c", "d"] {
            history.create(&key(name), labelled("x")).unwrap();
        }
        let first = history.list(&all(), None, None, 2).unwrap();
        assert_eq!((names(&first), first.revision), (vec!["a", "b"], 5));
        let (last, remaining) = first.rest.clone().unwrap();
        assert_eq!(remaining, Some(2));
        let selected = history.list(&all().with_labels("app=x").unwrap(), None, None, 2).unwrap();
        assert_eq!(selected.rest, Some((last.clone(), None)), "nobody counts what labels select");
        history.delete(&key("c")).unwrap();
        history.replace(&key("d"), labelled("y")).unwrap();
        history.create(&key("e"), labelled("x")).unwrap();
        let second = history.list(&all(), Some(first.revision), Some(&last), 2).unwrap();
        assert_eq!((names(&second), second.revision, &second.rest), (vec!["c", "d"], 5, &None));
        assert_eq!(second.objects[1]["metadata"]["labels"]["app"], "x");
        history.compact();
        let expired = history.list(&all(), Some(first.revision), Some(&last), 2).unwrap_err();
        assert_eq!(expired.code(), 410);
        assert_eq!(history.list(&all(), Some(99), None, 0).unwrap_err().code(), 504);
    }

    #[test]
    fn a_watcher_sees_objects_enter_and_leave_its_selection() {
        let mut history = History::new(10);
        let selection = all().with_labels("app=x").unwrap();
        let start = history.revision();
        history.create(&key("a"), labelled("y")).unwrap();
        history.replace(&key("a"), labelled("x")).unwrap();
        history.replace(&key("a"), json!({"metadata": {"labels": {"app": "x"}}, "spec": {}})).unwrap();
        history.replace(&key("a"), labelled("y")).unwrap();
        history.replace(&key("a"), labelled("x")).unwrap();
        history.delete(&key("a")).unwrap();
        let seen: Vec<_> = history
            .since(start, &selection)
            .unwrap()
            .into_iter()
            .map(|(sight, object)| {
                (sight, object["metadata"]["resourceVersion"].as_str().unwrap().to_owned())
            })
            .collect();
        let expected = [
            (Sight::Added, "3"),
            (Sight::Modified, "4"),
            (Sight::Deleted, "5"),
            (Sight::Added, "6"),
            (Sight::Deleted, "7"),
        ];
        assert_eq!(seen, expected.map(|(sight, revision)| (sight, revision.to_owned())));
        assert!(history.since(start, &Selection::all(Resource::Nodes)).unwrap().is_empty());
    }

    #[test]
    fn only_the_window_is_remembered() {
        let mut history = History::new(2);
        for name in ["a", "b", "c"] {
            history.create(&key(name), labelled("x")).unwrap();
        }
        assert_eq!(history.since(2, &all()).unwrap().len(), 2);
        assert_eq!(history.since(1, &all()).unwrap_err().code(), 410);
    }
}

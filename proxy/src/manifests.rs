//! Services and endpoints from the YAML and JSON files of a directory: a node's proxy without any cluster.
//!
//! The directory is watched (inotify) and read anew as a whole whenever a file in it was written, moved or removed, and
//! twice a minute besides. Write a file elsewhere and rename it into place, or mount a `ConfigMap`: both take effect at
//! once and whole. Nothing good is lost to a mistake: of a file that is no YAML, and of an object that is malformed, the
//! last good version stays in force, and the log names file and document.

mod notifier;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::cluster::{Delta, Kind, Name, Node, Refusal, Service, ServiceCidr, Slice, Update, kind};
use crate::metrics::SourceMetrics;
use notifier::{Changed, Notifier};

/// The directory is read at least this often: inotify sees nothing on some network file systems.
const REREAD_AFTER: Duration = Duration::from_secs(30);
/// A directory that cannot be read is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A watched directory.
pub(crate) struct Manifests {
    directory: PathBuf,
    /// The name of this node, whose Node object counts.
    node: String,
    metrics: SourceMetrics,
    updates: mpsc::Sender<Update>,
    /// `None` before the directory was read for the first time.
    files: Option<BTreeMap<String, File>>,
    /// Whether it has been said that the directory cannot be read.
    unreadable: bool,
}

/// What a file said when it was last read.
#[derive(Debug, Default)]
struct File {
    text: String,
    objects: Objects,
}

/// The objects of a file.
#[derive(Clone, Debug, Default)]
struct Objects {
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, Slice>,
    nodes: BTreeMap<Name, Node>,
    service_cidrs: BTreeMap<Name, ServiceCidr>,
}

/// What is wrong with one document of a file.
#[derive(Debug)]
struct Complaint {
    kind: Kind,
    /// Counted from 1.
    document: usize,
    refusal: Refusal,
}

impl Manifests {
    pub(crate) fn new(
        directory: PathBuf,
        node: String,
        metrics: &SourceMetrics,
        updates: mpsc::Sender<Update>,
    ) -> Self {
        Self { directory, node, metrics: metrics.clone(), updates, files: None, unreadable: false }
    }

    /// Follows the directory until nobody listens any more.
    pub(crate) async fn run(mut self) {
        tracing::info!(directory = %self.directory.display(), "watching manifests");
        while !self.updates.is_closed() {
            let watched = self.watch().await;
            if let Err(error) = watched
                && !self.unreadable
            {
                self.unreadable = true;
                let directory = self.directory.display();
                tracing::warn!(%directory, %error, "manifests not read, forwarding goes on as it is");
            }
            sleep(RETRY_AFTER).await;
        }
    }

    /// Reads the directory whenever it changes. Returns when it is gone or nobody listens.
    async fn watch(&mut self) -> io::Result<()> {
        let notifier = Notifier::watch(&self.directory)?;
        loop {
            let directory = self.directory.clone();
            let texts = tokio::task::spawn_blocking(move || read_directory(&directory)).await??;
            if self.unreadable {
                self.unreadable = false;
                tracing::info!(directory = %self.directory.display(), "manifests read again");
            }
            if !self.take_in(texts).await {
                return Ok(());
            }
            tokio::select! {
                changed = timeout(REREAD_AFTER, notifier.changed()) => match changed {
                    Ok(Ok(Changed::Content)) | Err(_) => {}
                    Ok(Ok(Changed::Gone)) => return Err(io::ErrorKind::NotFound.into()),
                    Ok(Err(error)) => return Err(error),
                },
                () = self.updates.closed() => return Ok(()),
            }
        }
    }

    /// Reads what is new and sends all there is. `false` where nobody listens.
    async fn take_in(&mut self, texts: BTreeMap<String, io::Result<String>>) -> bool {
        let mut known = self.files.take();
        let mut changed =
            known.as_ref().is_none_or(|known| known.keys().any(|name| !texts.contains_key(name)));
        let mut files = BTreeMap::new();
        for (name, text) in texts {
            let before = known.as_mut().and_then(|known| known.remove(&name));
            let file = match text {
                Ok(text) if before.as_ref().is_some_and(|before| before.text == text) => {
                    before.unwrap_or_default()
                }
                Ok(text) => {
                    changed = true;
                    let before = before.map(|before| before.objects).unwrap_or_default();
                    File { objects: self.read_file(&name, &text, before), text }
                }
                Err(error) => {
                    tracing::warn!(file = name, %error, "file not read, what it said stays in force");
                    before.unwrap_or_default()
                }
            };
            files.insert(name, file);
        }
        let merged = changed.then(|| merge(&files));
        self.files = Some(files);
        match merged {
            None => true,
            Some(Objects { services, slices, mut nodes, service_cidrs }) => {
                nodes.retain(|name, _| *name.name == self.node);
                let updates = [
                    Update::Node(listed(nodes)),
                    Update::Slices(listed(slices)),
                    Update::Services(listed(services)),
                    Update::ServiceCidrs(listed(service_cidrs)),
                ];
                for update in updates {
                    if self.updates.send(update).await.is_err() {
                        return false;
                    }
                }
                true
            }
        }
    }

    fn read_file(&self, name: &str, text: &str, before: Objects) -> Objects {
        match read_documents(text) {
            Ok(documents) => {
                let (objects, complaints) = read_objects(documents, &before);
                for Complaint { kind, document, refusal } in complaints {
                    self.metrics.objects_refused.with_label_values(&[kind.name()]).inc();
                    tracing::warn!(
                        file = name, document, kind = kind.name(), reason = %refusal,
                        "object refused, what was known of it stays in force"
                    );
                }
                objects
            }
            Err(error) => {
                tracing::warn!(file = name, %error, "file is no YAML, what it said before stays in force");
                before
            }
        }
    }
}

fn listed<T>(objects: BTreeMap<Name, T>) -> Delta<T> {
    Delta::Listed { objects, refused: BTreeSet::new() }
}

/// The texts of the manifests in `directory`, hidden files left out.
fn read_directory(directory: &Path) -> io::Result<BTreeMap<String, io::Result<String>>> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let manifest = matches!(path.extension().and_then(OsStr::to_str), Some("yaml" | "yml" | "json"))
            && path.is_file();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !manifest || name.starts_with('.') {
            continue;
        }
        match fs::read_to_string(&path) {
            // Removed between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            text => {
                texts.insert(name, text);
            }
        }
    }
    Ok(texts)
}

/// The objects of a text, numbered by the document they are in, lists taken apart.
fn read_documents(text: &str) -> Result<Vec<(usize, Value)>, serde_saphyr::Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let mut objects = Vec::new();
    for (position, document) in documents.into_iter().enumerate() {
        take_apart(position + 1, document, &mut objects);
    }
    Ok(objects)
}

/// `List` and `ServiceList` become what they list; items of the latter may leave their kind unsaid.
fn take_apart(document: usize, mut object: Value, objects: &mut Vec<(usize, Value)>) {
    let listed = object["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
    let (Some(listed), Some(Value::Array(items))) = (listed, object.get_mut("items").map(Value::take)) else {
        objects.push((document, object));
        return;
    };
    for mut item in items {
        if let (false, Some(fields)) = (listed.is_empty(), item.as_object_mut()) {
            fields.entry("kind").or_insert_with(|| listed.clone().into());
            fields.entry("apiVersion").or_insert_with(|| object["apiVersion"].clone());
        }
        take_apart(document, item, objects);
    }
}

/// Reads the objects of a file; one that is refused stays as it was `before`.
fn read_objects(documents: Vec<(usize, Value)>, before: &Objects) -> (Objects, Vec<Complaint>) {
    let mut objects = Objects::default();
    let mut complaints = Vec::new();
    for (document, object) in documents {
        let Some(kind) = Kind::of(&object) else {
            tracing::debug!(document, kind = %object["kind"], "left aside");
            continue;
        };
        let mut complain = |refusal| complaints.push(Complaint { kind, document, refusal });
        let name = match kind::name(&object) {
            Ok(name) => name,
            Err(refusal) => {
                complain(refusal);
                continue;
            }
        };
        match kind {
            Kind::Service => {
                let read = kind::service(object);
                keep(&mut objects.services, &before.services, name, read, complain);
            }
            Kind::EndpointSlice => {
                let object = with_port_names(object);
                keep(&mut objects.slices, &before.slices, name, kind::endpoint_slice(object), complain);
            }
            Kind::Endpoints => {
                keep(&mut objects.slices, &before.slices, name, kind::endpoints(object), complain);
            }
            Kind::Node => keep(&mut objects.nodes, &before.nodes, name, kind::node(object), complain),
            Kind::ServiceCidr => {
                let read = kind::service_cidr(object);
                keep(&mut objects.service_cidrs, &before.service_cidrs, name, read, complain);
            }
        }
    }
    (objects, complaints)
}

/// An API server fills in an empty name where a slice's port has none; here nobody else does.
fn with_port_names(mut slice: Value) -> Value {
    let ports = slice.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        let name = port.entry("name").or_insert(Value::Null);
        if name.is_null() {
            *name = "".into();
        }
    }
    slice
}

fn keep<T: Clone>(
    objects: &mut BTreeMap<Name, T>,
    before: &BTreeMap<Name, T>,
    name: Name,
    read: Result<Option<T>, Refusal>,
    complain: impl FnOnce(Refusal),
) {
    let kept = read.unwrap_or_else(|refusal| {
        complain(refusal);
        before.get(&name).cloned()
    });
    if let Some(object) = kept {
        objects.insert(name, object);
    }
}

/// All files' objects; of two with one name, that of the file whose name comes first.
fn merge(files: &BTreeMap<String, File>) -> Objects {
    let mut merged = Objects::default();
    for (file, File { objects, .. }) in files {
        let services = objects.services.keys().filter(|name| merged.services.contains_key(name));
        let slices = objects.slices.keys().filter(|name| merged.slices.contains_key(name));
        let nodes = objects.nodes.keys().filter(|name| merged.nodes.contains_key(name));
        for name in services.chain(slices).chain(nodes) {
            tracing::warn!(file, %name, "object is in an earlier file already, this one is left out");
        }
        for (name, service) in &objects.services {
            merged.services.entry(name.clone()).or_insert_with(|| service.clone());
        }
        for (name, node) in &objects.nodes {
            merged.nodes.entry(name.clone()).or_insert_with(|| node.clone());
        }
        for (name, slice) in &objects.slices {
            merged.slices.entry(name.clone()).or_insert_with(|| slice.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n";
    const BROKEN_WEB: &str =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 010.0.0.1}\n";
    const SHOP: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {clusterIP: 10.0.0.2, ports: [{port: 80}]}\n";
    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n";

    fn read(text: &str, before: &Objects) -> (Objects, Vec<String>) {
        let (objects, complaints) = read_objects(read_documents(text).expect("YAML"), before);
        let line = |complaint: Complaint| format!("{}: {}", complaint.document, complaint.refusal);
        (objects, complaints.into_iter().map(line).collect())
    }

    fn names(objects: &Objects) -> Vec<String> {
        objects.services.keys().chain(objects.slices.keys()).map(Name::to_string).collect()
    }

    #[test]
    fn documents_lists_and_json_are_read() {
        let slice = r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","endpoints":[],
            "metadata":{"name":"web-1","labels":{"kubernetes.io/service-name":"web"}}}"#;
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{slice}]}}"#);
        let typed = "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: web}\n  spec: {clusterIP: 10.0.0.1}\n";
        let cases = [
            (format!("{WEB}---\n{SHOP}---\n{POD}"), vec!["default/shop", "default/web"]),
            (slice.to_owned(), vec!["default/web-1"]),
            (list, vec!["default/web-1"]),
            (typed.to_owned(), vec!["default/web"]),
            (String::new(), vec![]),
        ];
        for (text, expected) in cases {
            let (objects, complaints) = read(&text, &Objects::default());
            assert_eq!(names(&objects), expected, "{text}");
            assert_eq!(complaints, [""; 0], "{text}");
        }
    }

    #[test]
    fn a_malformed_object_stays_as_it_was_and_the_rest_goes_on() {
        let (before, _) = read(WEB, &Objects::default());
        let (objects, complaints) = read(&format!("{SHOP}---\n{BROKEN_WEB}"), &before);
        assert_eq!(names(&objects), ["default/shop", "default/web"]);
        assert_eq!(complaints, ["2: spec.clusterIP: \"010.0.0.1\" is not an IP address"]);
        let (objects, _) = read(BROKEN_WEB, &Objects::default());
        assert_eq!(names(&objects), [""; 0]);
    }

    #[test]
    fn a_port_without_a_name_has_the_empty_name() {
        let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
            metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\nports: [{port: 8080}]\n";
        let (objects, _) = read(slice, &Objects::default());
        let slice = objects.slices.values().next().expect("one");
        assert_eq!(slice.groups[0].ports.len(), 1);
        assert_eq!(&*slice.groups[0].ports[0].name, "");
    }

    #[test]
    fn the_first_file_has_a_name_that_two_claim() {
        let file = |text: &str| File { text: text.into(), objects: read(text, &Objects::default()).0 };
        let other = WEB.replace("10.0.0.1", "10.0.0.9");
        let files = BTreeMap::from([("a.yaml".into(), file(WEB)), ("b.yaml".into(), file(&other))]);
        let merged = merge(&files);
        let service = merged.services.values().next().expect("one");
        assert_eq!(service.addresses, BTreeSet::from([[10, 0, 0, 1].into()]));
    }
}

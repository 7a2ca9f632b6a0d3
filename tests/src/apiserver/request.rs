//! What a client asks for: paths and queries. Pure.

use std::collections::BTreeMap;

use super::Release;
use super::history::Key;
use super::resource::Resource;
use super::selector::{Problem, Selection};
use super::status::Refusal;

/// The subject of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `/version`.
    Version,
    /// `/readyz`: ready for new clients?
    Ready,
    /// `/livez` and `/healthz`: alive?
    Live,
    /// `/api`.
    LegacyVersions,
    /// `/apis`.
    Groups,
    /// `/apis/discovery.k8s.io`.
    Group,
    /// `/api/v1` or `/apis/discovery.k8s.io/v1`: the resources of that version.
    Resources(&'static str),
    /// The objects of a resource, in one namespace or in all.
    Collection(Resource, Option<String>),
    /// One object.
    Object(Key),
    /// `/fairway-test/<command>`: faults on demand.
    Control(String),
}

/// Finds the subject of `path`; `None`: nothing is served there.
pub(super) fn target(path: &str, release: Release) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["version"] => Some(Target::Version),
        ["readyz"] => Some(Target::Ready),
        ["livez" | "healthz"] => Some(Target::Live),
        ["fairway-test", command] => Some(Target::Control((*command).to_owned())),
        ["api"] => Some(Target::LegacyVersions),
        ["apis"] => Some(Target::Groups),
        ["apis", "discovery.k8s.io"] if release.has_slices() => Some(Target::Group),
        ["api", "v1", rest @ ..] => within("/api/v1", rest),
        ["apis", "discovery.k8s.io", "v1", rest @ ..] if release.has_slices() => {
            within("/apis/discovery.k8s.io/v1", rest)
        }
        ["apis", "networking.k8s.io", "v1", rest @ ..] if release.has_service_cidrs() => {
            within("/apis/networking.k8s.io/v1", rest)
        }
        ["apis", "events.k8s.io", "v1", rest @ ..] => within("/apis/events.k8s.io/v1", rest),
        _ => None,
    }
}

fn within(root: &'static str, parts: &[&str]) -> Option<Target> {
    let resource = |plural: &str| {
        Resource::ALL.into_iter().find(|resource| resource.root() == root && resource.plural() == plural)
    };
    let object = |resource: Resource, namespace: &str, name: &str| {
        Target::Object(Key { resource, namespace: namespace.to_owned(), name: name.to_owned() })
    };
    match *parts {
        [] => Some(Target::Resources(root)),
        ["namespaces", namespace, plural] => resource(plural)
            .filter(|resource| resource.is_namespaced())
            .map(|resource| Target::Collection(resource, Some(namespace.to_owned()))),
        ["namespaces", namespace, plural, name] => resource(plural)
            .filter(|resource| resource.is_namespaced())
            .map(|resource| object(resource, namespace, name)),
        [plural] => resource(plural).map(|resource| Target::Collection(resource, None)),
        [plural, name] => resource(plural)
            .filter(|resource| !resource.is_namespaced())
            .map(|resource| object(resource, "", name)),
        _ => None,
    }
}

/// The parameters of a LIST or WATCH (meta/v1 `ListOptions`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Which objects.
    pub(super) selection: Selection,
    /// `watch=true`.
    pub(super) watch: bool,
    /// `resourceVersion`; `None`: not given.
    pub(super) revision: Option<u64>,
    /// `resourceVersionMatch=Exact`.
    pub(super) exact: bool,
    /// `limit`; 0: no limit.
    pub(super) limit: usize,
    /// `continue`: the revision of the first page and the last key of the previous one.
    pub(super) after: Option<(u64, Key)>,
    /// `timeoutSeconds`.
    pub(super) timeout_seconds: Option<u64>,
    /// `allowWatchBookmarks=true`.
    pub(super) bookmarks: bool,
}

/// Reads the query of a request for `resource`.
pub(super) fn query(
    text: &str,
    resource: Resource,
    namespace: Option<String>,
    release: Release,
) -> Result<Query, Refusal> {
    let mut values = parameters(text);
    let mut take = |name: &str| values.remove(name).filter(|value| !value.is_empty());
    let selection = Selection::all(resource)
        .in_namespace(namespace)
        .with_labels(&take("labelSelector").unwrap_or_default())
        .and_then(|selection| {
            selection.with_fields(&take("fieldSelector").unwrap_or_default(), release.fields(resource))
        })
        .map_err(|problem: Problem| Refusal::BadRequest(problem.to_string()))?;
    if take("sendInitialEvents").is_some() {
        let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(Refusal::Invalid(message.to_owned()));
    }
    let after = take("continue").map(|token| parse_token(&token, resource)).transpose()?;
    let revision = take("resourceVersion").map(|text| number("resourceVersion", &text)).transpose()?;
    if after.is_some() && revision.is_some_and(|revision| revision != 0) {
        let message = "specifying resource version is not allowed when using continue";
        return Err(Refusal::BadRequest(message.to_owned()));
    }
    Ok(Query {
        selection,
        watch: is_true(take("watch")),
        revision,
        exact: take("resourceVersionMatch").is_some_and(|value| value == "Exact"),
        limit: take("limit")
            .map(|text| number("limit", &text))
            .transpose()?
            .map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        after,
        timeout_seconds: take("timeoutSeconds").map(|text| number("timeoutSeconds", &text)).transpose()?,
        bookmarks: is_true(take("allowWatchBookmarks")),
    })
}

/// The opaque `continue` token of a page that ended with `key`. It has characters a client must escape.
pub(super) fn token(revision: u64, key: &Key) -> String {
    format!("{revision}/{}/{}", key.namespace, key.name)
}

fn parse_token(token: &str, resource: Resource) -> Result<(u64, Key), Refusal> {
    let mut parts = token.splitn(3, '/');
    match (parts.next().map(str::parse), parts.next(), parts.next()) {
        (Some(Ok(revision)), Some(namespace), Some(name)) => {
            Ok((revision, Key { resource, namespace: namespace.to_owned(), name: name.to_owned() }))
        }
        _ => Err(Refusal::BadRequest("continue key is not valid".to_owned())),
    }
}

fn number(name: &str, text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_not_a_number| Refusal::BadRequest(format!("{name}: invalid value {text:?}")))
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| value == "true" || value == "1")
}

fn parameters(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect()
}

/// Undoes `application/x-www-form-urlencoded`; what is not an escape stays as it is.
pub(super) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                &tail[2..]
            }
            (b'+', _) => {
                bytes.push(b' ');
                tail
            }
            (other, _) => {
                bytes.push(*other);
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(resource: Resource, namespace: &str, name: &str) -> Target {
        Target::Object(Key { resource, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    #[test]
    fn paths_are_those_of_kubernetes() {
        use Resource::{EndpointSlices, Endpoints, Nodes, Services};
        for (path, expected) in [
            ("/readyz", Some(Target::Ready)),
            ("/api/v1", Some(Target::Resources("/api/v1"))),
            ("/api/v1/", Some(Target::Resources("/api/v1"))),
            ("/api/v1/services", Some(Target::Collection(Services, None))),
            ("/api/v1/namespaces/n/endpoints", Some(Target::Collection(Endpoints, Some("n".to_owned())))),
            ("/api/v1/namespaces/n/services/a", Some(object(Services, "n", "a"))),
            ("/api/v1/nodes/a", Some(object(Nodes, "", "a"))),
            ("/api/v1/services/a", None),
            ("/api/v1/namespaces/n/nodes", None),
            ("/api/v1/endpointslices", None),
            ("/api/v1/pods", None),
            ("/apis/discovery.k8s.io/v1/endpointslices", Some(Target::Collection(EndpointSlices, None))),
        ] {
            assert_eq!(target(path, Release::Current), expected, "{path}");
        }
        assert_eq!(target("/apis/discovery.k8s.io/v1/endpointslices", Release::Old), None);
        assert_eq!(target("/apis/discovery.k8s.io/v1", Release::Old), None);
    }

    #[test]
    fn queries_are_unescaped_and_checked() {
        let read = |text| query(text, Resource::Services, None, Release::Current);
        let list = read("limit=500&continue=7%2Fdefault%2Fa&labelSelector=%21app%2Ctier+in+%28x%29").unwrap();
        assert_eq!((list.limit, list.watch), (500, false));
        let key = Key { resource: Resource::Services, namespace: "default".into(), name: "a".into() };
        assert_eq!(list.after, Some((7, key.clone())));
        assert_eq!(token(7, &key), "7/default/a");
        let labels = Selection::all(Resource::Services).with_labels("!app,tier in (x)").unwrap();
        assert_eq!(list.selection, labels);
        let watch =
            read("watch=true&resourceVersion=12&timeoutSeconds=290&allowWatchBookmarks=true").unwrap();
        assert_eq!((watch.watch, watch.revision, watch.timeout_seconds), (true, Some(12), Some(290)));
        assert!(watch.bookmarks);
        for (text, code) in [
            ("limit=x", 400),
            ("continue=x", 400),
            ("resourceVersion=-1", 400),
            ("continue=7/a/b&resourceVersion=7", 400),
            ("fieldSelector=spec.nodeName=a", 400),
            ("watch=true&sendInitialEvents=true", 422),
        ] {
            assert_eq!(read(text).unwrap_err().code(), code, "{text}");
        }
        let old = query("fieldSelector=spec.clusterIP!=None", Resource::Services, None, Release::Old);
        assert_eq!(old.unwrap_err().code(), 400);
        assert!(read("fieldSelector=spec.clusterIP!%3DNone").is_ok());
    }
}

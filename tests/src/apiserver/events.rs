//! Events as a real apiserver takes them (`pkg/apis/core/validation/events.go`). Pure.

use serde_json::Value;

use super::Release;
use super::history::Key;
use super::resource::Resource;
use super::status::Refusal;

/// `event`, to be written to `namespace`, or what is wrong with it.
pub(super) fn checked(mut event: Value, namespace: Option<&str>, release: Release) -> Result<Value, Refusal> {
    let namespace = namespace.ok_or(Refusal::Method)?;
    event["metadata"]["namespace"] = namespace.into();
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut wrong = Vec::new();
    for (pointer, longest) in [
        ("/metadata/name", 253),
        ("/eventTime", 64),
        ("/action", 128),
        ("/reason", 128),
        ("/type", 7),
        ("/reportingController", 128),
        ("/reportingInstance", 128),
    ] {
        if text(pointer).is_empty() || text(pointer).len() > longest {
            wrong.push(format!("{pointer} must have 1 to {longest} characters"));
        }
    }
    if text("/note").len() > 1024 {
        wrong.push("/note may have at most 1k characters".to_owned());
    }
    if !["Normal", "Warning"].contains(&text("/type")) {
        wrong.push("/type must be Normal or Warning".to_owned());
    }
    let fits = match text("/regarding/namespace") {
        // Up to 1.20 in the system's alone.
        "" => namespace == "kube-system" || (namespace == "default" && release.has_slices()),
        of => of == namespace,
    };
    if !fits {
        wrong.push("/regarding/namespace does not match that of the event".to_owned());
    }
    if event["series"]["count"].as_i64().is_some_and(|count| count < 2) {
        wrong.push("/series/count must be greater than 1".to_owned());
    }
    if wrong.is_empty() { Ok(event) } else { Err(Refusal::Invalid(wrong.join("; "))) }
}

/// The key of an event that was checked.
pub(super) fn key(event: &Value) -> Key {
    let text = |field: &str| event["metadata"][field].as_str().unwrap_or_default().to_owned();
    Key { resource: Resource::Events, namespace: text("namespace"), name: text("name") }
}

/// A JSON merge patch (RFC 7396).
pub(super) fn patched(current: &Value, patch: &Value) -> Value {
    let Value::Object(fields) = patch else { return patch.clone() };
    let mut merged = current.as_object().cloned().unwrap_or_default();
    for (name, value) in fields {
        if value.is_null() {
            merged.remove(name);
        } else {
            let before = merged.get(name).unwrap_or(&Value::Null);
            let after = patched(before, value);
            merged.insert(name.clone(), after);
        }
    }
    merged.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "metadata": { "name": "n.1" }, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Start",
            "reason": "Starting", "type": "Normal", "reportingController": "c", "reportingInstance": "i",
            "regarding": { "kind": "Node", "name": "n" },
        })
    }

    #[test]
    fn an_event_is_taken_where_a_real_apiserver_takes_it() {
        assert_eq!(key(&checked(event(), Some("default"), Release::Current).unwrap()).namespace, "default");
        let cases = [
            ("reason", json!("")),
            ("eventTime", json!(null)),
            ("type", json!("Loud")),
            ("note", json!("x".repeat(1025))),
            ("regarding", json!({ "namespace": "other" })),
            ("series", json!({ "count": 1 })),
        ];
        for (field, value) in cases {
            let mut wrong = event();
            wrong[field] = value;
            assert_eq!(checked(wrong, Some("default"), Release::Current).unwrap_err().code(), 422, "{field}");
        }
    }

    #[test]
    fn an_event_about_an_object_without_a_namespace_is_the_systems_to_an_old_one() {
        for (release, namespace, is_taken) in [
            (Release::Old, "default", false),
            (Release::Old, "kube-system", true),
            (Release::Current, "kube-system", true),
            (Release::Current, "other", false),
        ] {
            assert_eq!(
                checked(event(), Some(namespace), release).is_ok(),
                is_taken,
                "{release:?} {namespace}"
            );
        }
    }

    #[test]
    fn a_patch_adds_changes_and_removes() {
        let merged = patched(
            &json!({ "a": 1, "b": { "c": 2, "d": 3 } }),
            &json!({ "a": null, "b": { "c": 4 }, "e": 5 }),
        );
        assert_eq!(merged, json!({ "b": { "c": 4, "d": 3 }, "e": 5 }));
    }
}

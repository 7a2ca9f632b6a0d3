//! The stub does what the real one does: each is asked the same, and the answers are compared.

use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::{Value, json};
use tests::apiserver::{Options, Release, Resource, Store, Stub};
use tests::certificates::Authority;
use tests::kube_apiserver::{ControlPlane, assets};
use tests::{Api, Error, Namespace, Result, objects};

const SOON: Duration = Duration::from_secs(20);

/// What a client can tell from an answer: the status, and of the body what is not worded freely.
fn shape(api: &Api, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let answer = api.request(method, path, body)?;
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let items = body["items"].as_array().map(|items| {
        let own = items.iter().filter(|item| item["metadata"]["labels"]["fairway"] == "test");
        own.map(|item| {
            [&item["kind"], &item["metadata"]["name"], &item["spec"]["clusterIP"]].map(Value::clone)
        })
        .collect::<Vec<_>>()
    });
    let code = (answer.status >= 400).then(|| body["code"].clone());
    let of_status = (body["kind"] == "Status").then(|| json!([body["status"], body["reason"], code]));
    Ok(json!({
        "status": answer.status, "kind": body["kind"], "apiVersion": body["apiVersion"], "items": items,
        "error": of_status, "more": body["metadata"]["continue"].is_string(),
    }))
}

/// The types and names of the events after `revision`, until an object called `last` was deleted.
fn story(api: &Api, query: &str, last: &str) -> Result<Vec<(Value, Value)>> {
    let mut seen = Vec::new();
    let path = format!("/api/v1/namespaces/default/services?watch=true&{query}");
    api.watch(&path, SOON, |event| {
        let name = event["object"]["metadata"]["name"].clone();
        let ends = event["type"] == "DELETED" && name == last;
        if event["type"] != "BOOKMARK" {
            seen.push((event["type"].clone(), name));
        }
        if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(seen)
}

fn service(name: &str, address: &str) -> Value {
    objects::service(name, address).port("http", "TCP", 80).label("fairway", "test").json()
}

/// Asks one server everything and returns what it said.
fn interview(api: &Api) -> Result<Vec<(String, Value)>> {
    let mut said = Vec::new();
    let mut ask = |method: &str, path: &str, body: Option<&Value>| {
        said.push((format!("{method} {path}"), shape(api, method, path, body)?));
        Ok::<_, Error>(())
    };
    let collection = Resource::Services.collection(Some("default"));
    let start = api.get(&collection)?["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    for (name, address) in [("a", "10.254.7.1"), ("b", "10.254.7.2"), ("c", "10.254.7.3")] {
        ask("POST", &collection, Some(&service(name, address)))?;
    }
    ask("POST", &collection, Some(&service("a", "10.254.7.9")))?;
    let a = format!("{collection}/a");
    let known = api.get(&a)?;
    api.apply(&objects::service("a", "10.254.7.1").port("web", "TCP", 81).label("fairway", "test").json())?;
    ask("PUT", &a, Some(&known))?;
    for path in [
        "?labelSelector=fairway%3Dtest",
        "?labelSelector=fairway%3Dtest&limit=2",
        "?labelSelector=%21fairway",
        "?labelSelector=fairway+in+%28test%2Cother%29&fieldSelector=metadata.name%21%3Db",
        "?fieldSelector=spec.clusterIP%21%3DNone",
        "?continue=nonsense",
        "?labelSelector=%3D",
        "/nobody",
    ] {
        ask("GET", &format!("{collection}{path}"), None)?;
    }
    for path in
        ["/api", "/apis/discovery.k8s.io/v1", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/nowhere"]
    {
        ask("GET", path, None)?;
    }
    for path in ["/readyz", "/livez", "/healthz"] {
        ask("GET", path, None)?;
    }
    for name in ["b", "c", "a"] {
        ask("DELETE", &format!("{collection}/{name}"), None)?;
    }
    ask("DELETE", &a, None)?;
    for query in ["labelSelector=fairway%3Dtest", "fieldSelector=metadata.name%3Da"] {
        let told = story(api, &format!("resourceVersion={start}&{query}"), "a")?;
        said.push((format!("watch with {query}"), json!(told)));
    }
    Ok(said)
}

#[test]
#[cfg_attr(not(real_apiserver), ignore = "KUBEBUILDER_ASSETS is not set: there is no real apiserver")]
fn the_stub_answers_as_the_real_one() -> Result<()> {
    let node = Namespace::new("master")?;
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let plane = ControlPlane::start(&assets()?, at(2379), &node)?;
    let real = plane.apiserver("real", at(6443), &[], &node)?;
    let authority = Authority::new("test")?;
    let mut options = Options::new("stub", authority.server("stub", &["127.0.0.1"])?);
    options.release = Release::Old;
    let listener = node.run(|| TcpListener::bind(at(6444)))?.map_err(Error::system("bind", at(6444)))?;
    let stub = Stub::serve(listener, options, &Store::default())?;
    let imitation = interview(&Api::new(stub.address(), authority.pem())?.inside(&node))?;
    let original = interview(&real.admin())?;
    assert_eq!(original.len(), imitation.len());
    let differences: Vec<_> = original.iter().zip(&imitation).filter(|(one, other)| one != other).collect();
    assert!(differences.is_empty(), "asked, the original and the stub said: {differences:#?}");
    Ok(())
}

//! From files in a directory, with the real inotify.

use std::fs;
use std::path::Path;

use plan::Change;
use proxy::config::{Config, Source};

use crate::window::{Window, frontend, quiet, with_proxy};

fn service(name: &str, last: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.0.0.{last}, ports: [{{port: 80}}, {{name: s, port: 80, protocol: SCTP}}]}}\n"
    )
}

fn slice(name: &str, endpoints: &[u8]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|last| format!("{{addresses: [10.1.0.{last}]}}")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         ports: [{{name: '', port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

pub(crate) fn web(endpoints: &[u8]) -> String {
    format!("{}---\n{}", service("web", 1), slice("web", endpoints))
}

pub(crate) fn put(directory: &Path, name: &str, text: &str) {
    let draft = directory.join(format!(".{name}"));
    fs::write(&draft, text).unwrap();
    fs::rename(draft, directory.join(name)).unwrap();
}

fn config(directory: &Path) -> Config {
    quiet(Source::Manifests(directory.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_follows_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let window = Window::new();
    put(directory, "web.yaml", &web(&[1, 2]));
    with_proxy(config(directory), window.clone(), async || {
        window.until(1, Some(2)).await;
        assert_eq!(window.forwarding().len(), 1, "SCTP is left out, TCP is not");

        put(directory, "web.yaml", &web(&[2]));
        window.until(1, Some(1)).await;

        let shop = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
            "spec": {"clusterIP": "10.0.0.2", "ports": [{"port": 80}]}}"#;
        put(directory, "shop.json", shop);
        window.until(2, Some(0)).await;

        // A mistake costs nothing that was good: what it was about stays, and others go on.
        put(directory, "web.yaml", "kind: [");
        put(directory, "other.yml", &service("other", 3));
        window.until(3, Some(0)).await;
        assert_eq!(window.backends(1), Some(1));

        fs::remove_file(directory.join("shop.json")).unwrap();
        window.until(2, None).await;
    })
    .await;
    assert_eq!(window.backends(1), Some(1), "stopping leaves the dataplane as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_adopts_what_is_there_and_writes_only_what_differs() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let window = Window::new();
    put(directory, "web.yaml", &web(&[1]));
    put(directory, "gone.yaml", &service("gone", 2));
    with_proxy(config(directory), window.clone(), async || {
        window.until(1, Some(1)).await;
        window.until(2, Some(0)).await;
    })
    .await;
    fs::remove_file(directory.join("gone.yaml")).unwrap();
    window.take_changes();
    with_proxy(config(directory), window.clone(), async || window.until(2, None).await).await;
    assert_eq!(window.take_changes(), [Change::RemoveService { frontend: frontend(2) }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_may_come_later_and_go_for_a_while() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("manifests");
    let window = Window::new();
    with_proxy(config(&directory), window.clone(), async || {
        let draft = parent.path().join("draft");
        fs::create_dir(&draft).unwrap();
        put(&draft, "web.yaml", &web(&[1]));
        fs::rename(&draft, &directory).unwrap();
        window.until(1, Some(1)).await;

        fs::rename(&directory, &draft).unwrap();
        put(&draft, "web.yaml", &web(&[1, 2]));
        assert_eq!(window.backends(1), Some(1), "a directory that is gone says nothing");
        fs::rename(&draft, &directory).unwrap();
        window.until(1, Some(2)).await;
    })
    .await;
}

//! While a dataplane is being opened, which takes as long as the kernel's verifier does.

use std::sync::mpsc;
use std::time::Duration;

use daemon::exit::{Code, Failure};
use proxy::config::{Access, Source};

use crate::api::{Api, discovery, list, service, silence, slice};
use crate::window::{Window, quiet, with_opening};

const PATIENCE: Duration = Duration::from_secs(20);

/// An API server with the Service `web` and its endpoints. Says when both are on their way.
async fn server() -> (Api, mpsc::Receiver<()>) {
    let (listed, told) = mpsc::channel();
    let api = Api::start(([127, 0, 0, 1], 0).into(), move |target| {
        let answer = match target.split('?').next().unwrap() {
            "/apis/discovery.k8s.io/v1" => return discovery(),
            _ if target.contains("watch=true") => return silence(),
            "/api/v1/services" => list(&[service("web", 1)], ""),
            _ => list(&[slice("web", &[1, 2])], ""),
        };
        // Nobody listens any more where a list is asked for again.
        listed.send(()).unwrap_or_default();
        answer
    });
    (api.await, told)
}

fn source(api: &Api) -> Source {
    Source::Cluster(Access { kubeconfig: None, master: Some(api.url()) })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_listed_meanwhile() {
    let (api, listed) = server().await;
    let window = Window::new();
    let opened = window.clone();
    let open = move || {
        for kind in ["one kind", "the other"] {
            listed.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{kind} is not listed: {error}"));
        }
        Ok(Box::new(opened) as _)
    };
    with_opening(quiet(source(&api)), open, async || window.until(1, Some(2)).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_it_ends_the_process_though_the_cluster_is_followed() {
    let (api, listed) = server().await;
    let (failed, is_failed) = tokio::sync::oneshot::channel();
    let open = move || {
        listed.recv_timeout(PATIENCE).expect("the cluster is listed");
        failed.send(()).expect("the test waits");
        Err(Failure::new(Code::NoPermission, "no privilege"))
    };
    let ended = with_opening(quiet(source(&api)), open, async || is_failed.await.unwrap()).await;
    let failure = ended.expect_err("it was not opened");
    assert_eq!((failure.code, failure.to_string()), (Code::NoPermission, "no privilege".to_owned()));
}

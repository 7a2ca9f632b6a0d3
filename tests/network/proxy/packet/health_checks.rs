//! What a load balancer in front of the node is told: rows H1, H2 and H5 of the catalogue. H4 is a scenario test.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Error, Result, admin, objects};

use super::site::{self, LOCAL, REMOTE, Site};
use super::{NODE, until};

const PATIENCE: Duration = Duration::from_secs(2);

/// A Service for the world that prefers endpoints of the node, and has its health checked at `port`.
fn service(port: u16) -> Value {
    site::both(objects::service("web", "10.254.0.10"), 80)
        .with("/spec", "type", "LoadBalancer")
        .with("/spec", "externalTrafficPolicy", "Local")
        .with("/spec", "healthCheckNodePort", port)
        .json()
}

/// The endpoints of the Service, each on a node.
fn slice(endpoints: &[(&str, &str)]) -> Value {
    let addresses: Vec<&str> = endpoints.iter().map(|(address, _)| *address).collect();
    let mut slice = site::slice("web", &addresses);
    for (number, (_, node)) in endpoints.iter().enumerate() {
        slice["endpoints"][number]["nodeName"] = (*node).into();
    }
    slice
}

impl Site {
    fn checked(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let node = objects::node("m1", "172.16.60.241").json();
        self.objects(&[node].into_iter().chain(objects).collect::<Vec<_>>())
    }

    /// What a load balancer is answered, whole.
    fn check(&self, at: &str, path: &str) -> Result<io::Result<String>> {
        let asked = |at: SocketAddr| admin::ask_at(at, path, PATIENCE);
        self.out.run(|| at.parse().map_err(io::Error::other).and_then(asked))
    }

    fn await_status(&self, at: &str, status: &str) -> Result<()> {
        let head = format!("HTTP/1.1 {status} ");
        until(&format!("{at} answers {status}"), || {
            Ok(self.check(at, "/")?.is_ok_and(|answer| answer.starts_with(&head)))
        })
    }

    fn await_closed(&self, at: &str) -> Result<()> {
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        until(&format!("{at} is closed"), || Ok(self.check(at, "/")?.is_err_and(refused)))
    }
}

#[test]
fn a_load_balancer_is_told_of_the_endpoints_on_this_node() -> Result<()> {
    const FIRST: &str = "172.16.60.241:32000";
    const SECOND: &str = "172.16.60.241:32001";
    let site = Site::new()?;
    site.checked([service(32_000), slice(&[(LOCAL, "m1"), ("10.42.1.6", "m1"), (REMOTE, "m2")])])?;
    let _proxy = site.proxy(&[NODE])?;

    site.await_status(FIRST, "200")?;
    for path in ["/", "/healthz", "/any/other?x=y"] {
        let answer = site.check(FIRST, path)?.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        for header in ["x-load-balancing-endpoint-weight: 2", "content-type: application/json"] {
            assert!(head.lines().any(|line| line.eq_ignore_ascii_case(header)), "{path}: {header} in {head}");
        }
        let body: Value = serde_json::from_str(body).map_err(Error::json(path))?;
        let service = json!({ "namespace": "default", "name": "web" });
        let expected = json!({ "service": service, "localEndpoints": 2, "serviceProxyHealthy": true });
        assert_eq!(body, expected, "{path}");
    }
    // Only where node ports are.
    site.await_closed("10.1.0.254:32000")?;

    site.checked([service(32_000), slice(&[(REMOTE, "m2")])])?;
    site.await_status(FIRST, "503")?;
    let answer = site.check(FIRST, "/")?.expect("an answer");
    assert!(
        answer.contains("\"localEndpoints\":0") && answer.contains("\"serviceProxyHealthy\":true"),
        "{answer}"
    );

    site.checked([service(32_001), slice(&[(LOCAL, "m1")])])?;
    site.await_status(SECOND, "200")?;
    site.await_closed(FIRST)?;
    site.checked([])?;
    site.await_closed(SECOND)
}

//! What `deploy/` holds fits what the program is.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;
use daemon::document::Document;
use prometheus::Registry;
use serde_json::Value;

use crate::Arguments;
use crate::config::{BackendName, defaults};
use crate::metrics::Metrics;
use crate::router::{self, RouterMetrics};

const DASHBOARD: &str = include_str!("../deploy/grafana-dashboard.json");
const POD: &str = include_str!("../deploy/kubeadm-static-pod.yaml");
const SERVICE: &str = include_str!("../deploy/fairway-lb.service");
const SOCKET: &str = include_str!("../deploy/fairway-lb.socket");
const CONTAINER: &str = include_str!("../deploy/Containerfile");

/// The names of all series that a front door can show.
fn series() -> BTreeSet<String> {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    metrics.of_backend(&BackendName::new("m1".to_owned()).unwrap());
    let routers = RouterMetrics::register(&registry).unwrap();
    routers.introduce(&router::tests::config("172.16.60.250/32", &[]));
    let mut names = BTreeSet::new();
    for family in registry.gather() {
        let name = family.name().to_owned();
        if family.get_field_type() == prometheus::proto::MetricType::HISTOGRAM {
            names.extend(["bucket", "sum", "count"].map(|suffix| format!("{name}_{suffix}")));
        } else {
            names.insert(name);
        }
    }
    names
}

/// The words of `text` that are names of our metrics.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.split(|letter| !is_part(letter))
        .filter(|word| word.starts_with("fairway_lb_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_that_the_dashboard_asks_for_is_there() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    let (asked, shown) = (named(&queries.join(" ")), series());
    assert!(asked.is_subset(&shown), "{:?}", asked.difference(&shown).collect::<Vec<_>>());
    assert!(queries.iter().all(|query| !named(query).is_empty()), "{queries:?}");
}

#[test]
fn the_pod_runs_the_program_with_what_it_needs() {
    let (pod, problems) = Document::parse(POD).read(|root| serde_json::to_value(root.accept_rest()));
    assert!(problems.list().is_empty(), "{problems}");
    let pod = pod.unwrap();
    assert_eq!((&pod["kind"], &pod["spec"]["hostNetwork"]), (&"Pod".into(), &true.into()));
    let container = &pod["spec"]["containers"][0];
    let words = container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    Arguments::command().try_get_matches_from(std::iter::once("fairway-lb").chain(words)).unwrap();
    assert_eq!(container["livenessProbe"]["httpGet"]["port"], defaults::ADMIN.port());
    let mounted: Vec<&str> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["mountPath"].as_str().unwrap())
        .collect();
    let control = Path::new(defaults::CONTROL_SOCKET).parent().unwrap();
    for path in ["/etc/fairway", "/etc/kubernetes/pki", control.to_str().unwrap()] {
        assert!(mounted.contains(&path), "{path} in {mounted:?}");
    }
    let volumes = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|it| it["name"].to_string()).collect()
    };
    assert_eq!(volumes(&container["volumeMounts"]), volumes(&pod["spec"]["volumes"]));
}

/// The values of a directive of a unit.
fn directive<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn the_unit_runs_the_program_and_knows_what_it_says() {
    let start = directive(SERVICE, "ExecStart")[0];
    Arguments::command().try_get_matches_from(start.split_whitespace()).unwrap();
    assert_eq!(directive(SERVICE, "Type"), ["notify"]);
    // A successor is another process of the unit.
    assert_eq!(directive(SERVICE, "NotifyAccess"), ["all"]);
    assert_eq!(directive(SERVICE, "ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    assert_eq!(directive(SERVICE, "WatchdogSec").len(), 1);
    let control = Path::new(defaults::CONTROL_SOCKET).parent().unwrap();
    assert_eq!(Path::new("/run").join(directive(SERVICE, "RuntimeDirectory")[0]), control);
    assert_eq!(directive(SOCKET, "Service"), ["fairway-lb.service"]);
    assert_eq!(directive(SOCKET, "FreeBind"), ["yes"]);
}

#[test]
fn the_image_runs_the_program() {
    let last = CONTAINER.lines().rfind(|line| line.starts_with("CMD ")).unwrap();
    let words: Vec<String> = serde_json::from_str(last.strip_prefix("CMD ").unwrap()).unwrap();
    Arguments::command().try_get_matches_from(std::iter::once("fairway-lb".to_owned()).chain(words)).unwrap();
}

#[test]
fn the_page_for_migrants_shows_a_configuration_that_is_accepted() {
    let page = include_str!("../deploy/migration.md");
    let example = page.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let certificate =
        rcgen::CertificateParams::default().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    crate::config::parse(example, &|_| Ok(certificate.clone().into_bytes())).unwrap();
}

//! What a probe makes of what it meets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lb::config::{self, Config};
use lb::health::ProbeResult;
use lb::health::{Event, Status, Thresholds};
use lb::metrics::Metrics;
use lb::pool::Pool;
use lb::probe::{Probe, watch};
use prometheus::Registry;

use crate::lab::{until, within};
use crate::tls::{Authority, Behaviour, Identity, READY, Server, UNREADY};

/// A configuration that trusts `authority`; `check` and `tls` are further lines of these sections.
fn configuration(
    backend: SocketAddr,
    (authority, identity): (&Authority, Option<&Identity>),
    (check, tls): (&str, &str),
) -> Config {
    let files = match identity {
        None => "",
        Some(_) => "certificateFile: certificate\n    keyFile: key",
    };
    let text = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nfrontend: {{listen: '127.0.0.1:0'}}\n\
         backends: [{{name: m1, address: '{backend}'}}]\n\
         healthCheck:\n  {check}\n  tls:\n    caFile: ca\n    {tls}\n    {files}\n"
    );
    let read_file = |path: &Path| {
        let contents = match (path.to_str(), identity) {
            (Some("ca"), _) => authority.pem(),
            (Some("certificate"), Some(identity)) => identity.certificate_pem(),
            (Some("key"), Some(identity)) => identity.key_pem(),
            (other, _) => panic!("{other:?}"),
        };
        Ok(contents.into_bytes())
    };
    config::parse(&text, &read_file).unwrap()
}

/// The result of one probe, and the error with all its causes.
async fn ask(config: &Config) -> (ProbeResult, String) {
    let probe = Probe::new(config.backends[0].address, &config.health_check, &config.tls);
    let answer = within("probe", probe.ask()).await;
    let text = answer.as_ref().map_or_else(|error| daemon::exit::chain(error), |()| String::new());
    (ProbeResult::from(&answer), text)
}

#[tokio::test]
async fn an_answer_counts_if_it_is_complete_in_time_and_200() {
    let authority = Authority::new();
    let identity = authority.sign("127.0.0.1");
    let cases = [
        (READY, ProbeResult::Ready, ""),
        (UNREADY, ProbeResult::Unready, "answered 500 Internal Server Error"),
        (
            Behaviour::Send("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
            ProbeResult::Unready,
            "answered 302 Found",
        ),
        (Behaviour::Send("HTTP/1.0 200 OK\r\n\r\nok"), ProbeResult::Ready, ""),
        (Behaviour::Send("SSH-2.0-OpenSSH_9.2\r\n"), ProbeResult::Failed, "HTTP: "),
        (Behaviour::Send(""), ProbeResult::Failed, "HTTP: "),
        (
            Behaviour::Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"),
            ProbeResult::Failed,
            "read the answer: ",
        ),
        (Behaviour::Flood, ProbeResult::Failed, "read the answer: "),
        (Behaviour::Close, ProbeResult::Failed, "TLS handshake: "),
        (Behaviour::Drip, ProbeResult::TimedOut, "not finished within 300ms"),
        (Behaviour::Silence, ProbeResult::TimedOut, "not finished within 300ms"),
    ];
    for (behaviour, expected, reason) in cases {
        let server = Server::start(&identity, None, behaviour).await;
        let config = configuration(server.address, (&authority, None), ("timeout: 300ms", ""));
        let started = tokio::time::Instant::now();
        let (result, text) = ask(&config).await;
        assert_eq!(result, expected, "{behaviour:?}: {text}");
        assert!(text.starts_with(reason) && text.is_empty() == reason.is_empty(), "{behaviour:?}: {text}");
        assert!(started.elapsed() < Duration::from_secs(2), "{behaviour:?} took {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_backend_is_believed_if_somebody_trusted_says_its_name() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let address = authority.sign("127.0.0.1");
    let name = authority.sign("kubernetes");
    let cases = [
        ("by address", &authority, &address, "", None),
        ("by name", &authority, &name, "serverName: kubernetes", None),
        ("wrong authority", &stranger, &address, "", Some("BadSignature")),
        ("wrong name", &authority, &name, "serverName: etcd", Some("not valid for name \"etcd\"")),
        ("name instead of address", &authority, &name, "", Some("not valid for name \"127.0.0.1\"")),
    ];
    for (case, trusted, identity, tls, refused) in cases {
        let server = Server::start(identity, None, READY).await;
        let (result, text) = ask(&configuration(server.address, (trusted, None), ("", tls))).await;
        match refused {
            None => assert_eq!((result, text.as_str()), (ProbeResult::Ready, ""), "{case}"),
            Some(reason) => {
                assert_eq!(result, ProbeResult::Failed, "{case}");
                assert!(text.starts_with("TLS handshake: ") && text.contains(reason), "{case}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_asked_for() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::start(&authority.sign("127.0.0.1"), Some(&authority), READY).await;
    let (ours, foreign) = (authority.sign("fairway-lb"), stranger.sign("fairway-lb"));
    let cases = [
        (None, ProbeResult::Failed),
        (Some(&ours), ProbeResult::Ready),
        (Some(&foreign), ProbeResult::Failed),
    ];
    for (position, (identity, expected)) in cases.into_iter().enumerate() {
        let (result, text) = ask(&configuration(server.address, (&authority, identity), ("", ""))).await;
        assert_eq!(result, expected, "case {position}: {text}");
    }
}

#[tokio::test]
async fn nobody_there_is_a_failure_with_its_reason() {
    let (_socket, address) = crate::lab::refusing();
    let (result, text) = ask(&configuration(address, (&Authority::new(), None), ("", ""))).await;
    assert_eq!(result, ProbeResult::Failed);
    assert!(text.starts_with("connect: "), "{text}");
}

fn start_watching(config: &Config) -> (Arc<Pool>, tokio::task::JoinHandle<std::convert::Infallible>) {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let thresholds = Thresholds { rise: config.health_check.rise, fall: config.health_check.fall };
    let pool = Pool::new(&config.backends, config.frontend.balance, thresholds, &metrics);
    let probe = Probe::new(config.backends[0].address, &config.health_check, &config.tls);
    let task = tokio::spawn(watch(probe, Arc::clone(&pool), Arc::clone(&pool.members()[0])));
    (pool, task)
}

#[tokio::test]
async fn status_follows_the_server() {
    let authority = Authority::new();
    let server = Server::start(&authority.sign("127.0.0.1"), None, READY).await;
    let check = "interval: 20ms\n  timeout: 100ms";
    let (pool, task) = start_watching(&configuration(server.address, (&authority, None), (check, "")));
    within("first probe", pool.settled()).await;
    let course = [
        (READY, Status::Up),
        (UNREADY, Status::Unready),
        (Behaviour::Close, Status::Down),
        (READY, Status::Up),
        (Behaviour::Silence, Status::Down),
        (READY, Status::Up),
    ];
    for (behaviour, expected) in course {
        server.behave(behaviour);
        until(&format!("{expected:?}"), || pool.status(0) == Some(expected)).await;
        assert_eq!(pool.members()[0].metrics.up.get(), i64::from(expected == Status::Up));
    }
    assert!(pool.members()[0].metrics.probes(ProbeResult::TimedOut).get() >= 2, "fall is 2");
    task.abort();
}

#[tokio::test]
async fn a_failed_connect_brings_the_next_probe_forward() {
    let authority = Authority::new();
    let server = Server::start(&authority.sign("127.0.0.1"), None, READY).await;
    let check = "interval: 10s";
    let started = tokio::time::Instant::now();
    let (pool, task) = start_watching(&configuration(server.address, (&authority, None), (check, "")));
    within("first probe", pool.settled()).await;
    assert_eq!(server.connections(), 1);
    pool.observe(0, Event::ConnectFailed, &"test");
    until("second probe", || server.connections() == 2).await;
    // A tenth of the interval at least, nine tenths if nobody had asked.
    let elapsed = started.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&elapsed), "{elapsed:?}");
    task.abort();
}

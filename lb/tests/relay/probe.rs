//! What a probe makes of what it meets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lb::config::{self, Config, Mistakes, Reload};
use lb::health::ProbeResult;
use lb::health::{Event, Status, Thresholds};
use lb::metrics::Metrics;
use lb::pool::Pool;
use lb::probe::{Probe, watch};
use prometheus::Registry;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{backend, refusing, until, within};
use crate::tls::{Authority, Behaviour, DEAD, Identity, READY, Server, UNREADY};

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
    let probe = Probe::new(config.backends[0].address, &config.health_check);
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
            DEAD,
            ProbeResult::Dead,
            "answered 500 Internal Server Error, and 500 Internal Server Error to whether",
        ),
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
async fn an_answer_may_be_expected_otherwise() {
    let authority = Authority::new();
    let identity = authority.sign("127.0.0.1");
    let cases = [
        (READY, "expectBody: ok", ProbeResult::Ready, ""),
        (
            READY,
            "expectBody: well",
            ProbeResult::Unready,
            "answered 200 OK without what its body must contain",
        ),
        (READY, "expectStatus: [204, 301-302]", ProbeResult::Unready, "answered 200 OK"),
        (UNREADY, "expectStatus: 500", ProbeResult::Ready, ""),
        (UNREADY, "expectStatus: 200-599\n  expectBody: tcd", ProbeResult::Ready, ""),
        // Only a server error says that it is beyond help.
        (DEAD, "livePath: /", ProbeResult::Dead, "answered 500"),
        (UNREADY, "livePath: /readyz", ProbeResult::Dead, "answered 500"),
        (
            Behaviour::Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
            "interval: 1s",
            ProbeResult::Unready,
            "answered 403 Forbidden",
        ),
    ];
    for (behaviour, check, expected, reason) in cases {
        let server = Server::start(&identity, None, behaviour).await;
        let check = format!("timeout: 10s\n  {check}");
        let (result, text) = ask(&configuration(server.address, (&authority, None), (&check, ""))).await;
        assert_eq!(result, expected, "{check}: {text}");
        assert!(text.starts_with(reason) && text.is_empty() == reason.is_empty(), "{check}: {text}");
    }
}

/// A server of plain HTTP.
async fn plain(answer: &'static str) -> SocketAddr {
    backend(move |mut stream| async move {
        if matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
            // A client that leaves early is its own affair.
            drop(stream.write_all(answer.as_bytes()).await);
        }
    })
    .await
}

#[tokio::test]
async fn other_kinds_of_checks_ask_for_less() {
    let authority = Authority::new();
    let identity = authority.sign("127.0.0.1");
    let silent = Server::start(&identity, None, Behaviour::Silence).await;
    let unready = Server::start(&identity, None, UNREADY).await;
    let http = plain("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let http_ill = plain("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let (_socket, refusing) = refusing();
    let cases = [
        ("tcp", silent.address, ProbeResult::Ready),
        ("tcp", refusing, ProbeResult::Refused),
        ("tls", unready.address, ProbeResult::Ready),
        ("tls", silent.address, ProbeResult::TimedOut),
        ("tls", http, ProbeResult::Failed),
        ("http", http, ProbeResult::Ready),
        ("http", http_ill, ProbeResult::Dead),
        ("http", unready.address, ProbeResult::Failed),
        ("https", http, ProbeResult::Failed),
    ];
    for (kind, address, expected) in cases {
        let tls = if matches!(kind, "tls" | "https") { "\n  tls: {caFile: ca}" } else { "" };
        let text = format!(
            "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nfrontend: {{listen: '127.0.0.1:0'}}\n\
             backends: [{{name: m1, address: '{address}'}}]\nhealthCheck:\n  kind: {kind}\n  timeout: 500ms{tls}\n"
        );
        let config = config::parse(&text, &|_: &Path| Ok(authority.pem().into_bytes())).unwrap();
        let (result, text) = ask(&config).await;
        assert_eq!(result, expected, "{kind} {address}: {text}");
    }
}

#[tokio::test]
async fn certificates_that_change_are_used_and_those_that_cannot_be_change_nothing() {
    let (former, renewed) = (Authority::new(), Authority::new());
    let server = Server::start(&renewed.sign("127.0.0.1"), None, READY).await;
    let directory = tempfile::TempDir::with_prefix("fw-").unwrap();
    let file = |name: &str| directory.path().join(name);
    std::fs::write(file("ca"), former.pem()).unwrap();
    let text = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nfrontend: {{listen: '127.0.0.1:0'}}\n\
         backends: [{{name: m1, address: '{}'}}]\n\
         healthCheck: {{interval: 20ms, timeout: 10s, tls: {{caFile: '{}'}}}}\n",
        server.address,
        file("ca").display()
    );
    std::fs::write(file("config"), text).unwrap();
    let config = config::read(&file("config")).unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let (pool, task) = start_watching_with(&config, &metrics);
    let reloads = |reload| metrics.tls_reloads(reload).get();
    let refused = Reload::Refused(Mistakes::default());
    until("it is not trusted", || pool.status(0) == Some(Status::Down)).await;
    // As kubeadm and cert-manager do it: another file takes the place of the first.
    std::fs::write(file("new"), renewed.pem()).unwrap();
    std::fs::rename(file("new"), file("ca")).unwrap();
    until("it is trusted", || pool.status(0) == Some(Status::Up)).await;
    assert_eq!((reloads(&Reload::Renewed), reloads(&refused)), (1, 0));
    for (reason, count) in [("garbage", 1), ("nothing", 2)] {
        match reason {
            "garbage" => std::fs::write(file("ca"), "-----BEGIN").unwrap(),
            _ => std::fs::remove_file(file("ca")).unwrap(),
        }
        until(reason, || reloads(&refused) == count).await;
        let asked = server.connections();
        until("it is asked again", || server.connections() > asked + 3).await;
        assert_eq!(pool.status(0), Some(Status::Up), "{reason}");
    }
    task.abort();
}

#[tokio::test]
async fn an_authority_that_has_expired_is_told_of_once_and_trusted_on() {
    let (expired, valid) = (Authority::expired(), Authority::new());
    let server = Server::start(&expired.sign("127.0.0.1"), None, READY).await;
    let directory = tempfile::TempDir::with_prefix("fw-").unwrap();
    let file = |name: &str| directory.path().join(name);
    for (authorities, told) in [(vec![&expired], 1), (vec![&expired, &valid], 0)] {
        std::fs::write(file("ca"), authorities.iter().map(|it| it.pem()).collect::<String>()).unwrap();
        let text = format!(
            "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nfrontend: {{listen: '127.0.0.1:0'}}\n\
             backends: [{{name: m1, address: '{}'}}]\n\
             healthCheck: {{interval: 200ms, timeout: 10s, tls: {{caFile: '{}'}}}}\n",
            server.address,
            file("ca").display()
        );
        std::fs::write(file("config"), text).unwrap();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let (pool, task) = start_watching_with(&config::read(&file("config")).unwrap(), &metrics);
        // It is looked at once a second.
        let asked = server.connections();
        until("it was asked for three seconds", || server.connections() > asked + 15).await;
        assert_eq!(metrics.tls_reloads(&Reload::Outdated).get(), told, "{} authorities", authorities.len());
        assert_eq!(pool.status(0), Some(Status::Up));
        task.abort();
    }
}

#[tokio::test]
async fn a_backend_is_believed_if_somebody_trusted_says_its_name() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let address = authority.sign("127.0.0.1");
    let name = authority.sign("kubernetes");
    let expired = authority.sign_expired("127.0.0.1");
    let cases = [
        ("by address", &authority, &address, "", None),
        ("by name", &authority, &name, "serverName: kubernetes", None),
        ("expired", &authority, &expired, "", Some("certificate expired")),
        ("wrong authority", &stranger, &address, "", Some("BadSignature")),
        ("wrong name", &authority, &name, "serverName: etcd", Some("not valid for name \"etcd\"")),
        ("name instead of address", &authority, &name, "", Some("not valid for name \"127.0.0.1\"")),
    ];
    for (case, trusted, identity, tls, refused) in cases {
        let server = Server::start(identity, None, READY).await;
        let (result, text) =
            ask(&configuration(server.address, (trusted, None), ("timeout: 10s", tls))).await;
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
        let (result, text) =
            ask(&configuration(server.address, (&authority, identity), ("timeout: 10s", ""))).await;
        assert_eq!(result, expected, "case {position}: {text}");
    }
}

#[tokio::test]
async fn nobody_there_is_a_failure_with_its_reason() {
    let (_socket, address) = refusing();
    let (result, text) = ask(&configuration(address, (&Authority::new(), None), ("", ""))).await;
    assert_eq!(result, ProbeResult::Refused);
    assert!(text.starts_with("connect: "), "{text}");
}

fn start_watching(config: &Config) -> (Arc<Pool>, tokio::task::JoinHandle<std::convert::Infallible>) {
    start_watching_with(config, &Metrics::register(&Registry::new()).unwrap())
}

fn start_watching_with(
    config: &Config,
    metrics: &Metrics,
) -> (Arc<Pool>, tokio::task::JoinHandle<std::convert::Infallible>) {
    let thresholds = Thresholds::from(&config.health_check);
    let pool = Pool::new(&config.backends, config.frontend.balance, thresholds, metrics);
    let probe = Probe::new(config.backends[0].address, &config.health_check);
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
async fn while_in_doubt_it_asks_more_often() {
    let authority = Authority::new();
    let server = Server::start(&authority.sign("127.0.0.1"), None, READY).await;
    let check = "interval: 1h\n  fastInterval: 20ms\n  timeout: 10s\n  fall: 5";
    let (pool, task) = start_watching(&configuration(server.address, (&authority, None), (check, "")));
    until("up", || pool.status(0) == Some(Status::Up)).await;
    server.behave(UNREADY);
    // One client's connect is the first doubt, and four probes settle it, none of which waits for an hour.
    pool.observe(0, Event::ConnectFailed, &"test");
    until("unready", || pool.status(0) == Some(Status::Unready)).await;
    server.behave(READY);
    pool.observe(0, Event::ConnectFailed, &"test");
    until("up again", || pool.status(0) == Some(Status::Up)).await;
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

//! Clients tell what happened to them, and captures what was on the wire.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use tests::apiserver::{Options, Store, Stub};
use tests::capture::{Capture, Content};
use tests::certificates::Authority;
use tests::traffic::{self, DialReport, HoldReport, PourReport};
use tests::{Error, Namespace, Program, Result, Switch};

const SOON: Duration = Duration::from_secs(15);
const CLIENT: &str = "192.0.2.1";
const SERVER: &str = "192.0.2.2";

struct Lan {
    client: Namespace,
    server: Namespace,
    switch: Switch,
}

fn lan() -> Result<Lan> {
    let lan = Lan {
        client: Namespace::new("client")?,
        server: Namespace::new("server")?,
        switch: Switch::new("lan")?,
    };
    lan.switch.attach(&lan.client, "eth0", &["192.0.2.1/24"])?;
    lan.switch.attach(&lan.server, "eth0", &["192.0.2.2/24"])?;
    Ok(lan)
}

#[test]
fn a_client_learns_who_answered_in_every_protocol() -> Result<()> {
    let lan = lan()?;
    let _server = traffic::serve(&lan.server, "one", "192.0.2.2:80")?;
    for protocol in ["tcp", "udp", "connected-udp"] {
        let arguments = ["--protocol", protocol, "--rate", "50", "--milliseconds", "200"];
        let dial = traffic::dial("192.0.2.2:80", arguments)?.inside(&lan.client);
        let report: DialReport = traffic::report(dial, SOON)?;
        assert_eq!((report.attempts, report.failed), (10, 0), "{protocol}: {report:?}");
        assert_eq!(report.backends.get("one"), Some(&10), "{protocol}: {report:?}");
        assert_eq!(report.peers.get("192.0.2.2:80"), Some(&10), "{protocol}: {report:?}");
    }
    Ok(())
}

#[test]
fn servers_behind_tls_are_told_apart_by_their_certificates() -> Result<()> {
    let lan = lan()?;
    let authority = Authority::new("test")?;
    let directory = tempfile::tempdir().map_err(Error::system("make", "a directory"))?;
    let file = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(file("ca.crt"), authority.pem()).map_err(Error::system("write", "ca.crt"))?;
    let identity = authority.server("one", &[SERVER])?;
    identity.write(directory.path(), "one")?;
    let listener =
        lan.server.run(|| TcpListener::bind((SERVER, 6443)))?.map_err(Error::system("bind", SERVER))?;
    let stub = Stub::serve(listener, Options::new("one", identity), &Store::default())?;
    let (authority, backend) = (file("ca.crt"), format!("one={}", file("one.crt")));
    let arguments = ["--protocol", "tls", "--authority", &authority, "--backend", &backend];
    let ask = || {
        let dial = traffic::dial("192.0.2.2:6443", arguments)?.arguments(["--milliseconds", "100"]);
        traffic::report::<DialReport>(dial.inside(&lan.client), SOON)
    };
    let report = ask()?;
    assert_eq!((report.failed, report.backends.get("one")), (0, Some(&10)), "{report:?}");
    stub.faults(|faults| faults.unready = true);
    let report = ask()?;
    assert_eq!(report.errors.get("http/1.1 500 internal server error"), Some(&10), "{report:?}");
    Ok(())
}

#[test]
fn failures_are_counted_with_their_reason() -> Result<()> {
    let lan = lan()?;
    let dial = traffic::dial("192.0.2.2:80", ["--milliseconds", "100"])?.inside(&lan.client);
    let report: DialReport = traffic::report(dial, SOON)?;
    assert_eq!((report.attempts, report.failed), (10, 10));
    assert_eq!(report.errors.keys().collect::<Vec<_>>(), ["Connection refused (os error 111)"]);
    assert!((report.longest_gap - 100.0).abs() < 0.001, "{report:?}");
    Ok(())
}

#[test]
fn held_connections_notice_that_their_server_died() -> Result<()> {
    let lan = lan()?;
    for (dies, broken) in [(false, 0), (true, 5)] {
        let mut server = traffic::serve(&lan.server, "one", "192.0.2.2:80")?;
        let hold = traffic::hold("192.0.2.2:80", ["--connections", "5", "--milliseconds", "500"])?;
        let mut holder = hold.inside(&lan.client).spawn()?;
        holder.wait_for_log("holding", SOON)?;
        if dies {
            server.kill()?;
        }
        let report: HoldReport = traffic::finish(holder, SOON)?;
        assert_eq!((report.opened, report.broken.len()), (5, broken), "{report:?}");
    }
    Ok(())
}

#[test]
fn what_is_poured_arrives() -> Result<()> {
    let lan = lan()?;
    let mut sink =
        Program::ours("traffic")?.arguments(["sink", "192.0.2.2:80"]).inside(&lan.server).spawn()?;
    sink.wait_for_log("listening", SOON)?;
    let pour = Program::ours("traffic")?.arguments(["pour", "192.0.2.2:80", "--milliseconds", "100"]);
    let report: PourReport = traffic::report(pour.inside(&lan.client), SOON)?;
    assert!(report.bytes > 0, "{report:?}");
    Ok(())
}

#[test]
fn a_capture_sees_each_frame_once() -> Result<()> {
    let lan = lan()?;
    let (whole, own) = (Capture::on_switch(&lan.switch)?, Capture::on_interface(&lan.client, "eth0")?);
    let _server = traffic::serve(&lan.server, "one", "192.0.2.2:80")?;
    let arguments = ["--rate", "1", "--milliseconds", "1"];
    let report: DialReport =
        traffic::report(traffic::dial("192.0.2.2:80", arguments)?.inside(&lan.client), SOON)?;
    assert_eq!(report.failed, 0);
    let client: IpAddr = CLIENT.parse().expect("an address");
    let server: Ipv4Addr = SERVER.parse().expect("an address");
    for capture in [&whole, &own] {
        let is_request = |content: &Content| match content {
            Content::Arp { operation: 1, sender, target, .. } => *sender == client && *target == server,
            Content::Arp { .. } | Content::Advert { .. } | Content::Neighbour { .. } => false,
        };
        capture.wait_for("the client asked for the server", SOON, |frame| is_request(&frame.content))?;
        let requests = capture.frames().into_iter().filter(|frame| is_request(&frame.content)).count();
        assert_eq!(requests, 1, "{:?}", capture.frames());
    }
    Ok(())
}

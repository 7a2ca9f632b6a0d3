//! What is counted of each Service.

use std::net::TcpStream;
use std::time::Duration;

use tests::{Error, Result, objects};

use super::super::node::until;
use super::site::{LOCAL, REMOTE, Site, ask_often, both, connect, exchange_lines, is_refused, slice};
use super::{CLUSTER, PODS};

/// At the socket, packet by packet, and of a Service that has nobody; a restart of the proxy forgets nothing.
#[test]
fn connections_refusals_and_bytes_are_counted_by_service() -> Result<()> {
    let site = Site::new()?;
    let empty = both(objects::service("empty", "10.254.0.11"), 80).json();
    let web = both(objects::service("web", "10.254.0.10"), 80).json();
    site.objects(&[web, slice("web", &[REMOTE]), empty])?;
    let mut proxy = site.proxy(&[PODS])?;
    let count = |metric: &str, service: &str, labels: &str| {
        let name = format!(
            "fairway_proxy_service_{metric}_total{{name=\"{service}\",namespace=\"default\",{labels}}}"
        );
        site.node.metric(&name)
    };
    let tcp = "port=\"t\"";
    let bytes = |port| count("bytes", "web", port);
    ask_often(&site.out, "tcp", CLUSTER, 5)?;
    let before = bytes(tcp)?.expect("counted");
    // Three segments to open and at least as many to close, of 40 bytes or more.
    assert!(before > 5.0 * 240.0, "{before}");
    // One that goes on: most of its packets need nothing but what its entry says.
    let exchange = || {
        let mut held = connect(CLUSTER.parse().map_err(std::io::Error::other)?, Duration::from_secs(5))?;
        (0..100).try_for_each(|_| exchange_lines(&mut held).map(drop))
    };
    site.out.run(exchange)?.map_err(Error::system("exchange", "lines"))?;
    until("all of its bytes are counted", || {
        // A question and its answer are 40 bytes or more of headers each, and so are what acknowledges them.
        Ok(bytes(tcp)?.is_some_and(|now| now > before + 100.0 * 2.0 * 44.0))
    })?;
    assert_eq!(bytes("port=\"u\"")?, None, "nobody asked for it yet");
    ask_often(&site.out, "udp", CLUSTER, 2)?;
    let dialled = site.node.dial("tcp", CLUSTER, 6)?;
    assert_eq!(dialled.failed, 0);
    for attempt in 0..3 {
        assert!(is_refused(&site.out, "tcp", "10.254.0.11:80")?, "{attempt}");
    }
    let refused = site.node.dial("tcp", "10.254.0.11:80", 3)?.failed;
    let all_counted = || -> Result<()> {
        let at_sockets = number(dialled.attempts);
        for (path, port, expected) in
            [("packet", "t", 6.0), ("packet", "u", 2.0), ("socket", "t", at_sockets)]
        {
            let labels = format!("path=\"{path}\",port=\"{port}\"");
            assert_eq!(count("connections", "web", &labels)?, Some(expected), "{labels}");
        }
        let timed = "fairway_proxy_service_connect_duration_seconds_count";
        let timed = format!("{timed}{{name=\"web\",namespace=\"default\",{tcp}}}");
        assert_eq!(site.node.metric(&timed)?, Some(at_sockets), "those at sockets, whose handshakes it sees");
        assert_eq!(count("refused", "empty", tcp)?, Some(3.0 + number(refused)));
        assert_eq!(count("refused", "web", tcp)?, Some(0.0));
        assert!(bytes(tcp)?.is_some_and(|now| now >= before), "sockets of the node move theirs unseen");
        Ok(())
    };
    all_counted()?;
    proxy.kill()?;
    let _next = site.proxy(&[PODS])?;
    all_counted()
}

/// Clients that come by packets and those at sockets count alike, and who is done counts no more.
#[test]
fn packets_go_to_the_backend_with_the_fewest_connections() -> Result<()> {
    let site = Site::new()?;
    let mut web = both(objects::service("web", "10.254.0.10"), 80);
    web = web.with(
        "/metadata",
        "annotations",
        serde_json::json!({"fairway.dev/scheduler": "least-connections"}),
    );
    site.objects(&[web.json(), slice("web", &[REMOTE, LOCAL])])?;
    let mut proxy = site.proxy(&[PODS])?;
    let open = || -> std::io::Result<(String, TcpStream)> {
        let mut held = connect(CLUSTER.parse().map_err(std::io::Error::other)?, Duration::from_secs(5))?;
        let answer = exchange_lines(&mut held)?;
        Ok((answer.split(' ').next().unwrap_or_default().to_owned(), held))
    };
    let open = || site.out.run(open)?.map_err(Error::system("ask", CLUSTER));
    let mut held = (0..4).map(|_| open()).collect::<Result<Vec<_>>>()?;
    let one = held[0].0.clone();
    let of_one = |held: &[(String, TcpStream)]| held.iter().filter(|(pod, _)| *pod == one).count();
    assert_eq!(of_one(&held), 2, "{held:?}");
    // Those of one are closed; the next two go there, whoever's turn it is.
    held.retain(|(pod, _)| *pod != one);
    until("what is closed counts no more", || {
        let (pod, _closed_again) = open()?;
        Ok(pod == one)
    })?;
    for _ in 0..3 {
        assert_eq!(open()?.0, one);
    }
    held.extend([open()?, open()?]);
    assert_eq!(of_one(&held), 2, "{held:?}");
    proxy.kill()?;
    held.extend([open()?, open()?]);
    assert_eq!(of_one(&held), 3, "{held:?}");
    Ok(())
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

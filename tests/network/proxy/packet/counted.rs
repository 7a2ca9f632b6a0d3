//! What is counted of each Service.

use std::time::Duration;

use tests::{Error, Result, objects};

use super::super::node::until;
use super::site::{REMOTE, Site, ask_often, both, connect, exchange_lines, is_refused, slice};
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

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

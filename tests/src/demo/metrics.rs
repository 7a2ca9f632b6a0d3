//! What the programs under watch say of themselves.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Namespace, Result};

/// The metrics served on a port of `node`'s loopback; `None` while nobody serves them.
pub(crate) fn metrics(node: &Namespace, port: u16) -> Result<Option<Metrics>> {
    node.run(|| ask(port).ok().map(Metrics))
}

/// Metrics in the Prometheus text format.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// The value of a metric, named with its labels.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

fn ask(port: u16) -> std::io::Result<String> {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE a gauge\na_total 7\na{ip_family=\"IPv4\"} 1.5\na 2\n";
        let metrics = Metrics(text.to_owned());
        for (name, expected) in [("a", Some(2.0)), ("a{ip_family=\"IPv4\"}", Some(1.5)), ("b", None)] {
            assert_eq!(metrics.value(name), expected, "{name}");
        }
    }
}

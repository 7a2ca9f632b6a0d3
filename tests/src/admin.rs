//! The admin servers of our programs, as they answer on a node's loopback.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

use crate::{Namespace, Result};

/// GETs `path` from `port` of this network's loopback: the whole answer, status line and headers included. Call it inside
/// the node's namespace. `patience` is for connecting and for each read.
pub fn ask(port: u16, path: &str, patience: Duration) -> io::Result<String> {
    ask_at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path, patience)
}

/// As [`ask`], from a server at any address.
pub fn ask_at(server: SocketAddr, path: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// As [`ask`] for `/metrics`; `None` while nobody serves them.
pub fn metrics(node: &Namespace, port: u16, patience: Duration) -> Result<Option<String>> {
    node.run(|| ask(port, "/metrics", patience).ok())
}

/// The value of a metric, named with its labels, in an answer in the Prometheus text format.
pub fn value<T: FromStr>(answer: &str, name: &str) -> Option<T> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE a gauge\na_total 7\na{ip_family=\"IPv4\"} 1.5\na 2\n";
        for (name, expected) in [("a", Some(2.0)), ("a{ip_family=\"IPv4\"}", Some(1.5)), ("b", None)] {
            assert_eq!(value(text, name), expected, "{name}");
        }
    }
}

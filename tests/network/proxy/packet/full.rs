//! A table of conversations that is far too small.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use tests::{Namespace, Result};

use super::site::{LOCAL, REMOTE, Site, connect, exchange_lines};
use super::{CLUSTER, PODS, failed};
use crate::proxy::node::{LIMIT, until};

const ENTRIES: &str = "--packet-flow-entries=4096";
/// Rounds of a flood, each of so many conversations, of which the kernel gives a few the same port: more than twice what the
/// table can hold.
const ROUNDS: u32 = 40;
const FLOOD: u32 = 128;

/// D11: conversations that go on are not pushed out by such as do not, and how full the table is can be seen.
#[test]
fn a_flood_of_conversations_harms_none_that_goes_on() -> Result<()> {
    let site = Site::new()?;
    site.web(&[LOCAL, REMOTE])?;
    let mut proxy = site.proxy(&[PODS, ENTRIES])?;
    let open = || -> io::Result<Vec<TcpStream>> {
        let target: SocketAddr = CLUSTER.parse().map_err(io::Error::other)?;
        (0..10).map(|_| connect(target, Duration::from_secs(5))).collect()
    };
    let mut streams = site.out.run(open)?.map_err(failed)?;
    let mut answers =
        || streams.iter_mut().map(exchange_lines).collect::<io::Result<Vec<_>>>().map_err(failed);
    let before = answers()?;
    for round in 0..ROUNDS {
        flood(&site.bad)?;
        assert_eq!(answers()?, before, "after {round} rounds of the flood");
    }
    let opened = site.node.metric("fairway_proxy_packet_connections_total")?;
    assert!(opened.is_some_and(|opened| opened > f64::from(ROUNDS * FLOOD) * 0.9), "{opened:?} began");
    assert_eq!(site.node.metric("fairway_proxy_packet_flow_capacity")?, Some(4096.0));
    until("the table is seen to be nearly full", || {
        let entries = site.node.metric("fairway_proxy_packet_flow_entries")?;
        Ok(entries.is_some_and(|entries| entries > 2048.0))
    })?;
    proxy.wait_for_log("the table of conversations is nearly full", LIMIT)
}

/// Datagrams, each from a port of its own.
fn flood(client: &Namespace) -> Result<()> {
    let send =
        || (0..FLOOD).try_for_each(|_| UdpSocket::bind("0.0.0.0:0")?.send_to(b"who\n", CLUSTER).map(drop));
    client.run(send)?.map_err(failed)
}

//! Backends that are told who the client is.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use lb::config;
use lb::probe::Probe;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::lab::{Lab, Settings, Single, within};
use crate::tls::{Authority, READY, Server};

const SENDING: Settings<'_> = Settings {
    listen: "127.0.0.1:0",
    frontend: "",
    backends: &["sendProxy: true"],
    check: "",
    threads: 1,
    limit: 1000,
};

/// The header for `client` in IPv4, read as a receiver does: the client's address and the frontend's.
async fn introduction(stream: &mut TcpStream) -> (SocketAddr, SocketAddr) {
    let mut header = [0; 28];
    within("header", stream.read_exact(&mut header)).await.unwrap();
    assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
    let address = |at: usize, port: usize| {
        let ip: [u8; 4] = header[at..at + 4].try_into().unwrap();
        SocketAddr::from((ip, u16::from_be_bytes([header[port], header[port + 1]])))
    };
    (address(16, 24), address(20, 26))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_speaks_first_is_introduced_to_a_silent_client() {
    let single = Single::listen().await;
    let lab = Lab::start_with(&[single.address], &SENDING);
    let mut client = lab.connect().await;
    let mut backend = single.accept().await;
    assert_eq!(introduction(&mut backend).await, (client.local_addr().unwrap(), lab.address));
    backend.write_all(b"welcome").await.unwrap();
    let mut welcome = [0; 7];
    within("welcome", client.read_exact(&mut welcome)).await.unwrap();
    client.write_all(b"thanks").await.unwrap();
    let mut thanks = [0; 6];
    within("thanks", backend.read_exact(&mut thanks)).await.unwrap();
    assert_eq!((&welcome, &thanks), (b"welcome", b"thanks"));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_introduction_shares_a_packet_with_what_the_client_has_said_already() {
    let single = Single::listen().await;
    let lab = Lab::start_with(&[single.address], &Settings { limit: 1, ..SENDING });
    for _ in 0..10 {
        let first = lab.connect().await;
        let mut occupied = single.accept().await;
        // In the kernel's queue, and not yet seen by the relay.
        let mut second = lab.connect().await;
        second.write_all(b"hello").await.unwrap();
        drop(first);
        introduction(&mut occupied).await;
        assert_eq!(within("end", occupied.read(&mut [0; 8])).await.unwrap(), 0);
        drop(occupied);
        let mut backend = single.accept().await;
        let mut packet = [0; 64];
        let count = within("first packet", backend.read(&mut packet)).await.unwrap();
        assert_eq!(&packet[28..count], b"hello");
        drop((second, backend));
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_wants_it_is_told() {
    let (first, second) = (Single::listen().await, Single::listen().await);
    let lab = Lab::start_with(
        &[first.address, second.address],
        &Settings { backends: &["", "sendProxy: true"], ..SENDING },
    );
    let (mut one, two) = (lab.connect().await, lab.connect().await);
    let (mut plain, mut told) = (first.accept().await, second.accept().await);
    one.write_all(b"x").await.unwrap();
    assert_eq!(within("byte", plain.read_u8()).await.unwrap(), b'x');
    assert_eq!(introduction(&mut told).await.0, two.local_addr().unwrap());
    lab.stop().await;
}

/// `HAProxy` in front of a backend: it accepts no connection without a header, and tells the backend what it has read in
/// the words of version 1. It ends with the value.
struct Receiver {
    address: SocketAddr,
    _directory: TempDir,
    _process: Child,
}

impl Receiver {
    async fn start(backend: SocketAddr, options: &str) -> Self {
        let directory = TempDir::with_prefix("fw-").unwrap();
        // One that no other process here listens on, nor connects from.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = SocketAddr::from(([127, 99, high, low], backend.port()));
        let file = directory.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n\
             listen receiver\n bind {address} accept-proxy\n server it {backend} {options}\n"
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().expect("haproxy is needed");
        within("haproxy listens", async { while TcpStream::connect(address).await.is_err() {} }).await;
        Self { address, _directory: directory, _process: process }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_understands_who_the_client_is() {
    let single = Single::listen().await;
    let receiver = Receiver::start(single.address, "send-proxy").await;
    let lab = Lab::start_with(&[receiver.address], &SENDING);
    let mut client = lab.connect().await;
    client.write_all(b"hello").await.unwrap();
    let expected = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello",
        client.local_addr().unwrap().port(),
        lab.address.port()
    );
    let mut backend = single.accept().await;
    let mut found = vec![0; expected.len()];
    within("what haproxy says", backend.read_exact(&mut found)).await.unwrap();
    assert_eq!(String::from_utf8(found).unwrap(), expected);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_introduces_itself_where_that_is_wanted() {
    let authority = Authority::new();
    let server = Server::start(&authority.sign("127.0.0.1"), None, READY).await;
    let receiver = Receiver::start(server.address, "").await;
    let text = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nfrontend: {{listen: '127.0.0.1:0'}}\n\
         backends: [{{name: m1, address: '{}'}}]\n\
         healthCheck: {{tls: {{caFile: ca, serverName: '127.0.0.1'}}}}\n",
        receiver.address
    );
    let config = config::parse(&text, &|_: &Path| Ok(authority.pem().into_bytes())).unwrap();
    let probe = Probe::new(receiver.address, &config.health_check);
    let told = within("probe", probe.clone().sending_proxy(true).ask()).await;
    assert!(told.is_ok(), "{told:?}");
    assert!(within("probe", probe.ask()).await.is_err(), "nobody wanted to know");
}

//! Another frontend for a relay that runs, and sockets that somebody else has listened on before.

use std::io::ErrorKind;
use std::num::NonZeroUsize;

use lb::relay::Relay;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Lab, Settings, Single, configuration, named, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_moves_leaves_its_connections_alone() {
    let backends = [named('a').await];
    let mut lab = Lab::start(&backends);
    let (mut old, _) = lab.greeted().await;
    let former = lab.address;
    let settings = Settings { listen: "['[::1]:0', 127.0.0.2:0]", ..Settings::default() };
    let change = lab.relay.prepare(&configuration(&backends, &settings).frontend).unwrap();
    let addresses = change.addresses();
    lab.greeted().await;
    lab.relay.change(change).unwrap();
    for address in addresses {
        lab.address = address;
        assert_eq!(lab.greeted().await.1, 'a', "{address}");
    }
    // Closed by the threads, each in its turn.
    within("the former address is closed", async { while TcpStream::connect(former).await.is_ok() {} }).await;
    assert_eq!(TcpStream::connect(former).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    until("it accepts as it should", || lab.relay.accepts()).await;
    old.write_all(b"x").await.unwrap();
    assert_eq!(within("echo", old.read_u8()).await.unwrap(), b'x');
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_cannot_be_listened_on_changes_nothing() {
    let backends = [named('a').await];
    let lab = Lab::start(&backends);
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("[127.0.0.1:0, {}]", occupied.local_addr().unwrap());
    let settings = Settings { listen: &listen, ..Settings::default() };
    let error = lab.relay.prepare(&configuration(&backends, &settings).frontend).unwrap_err();
    assert!(error.to_string().starts_with("listen on 127.0.0.1:"), "{error}");
    assert_eq!(lab.greeted().await.1, 'a');
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_in_an_inherited_queue_are_served() {
    let backends = [named('a').await];
    let first = Lab::start(&backends);
    let sockets = first.relay.listeners().unwrap();
    assert_eq!(sockets.len(), 2, "one per thread");
    first.stop().await;
    // Nobody accepts now, and the kernel still takes them.
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(TcpStream::connect(first_address(&sockets)).await.unwrap());
    }
    let listen = first_address(&sockets).to_string();
    let settings = Settings { listen: &listen, ..Settings::default() };
    // One thread takes both queues.
    let config = configuration(&backends, &settings);
    let second = Lab::start(&backends);
    let relay = Relay::bind(&config.frontend, NonZeroUsize::MIN, sockets).unwrap();
    let running = relay.start(&second.pool, &second.metrics, 100).unwrap();
    for mut client in waiting {
        assert_eq!(within("greeting", client.read_u8()).await.unwrap(), b'a');
    }
    within("stop", tokio::task::spawn_blocking(move || running.stop())).await.unwrap();
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_come_before_it_closes_is_served_and_new_until_idle() {
    let single = Single::listen().await;
    let mut lab = Lab::start(&[single.address]);
    until("it accepts", || lab.relay.accepts()).await;
    let mut client = lab.connect().await;
    lab.relay.close();
    assert!(lab.relay.has_new(), "it has not spoken");
    let mut backend = single.accept().await;
    backend.write_all(b"!").await.unwrap();
    assert_eq!(within("the answer", client.read_u8()).await.unwrap(), b'!');
    until("nobody is new", || !lab.relay.has_new()).await;
    assert_eq!(lab.relay.connections(), 1, "it is still there");
    lab.stop().await;
}

fn first_address(sockets: &[std::net::TcpListener]) -> std::net::SocketAddr {
    sockets[0].local_addr().unwrap()
}

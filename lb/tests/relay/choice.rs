//! Which backend a client meets.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lb::health::ConnectFailure;
use lb::health::Status;
use lb::metrics::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::lab::{Lab, Settings, Single, hanging, named, refusing, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_is_exact_however_many_clients_and_threads() {
    let backends = [named('a').await, named('b').await, named('c').await];
    let lab = Lab::start_with(&backends, &Settings { threads: 4, ..Settings::default() });
    let address = lab.address;
    let work = move || {
        let greeted = |_| {
            let mut name = [0];
            TcpStream::connect(address).unwrap().read_exact(&mut name).unwrap();
            char::from(name[0])
        };
        (0..30).map(greeted).collect::<Vec<char>>()
    };
    let threads: Vec<_> = (0..4).map(|_| tokio::task::spawn_blocking(work)).collect();
    let mut counts = BTreeMap::new();
    for thread in threads {
        for name in within("clients", thread).await.unwrap() {
            *counts.entry(name).or_insert(0) += 1;
        }
    }
    assert_eq!(counts, BTreeMap::from([('a', 40), ('b', 40), ('c', 40)]));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_the_frontend_is_served_by_every_thread() {
    let backends = [named('a').await, named('b').await];
    let lab =
        Lab::start_with(&backends, &Settings { listen: "['127.0.0.1:0', '[::1]:0']", ..Settings::default() });
    assert_eq!(lab.addresses.iter().map(SocketAddr::is_ipv6).collect::<Vec<_>>(), [false, true]);
    let mut names = String::new();
    for _ in 0..10 {
        for &address in &lab.addresses {
            let mut client = within("connect", tokio::net::TcpStream::connect(address)).await.unwrap();
            names.push(char::from(within("greeting", client.read_u8()).await.unwrap()));
        }
    }
    assert_eq!(names, "ab".repeat(10), "the turn is one for all");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn least_connections_fills_up_whoever_has_fewest() {
    let backends = [named('a').await, named('b').await];
    let settings = Settings { frontend: "balance: least-connections", ..Settings::default() };
    let lab = Lab::start_with(&backends, &settings);
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(lab.greeted().await);
    }
    assert_eq!((lab.active(0), lab.active(1)), (5, 5));
    held.retain(|(_, name)| *name == 'b');
    until("the relay has seen them go", || lab.active(0) == 0).await;
    for _ in 0..5 {
        let (client, name) = lab.greeted().await;
        assert_eq!(name, 'a');
        held.push((client, name));
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connect_is_tried_elsewhere_and_told_to_health() {
    let (_socket, dead) = refusing();
    let lab = Lab::start(&[dead, named('b').await]);
    for _ in 0..20 {
        assert_eq!(lab.greeted().await.1, 'b');
    }
    assert_eq!(lab.pool.status(0), Some(Status::Down));
    assert_eq!(lab.pool.members()[0].metrics.connect_failures(ConnectFailure::Refused).get(), 2, "fall is 2");
    assert_eq!(lab.metrics.refused(Refusal::Down).get(), 0);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_before_it_has_a_backend_is_said_once() {
    const WORDS: &[u8] = b"not the beginning of a TLS session";
    let (_socket, dead) = refusing();
    let backend = Single::listen().await;
    let lab = Lab::start(&[dead, backend.address]);
    let mut heard = Vec::new();
    for _ in 0..20 {
        let mut client = lab.connect().await;
        client.write_all(WORDS).await.unwrap();
        client.shutdown().await.unwrap();
        heard.clear();
        within("words", backend.accept().await.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, WORDS);
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_hangs_is_tried_elsewhere() {
    let (_queued, _socket, hanging) = hanging().await;
    let settings = Settings { frontend: "connectTimeout: 50ms", ..Settings::default() };
    let lab = Lab::start_with(&[hanging, named('b').await], &settings);
    for _ in 0..6 {
        assert_eq!(lab.greeted().await.1, 'b');
    }
    assert_eq!(lab.pool.status(0), Some(Status::Down));
    assert_eq!(
        lab.pool.members()[0].metrics.connect_failures(ConnectFailure::TimedOut).get(),
        2,
        "fall is 2"
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_whose_connects_hang_together_condemns_no_backend() {
    let (_queued, _socket, hanging) = hanging().await;
    let settings = Settings { frontend: "connectTimeout: 900ms", ..Settings::default() };
    let lab = Lab::start_with(&[hanging, named('b').await], &settings);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(lab.connect().await);
    }
    for client in &mut crowd {
        assert_eq!(within("greeting", client.read_u8()).await.unwrap(), b'b');
    }
    let failures = lab.pool.members()[0].metrics.connect_failures(ConnectFailure::TimedOut).get();
    assert_eq!(failures, 20, "every other client began there");
    assert_eq!(lab.pool.status(0), Some(Status::Up), "fall is 2, and kill 10");
    assert!(lab.pool.in_doubt(0));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_backend_a_client_is_reset_at_once() {
    let (_first, refusing_first) = refusing();
    let (_second, refusing_second) = refusing();
    let lab = Lab::start(&[refusing_first, refusing_second]);
    // The first two find out that nobody is there, the third that nobody is up.
    for refused in 1..=3 {
        // The reset may come before the client has seen that it is connected.
        let client = async { tokio::net::TcpStream::connect(lab.address).await?.read_u8().await };
        let error = within("reset", client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(lab.metrics.refused(Refusal::Down).get(), refused);
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_keeps_old_connections_and_sends_new_ones_elsewhere() {
    let lab = Lab::start(&[named('a').await, named('b').await]);
    let (mut old, name) = lab.greeted().await;
    assert_eq!(name, 'a');
    lab.make_unready(0);
    for _ in 0..10 {
        assert_eq!(lab.greeted().await.1, 'b');
    }
    old.write_all(b"x").await.unwrap();
    assert_eq!(within("echo", old.read_u8()).await.unwrap(), b'x');
    assert_eq!(lab.metrics.refused(Refusal::Down).get(), 0);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_beyond_the_limit_wait_until_others_leave() {
    let settings = Settings { threads: 1, limit: 2, ..Settings::default() };
    let lab = Lab::start_with(&[named('a').await], &settings);
    let first = lab.greeted().await;
    let _second = lab.greeted().await;
    let mut third = lab.connect().await;
    let early = tokio::time::timeout(Duration::from_millis(100), third.read_u8()).await;
    assert!(early.is_err(), "the third is served beside two others: {early:?}");
    drop(first);
    assert_eq!(within("greeting", third.read_u8()).await.unwrap(), b'a');
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_one_thread_gives_back_is_taken_by_another() {
    let lab = Lab::start_with(&[named('a').await], &Settings { limit: 1, threads: 4, ..Settings::default() });
    // The kernel deals clients out to the threads as it likes.
    let (mut held, _) = lab.greeted().await;
    for _ in 0..40 {
        let next = lab.connect().await;
        drop(std::mem::replace(&mut held, next));
        assert_eq!(within("greeting", held.read_u8()).await.unwrap(), b'a');
    }
    lab.stop().await;
}

/// Who serves clients, as many as are asked for, each of whom leaves at once.
async fn served(lab: &Lab, clients: usize) -> BTreeMap<char, usize> {
    let mut served = BTreeMap::new();
    for _ in 0..clients {
        *served.entry(lab.greeted().await.1).or_insert(0) += 1;
    }
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_go_by_weight() {
    let backends = [named('a').await, named('b').await, named('c').await];
    let settings = Settings { backends: &["weight: 3", "weight: 0", ""], ..Settings::default() };
    let lab = Lab::start_with(&backends, &settings);
    assert_eq!(served(&lab, 40).await, BTreeMap::from([('a', 30), ('c', 10)]));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_meets_the_same_backend_until_that_one_goes() {
    let backends = [named('a').await, named('b').await, named('c').await];
    let settings = Settings { frontend: "balance: source-hash", ..Settings::default() };
    let lab = Lab::start_with(&backends, &settings);
    let client = |last: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        async {
            let mut stream = within("connect", socket.connect(lab.address)).await.unwrap();
            char::from(within("greeting", stream.read_u8()).await.unwrap())
        }
    };
    let mut met = BTreeMap::new();
    for last in 2..32 {
        met.insert(last, client(last).await);
        assert_eq!(client(last).await, met[&last]);
    }
    for name in ['a', 'b', 'c'] {
        let clients = met.values().filter(|met| **met == name).count();
        assert!((3..=20).contains(&clients), "{clients} clients of 30 meet {name}");
    }
    lab.make_unready(0);
    for (last, before) in met {
        let after = client(last).await;
        assert!(after != 'a' && (before == 'a' || after == before), "{before} {after}");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_serves_clients_for_whom_nobody_else_is_left() {
    let (_socket, dead) = refusing();
    let backends = [named('a').await, dead, named('c').await];
    let settings = Settings { backends: &["backup: true"], ..Settings::default() };
    let lab = Lab::start_with(&backends, &settings);
    assert_eq!(served(&lab, 10).await, BTreeMap::from([('c', 10)]));
    lab.make_unready(2);
    assert_eq!(served(&lab, 10).await, BTreeMap::from([('a', 10)]));
    assert_eq!(lab.metrics.refused(Refusal::Down).get(), 0);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_their_limits_clients_go_elsewhere_and_then_are_reset() {
    let backends = [named('a').await, named('b').await];
    let limits = Settings { backends: &["maxConnections: 1", "maxConnections: 3"], ..Settings::default() };
    let lab = Lab::start_with(&backends, &limits);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(lab.greeted().await);
    }
    assert_eq!((lab.active(0), lab.active(1)), (1, 3));
    let client = async { tokio::net::TcpStream::connect(lab.address).await?.read_u8().await };
    assert_eq!(within("reset", client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(lab.metrics.refused(Refusal::Full).get(), 1);
    held.retain(|(_, name)| *name == 'b');
    until("the relay has seen it go", || lab.active(0) == 0).await;
    assert_eq!(lab.greeted().await.1, 'a');
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_closes_its_connections_and_its_port() {
    let lab = Lab::start(&[named('a').await]);
    let (mut client, _) = lab.greeted().await;
    let (address, pool) = (lab.address, std::sync::Arc::clone(&lab.pool));
    lab.stop().await;
    assert_eq!(within("end", client.read(&mut [0])).await.unwrap(), 0);
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(pool.members()[0].metrics.active.get(), 0);
}

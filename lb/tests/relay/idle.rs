//! Connections on which nobody speaks for a while, and what happens to them then.

use std::io::ErrorKind;
use std::time::Duration;

use lb::health::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Lab, Settings, Single, named, until, within};

/// A connection that has carried a byte each way, and rests.
async fn resting(lab: &Lab, single: &Single) -> (TcpStream, TcpStream) {
    let before = lab.metrics.idle.get();
    let (mut client, mut backend) = (lab.connect().await, single.accept().await);
    exchange(&mut client, &mut backend).await;
    until("it rests", || lab.metrics.idle.get() == before + 1).await;
    (client, backend)
}

async fn exchange(client: &mut TcpStream, backend: &mut TcpStream) {
    client.write_all(b"q").await.unwrap();
    assert_eq!(within("question", backend.read_u8()).await.unwrap(), b'q');
    backend.write_all(b"a").await.unwrap();
    assert_eq!(within("answer", client.read_u8()).await.unwrap(), b'a');
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_speak_again_and_again() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (mut client, mut backend) = resting(&lab, &single).await;
    for client_first in [true, false, true] {
        let (first, second) =
            if client_first { (&mut client, &mut backend) } else { (&mut backend, &mut client) };
        first.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        within("hello", second.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"hello", "client first: {client_first}");
        assert_eq!(lab.active(0), 1);
        until("it rests again", || lab.metrics.idle.get() == 1).await;
    }
    assert_eq!(lab.metrics.bytes_to_backends.get(), 1 + 10);
    assert_eq!(lab.metrics.bytes_to_clients.get(), 1 + 5);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_and_resets_are_passed_on_at_once() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for client_first in [true, false] {
        let (client, backend) = resting(&lab, &single).await;
        let (mut first, mut second) = if client_first { (client, backend) } else { (backend, client) };
        first.shutdown().await.unwrap();
        assert_eq!(within("end", second.read(&mut [0])).await.unwrap(), 0, "client first: {client_first}");
        second.write_all(b"last").await.unwrap();
        drop(second);
        let mut last = Vec::new();
        within("the other end", first.read_to_end(&mut last)).await.unwrap();
        assert_eq!(last, b"last", "client first: {client_first}");
        until("it is over", || lab.active(0) == 0).await;

        let (client, backend) = resting(&lab, &single).await;
        let (first, mut second) = if client_first { (client, backend) } else { (backend, client) };
        first.set_zero_linger().unwrap();
        drop(first);
        let error = within("reset", second.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "client first: {client_first}");
        until("it is over", || lab.active(0) == 0).await;
    }
    assert_eq!(lab.metrics.idle.get(), 0);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_told_to_end_ends() {
    let (first, second) = (Single::listen().await, Single::listen().await);
    let lab = Lab::start(&[first.address, second.address]);
    let (mut killed, _backend) = resting(&lab, &first).await;
    let (mut other, mut other_backend) = resting(&lab, &second).await;
    for _ in 0..20 {
        lab.pool.observe(0, Event::ProbeDead, &"test");
    }
    let error = within("reset", killed.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    exchange(&mut other, &mut other_backend).await;
    until("the other one rests again", || (lab.metrics.idle.get(), lab.active(0)) == (1, 0)).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rest_and_wake_at_once_and_keep_their_places() {
    const MANY: i64 = 300;
    let settings = Settings { limit: 300, threads: 1, ..Settings::default() };
    let lab = Lab::start_with(&[named('a').await], &settings);
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(lab.greeted().await.0);
    }
    until("all rest", || lab.metrics.idle.get() == MANY).await;
    assert_eq!(lab.active(0), MANY);
    let mut late = lab.connect().await;
    let early = tokio::time::timeout(Duration::from_millis(100), late.read_u8()).await;
    assert!(early.is_err(), "one more than the limit is served");
    for client in &mut clients {
        client.write_all(b"x").await.unwrap();
    }
    for client in &mut clients {
        assert_eq!(within("echo", client.read_u8()).await.unwrap(), b'x');
    }
    drop(clients);
    assert_eq!(within("greeting", late.read_u8()).await.unwrap(), b'a');
    until("all others have left", || lab.active(0) == 1).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_closes_those_that_rest() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (mut client, mut backend) = resting(&lab, &single).await;
    let (pool, idle) = (std::sync::Arc::clone(&lab.pool), lab.metrics.idle.clone());
    lab.stop().await;
    assert_eq!(within("end", client.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(within("end", backend.read(&mut [0])).await.unwrap(), 0);
    assert_eq!((pool.members()[0].metrics.active.get(), idle.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_slow_reader_or_has_ended_does_not_rest() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (mut half, mut half_backend) = (lab.connect().await, single.accept().await);
    exchange(&mut half, &mut half_backend).await;
    half.shutdown().await.unwrap();
    assert_eq!(within("end", half_backend.read(&mut [0])).await.unwrap(), 0);
    let (mut sender, mut reader) = (lab.connect().await, single.accept().await);
    exchange(&mut sender, &mut reader).await;
    let (chunk, mut taken) = (vec![7; 64 * 1024], 0);
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(500), sender.write(&chunk)).await {
        taken += count.unwrap();
    }
    // One that may rest does so in the meantime.
    let (_client, _backend) = resting(&lab, &single).await;
    assert_eq!(lab.metrics.idle.get(), 1);
    sender.shutdown().await.unwrap();
    let mut received = Vec::new();
    within("everything", reader.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received.len(), taken);
    half_backend.write_all(b"last").await.unwrap();
    drop(half_backend);
    let mut last = Vec::new();
    within("last words", half.read_to_end(&mut last)).await.unwrap();
    assert_eq!(last, b"last");
    lab.stop().await;
}

//! What happens to bytes, ends and resets on their way.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Lab, Single, backend, until, within};

const MEBIBYTE: usize = 1024 * 1024;

async fn pair(lab: &Lab, single: &Single) -> (TcpStream, TcpStream) {
    let client = lab.connect().await;
    (client, single.accept().await)
}

async fn rest_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    within("the end of the stream", stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

/// Writes until nothing more is taken for a while; returns how many bytes were.
async fn stuff(stream: &mut TcpStream, most: usize) -> usize {
    let chunk = vec![7; 64 * 1024];
    let mut taken = 0;
    while taken < most {
        match tokio::time::timeout(Duration::from_millis(500), stream.write(&chunk)).await {
            Ok(count) => taken += count.unwrap(),
            Err(_) => break,
        }
    }
    taken
}

async fn assert_reset(stream: &mut TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let error = within("reset", async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => panic!("an orderly end instead of a reset"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    });
    assert_eq!(error.await.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_end_first_and_still_listen() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for client_first in [true, false] {
        let (client, server) = pair(&lab, &single).await;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(rest_of(&mut second).await, b"question", "client first: {client_first}");
        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        assert_eq!(rest_of(&mut first).await, b"answer", "client first: {client_first}");
        until("the connection is over", || lab.active(0) == 0).await;
    }
    assert_eq!(lab.metrics.bytes_to_backends.get(), 14);
    assert_eq!(lab.metrics.bytes_to_clients.get(), 14);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_both_ways_at_once_and_arrives_intact() {
    const SIZE: usize = 32 * MEBIBYTE;
    /// A pattern whose period divides no buffer.
    fn byte(position: usize) -> u8 {
        u8::try_from(position % 251).unwrap()
    }
    async fn exchange(stream: TcpStream) {
        let (mut reader, mut writer) = stream.into_split();
        let writing = tokio::spawn(async move {
            let pattern: Vec<u8> = (0..251 * 400).map(byte).collect();
            let mut sent = 0;
            while sent < SIZE {
                let start = sent % 251;
                let length = (pattern.len() - start).min(SIZE - sent);
                writer.write_all(&pattern[start..start + length]).await.unwrap();
                sent += length;
            }
        });
        let (mut received, mut buffer) = (0, vec![0; 100_000]);
        loop {
            let count = reader.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            let wrong = buffer[..count].iter().zip(received..).find(|(found, at)| **found != byte(*at));
            assert_eq!(wrong, None);
            received += count;
        }
        assert_eq!(received, SIZE);
        writing.await.unwrap();
    }
    let lab = Lab::start(&[backend(exchange).await]);
    let client = lab.connect().await;
    within("both transfers", tokio::spawn(exchange(client))).await.unwrap();
    until("all is counted", || {
        let counted = |counter: &prometheus::IntCounter| counter.get() == SIZE as u64;
        counted(&lab.metrics.bytes_to_backends) && counted(&lab.metrics.bytes_to_clients)
    })
    .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stops_the_sender_and_loses_nothing() {
    const OFFERED: usize = 512 * MEBIBYTE;
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (mut client, mut server) = pair(&lab, &single).await;
    let taken = stuff(&mut client, OFFERED).await;
    // Four socket buffers of a few mebibytes each lie between the two; the relay itself holds one pipe.
    assert!(taken < 64 * MEBIBYTE, "{taken} bytes taken though nobody reads");
    client.shutdown().await.unwrap();
    assert_eq!(rest_of(&mut server).await.len(), taken);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for client_first in [true, false] {
        let (client, server) = pair(&lab, &single).await;
        let (breaking, mut other) = if client_first { (client, server) } else { (server, client) };
        breaking.set_zero_linger().unwrap();
        drop(breaking);
        assert_reset(&mut other).await;
        until("the connection is over", || lab.active(0) == 0).await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_sent_before_a_reset_arrive_before_it() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (mut client, mut server) = pair(&lab, &single).await;
    server.write_all(b"last words").await.unwrap();
    until("the relay has passed them on", || lab.metrics.bytes_to_clients.get() == 10).await;
    server.set_zero_linger().unwrap();
    drop(server);
    let mut words = [0; 10];
    within("last words", client.read_exact(&mut words)).await.unwrap();
    assert_eq!(&words, b"last words");
    assert_reset(&mut client).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_question_arrives() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for round in 0..20 {
        let (mut client, mut server) = pair(&lab, &single).await;
        let answering = tokio::spawn(async move {
            server.read_u8().await.unwrap();
            server.write_all(b"too large").await.unwrap();
            // What it has not read makes the kernel reset the connection.
            drop(server);
        });
        // Until it breaks: how soon that is seen here varies.
        let question = vec![7; 64 * 1024];
        within("break", async { while client.write_all(&question).await.is_ok() {} }).await;
        within("answer", answering).await.unwrap();
        let mut answer = [0; 9];
        within("answer", client.read_exact(&mut answer))
            .await
            .unwrap_or_else(|error| panic!("{round}: {error}"));
        assert_eq!(&answer, b"too large");
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_breaks_behind_a_slow_reader_is_noticed() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (mut client, mut server) = pair(&lab, &single).await;
    stuff(&mut client, 512 * MEBIBYTE).await;
    client.set_zero_linger().unwrap();
    drop(client);
    // The backend has not read a byte: only the sender's end can have ended the connection.
    until("the connection is over", || lab.active(0) == 0).await;
    assert_reset(&mut server).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_after_its_end_is_noticed() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (mut client, mut server) = pair(&lab, &single).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest_of(&mut server).await, b"");
    client.set_zero_linger().unwrap();
    drop(client);
    // The backend says nothing that could tell the relay.
    until("the connection is over", || lab.active(0) == 0).await;
    lab.stop().await;
}

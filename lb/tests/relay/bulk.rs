//! What happens to bulk, and to what follows it: enough bytes that most of them pass through pipes.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Lab, Single, until, within};

const MEBIBYTE: usize = 1024 * 1024;
const BULK: usize = 24 * MEBIBYTE;

/// The client and the backend of a connection, the one that is to send first.
async fn pair(lab: &Lab, single: &Single, client_first: bool) -> (TcpStream, TcpStream) {
    let client = lab.connect().await;
    let backend = single.accept().await;
    if client_first { (client, backend) } else { (backend, client) }
}

/// A byte of a pattern whose period divides no buffer.
fn byte(position: usize) -> u8 {
    u8::try_from(position % 251).unwrap()
}

/// Sends `count` bytes of the pattern; the error where the connection breaks.
async fn send(stream: &mut TcpStream, count: usize) -> std::io::Result<()> {
    let pattern: Vec<u8> = (0..251 * 500).map(byte).collect();
    let mut sent = 0;
    while sent < count {
        let start = sent % 251;
        let length = (pattern.len() - start).min(count - sent);
        stream.write_all(&pattern[start..start + length]).await?;
        sent += length;
    }
    Ok(())
}

/// Reads `most` bytes of the pattern or until the end, `pace` apart; returns how many there were and how it ended.
async fn receive(stream: &mut TcpStream, most: usize, pace: Duration) -> (usize, std::io::Result<()>) {
    let (mut received, mut buffer) = (0, vec![0; 300_000]);
    while received < most {
        let length = buffer.len().min(most - received);
        match stream.read(&mut buffer[..length]).await {
            Ok(0) => return (received, Ok(())),
            Ok(count) => {
                let wrong = buffer[..count].iter().zip(received..).find(|(found, at)| **found != byte(*at));
                assert_eq!(wrong, None);
                received += count;
            }
            Err(error) => return (received, Err(error)),
        }
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
    }
    (received, Ok(()))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_end_of_bulk_bulk_may_come_back() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for client_first in [true, false] {
        let (mut first, mut second) = pair(&lab, &single, client_first).await;
        let exchange = async {
            let first = async {
                send(&mut first, BULK).await.unwrap();
                first.shutdown().await.unwrap();
                receive(&mut first, usize::MAX, Duration::ZERO).await
            };
            let second = async {
                let received = receive(&mut second, usize::MAX, Duration::ZERO).await;
                send(&mut second, BULK).await.unwrap();
                second.shutdown().await.unwrap();
                received
            };
            tokio::join!(first, second)
        };
        let (there, back) = within("both transfers", exchange).await;
        assert_eq!((there.0, back.0), (BULK, BULK), "client first: {client_first}");
        assert!(there.1.is_ok() && back.1.is_ok(), "client first: {client_first}");
        until("the connection is over", || lab.active(0) == 0).await;
    }
    assert_eq!(lab.metrics.bytes_to_backends.get(), 2 * BULK as u64);
    assert_eq!(lab.metrics.bytes_to_clients.get(), 2 * BULK as u64);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_all_of_it_and_then_the_end() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for client_first in [true, false] {
        let (mut first, mut second) = pair(&lab, &single, client_first).await;
        let sending = async {
            send(&mut first, BULK).await.unwrap();
            first.shutdown().await.unwrap();
        };
        let receiving = receive(&mut second, usize::MAX, Duration::from_millis(5));
        let ((), (received, end)) = within("slow transfer", async { tokio::join!(sending, receiving) }).await;
        assert_eq!(received, BULK, "client first: {client_first}");
        end.unwrap();
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_breaks_within_bulk_breaks_the_sender() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for client_first in [true, false] {
        let (mut sender, mut receiver) = pair(&lab, &single, client_first).await;
        let receiving = async {
            let (received, end) = receive(&mut receiver, BULK / 2, Duration::ZERO).await;
            end.unwrap();
            assert_eq!(received, BULK / 2);
            receiver.set_zero_linger().unwrap();
            drop(receiver);
        };
        let sending = send(&mut sender, usize::MAX);
        let (sent, ()) = within("break", async { tokio::join!(sending, receiving) }).await;
        let kind = sent.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind}");
        until("the connection is over", || lab.active(0) == 0).await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_breaks_within_bulk_is_no_end_to_the_receiver() {
    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    for (client_first, pace) in [(true, 0), (false, 0), (true, 5), (false, 5)] {
        let (mut sender, mut receiver) = pair(&lab, &single, client_first).await;
        let sending = async {
            send(&mut sender, BULK).await.unwrap();
            sender.set_zero_linger().unwrap();
            drop(sender);
        };
        let receiving = receive(&mut receiver, usize::MAX, Duration::from_millis(pace));
        let ((), (received, end)) = within("break", async { tokio::join!(sending, receiving) }).await;
        assert!(received <= BULK);
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "client first: {client_first}");
        until("the connection is over", || lab.active(0) == 0).await;
    }
    lab.stop().await;
}

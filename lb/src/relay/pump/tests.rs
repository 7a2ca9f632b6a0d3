use std::time::Duration;

use rustix::event::epoll::EventFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::relay::pipe::open_and_idle;

const MEBIBYTE: usize = 1024 * 1024;
/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client, a backend, and the task that carries between them on this thread; it returns both counters.
async fn pumped() -> (TcpStream, TcpStream, JoinHandle<(io::Result<Carried>, [u64; 2])>) {
    let (client, accepted) = connected().await;
    let (outgoing, backend) = connected().await;
    let pumping = tokio::spawn(async move {
        let mut tally = Tally::default();
        let carried = pump(accepted, outgoing, &mut tally).await;
        (carried, [tally.to_backends, tally.to_clients])
    });
    (client, backend, pumping)
}

/// Carries until the end, whoever has news.
async fn pump(client: TcpStream, backend: TcpStream, tally: &mut Tally) -> io::Result<Carried> {
    let [mut client, mut backend] =
        [client, backend].map(|stream| Side::connected(stream.into_std().unwrap()));
    let (mut pump, mut buffer) = (Pump::new(Vec::new(), None), vec![0; BUFFER]);
    loop {
        let carried = pump.carry(&mut client, &mut backend, tally, &mut buffer)?;
        if carried == Carried::Over {
            return Ok(carried);
        }
        tokio::task::yield_now().await;
        for side in [&mut client, &mut backend] {
            side.learn(EventFlags::IN | EventFlags::OUT);
        }
    }
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Sends `count` bytes and waits until they have arrived.
async fn bulk(from: &mut TcpStream, to: &mut TcpStream, count: usize) {
    let sent: Vec<u8> = (0..count).map(|position| u8::try_from(position % 251).unwrap()).collect();
    let mut received = vec![0; count];
    let (written, read) = tokio::join!(from.write_all(&sent), to.read_exact(&mut received));
    written.unwrap();
    read.unwrap();
    assert!(sent == received, "other bytes have arrived than were sent");
}

/// Writes what nobody reads until nothing more is taken, and returns how many bytes were.
async fn stuff(stream: &mut TcpStream) -> usize {
    offer(stream, &vec![7; 64 * MEBIBYTE]).await
}

/// Writes until nothing more is taken, and returns how many bytes were.
async fn offer(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut taken = 0;
    while let Ok(count) =
        tokio::time::timeout(Duration::from_millis(200), stream.write(&bytes[taken..])).await
    {
        taken += count.unwrap();
    }
    assert!(taken < bytes.len(), "everything was taken though nobody reads");
    taken
}

#[tokio::test]
async fn bulk_is_spliced_and_leaves_no_pipe_behind() {
    let mut connections = Vec::new();
    for _ in 0..4 {
        let (mut client, mut backend, pumping) = pumped().await;
        assert_eq!(open_and_idle().0, open_and_idle().1, "no pipe is held");
        tokio::time::timeout(DEADLINE, bulk(&mut client, &mut backend, 4 * MEBIBYTE)).await.unwrap();
        tokio::time::timeout(DEADLINE, bulk(&mut backend, &mut client, 4 * MEBIBYTE)).await.unwrap();
        connections.push((client, backend, pumping));
        // All of them live, and idle.
        let (open, idle) = open_and_idle();
        assert!(open > 0, "bulk has not been spliced");
        assert_eq!(open, idle, "an idle connection holds a pipe");
    }
    for (client, backend, pumping) in connections {
        drop((client, backend));
        let (_, bytes) = tokio::time::timeout(DEADLINE, pumping).await.unwrap().unwrap();
        assert_eq!(bytes, [4 * MEBIBYTE as u64; 2]);
    }
}

#[tokio::test]
async fn small_messages_after_bulk_need_no_pipe() {
    let (mut client, mut backend, pumping) = pumped().await;
    let exchange = async {
        bulk(&mut client, &mut backend, 4 * MEBIBYTE).await;
        for _ in 0..100 {
            bulk(&mut client, &mut backend, 100).await;
            bulk(&mut backend, &mut client, 100).await;
        }
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap();
    drop((client, backend));
    let (_, bytes) = tokio::time::timeout(DEADLINE, pumping).await.unwrap().unwrap();
    assert_eq!(bytes, [4 * MEBIBYTE as u64 + 10_000, 10_000]);
}

#[tokio::test]
async fn a_slow_reader_holds_one_pipe_until_it_has_read() {
    let (mut client, mut backend, pumping) = pumped().await;
    let mut taken = stuff(&mut client).await;
    let (open, idle) = open_and_idle();
    assert_eq!((open - idle, open), (1, 1), "exactly the slow direction holds a pipe");
    let mut received = vec![0; taken];
    tokio::time::timeout(DEADLINE, backend.read_exact(&mut received)).await.unwrap().unwrap();
    assert_eq!(open_and_idle(), (1, 1), "the pipe is back");

    // One that is not emptied when the connection ends is closed.
    taken += stuff(&mut client).await;
    drop(backend);
    let (carried, _) = tokio::time::timeout(DEADLINE, pumping).await.unwrap().unwrap();
    assert!(carried.is_err(), "{taken} bytes were not all read");
    assert_eq!(open_and_idle(), (0, 0), "a pipe with somebody's bytes is not lent again");
}

#[tokio::test]
async fn where_pipes_are_all_lent_bytes_are_copied() {
    let mut slow = Vec::new();
    for _ in 0..16 {
        let (mut client, backend, pumping) = pumped().await;
        stuff(&mut client).await;
        slow.push((client, backend, pumping));
    }
    assert_eq!(open_and_idle(), (16, 0));
    let (mut client, mut backend, _pumping) = pumped().await;
    tokio::time::timeout(DEADLINE, bulk(&mut client, &mut backend, 8 * MEBIBYTE)).await.unwrap();
    assert_eq!(open_and_idle(), (16, 0));
}

#[tokio::test]
async fn an_urgent_byte_in_bulk_holds_nothing_up() {
    let (mut client, mut backend, _pumping) = pumped().await;
    let exchange = async {
        bulk(&mut client, &mut backend, 4 * MEBIBYTE).await;
        // The last byte of an urgent message is out of band: the stream continues without it.
        socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
        bulk(&mut client, &mut backend, MEBIBYTE).await;
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap();
}

#[tokio::test]
async fn last_words_follow_what_a_slow_reader_had_not_taken() {
    let (mut client, accepted) = connected().await;
    let (outgoing, mut backend) = connected().await;
    let [mut from, mut to] = [accepted, outgoing].map(|stream| Side::connected(stream.into_std().unwrap()));
    let (mut direction, mut buffer) = (Direction::new(None), vec![0; BUFFER]);
    let numbers: Vec<u8> = (0..8 * MEBIBYTE as u64).flat_map(u64::to_be_bytes).collect();
    let carrying = async {
        loop {
            direction.carry(&mut from, &mut to, &mut buffer).unwrap();
            tokio::task::yield_now().await;
            from.learn(EventFlags::IN);
            to.learn(EventFlags::OUT);
        }
    };
    // Until both the pipe and the sockets are full.
    tokio::select! {
        () = carrying => {}
        _ = offer(&mut client, &numbers) => {}
    }
    assert!(matches!(direction.rest.as_deref(), Some(Rest::Piped(_))));

    let before = verify(&mut backend, &numbers).await;
    direction.pass_last_words(&mut from, &mut to, &mut buffer);
    let after = verify(&mut backend, &numbers[before..]).await;
    assert!(after > MEBIBYTE, "only {after} bytes of last words");
    assert_eq!(direction.take_count(), (before + after) as u64);
}

/// Reads until nothing more arrives, and returns how many bytes of those expected that were.
async fn verify(stream: &mut TcpStream, expected: &[u8]) -> usize {
    let (mut received, mut buffer) = (0, vec![0; 100_000]);
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut buffer)).await {
        let count = count.unwrap();
        assert!(buffer[..count] == expected[received..received + count], "a gap after {received} bytes");
        received += count;
    }
    received
}

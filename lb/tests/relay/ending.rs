//! What becomes of connections whose backend is lost, dead or drained for too long.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use lb::config::{BackendName, Rebalance};
use lb::health::{ConnectFailure, Event, Status};
use lb::metrics::EndReason;
use lb::rebalance::watch;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Lab, Settings, Single, backend, hanging, named, until, within};

/// The beginning of a TLS session, as far as anybody looks at it here.
const HELLO: &[u8] = &[22, 3, 1, 0, 2, 1, 0];

/// A backend that says its name once it has heard a whole [`HELLO`].
async fn polite(name: u8) -> SocketAddr {
    backend(move |mut stream| async move {
        let mut heard = [0; HELLO.len()];
        if stream.read_exact(&mut heard).await.is_ok() && heard == HELLO {
            // How a client leaves is its own affair.
            drop(stream.write_all(&[name]).await);
            drop(stream.read_u8().await);
        }
    })
    .await
}

/// Lets probes of a backend go unanswered so many times.
fn silence(lab: &Lab, backend: usize, times: u32) {
    for _ in 0..times {
        lab.pool.observe(backend, Event::ProbeDead, &"test");
    }
}

/// `fall` and `kill`, as they are by default.
const LOST: u32 = 2;
const DEAD: u32 = 10;

async fn is_reset(client: &mut TcpStream) -> bool {
    within("end", client.read_u8()).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

async fn is_alive(client: &mut TcpStream) -> bool {
    client.write_all(b"x").await.is_ok()
        && within("echo", client.read_u8()).await.is_ok_and(|byte| byte == b'x')
}

/// A reset before that would be a failed connect.
async fn reset_once_connected(lab: &Lab, backend: TcpStream) {
    until("connected", || lab.pool.members()[0].metrics.connections.get() == 1).await;
    SockRef::from(&backend).set_linger(Some(Duration::ZERO)).unwrap();
}

fn ended(lab: &Lab, backend: usize, reason: EndReason) -> u64 {
    lab.pool.members()[backend].metrics.ended(reason).get()
}

fn moved(lab: &Lab, backend: usize) -> u64 {
    lab.pool.members()[backend].metrics.moved.get()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_dead_backend_are_reset_and_no_others() {
    let lab = Lab::start(&[named('a').await, named('b').await]);
    let (mut first, _) = lab.greeted().await;
    let (mut second, _) = lab.greeted().await;
    let (mut third, name) = lab.greeted().await;
    assert_eq!(name, 'a');
    silence(&lab, 0, DEAD - 1);
    assert_eq!(lab.pool.status(0), Some(Status::Down));
    assert!(is_alive(&mut first).await, "it may be slow only");
    silence(&lab, 0, 1);
    assert_eq!(lab.pool.status(0), Some(Status::Dead));
    assert!(is_reset(&mut first).await && is_reset(&mut third).await);
    assert!(is_alive(&mut second).await);
    assert_eq!((ended(&lab, 0, EndReason::Killed), ended(&lab, 1, EndReason::Killed)), (2, 0));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_is_up_nobody_is_killed() {
    let lab = Lab::start(&[named('a').await, named('b').await]);
    let (mut first, _) = lab.greeted().await;
    let (mut second, _) = lab.greeted().await;
    silence(&lab, 0, LOST);
    silence(&lab, 1, LOST);
    silence(&lab, 0, DEAD);
    silence(&lab, 1, DEAD);
    assert!(is_alive(&mut first).await && is_alive(&mut second).await, "it may be this node that is cut off");
    for _ in 0..2 {
        lab.pool.observe(1, Event::ProbeOk, &"test");
    }
    assert!(is_reset(&mut first).await, "now there is somewhere to go");
    assert!(is_alive(&mut second).await);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_not_used_for_too_long_loses_its_connections() {
    let settings = Settings { check: "drainDeadline: 2s", ..Settings::default() };
    let lab = Lab::start_with(&[named('a').await, named('b').await, named('c').await], &settings);
    let overdue = Arc::clone(&lab.pool);
    let task = tokio::spawn(async move { overdue.end_overdue().await });
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(lab.greeted().await.0);
    }
    // One is not ready, and one is drained by its operator.
    lab.make_unready(0);
    lab.pool.drain(&BackendName::new("b1".to_owned()).unwrap(), true);
    for client in &mut held {
        assert!(is_alive(client).await, "not yet");
    }
    assert!(is_reset(&mut held[0]).await && is_reset(&mut held[1]).await);
    assert!(is_alive(&mut held[2]).await);
    let counts = [0, 1, 2].map(|backend| ended(&lab, backend, EndReason::Drained));
    assert_eq!(counts, [1, 1, 0]);
    task.abort();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_answer_when_its_backend_is_lost_gets_it_from_another() {
    let hanging = Single::listen().await;
    let lab = Lab::start(&[hanging.address, polite(b'b').await]);
    let mut client = lab.connect().await;
    let mut silent = hanging.accept().await;
    // In two pieces, to be joined for the other one.
    for piece in [&HELLO[..3], &HELLO[3..]] {
        client.write_all(piece).await.unwrap();
        let mut heard = vec![0; piece.len()];
        within("hello", silent.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, piece);
    }
    silence(&lab, 0, LOST);
    assert_eq!(within("answer", client.read_u8()).await.unwrap(), b'b');
    assert_eq!((moved(&lab, 0), lab.active(0), lab.active(1)), (1, 0, 1));
    assert!(within("end", silent.read_u8()).await.is_err(), "nobody is left at the lost one");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_other_accepts_the_lost_one_may_still_answer() {
    let slow = Single::listen().await;
    let (_queued, _socket, hanging) = hanging().await;
    let settings = Settings { frontend: "connectTimeout: 50ms", ..Settings::default() };
    let lab = Lab::start_with(&[slow.address, hanging], &settings);
    let mut client = lab.connect().await;
    client.write_all(HELLO).await.unwrap();
    let mut backend = slow.accept().await;
    within("hello", backend.read_exact(&mut [0; HELLO.len()])).await.unwrap();
    silence(&lab, 0, LOST);
    let given_up = || lab.pool.members()[1].metrics.connect_failures(ConnectFailure::TimedOut).get();
    until("the other one is given up", || given_up() == 1).await;
    backend.write_all(b"s").await.unwrap();
    assert_eq!(within("answer", client.read_u8()).await.unwrap(), b's');
    client.write_all(b"!").await.unwrap();
    assert_eq!(within("the next word", backend.read_u8()).await.unwrap(), b'!', "and not all of it again");
    assert_eq!((moved(&lab, 0), lab.active(0), lab.active(1)), (0, 1, 0));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_acted_upon_is_not_said_twice() {
    let hanging = Single::listen().await;
    let lab = Lab::start(&[hanging.address, named('b').await]);
    let mut answered = lab.connect().await;
    let mut has_answered = hanging.accept().await;
    // The next one is the other's.
    drop(lab.greeted().await);
    let mut plain = lab.connect().await;
    let mut not_tls = hanging.accept().await;
    answered.write_all(HELLO).await.unwrap();
    has_answered.write_all(b"h").await.unwrap();
    assert_eq!(within("answer", answered.read_u8()).await.unwrap(), b'h');
    plain.write_all(b"POST /").await.unwrap();
    within("request", not_tls.read_exact(&mut [0; 6])).await.unwrap();
    silence(&lab, 0, LOST);
    // They still have their backend.
    has_answered.write_all(b"i").await.unwrap();
    assert_eq!(within("answer", answered.read_u8()).await.unwrap(), b'i');
    not_tls.write_all(b"j").await.unwrap();
    assert_eq!(within("answer", plain.read_u8()).await.unwrap(), b'j');
    assert_eq!(moved(&lab, 0), 0);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_other_a_client_waits_for_the_lost_one() {
    let hanging = Single::listen().await;
    let lab = Lab::start(&[hanging.address]);
    let mut client = lab.connect().await;
    let mut backend = hanging.accept().await;
    client.write_all(HELLO).await.unwrap();
    silence(&lab, 0, LOST);
    within("hello", backend.read_exact(&mut [0; HELLO.len()])).await.unwrap();
    backend.write_all(b"a").await.unwrap();
    assert_eq!(within("answer", client.read_u8()).await.unwrap(), b'a');
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_accepts_and_resets_is_replaced() {
    let resetting = Single::listen().await;
    let lab = Lab::start(&[resetting.address, polite(b'b').await]);
    let mut client = lab.connect().await;
    let backend = resetting.accept().await;
    client.write_all(HELLO).await.unwrap();
    reset_once_connected(&lab, backend).await;
    assert_eq!(within("answer", client.read_u8()).await.unwrap(), b'b');
    assert_eq!((moved(&lab, 0), lab.active(0), lab.active(1)), (1, 0, 1));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_answers_and_resets_is_not_replaced() {
    let resetting = Single::listen().await;
    let lab = Lab::start(&[resetting.address, polite(b'b').await]);
    let mut client = lab.connect().await;
    let mut backend = resetting.accept().await;
    client.write_all(HELLO).await.unwrap();
    backend.write_all(b"!").await.unwrap();
    reset_once_connected(&lab, backend).await;
    let mut heard = Vec::new();
    let end = within("end", client.read_to_end(&mut heard)).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(heard.is_empty() || heard == b"!", "{heard:?}");
    assert_eq!(moved(&lab, 0), 0);
    lab.stop().await;
}

/// A relay whose first backend has four connections and whose second one has returned with none.
async fn skewed(dry_run: bool) -> (Lab, Vec<TcpStream>) {
    let settings = Settings { frontend: "balance: least-connections", ..Settings::default() };
    let lab = Lab::start_with(&[named('a').await, named('b').await], &settings);
    let pace = NonZeroU32::new(600);
    lab.pool.register().configure(Rebalance { per_minute: pace, dry_run, idle: Duration::from_millis(500) });
    tokio::spawn(watch(Arc::clone(&lab.pool)));
    silence(&lab, 1, LOST);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(lab.greeted().await.0);
    }
    // One is not idle, however old it is.
    let mut busy = held.remove(0);
    tokio::spawn(async move { while is_alive(&mut busy).await {} });
    (lab, held)
}

fn come_back(lab: &Lab, backend: usize) {
    for _ in 0..2 {
        lab.pool.observe(backend, Event::ProbeOk, &"test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_ended_oldest_first_until_nobody_has_too_many() {
    let (lab, mut held) = skewed(false).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lab.active(0), 4, "nothing is ended while the other is not up");
    come_back(&lab, 1);
    // In an orderly manner, and both places are taken at the one who had none.
    for client in &mut held[..2] {
        assert_eq!(within("end", client.read(&mut [0])).await.unwrap(), 0);
    }
    let mut new = Vec::new();
    while lab.active(1) < 2 {
        new.push(lab.greeted().await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_alive(&mut held[2]).await);
    assert_eq!(ended(&lab, 0, EndReason::Rebalanced), 2);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_only_tells_who_has_too_many() {
    let (lab, mut held) = skewed(true).await;
    come_back(&lab, 1);
    until("it is told", || lab.pool.members()[0].metrics.excess.get() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for client in &mut held {
        assert!(is_alive(client).await);
    }
    assert_eq!((lab.active(0), ended(&lab, 0, EndReason::Rebalanced)), (4, 0));
    lab.stop().await;
}

//! A process that is short of what others have: file descriptors, and memory for what nobody reads.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lb::config;
use lb::probe::Probe;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::lab::{backend, within};
use crate::process::{Place, Running};
use crate::tls::{READY, Server};

/// Answers probes, and reads nothing of what others send.
async fn deaf(server: SocketAddr) -> SocketAddr {
    const TLS_HANDSHAKE: u8 = 22;
    backend(move |mut stream| async move {
        let mut first = [0];
        if matches!(stream.peek(&mut first).await, Ok(1)) && first == [TLS_HANDSHAKE] {
            let mut server = TcpStream::connect(server).await.unwrap();
            // How a probe ends is its own affair.
            drop(tokio::io::copy_bidirectional(&mut stream, &mut server).await);
        } else {
            std::future::pending::<()>().await;
        }
    })
    .await
}

impl Running {
    fn process(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id().unwrap())).unwrap()
    }

    /// Processor time used so far, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = self.process("stat");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = fields.split(' ').collect();
        [11, 12].map(|field: usize| fields[field].parse::<u64>().unwrap()).iter().sum()
    }

    /// In KiB.
    fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// In KiB, without what is mapped from files.
    fn allocated(&self) -> u64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, which: &str) -> u64 {
        let status = self.process("status");
        let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    async fn active(&self) -> u64 {
        self.metric("connections_active{backend=\"m1\"}").await
    }

    async fn probes(&self) -> u64 {
        self.metric("probes_total{backend=\"m1\",result=\"ready\"}").await
    }

    /// Nothing can be accepted: the process has better things to do than to try all the time.
    async fn assert_calm(&self) {
        let before = self.ticks();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = self.ticks() - before;
        assert!(used < 10, "{used} ticks of processor time in a second");
    }
}

async fn clients(count: usize, address: SocketAddr) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(within("connect", TcpStream::connect(address)).await.unwrap());
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_for_whom_there_are_no_descriptors_wait_and_probes_go_on() {
    let place = Place::new();
    let server = Server::start(&place.authority.sign("127.0.0.1"), None, READY).await;
    let file = place.configure(server.address, "200ms");
    let running = Running::start_within(256, &file).await;
    running.until_healthz(200).await;
    let crowd = clients(400, running.frontend).await;
    within("the limit is reached", async { while running.active().await < 16 {} }).await;
    let probes = running.probes().await;
    running.assert_calm().await;
    within("probes go on", async { while running.probes().await < probes + 2 {} }).await;
    let active = running.active().await;
    assert!((16..128).contains(&active), "{active} connections with 256 descriptors");
    assert_eq!(running.metric("backend_up{backend=\"m1\"}").await, 1);
    assert_eq!(running.metric("connections_refused_total{reason=\"down\"}").await, 0);

    drop(crowd);
    let config = config::read(&file).unwrap();
    let client = Probe::new(running.frontend, &config.health_check);
    within("request through the front door", client.ask()).await.unwrap();
    within("all have left", async { while running.active().await > 0 {} }).await;
    assert_eq!(running.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_loses_its_descriptors_stays_calm_and_recovers() {
    let place = Place::new();
    let server = Server::start(&place.authority.sign("127.0.0.1"), None, READY).await;
    let running = Running::start_within(256, &place.configure(server.address, "1h")).await;
    running.until_healthz(200).await;
    let _held = clients(4, running.frontend).await;
    within("they are served", async { while running.active().await < 4 {} }).await;

    // The first descriptors are those that it keeps all its life.
    limit(&running, 16);
    let _waiting = clients(8, running.frontend).await;
    running.assert_calm().await;
    limit(&running, 256);
    within("those who waited are served", async { while running.active().await < 12 {} }).await;
    assert_eq!(running.terminate().await, Some(0));
}

/// Sets the limit of open files of a process that runs; the one up to which it may be raised stays.
fn limit(running: &Running, descriptors: usize) {
    let pid = running.child.id().unwrap().to_string();
    let limits = format!("--nofile={descriptors}:");
    assert!(Command::new("prlimit").args(["--pid", &pid, &limits]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_does_not_pile_up() {
    const OFFERED: usize = 64 * 1024 * 1024;
    let place = Place::new();
    let server = Server::start(&place.authority.sign("127.0.0.1"), None, READY).await;
    let running = Running::start_within(1024, &place.configure(deaf(server.address).await, "1h")).await;
    running.until_healthz(200).await;
    let crowd = clients(32, running.frontend).await;
    within("all are served", async { while running.active().await < 32 {} }).await;
    let before = running.resident();
    let mut writers = Vec::new();
    for mut client in crowd {
        writers.push(tokio::spawn(async move {
            let (chunk, mut taken) = (vec![7; 64 * 1024], 0);
            while taken < OFFERED {
                match tokio::time::timeout(Duration::from_secs(1), client.write(&chunk)).await {
                    Ok(count) => taken += count.unwrap(),
                    Err(_elapsed) => break,
                }
            }
            (client, taken)
        }));
    }
    let mut taken = 0;
    for writer in writers {
        let (_client, bytes) = within("writer", writer).await.unwrap();
        assert!(bytes < OFFERED, "nobody reads, and nobody stops the sender");
        taken += bytes;
    }
    let grown = running.resident().saturating_sub(before);
    // A buffer per connection, and what the threads needed to begin with.
    assert!(grown < 32 * 64 + 4096, "{grown} KiB for {taken} bytes that nobody has read");
    assert_eq!(running.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_waits_takes_little_memory() {
    const CROWD: usize = 384;
    let place = Place::new();
    let server = Server::start(&place.authority.sign("127.0.0.1"), None, READY).await;
    let running = Running::start(&place.configure(deaf(server.address).await, "1h")).await;
    running.until_healthz(200).await;
    let before = running.allocated();
    let mut crowd = clients(CROWD, running.frontend).await;
    within("all are served", async { while running.active().await < CROWD as u64 {} }).await;
    // For each: what it takes to find another backend, its own bytes, and what the allocator adds.
    let most = before + 512 + CROWD as u64;
    assert!(running.allocated() < most, "{before} KiB before, {} with a crowd", running.allocated());
    for client in &mut crowd {
        client.write_all(b"hello").await.unwrap();
    }
    within("all rest", async { while running.metric("connections_idle").await < CROWD as u64 {} }).await;
    assert!(
        running.allocated() < most,
        "{before} KiB before, {} with a crowd that rests",
        running.allocated()
    );
    assert_eq!(running.terminate().await, Some(0));
}

//! A peer whose link goes dark. Needs root and `ip`: it makes two namespaces and a link between them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::lab::{Lab, Settings, Single, until};

/// Two namespaces and a link between them; gone when dropped.
struct Link {
    ours: String,
    theirs: String,
}

impl Link {
    const ADDRESS: &str = "192.0.2.1";
    const PEER: &str = "192.0.2.2";

    fn make() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("fw-vanish-{side}-{}-{number}", std::process::id());
        let link = Self { ours: name("o"), theirs: name("t") };
        let Self { ours, theirs } = &link;
        ip(&format!("netns add {ours}"));
        ip(&format!("netns add {theirs}"));
        ip(&format!("-n {ours} link set lo up"));
        ip(&format!("-n {ours} link add eth0 type veth peer name eth0 netns {theirs}"));
        ip(&format!("-n {ours} address add {}/24 dev eth0", Self::ADDRESS));
        ip(&format!("-n {theirs} address add {}/24 dev eth0", Self::PEER));
        ip(&format!("-n {ours} link set eth0 up"));
        ip(&format!("-n {theirs} link set eth0 up"));
        link
    }

    fn darken(&self) {
        ip(&format!("-n {} link set eth0 down", self.theirs));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for namespace in [&self.ours, &self.theirs] {
            // One that was never made is as good as removed.
            drop(Command::new("ip").args(["netns", "del", namespace]).output());
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip (iproute2) is needed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {complaint} (root is needed)");
}

/// Runs `work` on a thread of its own in a network namespace; threads that it starts are there too.
fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let file = File::open(format!("/run/netns/{namespace}")).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).expect("root is needed to enter a namespace");
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

fn connect(link: &Link, address: SocketAddr) -> TcpStream {
    inside(&link.theirs, || TcpStream::connect(address).unwrap())
}

async fn a_dark_link_frees_both_clients(link: &Link) {
    let single = Single::listen().await;
    let listen = format!("{}:0", Link::ADDRESS);
    let settings = Settings { listen: &listen, frontend: "peerTimeout: 4s", ..Settings::default() };
    let lab = Lab::start_with(&[single.address], &settings);
    let _idle = connect(link, lab.address);
    let _idle_backend = single.accept().await;
    let mut owing = connect(link, lab.address);
    let mut owing_backend = single.accept().await;
    owing_backend.write_all(b"x").await.unwrap();
    owing.read_exact(&mut [0]).unwrap();

    link.darken();
    let dark = Instant::now();
    owing_backend.write_all(b"never acknowledged").await.unwrap();
    assert_eq!(lab.active(0), 2);
    until("both are given up", || lab.active(0) == 0).await;
    let elapsed = dark.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&elapsed), "{elapsed:?}");
    lab.stop().await;
}

/// Connections that say nothing when the backend vanishes: one on which nobody has spoken, one that rests, and one whose
/// client has ended and waits for an answer. And one whose client asks then, to which the backend owes an acknowledgement.
async fn a_dark_link_frees_who_waits_for_the_backend(link: &Link) {
    let backend = inside(&link.theirs, || TcpListener::bind((Link::PEER, 0)).unwrap());
    let settings = Settings { frontend: "peerTimeout: 4s", ..Settings::default() };
    let lab = Lab::start_with(&[backend.local_addr().unwrap()], &settings);
    let accept = || backend.accept().unwrap().0;
    let _untold = (lab.connect().await, accept());
    let mut spoken = Vec::new();
    for _ in 0..3 {
        let mut client = lab.connect().await;
        client.write_all(b"question").await.unwrap();
        let mut held = accept();
        held.read_exact(&mut [0; 8]).unwrap();
        held.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        spoken.push((client, held));
    }
    let (ended, waiting) = &mut spoken[1];
    ended.shutdown().await.unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap(), 0, "the end has been passed on");
    until("two rest", || lab.metrics.idle.get() == 2).await;

    link.darken();
    let dark = Instant::now();
    spoken[2].0.write_all(b"never acknowledged").await.unwrap();
    assert_eq!(lab.active(0), 4);
    until("all are given up", || lab.active(0) == 0).await;
    let elapsed = dark.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&elapsed), "{elapsed:?}");
    lab.stop().await;
}

#[test]
fn a_backend_that_vanishes_in_silence_is_given_up_after_the_peer_timeout() {
    let link = Link::make();
    inside(&link.ours, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(a_dark_link_frees_who_waits_for_the_backend(&link));
    });
}

#[test]
fn a_client_that_vanishes_is_given_up_after_the_peer_timeout() {
    let link = Link::make();
    inside(&link.ours, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(a_dark_link_frees_both_clients(&link));
    });
}

//! Who gets the next connection, and who keeps those there are.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::ScopedJoinHandle;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use plan::{Change, Rules, Scheduler, Weight};

use crate::node::{Node, apply, backend, frontend, serve, serve_by};
use crate::server::{TcpServer, UdpServer, ask, connect, exchange, greeting};

const FRONTEND: &str = "10.254.0.1:80";

#[test]
fn connections_from_all_processors_are_shared_out_exactly() {
    let node = Node::new("spread");
    let mut ebpf = node.open();
    node.run(|| {
        let servers = [1, 2, 3].map(|last| TcpServer::start(&format!("127.0.0.{last}:0")));
        let addresses = servers.each_ref().map(TcpServer::address);
        serve(&mut ebpf, frontend("tcp 10.254.0.1:80"), &addresses);
        let clients = |processor| {
            move || -> Vec<SocketAddr> {
                stay_on(processor);
                (0..75).map(|_| ask(FRONTEND).unwrap()).collect()
            }
        };
        let met: Vec<SocketAddr> = std::thread::scope(|scope| {
            let threads = [0, 1, 0, 1].map(|processor| scope.spawn(clients(processor)));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(count(&met), addresses.map(|address| (address, 100)).into());
    });
}

#[test]
fn no_turn_is_lost_when_processors_take_them_at_once() {
    let node = Node::new("turns");
    let mut ebpf = node.open();
    node.run(|| {
        let backends: Vec<SocketAddr> =
            (1..98).map(|last| SocketAddr::from(([127, 0, 1, last], 9))).collect();
        serve(&mut ebpf, frontend("udp 10.254.0.1:80"), &backends);
        // To connect a datagram socket sends nothing: there is hardly anything but the turn to wait for.
        let take_turns = |processor, count: usize| {
            stay_on(processor);
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..count {
                socket.connect(FRONTEND).unwrap();
            }
            socket
        };
        std::thread::scope(|scope| {
            for processor in [0, 1, 0, 1] {
                scope.spawn(move || take_turns(processor, 40_000));
            }
        });
        let next = take_turns(0, 1);
        assert_eq!(peer_in_the_kernel(&next), backends[160_000 % backends.len()]);
    });
}

#[test]
fn connections_go_to_the_backend_that_has_the_fewest_open() {
    let node = Node::new("least");
    let mut ebpf = node.open();
    node.run(|| {
        let servers = [1, 2, 3].map(|last| TcpServer::start(&format!("127.0.0.{last}:0")));
        let [first, second, third] = servers.each_ref().map(TcpServer::address);
        let service = frontend("tcp 10.254.0.1:80");
        let rules = Rules { scheduler: Scheduler::LeastConnections, ..Rules::default() };
        serve_by(&mut ebpf, service, rules, &[first, second, third]);
        let open = || {
            let mut stream = connect(FRONTEND).unwrap();
            (greeting(&mut stream).unwrap(), stream)
        };
        let mut held: Vec<_> = (0..6).map(|_| open()).collect();
        let met = |held: &[(SocketAddr, _)]| count(&held.iter().map(|(met, _)| *met).collect::<Vec<_>>());
        assert_eq!(met(&held), [first, second, third].map(|address| (address, 2)).into());
        // Those of the second end; however often somebody comes and goes, it is the one to be met.
        held.retain(|(met, _)| *met != second);
        assert_eq!([ask(FRONTEND), ask(FRONTEND), ask(FRONTEND)].map(Result::unwrap), [second; 3]);
        held.extend((0..2).map(|_| open()));
        assert_eq!(met(&held), [first, second, third].map(|address| (address, 2)).into());

        // A dataplane that starts knows what there is; one more backend has nothing to do yet.
        drop(ebpf);
        let mut ebpf = node.open();
        let fourth = TcpServer::start("127.0.0.4:0");
        apply(
            &mut ebpf,
            &[Change::AddBackend {
                frontend: service,
                backend: backend(fourth.address()),
                weight: Weight::ONE,
            }],
        );
        held.extend((0..2).map(|_| open()));
        assert_eq!(met(&held).get(&fourth.address()), Some(&2));
        // A connection to a backend that is gone ends without counting for anybody else.
        apply(&mut ebpf, &[Change::RemoveBackend { frontend: service, backend: backend(first) }]);
        held.retain(|(met, _)| *met != first);
        held.extend((0..3).map(|_| open()));
        assert_eq!(met(&held), [second, third, fourth.address()].map(|address| (address, 3)).into());
    });
}

#[test]
fn how_long_a_connection_took_is_counted_by_service() {
    let node = Node::new("latency");
    let mut ebpf = node.open();
    node.run(|| {
        let server = TcpServer::start("127.0.0.1:0");
        let service = frontend("tcp 10.254.0.1:80");
        serve(&mut ebpf, service, &[server.address()]);
        let counters = ebpf.service_counters().unwrap();
        for _ in 0..5 {
            ask(FRONTEND).unwrap();
        }
        // Past the services, and to one where nobody listens.
        ask(&server.address().to_string()).unwrap();
        let nobody = TcpServer::start("127.0.0.2:0").address();
        serve(&mut ebpf, frontend("tcp 10.254.0.2:80"), &[nobody]);
        connect("10.254.0.2:80").unwrap_err();
        let read = counters.read().unwrap();
        let of = |frontend| read.iter().find(|count| count.frontend == Some(frontend)).unwrap();
        let latency = of(service).latency;
        assert_eq!(latency.counts.iter().sum::<u64>(), 5, "{latency:?}");
        assert!((1..u64::MAX / 2).contains(&latency.total), "{latency:?}");
        assert_eq!(of(frontend("tcp 10.254.0.2:80")).latency.counts.iter().sum::<u64>(), 0);
    });
}

#[test]
fn an_exchange_of_datagrams_stays_with_its_backend_until_that_is_removed() {
    let node = Node::new("exchange");
    let mut ebpf = node.open();
    node.run(|| {
        let servers = [1, 2, 3].map(|last| UdpServer::start(&format!("127.0.0.{last}:0")));
        let service = frontend("udp 10.254.0.1:80");
        serve(&mut ebpf, service, &servers.each_ref().map(UdpServer::address));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let meet = || exchange(&socket, FRONTEND).unwrap().0;
        let first = meet();
        assert_eq!([meet(), meet(), meet()], [first; 3], "one exchange, one backend");
        let other = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_ne!(exchange(&other, FRONTEND).unwrap().0, first, "another socket has its own");

        apply(&mut ebpf, &[Change::RemoveBackend { frontend: service, backend: backend(first) }]);
        let second = meet();
        assert_ne!(second, first, "a removed backend gets no more datagrams, though it would answer");
        assert_eq!([meet(), meet(), meet()], [second; 3]);

        // Returning makes it a new backend: the exchange does not go back.
        apply(
            &mut ebpf,
            &[Change::AddBackend { frontend: service, backend: backend(first), weight: Weight::ONE }],
        );
        assert_eq!(meet(), second);
    });
}

#[test]
fn an_established_connection_outlives_its_backends_place_in_the_plan() {
    let node = Node::new("outlive");
    let mut ebpf = node.open();
    node.run(|| {
        let servers = [1, 2].map(|last| TcpServer::start(&format!("127.0.0.{last}:0")));
        let service = frontend("tcp 10.254.0.1:80");
        serve(&mut ebpf, service, &servers.each_ref().map(TcpServer::address));
        let mut stream = connect(FRONTEND).unwrap();
        let met = greeting(&mut stream).unwrap();
        apply(&mut ebpf, &[Change::RemoveBackend { frontend: service, backend: backend(met) }]);
        for _ in 0..4 {
            assert_ne!(ask(FRONTEND).unwrap(), met, "new connections go elsewhere");
        }
        stream.write_all(b"still there?").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"still there?");
        assert_eq!(stream.peer_addr().unwrap(), FRONTEND.parse().unwrap());
    });
}

#[test]
fn no_connection_fails_while_backends_come_and_go() {
    let node = Node::new("churn");
    let mut ebpf = node.open();
    node.run(|| {
        let servers = [1, 2, 3].map(|last| TcpServer::start(&format!("127.0.0.{last}:0")));
        let service = frontend("tcp 10.254.0.1:80");
        serve(&mut ebpf, service, &[servers[0].address()]);
        let (stop, connections) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let clients = [0, 1].map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        ask(FRONTEND).unwrap();
                        connections.fetch_add(1, Ordering::Relaxed);
                    }
                })
            });
            // One of the three is there at any moment, and never the same for long.
            let mut round = 0;
            while connections.load(Ordering::Relaxed) < 2000
                && !clients.iter().any(ScopedJoinHandle::is_finished)
            {
                round += 1;
                let server = |offset: usize| backend(servers[(round + offset) % 3].address());
                let steps = [
                    Change::AddBackend { frontend: service, backend: server(1), weight: Weight::ONE },
                    Change::AddBackend { frontend: service, backend: server(2), weight: Weight::ONE },
                    Change::RemoveBackend { frontend: service, backend: server(0) },
                    Change::RemoveBackend { frontend: service, backend: server(2) },
                ];
                apply(&mut ebpf, &steps);
            }
            stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().unwrap();
            }
            println!("{connections:?} connections while backends came and went {round} times");
        });
    });
}

/// The peer that a connected IPv4 datagram socket has for the kernel, whatever the application is shown.
pub(crate) fn peer_in_the_kernel(socket: &UdpSocket) -> SocketAddr {
    let port = format!(":{:04X}", socket.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let line =
        table.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port)));
    let (address, port) = line.unwrap().split_whitespace().nth(2).unwrap().split_once(':').unwrap();
    let address = u32::from_str_radix(address, 16).unwrap().to_ne_bytes();
    (address, u16::from_str_radix(port, 16).unwrap()).into()
}

fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn count(met: &[SocketAddr]) -> BTreeMap<SocketAddr, usize> {
    let mut counts = BTreeMap::new();
    for address in met {
        *counts.entry(*address).or_default() += 1;
    }
    counts
}

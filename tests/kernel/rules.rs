//! Rules of services, as sockets meet them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use dataplane::Dataplane;
use plan::{Affinity, AffinityGroup, Change, Rules, Scheduler, WhenEmpty};
use tests::Namespace;

use crate::balance::peer_in_the_kernel;
use crate::node::{Node, apply, backend, frontend, serve, serve_by};
use crate::server::{PATIENCE, TcpServer, connect};

const FRONTEND: &str = "10.254.0.1:80";
const SERVICE: &str = "udp 10.254.0.1:80";

/// Other than behind kube-proxy it need not wait for the silence, and is not told that somebody is there.
#[test]
fn who_asks_for_an_address_that_no_service_has_is_told_of_the_silence_at_once() {
    let node = Node::new("unallocated");
    let mut ebpf = node.open();
    let server = node.run(|| TcpServer::start("127.0.0.2:0"));
    serve(&mut ebpf, frontend("tcp 10.254.0.1:80"), &[server.address()]);
    let set = |ebpf: &mut dyn Dataplane, cidrs: &[&str]| {
        let cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        ebpf.set_service_cidrs(&cidrs).unwrap();
    };
    let kinds = || {
        node.run(|| {
            [("10.254.0.9:80", "0.0.0.0:0"), ("[fd00:254::9]:80", "[::]:0")].map(|(named, own)| {
                let socket = UdpSocket::bind(own).unwrap();
                let tcp = connect(named).unwrap_err().kind();
                (tcp, socket.send_to(b"who?", named).unwrap_err().kind())
            })
        })
    };
    let told = (ErrorKind::TimedOut, ErrorKind::TimedOut);
    let passed = kinds();
    assert!(!passed.contains(&told), "nothing is known of it: {passed:?}");
    set(&mut ebpf, &["10.254.0.0/16", "fd00:254::/112"]);
    assert_eq!(kinds(), [told; 2]);
    assert!(node.run(|| connect(FRONTEND)).is_ok(), "a service has it");
    set(&mut ebpf, &["10.253.0.0/16", "fd00:254::/112"]);
    assert_eq!(kinds(), [passed[0], told], "others are known anew, the rest stays");
    drop(ebpf);
    let mut ebpf = node.open();
    assert_eq!(kinds(), [passed[0], told], "the next process adopts it");
    set(&mut ebpf, &[]);
    assert_eq!(kinds(), passed);
}

#[test]
fn where_the_backends_are_elsewhere_a_client_is_told_of_the_silence_at_once() {
    let node = Node::new("silence");
    let mut ebpf = node.open();
    let silent = Rules { when_empty: WhenEmpty::Drop, ..Rules::default() };
    for service in ["tcp 10.254.0.1:80", "udp 10.254.0.1:80", "tcp [fd00:254::1]:80", "udp [fd00:254::1]:80"]
    {
        serve_by(&mut ebpf, frontend(service), silent.clone(), &[]);
    }
    node.run(|| {
        for (named, own) in [(FRONTEND, "0.0.0.0:0"), ("[fd00:254::1]:80", "[::]:0")] {
            let socket = UdpSocket::bind(own).unwrap();
            let errors = [
                connect(named).unwrap_err().kind(),
                socket.send_to(b"who?", named).unwrap_err().kind(),
                socket.connect(named).unwrap_err().kind(),
            ];
            assert_eq!(errors, [ErrorKind::TimedOut; 3], "{named}");
        }
        let rules = Rules::default();
        apply(&mut ebpf, &[Change::SetRules { frontend: frontend("tcp 10.254.0.1:80"), rules }]);
        assert_eq!(
            connect(FRONTEND).unwrap_err().kind(),
            ErrorKind::ConnectionRefused,
            "rules change in place"
        );
    });
}

#[test]
fn what_is_for_clients_from_outside_is_for_no_socket_of_the_node() {
    let node = Node::new("outside");
    let mut ebpf = node.open();
    let [inside, outside] = ["127.0.0.2:80", "127.0.0.3:80"].map(address);
    serve(&mut ebpf, frontend(SERVICE).for_outside(), &[outside]);
    node.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(socket.connect(FRONTEND).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
        serve(&mut ebpf, frontend(SERVICE), &[inside]);
        assert_eq!([meet(FRONTEND), meet(FRONTEND)], [inside; 2], "those for everyone serve it");
    });
}

#[test]
fn chance_meets_everyone_and_keeps_no_turn() {
    let node = Node::new("chance");
    let mut ebpf = node.open();
    let by_chance = Rules { scheduler: Scheduler::Random, ..Rules::default() };
    let backends = backends();
    serve_by(&mut ebpf, frontend(SERVICE), by_chance, &backends);
    node.run(|| {
        let met: Vec<SocketAddr> = (0..90).map(|_| meet(FRONTEND)).collect();
        assert_eq!(met.iter().copied().collect::<BTreeSet<_>>(), backends.into());
        // In turn the fourth would be the first again, and so on: here that is one chance in 3 to the power of 87.
        assert!(met.windows(4).any(|round| round[0] != round[3]), "{met:?}");
    });
}

#[test]
fn sockets_of_the_node_take_turns_where_packets_are_hashed() {
    let node = Node::new("maglev");
    let mut ebpf = node.open();
    let hashed = Rules { scheduler: Scheduler::Maglev, ..Rules::default() };
    let backends = backends();
    serve_by(&mut ebpf, frontend(SERVICE), hashed, &backends);
    node.run(|| {
        let met: Vec<SocketAddr> = (0..6).map(|_| meet(FRONTEND)).collect();
        assert_eq!(met, [backends, backends].concat());
    });
}

#[test]
fn a_pod_comes_back_to_its_backend_by_whichever_address_of_the_service() {
    let node = Node::new("affinity");
    let mut ebpf = node.open();
    let (pod, other_pod) = (Namespace::new("pod").unwrap(), Namespace::new("pod").unwrap());
    let backends = backends();
    let services = [frontend(SERVICE), frontend("udp 10.254.0.2:30080")];
    for service in services {
        serve_by(&mut ebpf, service, sticky(Duration::from_hours(3)), &backends);
    }
    let from = |pod: &Namespace, named| pod.run(|| meet(named)).unwrap();
    // So that the turns of the two services differ.
    node.run(|| meet("10.254.0.2:30080"));
    let first = from(&pod, FRONTEND);
    assert_eq!(from(&pod, FRONTEND), first);
    assert_eq!(from(&pod, "10.254.0.2:30080"), first, "its node port is the same service");
    let second = from(&other_pod, FRONTEND);
    assert_ne!(second, first, "another pod is another client, and has the next in turn");

    // The next owner of the maps knows it too.
    drop(ebpf);
    let mut ebpf = node.open();
    assert_eq!([from(&pod, FRONTEND), from(&other_pod, FRONTEND)], [first, second]);

    for frontend in services {
        apply(&mut ebpf, &[Change::RemoveBackend { frontend, backend: backend(first) }]);
    }
    let third = from(&pod, FRONTEND);
    assert_ne!(third, first, "a backend that is gone is not come back to");
    assert_eq!([from(&pod, FRONTEND), from(&other_pod, FRONTEND)], [third, second]);

    let frontend = services[0];
    apply(&mut ebpf, &[Change::SetRules { frontend, rules: Rules::default() }]);
    assert_ne!(from(&pod, FRONTEND), from(&pod, FRONTEND), "until the service says otherwise");
}

#[test]
fn a_client_that_stays_away_too_long_is_forgotten() {
    let node = Node::new("forgotten");
    let mut ebpf = node.open();
    serve_by(&mut ebpf, frontend(SERVICE), sticky(Duration::from_secs(1)), &backends());
    node.run(|| {
        let first = meet(FRONTEND);
        // Every look starts the second anew, so each is later than the one before.
        let mut pause = Duration::from_millis(900);
        tests::wait::until_some("the client is forgotten", PATIENCE, || {
            std::thread::park_timeout(pause);
            pause += Duration::from_millis(100);
            Ok((meet(FRONTEND) != first).then_some(()))
        })
        .unwrap();
    });
}

fn sticky(timeout: Duration) -> Rules {
    let affinity = Affinity { group: AffinityGroup(0x1234_5678_9abc_def0), timeout };
    Rules { affinity: Some(affinity), ..Rules::default() }
}

fn backends() -> [SocketAddr; 3] {
    ["127.0.0.2:80", "127.0.0.3:80", "127.0.0.4:80"].map(address)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The backend that a new socket gets. To connect a datagram socket sends nothing, so nobody need be there.
fn meet(named: &str) -> SocketAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(named).unwrap();
    peer_in_the_kernel(&socket)
}

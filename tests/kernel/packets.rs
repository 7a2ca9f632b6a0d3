//! The packet programs by tables of frames: what goes in, what the kernel is told to do with it, and what it has become,
//! byte for byte. Nothing is sent: the kernel runs the programs (`BPF_PROG_TEST_RUN`).

mod answered;
mod errors;
mod frame;
mod scenarios;
mod served;
mod untouched;

use dataplane::{Dataplane, Ebpf, PacketSettings, Trial};
use plan::{Rules, WhenEmpty};
use tests::Namespace;

use self::frame::{ACK, Frame, NODE, SYN};
use crate::node::{Node, frontend, serve, serve_by};

/// What the kernel is told: nothing; to drop the packet; to send it where the program said.
const PASS: i32 = -1;
const DROP: i32 = 2;
const SEND: i32 = 7;

const WEB: &str = "10.254.0.1:80";
const POD: &str = "10.1.0.1:8080";
const WEB6: &str = "[fd00:254::1]:80";
const POD6: &str = "[fd00:1::1]:8080";
/// Nobody serves there.
const EMPTY: &str = "10.254.0.2:80";
const EMPTY6: &str = "[fd00:254::2]:80";
/// Cluster addresses come from there, and no service has most of them.
const SERVICE_CIDRS: [&str; 2] = ["10.253.0.0/24", "fd00:253::/112"];
/// One that a service has.
const ALLOCATED: &str = "10.253.0.1:80";
/// One that the node has.
const OWN: &str = "10.253.0.254:80";
/// Packets from outside alone are served there.
const OUTSIDE: &str = "10.254.0.6:80";
/// Nobody serves there on this node.
const ELSEWHERE: &str = "10.254.0.3:80";
/// Its pod is where the route says that there is none.
const LOST: &str = "10.254.0.4:80";
/// Its pod is behind a narrow link.
const NARROW: &str = "10.254.0.5:80";
const NARROW6: &str = "[fd00:254::5]:80";

/// A node between `eth0`, where the frames come in, and `eth1` and `eth2`, where pods are.
struct Router {
    node: Node,
    ebpf: Ebpf,
    interface: u32,
    _neighbours: Namespace,
}

impl Router {
    fn new(label: &str, settings: PacketSettings) -> Self {
        let node = Node::new(label);
        let neighbours = Namespace::new("links").unwrap();
        let namespace = node.namespace();
        for (interface, addresses) in [
            ("eth0", ["172.16.60.241/24", "fd60::241/64"]),
            ("eth1", ["10.1.0.254/24", "fd00:1::254/64"]),
            ("eth2", ["10.2.0.254/24", "fd00:2::254/64"]),
            ("eth2", ["10.253.0.254/32", "fd00:253::254/128"]),
        ] {
            if !addresses[0].ends_with("/32") {
                namespace.cable(interface, &neighbours, interface).unwrap();
            }
            for address in addresses {
                namespace.address(interface, address).unwrap();
            }
        }
        let link = NODE.map(|octet| format!("{octet:02x}")).join(":");
        namespace.ip(&["link", "set", "eth0", "address", &link]).unwrap();
        namespace.ip(&["link", "set", "eth2", "mtu", "1280"]).unwrap();
        for (interface, neighbours) in [
            ("eth0", ["172.16.60.10", "fd60::10"]),
            ("eth1", ["10.1.0.1", "fd00:1::1"]),
            ("eth2", ["10.2.0.1", "fd00:2::1"]),
        ] {
            for neighbour in neighbours {
                let there = ["lladdr", "02:00:00:00:00:03", "dev", interface];
                namespace.ip(&[&["neigh", "replace", neighbour][..], &there].concat()).unwrap();
            }
        }
        namespace.forward().unwrap();
        let mut ebpf = node.open();
        let interface = node.run(|| {
            ebpf.serve_packets(settings).unwrap();
            nix::net::if_::if_nametoindex("eth0").unwrap()
        });
        Self { node, ebpf, interface, _neighbours: neighbours }
    }

    /// What becomes of a frame that comes in by `eth0`. To be called in the node's network.
    fn arrives(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        let Trial { verdict, frame } = self.ebpf.try_packet("fairway_in", self.interface, frame).unwrap();
        (verdict, frame)
    }
}

/// A router with the services of the tables.
fn router() -> Router {
    let mut router = Router::new("packets", PacketSettings::default());
    let namespace = router.node.namespace();
    namespace.ip(&["route", "add", "unreachable", "10.99.0.0/24"]).unwrap();
    for (network, by) in [("10.253.0.0/16", "172.16.60.10"), ("fd00:253::/64", "fd60::10")] {
        namespace.ip(&["route", "add", network, "via", by]).unwrap();
    }
    let ebpf = &mut router.ebpf;
    for (service, pod) in [
        (WEB, POD),
        (WEB6, POD6),
        (LOST, "10.99.0.1:8080"),
        (NARROW, "10.2.0.1:8080"),
        (NARROW6, "[fd00:2::1]:8080"),
        (ALLOCATED, POD),
    ] {
        for protocol in ["tcp", "udp"] {
            serve(ebpf, frontend(&format!("{protocol} {service}")), &[pod.parse().unwrap()]);
        }
    }
    for protocol in ["tcp", "udp"] {
        serve(ebpf, frontend(&format!("{protocol} {OUTSIDE}")).for_outside(), &[POD.parse().unwrap()]);
    }
    ebpf.set_service_cidrs(&SERVICE_CIDRS.iter().map(|cidr| cidr.parse().unwrap()).collect()).unwrap();
    let silent = Rules { when_empty: WhenEmpty::Drop, ..Rules::default() };
    for protocol in ["tcp", "udp"] {
        for (service, rules) in
            [(EMPTY, Rules::default()), (EMPTY6, Rules::default()), (ELSEWHERE, silent.clone())]
        {
            serve_by(ebpf, frontend(&format!("{protocol} {service}")), rules, &[]);
        }
    }
    router
}

/// One row: what it shows, the frame that comes in, the verdict, and the frame as it is left.
type Row = (&'static str, Vec<u8>, i32, Vec<u8>);

/// It goes where it was going, as it was.
fn passes(name: &'static str, frame: Vec<u8>) -> Row {
    (name, frame.clone(), PASS, frame)
}

fn dropped(name: &'static str, frame: Vec<u8>) -> Row {
    (name, frame.clone(), DROP, frame)
}

fn check(router: &Router, rows: Vec<Row>) {
    let arrive = || rows.iter().map(|(_, frame, ..)| router.arrives(frame)).collect::<Vec<_>>();
    let found = router.node.run(arrive);
    for ((name, frame, verdict, left), found) in rows.into_iter().zip(found) {
        assert_eq!(found.0, verdict, "{name}: the verdict; {:02x?} became {:02x?}", frame, found.1);
        assert!(
            found.1 == left,
            "{name}:\n sent     {frame:02x?}\n became   {:02x?}\n expected {left:02x?}",
            found.1
        );
    }
}

/// The conversation is under way: both sides have spoken, and the node remembers where the packets of either leave.
fn get_under_way(router: &Router, protocol: u8, (client, service, pod): (&str, &str, &str)) {
    let asks = Frame::new(protocol, client, service);
    let answers = Frame::new(protocol, pod, client);
    let row = |frame: &Frame, flags, from: &str, to: &str| {
        let frame = frame.clone().with(|frame| frame.flags = flags);
        ("under way", frame.bytes(), SEND, frame.forwarded(from, to).bytes())
    };
    let (ask, answer) =
        (|flags| row(&asks, flags, client, pod), |flags| row(&answers, flags, service, client));
    check(router, vec![ask(SYN), answer(SYN | ACK), ask(ACK), answer(ACK)]);
}

/// A client of each family, at a port of its own.
fn clients(port: u16) -> [(String, &'static str, &'static str); 2] {
    [(format!("172.16.60.10:{port}"), WEB, POD), (format!("[fd60::10]:{port}"), WEB6, POD6)]
}

/// One router for all of them: to load the programs takes longest.
#[test]
fn frames_become_what_the_tables_say() {
    let router = router();
    served::what_is_for_a_service_becomes_what_its_pod_understands(&router);
    served::what_is_served_to_others_alone_is_served_to_them_in_mid_stream_too(&router);
    served::fragments_follow_the_first_one(&router);
    untouched::what_is_cut_off_or_cannot_be_passes_untouched(&router);
    untouched::what_is_not_served_passes_untouched(&router);
    errors::an_error_is_about_what_its_reader_sent(&router);
    errors::a_forged_error_passes_untouched(&router);
    answered::a_sender_is_told_of_what_goes_nowhere(&router);
    answered::a_sender_is_told_of_what_goes_no_further(&router);
    answered::nobody_is_told_of_addresses_that_no_service_has(&router);
}

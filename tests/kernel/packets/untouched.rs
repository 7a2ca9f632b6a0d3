//! What is none of ours.

use super::frame::{ACK, Frame, Problem, TCP, UDP, tagged};
use super::{POD, Router, WEB, WEB6, check, clients, get_under_way, passes};

pub(super) fn what_is_cut_off_or_cannot_be_passes_untouched(router: &Router) {
    pass_untouched(router);
    for (client, service, pod) in clients(4001) {
        for protocol in [TCP, UDP] {
            get_under_way(router, protocol, (&client, service, pod));
        }
    }
    pass_untouched(router);
}

fn pass_untouched(router: &Router) {
    for (client, service, _) in clients(4001) {
        for asked in [segment(&client, service), Frame::udp(&client, service)] {
            let whole = asked.bytes();
            // The kernel itself takes no frame without an IP header for a test.
            let least = if asked.from.is_ipv4() { 34 } else { 54 };
            for length in least..whole.len() {
                check(router, vec![passes("one cut off", whole[..length].to_vec())]);
            }
        }
    }
    // Where in the frame, and what is there: version and header length, length, offset of TCP's data, UDP's length.
    let (tcp, udp) =
        (segment("172.16.60.10:4001", WEB).bytes(), Frame::udp("172.16.60.10:4001", WEB).bytes());
    let tcp6 = segment("[fd60::10]:4001", WEB6).bytes();
    for (name, frame, at, value) in [
        ("of version 5", &tcp, 14, &[0x55][..]),
        ("of version 4 that says it is 6", &tcp, 14, &[0x65]),
        ("with a header of 16 bytes", &tcp, 14, &[0x44]),
        ("with a header longer than the packet", &tcp, 14, &[0x4f]),
        ("shorter than its header", &tcp, 16, &[0, 19]),
        ("longer than its frame", &tcp, 16, &[5, 0xdc]),
        ("whose TCP header has 16 bytes", &tcp, 46, &[0x40]),
        ("whose TCP header is longer than it", &tcp, 46, &[0x60]),
        ("whose UDP header has 7 bytes", &udp, 38, &[0, 7]),
        ("whose UDP datagram is longer than it", &udp, 38, &[0, 13]),
        ("of version 6 that says it is 4", &tcp6, 14, &[0x40]),
        ("of version 6 shorter than its header", &tcp6, 18, &[0, 19]),
        ("of version 6 longer than its frame", &tcp6, 18, &[0, 21]),
        ("of another protocol", &tcp, 23, &[132]),
        ("to another port", &tcp, 37, &[81]),
    ] {
        let mut frame = frame.clone();
        frame[at..at + value.len()].copy_from_slice(value);
        check(router, vec![passes(name, frame)]);
    }
}

/// One that neither opens nor closes a connection.
fn segment(from: &str, to: &str) -> Frame {
    Frame::tcp(from, to).with(|frame| frame.flags = ACK)
}

pub(super) fn what_is_not_served_passes_untouched(router: &Router) {
    const DESTINATION: u8 = 60;
    let tcp = Frame::tcp("172.16.60.10:4002", WEB);
    let many = vec![(DESTINATION, vec![0, 1, 4, 0, 0, 0, 0]); 7];
    let mapped = "[::ffff:172.16.60.10]:4002";
    check(
        router,
        vec![
            passes("in a VLAN", tagged(&tcp.bytes(), 0x8100, 100)),
            passes("in a VLAN of a provider", tagged(&tcp.bytes(), 0x88a8, 100)),
            passes("in a VLAN in a VLAN", tagged(&tagged(&tcp.bytes(), 0x8100, 7), 0x88a8, 100)),
            passes("to everybody on the link", tcp.clone().with(|frame| frame.link[0] = [0xff; 6]).bytes()),
            passes(
                "to some on the link",
                tcp.clone().with(|frame| frame.link[0] = [1, 0, 0x5e, 0, 0, 1]).bytes(),
            ),
            passes(
                "to another host on the link",
                tcp.clone().with(|frame| frame.link[0] = [2, 0, 0, 0, 0, 9]).bytes(),
            ),
            passes(
                "with more extension headers than anybody needs",
                Frame::tcp("[fd60::10]:4002", WEB6).with(|frame| frame.extensions = many).bytes(),
            ),
            passes("IPv4 addresses in IPv6", Frame::tcp(mapped, "[::ffff:10.254.0.1]:80").bytes()),
            passes("to a pod", Frame::tcp("172.16.60.10:4002", POD).bytes()),
            passes("from a pod to a stranger", Frame::tcp(POD, "172.16.60.10:4002").bytes()),
            passes(
                "an echo",
                Problem::unreachable("172.16.60.10", "10.254.0.1", vec![])
                    .with(|echo| (echo.kind, echo.code) = (8, 0))
                    .bytes(),
            ),
        ],
    );
}

//! What its sender is told of, and what nobody is.

use super::frame::{ACK, FIN, Frame, NODE, Problem, RST, SENDER, SYN, TCP, UDP};
use super::{
    ALLOCATED, ELSEWHERE, EMPTY, EMPTY6, LOST, NARROW, NARROW6, OWN, POD, POD6, Router, SEND, WEB, WEB6,
    check, dropped, get_under_way, passes,
};

pub(super) fn a_sender_is_told_of_what_goes_nowhere(router: &Router) {
    for (client, empty) in [("172.16.60.10:4005", EMPTY), ("[fd60::10]:4005", EMPTY6)] {
        let reset = |frame: &Frame, flags, sequence, acknowledgement| {
            let Frame { from: to, to: from, .. } = *frame;
            Frame {
                link: [SENDER, NODE],
                from,
                to,
                hops: 64,
                flags,
                sequence,
                acknowledgement,
                ..frame.clone()
            }
            .bytes()
        };
        let asks = Frame::tcp(client, empty);
        let goes_on = asks.clone().with(|frame| (frame.flags, frame.acknowledgement) = (ACK, 77));
        let ends = asks.clone().with(|frame| {
            (frame.flags, frame.payload) = (FIN, b"bye!".to_vec());
        });
        let datagram = Frame::udp(client, empty);
        let [from, to] = [datagram.to, datagram.from].map(|end| end.ip().to_string());
        let first_fragment = datagram.clone().with(|frame| frame.payload = vec![1; 40]).fragment(0..40);
        check(
            router,
            vec![
                ("who asks", asks.bytes(), SEND, reset(&asks, RST | ACK, 0, asks.sequence + 1)),
                ("who goes on", goes_on.bytes(), SEND, reset(&goes_on, RST, 77, 0)),
                ("who ends", ends.bytes(), SEND, reset(&ends, RST | ACK, 0, ends.sequence + 5)),
                dropped("nobody answers a reset", asks.clone().with(|frame| frame.flags = RST).bytes()),
                (
                    "a datagram",
                    datagram.bytes(),
                    SEND,
                    Problem::unreachable(&from, &to, datagram.quoted(8)).answer(),
                ),
                if datagram.from.is_ipv4() {
                    let quoted = first_fragment[14..][..28].to_vec();
                    (
                        "its first fragment",
                        first_fragment,
                        SEND,
                        Problem::unreachable(&from, &to, quoted).answer(),
                    )
                } else {
                    dropped("of a packet with extension headers there is no error", first_fragment)
                },
            ],
        );
    }
    let unserved = Frame::tcp("172.16.60.10:4006", ELSEWHERE);
    let lost = Frame::tcp("172.16.60.10:4006", LOST);
    check(
        router,
        vec![
            dropped("served elsewhere only", unserved.bytes()),
            dropped("where a route says that there is none", lost.bytes()),
        ],
    );
}

pub(super) fn a_sender_is_told_of_what_goes_no_further(router: &Router) {
    for (client, (service, pod), (narrow, beyond)) in [
        ("172.16.60.10:4007", (WEB, POD), (NARROW, "10.2.0.1:8080")),
        ("[fd60::10]:4007", (WEB6, POD6), (NARROW6, "[fd00:2::1]:8080")),
    ] {
        let last = Frame::udp(client, service).with(|frame| frame.hops = 1);
        let big = Frame::udp(client, narrow).with(|frame| frame.payload = vec![7; 1400]);
        let problem = |kinds: [(u8, u8); 2], rest, frame: &Frame| {
            let (kind, code) = if frame.from.is_ipv4() { kinds[0] } else { kinds[1] };
            let [from, to] = [frame.to, frame.from].map(|end| end.ip().to_string());
            let change =
                |problem: &mut Problem| (problem.kind, problem.code, problem.rest) = (kind, code, rest);
            Problem::unreachable(&from, &to, frame.quoted(8)).with(change).answer()
        };
        let rows = || {
            vec![
                ("past its last router", last.bytes(), SEND, problem([(11, 0), (3, 0)], 0, &last)),
                ("too big for the next link", big.bytes(), SEND, problem([(3, 4), (2, 0)], 1280, &big)),
            ]
        };
        check(router, rows());
        get_under_way(router, UDP, (client, service, pod));
        get_under_way(router, UDP, (client, narrow, beyond));
        check(router, rows());
    }
}

pub(super) fn nobody_is_told_of_addresses_that_no_service_has(router: &Router) {
    for protocol in [TCP, UDP] {
        for flags in [SYN, ACK] {
            let to = |address| Frame::new(protocol, "172.16.60.10:5008", address).with(|it| it.flags = flags);
            let to6 = |address| Frame::new(protocol, "[fd60::10]:5008", address).with(|it| it.flags = flags);
            let served = to(ALLOCATED);
            let becomes = served.forwarded("172.16.60.10:5008", POD).bytes();
            let mut rows = vec![
                dropped("nobody's", to("10.253.0.9:80").bytes()),
                dropped("nobody's of IPv6", to6("[fd00:253::9]:80").bytes()),
                passes("the node's own", to(OWN).bytes()),
                passes("one of another network", to("10.253.1.9:80").bytes()),
                passes("one of another network of IPv6", to6("[fd00:253::1:9]:80").bytes()),
            ];
            if flags == SYN {
                rows.push(("a service's", served.bytes(), SEND, becomes));
            }
            check(router, rows);
        }
    }
}

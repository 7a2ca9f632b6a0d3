//! What is translated.

use super::frame::{ACK, Checksum, Frame, SYN, TCP, UDP};
use super::{OUTSIDE, POD, Router, Row, SEND, check, clients, passes};

pub(super) fn what_is_for_a_service_becomes_what_its_pod_understands(router: &Router) {
    const HOP_BY_HOP: u8 = 0;
    const DESTINATION: u8 = 60;
    let padding = || vec![0, 1, 4, 0, 0, 0, 0];
    for (protocol, port) in [(TCP, 4000), (UDP, 5000)] {
        for (client, service, pod) in clients(port) {
            let asked = Frame { payload: b"who?".to_vec(), ..Frame::new(protocol, &client, service) };
            let answer = Frame { flags: SYN | ACK, ..Frame::new(protocol, pod, &client) };
            let options = if asked.from.is_ipv4() { vec![7, 7, 4, 0, 0, 0, 0, 0] } else { Vec::new() };
            let extensions = if asked.from.is_ipv4() {
                vec![]
            } else {
                vec![(HOP_BY_HOP, padding()), (DESTINATION, padding())]
            };
            let rows = [
                ("a packet", asked.clone()),
                (
                    "one with options",
                    asked.clone().with(|frame| {
                        (frame.options, frame.extensions) = (options, extensions);
                    }),
                ),
                (
                    "one whose checksum is wrong stays wrong",
                    asked.clone().with(|frame| frame.checksum = Checksum::Wrong),
                ),
                (
                    "one in a frame longer than itself",
                    asked.clone().with(|frame| frame.trailer = vec![0xee; 9]),
                ),
                ("one of an odd length", asked.clone().with(|frame| frame.payload = b"who".to_vec())),
                ("one of no length", asked.clone().with(|frame| frame.payload.clear())),
                ("the last router's", asked.clone().with(|frame| frame.hops = 2)),
            ];
            let (rows, client) = (&rows, &client);
            let translated = |flags| {
                rows.iter().map(move |(name, frame)| {
                    let frame = frame.clone().with(|frame| frame.flags = flags);
                    (*name, frame.bytes(), SEND, frame.forwarded(client, pod).bytes())
                })
            };
            let answered = |flags| {
                let frame = answer.clone().with(|frame| frame.flags = flags);
                ("an answer", frame.bytes(), SEND, frame.forwarded(service, client).bytes())
            };
            let mut rows: Vec<Row> = translated(SYN).chain([answered(SYN | ACK)]).collect();
            // Where packets leave is remembered from the first of these on.
            rows.extend(translated(ACK).chain(translated(ACK)).chain([answered(ACK), answered(ACK)]));
            if protocol == UDP && asked.from.is_ipv4() {
                let frame = asked.clone().with(|frame| frame.checksum = Checksum::Absent);
                let left = frame.forwarded(client, pod).bytes();
                rows.push(("one without a checksum has none", frame.bytes(), SEND, left));
            }
            check(router, rows);
        }
    }
}

/// A datagram, or a segment of a connection that another node had, is neither of a conversation nor for everyone.
pub(super) fn what_is_served_to_others_alone_is_served_to_them_in_mid_stream_too(router: &Router) {
    let client = "172.16.60.10:5007";
    for protocol in [TCP, UDP] {
        let asked = Frame::new(protocol, client, OUTSIDE).with(|frame| frame.flags = ACK);
        check(router, vec![("one from outside", asked.bytes(), SEND, asked.forwarded(client, POD).bytes())]);
    }
}

pub(super) fn fragments_follow_the_first_one(router: &Router) {
    for (client, service, pod) in clients(5003) {
        let payload: Vec<u8> = (0..200).collect();
        let asked = Frame::udp(&client, service).with(|frame| frame.payload = payload);
        let becomes = asked.forwarded(&client, pod);
        let lost = Frame::udp(&client.replace("10]", "11]").replace(".10:", ".11:"), service)
            .with(|frame| frame.payload = vec![1; 200]);
        check(
            router,
            vec![
                passes("one whose first nobody saw", lost.fragment(64..208)),
                ("the first", asked.fragment(0..64), SEND, becomes.fragment(0..64)),
                ("the next", asked.fragment(64..128), SEND, becomes.fragment(64..128)),
                ("the last", asked.fragment(128..208), SEND, becomes.fragment(128..208)),
                ("the next once more", asked.fragment(64..128), SEND, becomes.fragment(64..128)),
            ],
        );
    }
}

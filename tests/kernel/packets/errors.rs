//! ICMP errors about what is translated.

use super::frame::{Frame, Problem, SYN, TCP, UDP};
use super::{Router, Row, SEND, check, clients, passes};

/// A packet and its answer, before the node and behind it.
struct Exchange {
    asked: Frame,
    sent: Frame,
    answer: Frame,
    returned: Frame,
    client: String,
    service: String,
    pod: String,
}

impl Exchange {
    fn between(protocol: u8, (client, service, pod): (&str, &str, &str)) -> Self {
        let asked = Frame { payload: b"who?".to_vec(), ..Frame::new(protocol, client, service) };
        let sent = asked.forwarded(client, pod);
        let answer = Frame { flags: SYN, ..Frame::new(protocol, pod, client) };
        let returned = answer.forwarded(service, client);
        let [client, service, pod] = [asked.from, asked.to, sent.to].map(|end| end.ip().to_string());
        Self { asked, sent, answer, returned, client, service, pod }
    }

    /// The rows that make the node know of it.
    fn rows(&self) -> Vec<Row> {
        vec![
            ("a packet", self.asked.bytes(), SEND, self.sent.bytes()),
            ("its answer", self.answer.bytes(), SEND, self.returned.bytes()),
        ]
    }
}

/// TCP and UDP, in both families.
fn exchanges(port: u16) -> impl Iterator<Item = Exchange> {
    let of = move |protocol| {
        let clients = clients(port);
        clients.map(|(client, service, pod)| Exchange::between(protocol, (&client, service, pod)))
    };
    [TCP, UDP].into_iter().flat_map(of)
}

pub(super) fn an_error_is_about_what_its_reader_sent(router: &Router) {
    for exchange in exchanges(4004) {
        let Exchange { asked, sent, answer, returned, client, service, pod } = &exchange;
        let on_the_way = if asked.from.is_ipv4() { "10.1.0.7" } else { "fd00:1::7" };
        let forwarded = |from: &str, to: &str, quoted| {
            Problem::unreachable(from, to, quoted).with(|problem| problem.hops -= 1).bytes()
        };
        let to_client = forwarded(service, client, quoted_with_checksum_of(asked, sent));
        let to_pod = forwarded(client, pod, quoted_with_checksum_of(answer, returned));
        let (sent, returned) = (past(sent).quoted(8), past(returned).quoted(8));
        check(router, exchange.rows());
        check(
            router,
            vec![
                (
                    "the pod's",
                    Problem::unreachable(pod, client, sent.clone()).bytes(),
                    SEND,
                    to_client.clone(),
                ),
                (
                    "that of a router on the way to the pod",
                    Problem::unreachable(on_the_way, client, sent).bytes(),
                    SEND,
                    to_client,
                ),
                ("the client's", Problem::unreachable(client, service, returned).bytes(), SEND, to_pod),
            ],
        );
    }
}

pub(super) fn a_forged_error_passes_untouched(router: &Router) {
    for exchange in exchanges(4005) {
        let Exchange { sent, client, pod, .. } = &exchange;
        let sent = past(sent);
        let other = sent.clone().with(|frame| frame.to.set_port(9));
        let later_fragment = sent.fragment(8..12)[14..].to_vec();
        let an_error = Problem::unreachable(client, pod, sent.quoted(8)).bytes()[14..].to_vec();
        let quoting = |name, quoted| passes(name, Problem::unreachable(pod, client, quoted).bytes());
        check(router, exchange.rows());
        check(
            router,
            vec![
                passes(
                    "about a packet that its reader did not send",
                    Problem::unreachable(pod, pod, sent.quoted(8)).bytes(),
                ),
                quoting("about a conversation that nobody has", other.quoted(8)),
                quoting("that quotes four bytes", sent.quoted(4)),
                quoting("that quotes half a header", sent.quoted(8)[..12].to_vec()),
                quoting("that quotes nothing", Vec::new()),
                quoting("that quotes a later fragment", later_fragment),
                quoting("that quotes an error", an_error),
            ],
        );
    }
}

/// The packet some routers later.
fn past(frame: &Frame) -> Frame {
    Frame { hops: 60, ..frame.clone() }
}

/// What an error quotes of `frame`, with the transport checksum of `sums`: it is of the packet that was on the way, and who
/// reads a quotation does not look at it.
fn quoted_with_checksum_of(frame: &Frame, sums: &Frame) -> Vec<u8> {
    let (mut quoted, sums) = (past(frame).quoted(8), past(sums).quoted(8));
    if frame.protocol == UDP {
        let at = quoted.len() - 2;
        quoted[at..].copy_from_slice(&sums[at..]);
    }
    quoted
}

//! Conversations through the node's stack.
//!
//! Netfilter is to see what it sees with kube-proxy: who really asks, and the backend that is really asked. So each packet is
//! translated in two halves, one before the stack and one behind it:
//!
//! | packet | comes in | in the stack | goes out |
//! |---|---|---|---|
//! | of the client | client to frontend | client to backend | node to backend, where the node stands in |
//! | of the backend | backend to whom it sees | backend to client | frontend to client |
//!
//! Where the node stands in, a third entry has the key that the backend's packets have in the stack.

use ebpf_abi::{Connection, Port, REPLY, Tuple};

use super::super::parse::Part;
use super::{ATTEMPTS, Conversations, SECOND, Verdict, Work, is_free, random_port};

/// The half before the stack. `work.becomes` is what the whole translation would make of the packet.
#[inline(never)]
pub(super) fn arrive(tables: &impl Conversations, work: &mut Work) -> Verdict {
    let is_reply = work.connection.flags & REPLY != 0;
    if is_reply {
        // Both from the backend's side, as below they are from the client's.
        let asked = work.becomes.reversed();
        work.becomes = work.packet.tuple.reversed();
        stay_inside(&asked, &mut work.becomes, &work.connection);
        work.becomes = work.becomes.reversed();
        if work.becomes != work.packet.tuple && !tables.knows(&work.becomes) {
            tables.reserve(&work.becomes, &work.connection);
        }
    } else {
        stay_inside(&work.packet.tuple, &mut work.becomes, &work.connection);
        let answers = work.becomes.reversed();
        if work.becomes != work.connection.becomes && !tables.knows(&answers) {
            expect_answers(work);
            tables.reserve(&answers, &work.connection);
        }
    }
    if work.becomes == work.packet.tuple { Verdict::Pass } else { Verdict::Translate }
}

/// The half behind the stack, of what the client sent: whether the node stands in for it.
#[inline(never)]
pub(super) fn masqueraded(tables: &impl Conversations, work: &mut Work, now: u64) -> bool {
    let inside = work.packet.tuple.reversed();
    let Some(answers) = tables.connection(&inside) else { return false };
    if answers.flags & REPLY == 0 {
        return false;
    }
    let Some(connection) = tables.connection(&answers.becomes.reversed()) else { return false };
    if work.packet.part != Part::Error && now.wrapping_sub(answers.seen) > SECOND {
        tables.touch(&inside, now, answers.flags);
    }
    work.connection = connection;
    work.becomes = connection.becomes;
    work.becomes != work.packet.tuple
}

/// Reserves what the backend's packets are in the stack, with a port for the client that no other conversation has there.
/// Both entries of the conversation are written already.
#[inline(never)]
pub(super) fn claim(tables: &impl Conversations, work: &mut Work) -> bool {
    let mut attempt = 0;
    expect_answers(work);
    while attempt < ATTEMPTS {
        let mut key = work.becomes;
        stay_inside(&work.packet.tuple, &mut key, &work.connection);
        let masqueraded = key != work.becomes;
        key = key.reversed();
        if !masqueraded || is_free(tables, &key, &work.connection) {
            if attempt > 0 {
                tables.remember(&work.becomes.reversed(), &work.connection);
            }
            work.connection.becomes = work.becomes;
            work.connection.flags = 0;
            if attempt > 0 {
                tables.remember(&work.packet.tuple, &work.connection);
            }
            return true;
        }
        let Some(node) = tables.node() else { return false };
        work.connection.stack_port = u32::from(random_port(tables, node).number());
        attempt += 1;
    }
    false
}

/// Makes of what leaves with the client's packet what it is in the stack: nobody stands in for the client.
#[inline(always)]
fn stay_inside(asked: &Tuple, sent: &mut Tuple, connection: &Connection) {
    if asked.source == sent.source && asked.source_port == sent.source_port {
        return;
    }
    sent.source = asked.source;
    sent.source_port = match connection.stack_port {
        0 => asked.source_port,
        port => Port::from_number(port as u16),
    };
}

/// Makes of the entry of a client's packets that of their answers.
#[inline(always)]
fn expect_answers(work: &mut Work) {
    work.connection.becomes = work.packet.tuple.reversed();
    work.connection.flags |= REPLY;
}

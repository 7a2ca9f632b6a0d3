//! A connection before the backend's first word: finding a backend that accepts it, and another one where that is lost.
//!
//! A backend that hangs still accepts: its kernel does that for it. Until checks find out, clients are sent there and
//! wait. So what a client says first is kept until the backend answers; if the backend is lost before that, another one
//! is told the same, and the client waits a little instead of for ever.
//!
//! Only the beginning of a TLS session may be said twice: a `ClientHello` asks for nothing yet, and what RFC 8446 lets
//! follow it unanswered (early data, §2.3) may be replayed by anybody. Of anything else nobody knows what it does, so it
//! is not kept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::connection::Link;
use super::side::Side;
use super::socket;
use super::worker::Surroundings;
use crate::config::Backend;
use crate::health::ConnectFailure;
use crate::metrics::Refusal;
use crate::pool::{Lease, Member, Told};
use crate::proxy_protocol;

/// What is kept of a connection until its backend has answered.
#[derive(Debug)]
pub(super) struct Opening {
    /// Where the client comes from.
    address: SocketAddr,
    /// By the client.
    said: Vec<u8>,
    /// How much of it the backend has been sent.
    sent: usize,
    /// By what the backend is told who the client is, before all that was said; empty once it has been, or is not to be.
    header: Vec<u8>,
    /// Backends that are not to be tried again, by number.
    tried: Vec<usize>,
    /// While the backend has not accepted.
    attempt: Option<Attempt>,
    /// Whose place it is to take.
    former: Option<Former>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    began: Instant,
    /// When it is given up.
    deadline: Instant,
}

#[derive(Debug)]
struct Former {
    member: Arc<Member>,
    /// Where it may still answer; and how much it has been sent.
    link: Option<(Link, usize)>,
}

/// How far opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The backend has not answered yet, and another one may take its place.
    Waits,
    /// This backend it is.
    Settled,
}

impl Opening {
    /// Hears what the client has said by now, and begins to connect to a backend.
    pub(super) fn begin(
        client: &mut Side,
        address: SocketAddr,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<(Self, Link)> {
        let heard = client.read(&mut surroundings.tools.buffer)?.unwrap_or(0);
        let said = surroundings.tools.buffer[..heard].to_vec();
        let (header, tried) = (Vec::new(), Vec::new());
        let mut opening = Self { address, said, sent: 0, header, tried, attempt: None, former: None };
        let link = opening.dial(client, surroundings)?;
        let link = link.map_err(|refusal| refuse(refusal, surroundings))?;
        Ok((opening, link))
    }

    /// What the backend has not been sent yet.
    pub(super) fn take_unsent(&mut self) -> Vec<u8> {
        self.said.split_off(self.sent)
    }

    /// When a backend that has not accepted yet is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.attempt.map(|attempt| attempt.deadline)
    }

    /// Goes on as far as it goes without waiting: carries the client's words until the backend answers, ends, or may not be
    /// replaced any more, and puts another one in its place where it is lost before.
    ///
    /// An error means that a side has broken: both should be reset then.
    pub(super) fn go_on(
        &mut self,
        client: &mut Side,
        link: &mut Link,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<Step> {
        loop {
            if self.attempt.is_some() {
                if link.side.is_broken() {
                    let failure = ConnectFailure::of(&link.side.error());
                    self.fail(failure, client, link, surroundings)?;
                    continue;
                }
                if !link.side.is_writable() {
                    return Ok(Step::Waits);
                }
                self.accepted(link, surroundings);
            }
            if link.side.is_readable() {
                if !link.side.is_broken() || link.side.has_spoken() {
                    return Ok(Step::Settled);
                }
                self.replace(client, link, surroundings)?;
                continue;
            }
            if let Some(told) = link.lease.told() {
                self.heed(told, client, link, surroundings)?;
                continue;
            }
            if self.tell(&mut link.side, surroundings).is_err() {
                if link.side.has_spoken() {
                    return Ok(Step::Settled);
                }
                self.replace(client, link, surroundings)?;
                continue;
            }
            if !may_be_said_twice(&self.said) {
                return Ok(Step::Settled);
            }
            if self.sent < self.said.len() || !client.is_readable() {
                return Ok(Step::Waits);
            }
            match client.read(&mut surroundings.tools.buffer[..WORD])? {
                None => return Ok(Step::Waits),
                // There will be no more.
                Some(0) => return Ok(Step::Settled),
                Some(count) => self.said.extend_from_slice(&surroundings.tools.buffer[..count]),
            }
        }
    }

    /// Gives up a backend that has not accepted.
    pub(super) fn expire(
        &mut self,
        client: &mut Side,
        link: &mut Link,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<()> {
        self.fail(ConnectFailure::TimedOut, client, link, surroundings)
    }

    /// Begins to connect to the next backend that does not fail at once. The inner error is why there is none.
    fn dial(
        &mut self,
        client: &Side,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<Result<Link, Refusal>> {
        loop {
            let lease = match surroundings.tools.shared.pool.lease(&self.tried, self.address.ip()) {
                Ok(lease) => lease,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let began = Instant::now();
            match self.attempt(&lease.member().backend, client, surroundings) {
                Ok(mut side) => {
                    let deadline = began + surroundings.tools.frontend.connect_timeout;
                    self.attempt = Some(Attempt { began, deadline });
                    surroundings.watch_backend(&mut side)?;
                    if !side.is_writable() {
                        surroundings.expire_at(deadline);
                    }
                    return Ok(Ok(Link::new(side, lease)));
                }
                Err(error) => self.blame(&lease, began, ConnectFailure::of(&error), surroundings),
            }
        }
    }

    /// Begins to connect to `backend`, and tells it what there is to tell at once: if it is on this node, it has accepted by now.
    fn attempt(
        &mut self,
        backend: &Backend,
        client: &Side,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<Side> {
        let socket = socket::outgoing(backend.address, &surroundings.tools.frontend)?;
        if !self.said.is_empty() {
            // The acknowledgement that ends the handshake rides along with the client's words. It must not wait for them
            // where the server may have to speak first.
            socket.set_tcp_quickack(false)?;
        }
        self.sent = 0;
        self.header.clear();
        if backend.send_proxy {
            self.header = proxy_protocol::header(self.address, client.socket().local_addr()?);
        }
        let mut side = Side::connecting(socket::connect(socket, backend.address)?);
        if self.said.is_empty() && self.header.is_empty() {
            // Its events tell when it has accepted.
            side.is_full();
        }
        self.tell(&mut side, surroundings)?;
        Ok(side)
    }

    /// Says to the backend what it has not been sent yet, as far as it takes it now.
    fn tell(&mut self, backend: &mut Side, surroundings: &mut Surroundings<'_>) -> io::Result<()> {
        if !self.header.is_empty() && backend.is_writable() {
            // Together with the client's first words where they are there; or else at once, for a server that speaks first must
            // not wait.
            let sent = match self.said[..] {
                [] => backend.write(&self.header)?,
                _ => backend.write_before_more(&self.header)?,
            };
            match sent {
                // It has not accepted yet.
                0 => return Ok(()),
                // The buffer of a new connection is empty: it takes all of a header.
                sent if sent < self.header.len() => return Err(io::ErrorKind::WriteZero.into()),
                _ => self.header.clear(),
            }
        }
        while self.sent < self.said.len() && backend.is_writable() {
            let sent = backend.write(&self.said[self.sent..])?;
            surroundings.tools.tally.to_backends += sent as u64;
            self.sent += sent;
        }
        Ok(())
    }

    fn accepted(&mut self, link: &Link, surroundings: &mut Surroundings<'_>) {
        if let Some(attempt) = self.attempt.take() {
            surroundings.expires_no_more(attempt.deadline);
        }
        link.lease.member().metrics.connections.inc();
        if let Some(former) = self.former.take() {
            former.member.metrics.moved.inc();
        }
    }

    fn blame(
        &mut self,
        lease: &Lease,
        began: Instant,
        failure: ConnectFailure,
        surroundings: &Surroundings<'_>,
    ) {
        let member = lease.member();
        self.tried.push(member.id);
        member.metrics.connect_failures(failure).inc();
        if failure.blames_backend() {
            surroundings.tools.shared.pool.connect_failed(member.id, began, failure);
        }
    }

    /// The backend has not accepted: the next one is tried, or the former one takes its place again.
    fn fail(
        &mut self,
        failure: ConnectFailure,
        client: &Side,
        link: &mut Link,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<()> {
        let Some(attempt) = self.attempt.take() else { return Ok(()) };
        surroundings.expires_no_more(attempt.deadline);
        self.blame(&link.lease, attempt.began, failure, surroundings);
        let refusal = match self.dial(client, surroundings)? {
            Ok(next) => {
                *link = next;
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        match self.former.take() {
            None => Err(refuse(refusal, surroundings)),
            Some(Former { link: None, .. }) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(Former { link: Some((former, sent)), .. }) => {
                *link = former;
                self.sent = sent;
                self.header.clear();
                surroundings.watch_backend(&mut link.side)
            }
        }
    }

    /// Does what is to be done when a backend has not answered and is lost; where nobody can take its place it may still answer, unless
    /// the connection has to end.
    fn heed(
        &mut self,
        told: Told,
        client: &Side,
        link: &mut Link,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<()> {
        if told == Told::Ended {
            return self.replace(client, link, surroundings);
        }
        let sent = self.sent;
        if let Some(next) = self.next(client, link, surroundings)? {
            let former = std::mem::replace(link, next);
            surroundings.forget(&former.side)?;
            let member = Arc::clone(former.lease.member());
            self.former = Some(Former { member, link: Some((former, sent)) });
        }
        Ok(())
    }

    /// Puts another backend in the place of this one, or fails.
    fn replace(
        &mut self,
        client: &Side,
        link: &mut Link,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<()> {
        let next = self.next(client, link, surroundings)?.ok_or(io::ErrorKind::ConnectionReset)?;
        let former = std::mem::replace(link, next);
        self.former = Some(Former { member: Arc::clone(former.lease.member()), link: None });
        Ok(())
    }

    /// Begins to connect to another backend than this one; where there is none, all is as it was. That refuses nobody: the client
    /// has a backend.
    fn next(
        &mut self,
        client: &Side,
        link: &Link,
        surroundings: &mut Surroundings<'_>,
    ) -> io::Result<Option<Link>> {
        let sent = self.sent;
        self.tried.push(link.lease.member().id);
        match self.dial(client, surroundings)? {
            Ok(next) => Ok(Some(next)),
            Err(_refusal) => {
                self.sent = sent;
                self.header.clear();
                Ok(None)
            }
        }
    }
}

fn refuse(refusal: Refusal, surroundings: &Surroundings<'_>) -> io::Error {
    surroundings.tools.shared.metrics.refused(refusal).inc();
    io::ErrorKind::ConnectionRefused.into()
}

/// Whether `said` can only be the beginning of a TLS session: handshake records (RFC 8446 §5.1), and not many.
fn may_be_said_twice(said: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    const MAJOR_VERSION: u8 = 3;
    let begins_well = match said {
        [] => true,
        [kind] => *kind == HANDSHAKE,
        [kind, version, ..] => (*kind, *version) == (HANDSHAKE, MAJOR_VERSION),
    };
    begins_well && said.len() < MOST
}

/// Bytes heard at a time: more than a usual `ClientHello`.
const WORD: usize = 4096;
/// Bytes kept at most, per connection that waits for its first answer.
const MOST: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_a_tls_session_is_said_twice() {
        let cases: [(&[u8], bool); 7] = [
            (b"", true),
            (&[22], true),
            (&[22, 3, 1, 0, 5], true),
            (&[22, 4], false),
            (&[23, 3, 3], false),
            (b"POST /", false),
            (b"S", false),
        ];
        for (said, expected) in cases {
            assert_eq!(may_be_said_twice(said), expected, "{said:?}");
        }
        let mut hello = vec![0; MOST];
        hello[..2].copy_from_slice(&[22, 3]);
        assert!(!may_be_said_twice(&hello), "too much to keep");
        assert!(may_be_said_twice(&hello[..MOST - 1]));
    }
}

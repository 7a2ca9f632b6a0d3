//! One client and its backend, from accept to end.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use socket2::SockRef;
use tokio::time::Instant;

use super::opening::{Opening, Step};
use super::place::Place;
use super::pump::{Carried, Pump};
use super::side::Side;
use super::socket;
use super::worker::{Surroundings, Tools};
use crate::pool::{Lease, Told};

/// A client and its backend. Dropping it closes both sides.
#[derive(Debug)]
pub(super) struct Connection {
    client: Side,
    link: Link,
    stage: Stage,
    /// At the last tick nothing had been carried since the one before.
    is_quiet: bool,
    place: Place,
}

/// A connection to a backend, or an attempt at one.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) side: Side,
    pub(super) lease: Lease,
    /// Whether the kernel watches over the backend. It begins to when a connection is no longer young, which spares the short
    /// ones the calls: the time within which a backend is found out that has vanished is seconds, and a connection is young
    /// for a fraction of one.
    is_watched: bool,
}

#[derive(Debug)]
enum Stage {
    // Apart: what it takes to find a backend is not kept for as long as the connection lasts.
    Opening(Box<Opening>),
    Carrying(Pump),
}

/// Who is at the other end of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Backend,
}

impl Connection {
    /// Begins to connect a client to a backend. `None` where there is none; the client has been reset then.
    pub(super) fn begin(
        client: TcpStream,
        address: SocketAddr,
        place: Place,
        surroundings: &mut Surroundings<'_>,
    ) -> Option<Self> {
        let mut client = Side::connected(client);
        let begun = Opening::begin(&mut client, address, surroundings);
        match begun.and_then(|begun| surroundings.watch_client(&mut client).map(|()| begun)) {
            Ok((opening, link)) => {
                Some(Self { client, link, stage: Stage::Opening(Box::new(opening)), is_quiet: false, place })
            }
            Err(error) => {
                tracing::trace!(%error, "connection not established");
                client.reset_on_close();
                None
            }
        }
    }

    /// Takes in what an event tells.
    pub(super) fn learn(&mut self, peer: Peer, events: EventFlags) {
        match peer {
            Peer::Client => self.client.learn(events),
            Peer::Backend => self.link.side.learn(events),
        }
    }

    /// It was at rest, and is not any more.
    pub(super) fn stir(&mut self) {
        self.place.stir();
    }

    /// Goes on as far as it goes without waiting. What ends badly on one side, ends badly on the other: a reset is passed on
    /// as a reset.
    pub(super) fn go_on(&mut self, surroundings: &mut Surroundings<'_>) -> Carried {
        let carried = self.try_to_go_on(surroundings);
        self.or_reset(carried)
    }

    /// The backend has not accepted in time.
    pub(super) fn expire(&mut self, surroundings: &mut Surroundings<'_>) -> Carried {
        let Self { client, link, stage, .. } = self;
        let expired = match stage {
            Stage::Opening(opening) => opening.expire(client, link, surroundings),
            Stage::Carrying(_) => Ok(()),
        };
        let carried = expired.and_then(|()| self.try_to_go_on(surroundings));
        self.or_reset(carried)
    }

    /// Does what it is told.
    pub(super) fn heed(&mut self, surroundings: &mut Surroundings<'_>) -> Carried {
        match &self.stage {
            Stage::Opening(_) => self.go_on(surroundings),
            Stage::Carrying(pump) if pump.has_to_end() => Carried::Over,
            Stage::Carrying(_) => {
                let stays = self.link.stay();
                self.or_reset(stays.map(|()| Carried::Waits))
            }
        }
    }

    /// Takes in that some time has passed. True where it rests now: nobody has spoken from one tick to the next, and nothing is held.
    pub(super) fn tick(&mut self, peer_timeout: Duration) -> bool {
        let idle = match &mut self.stage {
            Stage::Opening(opening) if opening.deadline().is_some() => return false,
            Stage::Opening(_) => false,
            Stage::Carrying(pump) => pump.was_idle(),
        };
        self.link.watch_over(peer_timeout);
        // The first tick may have come at once.
        let rests = idle && self.is_quiet;
        self.is_quiet = idle;
        if rests {
            self.place.rest();
        }
        rests
    }

    /// When it [expires](Self::expire).
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Opening(opening) => opening.deadline(),
            Stage::Carrying(_) => None,
        }
    }

    fn try_to_go_on(&mut self, surroundings: &mut Surroundings<'_>) -> io::Result<Carried> {
        let Self { client, link, stage, .. } = self;
        if let Stage::Opening(opening) = stage {
            if opening.go_on(client, link, surroundings)? == Step::Waits {
                surroundings.watch_for_room(client, &mut link.side)?;
                return Ok(Carried::Waits);
            }
            // Of that, nobody tells twice.
            link.stay()?;
            let unsent = opening.take_unsent();
            let seat = surroundings.tools.shared.pool.register().enter(link.lease.member().id);
            *stage = Stage::Carrying(Pump::new(unsent, seat));
        }
        let Stage::Carrying(pump) = stage else { return Ok(Carried::Waits) };
        let Tools { tally, buffer, .. } = &mut *surroundings.tools;
        let carried = pump.carry(client, &mut link.side, tally, buffer)?;
        if carried == Carried::Waits {
            surroundings.watch_for_room(client, &mut link.side)?;
        }
        Ok(carried)
    }

    fn or_reset(&self, carried: io::Result<Carried>) -> Carried {
        carried.unwrap_or_else(|error| {
            tracing::trace!(%error, "connection broken");
            self.client.reset_on_close();
            self.link.side.reset_on_close();
            Carried::Over
        })
    }
}

impl Link {
    pub(super) const fn new(side: Side, lease: Lease) -> Self {
        Self { side, lease, is_watched: false }
    }

    /// An error where the connection has to end.
    fn stay(&mut self) -> io::Result<()> {
        match self.lease.told() {
            Some(Told::Ended) => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(Told::Lost) | None => Ok(()),
        }
    }

    fn watch_over(&mut self, peer_timeout: Duration) {
        if std::mem::replace(&mut self.is_watched, true) {
            return;
        }
        if let Err(error) = socket::watch_over(&SockRef::from(self.side.socket()), peer_timeout) {
            tracing::debug!(%error, "a backend that vanishes in silence will not be noticed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are thousands of them, and most idle.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection>() <= 144, "{}", size_of::<Connection>());
    }
}

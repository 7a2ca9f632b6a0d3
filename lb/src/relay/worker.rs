//! One thread of the relay: accepts clients and carries bytes, as events tell (epoll(7)).

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;
use tokio::time::Instant;

use super::Shared;
use super::connection::{Connection, Peer};
use super::door::{Door, Guest};
use super::pump::{BUFFER, Carried};
use super::side::Side;
use super::tally::Tally;
use super::thread::Order;
use crate::config::Frontend;

/// One thread's work.
pub(super) struct Worker {
    /// Which thread it is, from 0.
    thread: usize,
    tools: Tools,
    connections: Slab<Connection>,
    /// By connection: whether it is to be looked at when some time has passed. Bytes of their own, because most connections rest
    /// and are not to be touched then.
    awake: Vec<bool>,
    /// Connections that have something to do.
    stirred: Vec<usize>,
    doors: Slab<Door>,
    /// Doors before which somebody waits.
    knocked: Vec<usize>,
    /// How often connections had been told something when they were last asked whether it concerns them.
    told: u64,
    next_tick: Instant,
}

/// What all connections of a thread make use of.
pub(super) struct Tools {
    pub(super) shared: Arc<Shared>,
    pub(super) frontend: Arc<Frontend>,
    /// For bytes on their way, [`BUFFER`] long.
    pub(super) buffer: Box<[u8]>,
    pub(super) tally: Tally,
    epoll: OwnedFd,
    /// When which connections expire.
    deadlines: BTreeSet<(Instant, usize)>,
}

impl Tools {
    /// Whether somebody who waits before `door` is told of.
    fn watch_door(&self, number: usize, door: &Door, events: EventFlags) {
        if let Err(error) = epoll::modify(&self.epoll, door, Token::Door(number).data(), events) {
            tracing::error!(%error, "clients cannot be accepted");
        }
    }
}

/// What a connection makes use of, and is known by.
pub(super) struct Surroundings<'a> {
    key: usize,
    pub(super) tools: &'a mut Tools,
}

impl Surroundings<'_> {
    pub(super) fn watch_client(&self, side: &mut Side) -> io::Result<()> {
        self.watch(Peer::Client, side)
    }

    pub(super) fn watch_backend(&self, side: &mut Side) -> io::Result<()> {
        self.watch(Peer::Backend, side)
    }

    fn watch(&self, peer: Peer, side: &mut Side) -> io::Result<()> {
        let interest = side.interest();
        Ok(epoll::add(&self.tools.epoll, &*side, Token::Side(self.key, peer).data(), interest)?)
    }

    /// Asks for news of each side that takes nothing now.
    pub(super) fn watch_for_room(&self, client: &mut Side, backend: &mut Side) -> io::Result<()> {
        for (peer, side) in [(Peer::Client, client), (Peer::Backend, backend)] {
            if side.asks_for_room() {
                let interest = side.interest();
                epoll::modify(&self.tools.epoll, &*side, Token::Side(self.key, peer).data(), interest)?;
            }
        }
        Ok(())
    }

    pub(super) fn forget(&self, side: &Side) -> io::Result<()> {
        Ok(epoll::delete(&self.tools.epoll, side)?)
    }

    pub(super) fn expire_at(&mut self, deadline: Instant) {
        self.tools.deadlines.insert((deadline, self.key));
    }

    pub(super) fn expires_no_more(&mut self, deadline: Instant) {
        self.tools.deadlines.remove(&(deadline, self.key));
    }
}

impl Worker {
    pub(super) fn new(thread: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = shared.threads[thread].orders.bell();
        epoll::add(&epoll, bell, Token::Bell.data(), EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            thread,
            told: shared.pool.times_told(),
            tools: Tools {
                frontend: shared.frontend(),
                shared,
                buffer: vec![0; BUFFER].into_boxed_slice(),
                tally: Tally::default(),
                epoll,
                deadlines: BTreeSet::new(),
            },
            connections: Slab::new(),
            awake: Vec::new(),
            stirred: Vec::new(),
            doors: Slab::new(),
            knocked: Vec::new(),
            next_tick: Instant::now() + TICK,
        })
    }

    /// Works until told to stop. Dropping the worker closes its connections.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            self.tools.shared.threads[self.thread].beat();
            let timeout = self.patience(Instant::now());
            if let Err(error) = epoll::wait(&self.tools.epoll, spare_capacity(&mut events), Some(&timeout))
                && error != Errno::INTR
            {
                tracing::error!(%error, "connections cannot be watched");
                return;
            }
            let mut rung = false;
            // All that is told before anything is done: later it might be somebody else whom it is told of.
            for event in events.drain(..) {
                match Token::from(event.data) {
                    Token::Bell => rung = true,
                    Token::Door(number) => self.knocked.push(number),
                    Token::Side(key, peer) => self.learn(key, peer, event.flags),
                }
            }
            let count = self.stirred.len();
            for position in 0..count {
                self.act(self.stirred[position], Connection::go_on);
            }
            // Behind them are those that have had their share, and go on when others have had theirs.
            self.stirred.drain(..count);
            if rung && self.heed() == Stop::Asked {
                return;
            }
            self.keep_time(Instant::now());
            // Last, because a connection that comes may have the number of one that has gone.
            while let Some(number) = self.knocked.pop() {
                self.admit_next(number);
            }
            self.tools.tally.tell(&self.tools.shared.metrics);
        }
    }

    /// How long there is nothing to do if nobody has news.
    fn patience(&self, now: Instant) -> Timespec {
        if !self.stirred.is_empty() {
            return Timespec::default();
        }
        let deadline = self.tools.deadlines.first().map(|&(deadline, _)| deadline);
        let doors = self.doors.iter().filter_map(|(_, door)| door.opens_at());
        let next = doors.chain(deadline).fold(self.next_tick, Instant::min);
        let patience = next.saturating_duration_since(now);
        // Less than a tick, which is less than a second.
        Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() }
    }

    fn learn(&mut self, key: usize, peer: Peer, events: EventFlags) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.learn(peer, events);
        if !std::mem::replace(&mut self.awake[key], true) {
            connection.stir();
        }
        if self.stirred.last() != Some(&key) {
            self.stirred.push(key);
        }
    }

    /// Lets a connection do something, if it is still there.
    fn act(&mut self, key: usize, act: impl FnOnce(&mut Connection, &mut Surroundings<'_>) -> Carried) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let mut surroundings = Surroundings { key, tools: &mut self.tools };
        match act(connection, &mut surroundings) {
            Carried::Waits => {}
            Carried::Unfinished => self.stirred.push(key),
            Carried::Over => self.remove(key),
        }
    }

    fn remove(&mut self, key: usize) {
        // Who sees that it is gone sees what it has carried.
        self.tools.tally.tell(&self.tools.shared.metrics);
        let connection = self.connections.remove(key);
        self.awake[key] = false;
        if let Some(deadline) = connection.deadline() {
            self.tools.deadlines.remove(&(deadline, key));
        }
    }

    /// Does what others have asked for.
    fn heed(&mut self) -> Stop {
        self.tools.frontend = self.tools.shared.frontend();
        for order in self.tools.shared.threads[self.thread].orders.take() {
            match order {
                Order::Accept(socket) => self.open(socket),
                Order::Close(socket) => self.close(&socket),
                Order::Stop => return Stop::Asked,
            }
        }
        let told = self.tools.shared.pool.times_told();
        if std::mem::replace(&mut self.told, told) != told {
            let all: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
            for key in all {
                self.act(key, Connection::heed);
            }
        }
        Stop::NotYet
    }

    fn open(&mut self, socket: Arc<TcpListener>) {
        let entry = self.doors.vacant_entry();
        let token = Token::Door(entry.key()).data();
        // As long as somebody waits: it may be more than one.
        match epoll::add(&self.tools.epoll, &*socket, token, EventFlags::IN) {
            Ok(()) => drop(entry.insert(Door::new(socket, Arc::clone(&self.tools.shared)))),
            Err(error) => tracing::error!(%error, "clients cannot be accepted"),
        }
    }

    fn close(&mut self, socket: &Arc<TcpListener>) {
        let Some((number, _)) = self.doors.iter().find(|(_, door)| door.is_of(socket)) else { return };
        while self.admit_next(number) {}
        if let Err(error) = epoll::delete(&self.tools.epoll, self.doors.remove(number)) {
            tracing::error!(%error, "clients go on being accepted");
        }
    }

    /// Lets in whoever waits before a door and is first. False where nobody does, or may.
    fn admit_next(&mut self, number: usize) -> bool {
        let Some(door) = self.doors.get_mut(number) else { return false };
        let guest = door.next();
        if !door.is_open() {
            self.tools.watch_door(number, door, EventFlags::empty());
        }
        let Some(Guest { socket, address, place }) = guest else { return false };
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let mut surroundings = Surroundings { key, tools: &mut self.tools };
        if let Some(connection) = Connection::begin(socket, address, place, &mut surroundings) {
            entry.insert(connection);
            self.awake.resize(self.awake.len().max(key + 1), false);
            self.awake[key] = true;
            self.act(key, Connection::go_on);
        }
        true
    }

    fn reopen(&mut self, now: Instant) {
        for (number, door) in &mut self.doors {
            if door.open(now) {
                self.tools.watch_door(number, door, EventFlags::IN);
            }
        }
    }

    fn keep_time(&mut self, now: Instant) {
        while let Some(&(deadline, key)) = self.tools.deadlines.first()
            && deadline <= now
        {
            self.tools.deadlines.remove(&(deadline, key));
            if self.connections.get(key).and_then(Connection::deadline) == Some(deadline) {
                self.act(key, Connection::expire);
            }
        }
        self.reopen(now);
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        for (key, awake) in self.awake.iter_mut().enumerate().filter(|(_, awake)| **awake) {
            let rests =
                self.connections.get_mut(key).is_none_or(|one| one.tick(self.tools.frontend.peer_timeout));
            *awake = !rests;
        }
    }
}

/// Whether to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Asked,
    NotYet,
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Bell,
    /// By position.
    Door(usize),
    /// Of a connection.
    Side(usize, Peer),
}

impl Token {
    const BELL: u64 = u64::MAX;
    const DOOR: u64 = 1 << 63;
    const BACKEND: u64 = 1;

    /// As the kernel keeps it.
    fn data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Bell => Self::BELL,
            Self::Door(number) => Self::DOOR | number as u64,
            Self::Side(key, Peer::Client) => (key as u64) << 1,
            Self::Side(key, Peer::Backend) => (key as u64) << 1 | Self::BACKEND,
        })
    }
}

impl From<EventData> for Token {
    fn from(data: EventData) -> Self {
        let data = data.u64();
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        match data {
            Self::BELL => Self::Bell,
            data if data & Self::DOOR != 0 => Self::Door(number(data & !Self::DOOR)),
            data if data & Self::BACKEND != 0 => Self::Side(number(data >> 1), Peer::Backend),
            data => Self::Side(number(data >> 1), Peer::Client),
        }
    }
}

/// Between two looks at who is idle: not so short that a connection would rest between the words of a conversation.
const TICK: Duration = Duration::from_millis(200);
/// At most so many are told at a time.
const EVENTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gives_tokens_back_as_they_were() {
        let all = [
            Token::Bell,
            Token::Door(0),
            Token::Door(7),
            Token::Side(0, Peer::Client),
            Token::Side(0, Peer::Backend),
            Token::Side(1_000_000, Peer::Client),
        ];
        for token in all {
            assert_eq!(Token::from(token.data()), token);
        }
    }
}

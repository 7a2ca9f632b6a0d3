//! Carries bytes between a client and a backend until both have ended.
//!
//! Small messages pass through one buffer per thread, bulk through a pipe that is borrowed from the thread ([`super::pipe`]).
//! Neither is held while nothing moves: an idle connection owns no buffer and no pipe. Only what a slow reader has not
//! taken yet is kept, at most [`BUFFER`] or one pipe per direction, and nothing more is read until it is gone: the
//! reader's window then closes the sender's.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::Ordering;

use super::gait::Gait;
use super::pipe::Piped;
use super::side::Side;
use super::tally::Tally;
use crate::rebalance::Seat;

/// How far carrying has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// As far as it goes until one of the sides has news.
    Waits,
    /// A share of what there is: others have their turn first.
    Unfinished,
    /// Both sides have ended.
    Over,
}

/// Both ways of a connection. Each ends on its own (half-close).
#[derive(Debug)]
pub(super) struct Pump {
    upward: Direction,
    downward: Direction,
    /// Its place among the connections that rebalancing may end, where there is rebalancing.
    seat: Option<Seat>,
}

impl Pump {
    /// Begins with what the backend has not been sent yet.
    pub(super) fn new(unsent: Vec<u8>, seat: Option<Seat>) -> Self {
        let rest = (!unsent.is_empty()).then(|| Box::new(Rest::Copied(unsent)));
        Self { upward: Direction::new(rest), downward: Direction::new(None), seat }
    }

    /// Carries bytes as far as it goes without waiting. The second end is passed on by closing both sides, which spares a call
    /// for it.
    ///
    /// An error means that a side has broken: both should be reset then. What the broken side had said before has been
    /// passed on.
    pub(super) fn carry(
        &mut self,
        client: &mut Side,
        backend: &mut Side,
        tally: &mut Tally,
        buffer: &mut [u8],
    ) -> io::Result<Carried> {
        let carried = self.carry_both(client, backend, buffer);
        if carried.is_err() {
            // A server that answers early and closes, while the client is still sending, breaks the client's
            // direction. Its answer may be waiting in the other.
            self.downward.pass_last_words(backend, client, buffer);
            self.upward.pass_last_words(client, backend, buffer);
        }
        let [upward, downward] = [&mut self.upward, &mut self.downward].map(Direction::take_count);
        tally.to_backends += upward;
        tally.to_clients += downward;
        if let Some(seat) = &self.seat {
            seat.carried().fetch_add(upward + downward, Ordering::Relaxed);
        }
        carried
    }

    fn carry_both(
        &mut self,
        client: &mut Side,
        backend: &mut Side,
        buffer: &mut [u8],
    ) -> io::Result<Carried> {
        let Self { upward, downward, .. } = self;
        let before = [upward.is_over, downward.is_over];
        let had_their_share =
            [upward.carry(client, backend, buffer)?, downward.carry(backend, client, buffer)?];
        let over = [upward.is_over, downward.is_over];
        if over == [true; 2] {
            return Ok(Carried::Over);
        }
        // Nobody reads a side that has ended, or whose words are not taken: should it break, only its events tell.
        for (direction, from) in [(upward, &*client), (downward, &*backend)] {
            if from.is_broken() && !direction.reads() {
                return Err(from.error());
            }
        }
        for (to, (was_over, is_over)) in [backend, client].into_iter().zip(before.into_iter().zip(over)) {
            if is_over && !was_over {
                to.socket().shutdown(Shutdown::Write)?;
            }
        }
        Ok(if had_their_share == [false; 2] { Carried::Waits } else { Carried::Unfinished })
    }

    /// Whether nothing was taken since the last time, neither side has ended, and nothing is held.
    pub(super) fn was_idle(&mut self) -> bool {
        [&mut self.upward, &mut self.downward].map(Direction::was_idle) == [true; 2]
    }

    /// Whether others are to have what this connection takes of its backend.
    pub(super) fn has_to_end(&self) -> bool {
        self.seat.as_ref().is_some_and(Seat::has_to_end)
    }
}

/// One way of a connection.
#[derive(Debug)]
struct Direction {
    /// What has been taken and not been passed on yet: at least one byte. Apart, because few have any.
    rest: Option<Box<Rest>>,
    /// Bytes passed on since somebody asked.
    count: u64,
    gait: Gait,
    /// Whether anything was taken lately.
    is_busy: bool,
    /// Whether the sender has ended, and all that it said was passed on.
    is_over: bool,
}

/// What a slow reader has not taken yet.
#[derive(Debug)]
enum Rest {
    Copied(Vec<u8>),
    Piped(Piped),
}

enum Passed {
    /// There was nothing to take after all.
    Nothing,
    /// So many bytes were taken, and passed on except for the rest.
    Bytes(usize),
    /// The sender has ended.
    End,
}

impl Direction {
    const fn new(rest: Option<Box<Rest>>) -> Self {
        Self { rest, count: 0, gait: Gait::START, is_busy: false, is_over: false }
    }

    const fn reads(&self) -> bool {
        self.rest.is_none() && !self.is_over
    }

    fn was_idle(&mut self) -> bool {
        !std::mem::take(&mut self.is_busy) && self.reads()
    }

    const fn take_count(&mut self) -> u64 {
        std::mem::replace(&mut self.count, 0)
    }

    /// Carries what it can without waiting. True where there may be more, but it has had its share.
    fn carry(&mut self, from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> io::Result<bool> {
        let mut share: usize = 0;
        loop {
            while self.rest.is_some() {
                if !to.is_writable() {
                    return Ok(false);
                }
                self.pass_rest(to)?;
            }
            if self.is_over || !from.is_readable() {
                return Ok(false);
            }
            if share >= FAIR_SHARE {
                return Ok(true);
            }
            match self.pass(from, to, buffer)? {
                Passed::Nothing => return Ok(false),
                Passed::End => self.is_over = true,
                Passed::Bytes(count) => {
                    self.is_busy = true;
                    self.gait = self.gait.after(count);
                    share += count.max(BUFFER);
                }
            }
        }
    }

    /// Takes once and passes on once, as far as either goes without waiting.
    fn pass(&mut self, from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> io::Result<Passed> {
        if matches!(self.gait, Gait::Splice { .. })
            && let Some(piped) = Piped::take(from)?
        {
            let count = piped.count();
            self.pass_piped(piped, to)?;
            return Ok(Passed::Bytes(count));
        }
        // Where nothing could be spliced, reading tells why.
        match from.read(buffer)? {
            None => Ok(Passed::Nothing),
            Some(0) => Ok(Passed::End),
            Some(count) => {
                let taken = to.write(&buffer[..count])?;
                self.count += taken as u64;
                self.rest = (taken < count).then(|| Box::new(Rest::Copied(buffer[taken..count].to_vec())));
                Ok(Passed::Bytes(count))
            }
        }
    }

    /// Passes on as much of the rest as the receiver takes now.
    fn pass_rest(&mut self, to: &mut Side) -> io::Result<()> {
        match self.rest.take().map(|rest| *rest) {
            None => Ok(()),
            Some(Rest::Copied(mut words)) => {
                let passed = to.write(&words)?;
                self.count += passed as u64;
                words.drain(..passed);
                self.rest = (!words.is_empty()).then(|| Box::new(Rest::Copied(words)));
                Ok(())
            }
            Some(Rest::Piped(piped)) => self.pass_piped(piped, to),
        }
    }

    fn pass_piped(&mut self, piped: Piped, to: &mut Side) -> io::Result<()> {
        let (passed, rest) = piped.pass_on(to)?;
        self.count += passed as u64;
        self.rest = rest.map(|piped| Box::new(Rest::Piped(piped)));
        Ok(())
    }

    /// Passes on what the sender has sent already, as far as the receiver takes it without waiting. It may do nothing:
    /// one of them is broken, and the other one need not have sent anything.
    fn pass_last_words(&mut self, from: &mut Side, to: &mut Side, buffer: &mut [u8]) {
        // What follows a gap is no word.
        if self.pass_rest(to).is_err() || self.rest.is_some() {
            return;
        }
        // Not by readiness: what came with the break may not have been announced yet.
        for _ in 0..FAIR_SHARE / BUFFER {
            let Ok(Some(count @ 1..)) = from.read(buffer) else { return };
            let Ok(taken) = to.write(&buffer[..count]) else { return };
            self.count += taken as u64;
            if taken < count {
                return;
            }
        }
    }
}

/// Bytes read at a time.
pub(super) const BUFFER: usize = 64 * 1024;
/// Bytes until others have their turn; a round that moves less than [`BUFFER`] counts as one that fills it.
const FAIR_SHARE: usize = 1024 * 1024;

#[cfg(test)]
mod tests;

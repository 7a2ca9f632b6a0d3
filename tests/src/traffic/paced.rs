//! Questions at a fixed rate: how long answers take while nobody is at the limit.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::load::{Exchange, Work};
use crate::wait;

/// Questions per second, all connections together.
pub const PACE: u32 = 10_000;

/// One connection of several that take turns.
pub(super) struct Turns {
    /// When all of them begin.
    pub(super) start: Instant,
    /// When all of them end.
    pub(super) end: Instant,
    /// Which of them it is, from 0.
    pub(super) number: u32,
    /// How many there are.
    pub(super) connections: u32,
}

/// Asks in its turns, on a thread of its own, whose sleep is more exact than a runtime's. Tells `answered` how long each answer
/// took: since its question, or, where answers before it were late, since it should have been asked.
pub(super) fn ask(
    address: SocketAddr,
    turns: &Turns,
    answered: &mut impl FnMut(Duration),
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut exchange = Exchange::new(Work::Paced);
    let mut due = turns.start + Duration::from_secs(1) * turns.number / PACE;
    while due < turns.end {
        let early = due.saturating_duration_since(wait::now());
        wait::pace(early);
        let asked = if early.is_zero() { due } else { wait::now() };
        stream.write_all(&exchange.question())?;
        stream.read_exact(&mut exchange.answer)?;
        answered(wait::now() - asked);
        due += Duration::from_secs(1) * turns.connections / PACE;
    }
    Ok(())
}

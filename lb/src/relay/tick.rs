//! When connections find out that they are idle, and when the memory of those that were busy goes back to the system.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::Shared;
use crate::spare_memory;

/// A connection rests when nobody has spoken from one tick to the next: not so soon that it would happen between the words
/// of a conversation.
const TICK: Duration = Duration::from_millis(200);
/// But of a crowd that comes at once, not all are to have their tasks at a time. So while one comes, every step is a tick.
const STEP: Duration = Duration::from_millis(10);
/// So many more connections than one step ago.
pub(super) const CROWD: usize = 32;

/// Lets the connections of all threads find out that they are idle, until the runtime ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut next = Instant::now() + TICK;
    let mut memory = Memory::default();
    loop {
        if timeout_at(next, shared.crowd.notified()).await.is_ok() {
            crowd(&shared).await;
        }
        if Instant::now() < next {
            continue;
        }
        shared.tick.notify_waiters();
        next = Instant::now() + TICK;
        if memory.is_spare(shared.carried.load(Ordering::Relaxed)) {
            spare_memory::give_back();
        }
    }
}

/// Ticks for as long as a crowd comes.
async fn crowd(shared: &Shared) {
    let mut known = shared.carried.load(Ordering::Relaxed);
    loop {
        sleep(STEP).await;
        let carried = shared.carried.load(Ordering::Relaxed);
        if carried.saturating_sub(known) <= CROWD {
            return;
        }
        known = carried;
        shared.tick.notify_waiters();
    }
}

/// Finds out when many connections have come, or gone, and no more do: the memory of their tasks is not needed then.
#[derive(Debug, Default)]
struct Memory {
    /// How many connections there were when memory was given back last.
    given_back: usize,
    /// At the last tick.
    known: usize,
    /// How many ticks in a row there have been about as many.
    calm: u32,
}

impl Memory {
    /// Whether memory is to be given back, at a tick with this many connections.
    fn is_spare(&mut self, carried: usize) -> bool {
        self.calm = if carried.abs_diff(self.known) < CROWD { self.calm.saturating_add(1) } else { 0 };
        self.known = carried;
        let is_spare = self.calm >= CALM && carried.abs_diff(self.given_back) >= MANY;
        if is_spare {
            self.given_back = carried;
        }
        is_spare
    }
}

/// Ticks: a second, after which those that have come rest.
const CALM: u32 = 5;
/// Tasks of fewer connections are not worth the while.
const MANY: usize = 8 * CROWD;

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticks, from 0, at which memory is given back where there are so many connections at each.
    fn given_back(carried: &[usize]) -> Vec<usize> {
        let mut memory = Memory::default();
        (0..carried.len()).filter(|&tick| memory.is_spare(carried[tick])).collect()
    }

    #[test]
    fn memory_is_given_back_once_when_a_crowd_has_come_or_gone() {
        let cases: [(&str, &[usize], &[usize]); 6] = [
            ("none came", &[0; 20], &[]),
            ("few came", &[200; 20], &[]),
            ("many came", &[9000; 20], &[5]),
            ("many still come", &[1000, 2000, 3000, 4000, 5000, 6000, 7000], &[]),
            ("some come and go", &[9000, 9010, 9000, 9020, 9000, 9010, 9000, 9010], &[5]),
            ("they have gone", &[9000, 9000, 9000, 9000, 9000, 9000, 0, 0, 0, 0, 0, 0, 0], &[5, 11]),
        ];
        for (name, carried, ticks) in cases {
            assert_eq!(given_back(carried), ticks, "{name}");
        }
    }
}

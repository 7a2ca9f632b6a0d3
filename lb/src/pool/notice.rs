//! How the connections of a backend learn that it is gone: counts of what was said to all of them, which each compares with
//! what it has heard.

use std::sync::atomic::{AtomicU32, Ordering};

/// How often each thing was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    lost: u32,
    ended: u32,
}

/// Tells every connection that a backend has.
#[derive(Debug, Default)]
pub(super) struct Crier {
    lost: AtomicU32,
    ended: AtomicU32,
}

impl Crier {
    /// The backend no longer answers: whoever has not heard from it yet had better go elsewhere.
    pub(super) fn say_lost(&self) {
        self.lost.fetch_add(1, Ordering::Release);
    }

    /// Every connection that there is now has to end.
    pub(super) fn say_ended(&self) {
        self.ended.fetch_add(1, Ordering::Release);
    }

    /// What is said from now on.
    pub(super) fn notice(&self) -> Notice {
        Notice { heard: self.said() }
    }

    fn said(&self) -> Said {
        Said { lost: self.lost.load(Ordering::Acquire), ended: self.ended.load(Ordering::Acquire) }
    }
}

/// What one connection has heard about its backend.
#[derive(Debug)]
pub(super) struct Notice {
    heard: Said,
}

impl Notice {
    /// What `crier` has said that was not heard yet: that the backend is lost, once however often it was said, or that the
    /// connection has to end, which is said for good.
    pub(super) fn next(&mut self, crier: &Crier) -> Option<Told> {
        let said = crier.said();
        if said.ended != self.heard.ended {
            return Some(Told::Ended);
        }
        (std::mem::replace(&mut self.heard.lost, said.lost) != said.lost).then_some(Told::Lost)
    }
}

/// What a connection is told about its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It no longer answers. What it has not answered yet, another one may.
    Lost,
    /// The connection has to end.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_hears_what_is_said_after_its_beginning() {
        let crier = Crier::default();
        crier.say_lost();
        crier.say_ended();
        let mut notice = crier.notice();
        assert_eq!(notice.next(&crier), None, "that was before its time");
        crier.say_lost();
        assert_eq!(notice.next(&crier), Some(Told::Lost));
        assert_eq!(notice.next(&crier), None, "once said, once heard");
        crier.say_lost();
        assert_eq!(notice.next(&crier), Some(Told::Lost));
        crier.say_lost();
        crier.say_ended();
        assert_eq!(notice.next(&crier), Some(Told::Ended));
        assert_eq!(notice.next(&crier), Some(Told::Ended), "an end is an end");
    }
}

//! Looks at what the priority follows, time after time.

use std::io;
use std::time::Instant;

use vrrp::{Event, Priority, Role};

use super::interface::Interface;
use super::tracking::{Facts, Fault, Standing, Tracking};
use super::{Track, Witness};
use crate::netlink::Netlink;

/// The tracked facts of one virtual router.
pub(super) struct Tracker {
    witness: Option<Box<dyn Witness>>,
    tracking: Tracking,
    look_at: Instant,
    priority: Priority,
    fault: Option<Fault>,
}

impl Tracker {
    /// Nothing is wrong yet.
    pub(super) fn begun(configured: Priority, now: Instant) -> Self {
        let (witness, tracking) = (None, Tracking::begun());
        Self { witness, tracking, look_at: now, priority: configured, fault: None }
    }

    pub(super) fn follow(&mut self, witness: Box<dyn Witness>) {
        self.witness = Some(witness);
    }

    /// When the next look is due; `None` if there is nothing to look at.
    pub(super) fn deadline(&self, track: &Track) -> Option<Instant> {
        let nothing = self.witness.is_none() && track.interfaces.is_empty();
        (!nothing).then_some(self.look_at)
    }

    /// Looks, if it is time to.
    pub(super) fn look(
        &mut self,
        track: &Track,
        role: Role,
        netlink: &mut Netlink,
        now: Instant,
    ) -> io::Result<()> {
        if self.deadline(track).is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        self.look_at = now + Tracking::INTERVAL;
        let found = track.interfaces.iter().map(|interface| Interface::find(netlink, &interface.name));
        let is_up = |found: Option<Interface>| found.is_some_and(|interface| interface.up);
        let interfaces = found.map(|found| found.map(is_up)).collect::<io::Result<_>>()?;
        let witness = self.witness.as_ref();
        let facts = Facts {
            // Of those that nobody tells, none stands still.
            relay_beats: witness.map_or_else(|| Some(Vec::new()), |witness| witness.relay_beats()),
            sees_backend: witness.and_then(|witness| witness.sees_backend()),
            interfaces,
        };
        self.tracking.observe(track, role, facts, now);
        Ok(())
    }

    /// What happens to a router that is `configured` with this priority, if what was found makes a difference to it.
    pub(super) fn judge(&mut self, track: &Track, configured: Priority) -> Option<Event> {
        match self.tracking.standing(track, configured) {
            Standing::Fit(priority) => {
                let before = std::mem::replace(&mut self.priority, priority);
                let recovered = self.fault.take().is_some();
                let changed = (before != priority).then_some(Event::Change);
                if recovered { Some(Event::Start) } else { changed }
            }
            Standing::Fault(fault) => {
                let before = self.fault.replace(fault);
                before.is_none().then_some(Event::Stop)
            }
        }
    }

    /// What adverts are to carry.
    pub(super) const fn priority(&self) -> Priority {
        self.priority
    }

    /// Why the router takes no part, if it does not.
    pub(super) const fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }
}

//! How a master in good order leaves: no client notices.
//!
//! ```text
//!   doors shut: new clients wait      farewell      a backup announces itself        who waits is passed on, and whoever
//!        |--- others are served ----------|---- addresses stay ----|---- addresses off ---- still comes here by mistake ---|
//! ```

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tracing::warn;
use vrrp::{Event, State};

use super::{Worker, now};
use crate::packet_socket::MacAddress;
use crate::router::RouterError;
use crate::router::doorstep::Doorstep;

/// What there is of it.
#[derive(Default)]
pub(super) struct Departure {
    /// From here on there is no way back.
    begun: bool,
    doorstep: Option<Doorstep>,
    successor: Option<MacAddress>,
}

impl Worker {
    /// For so long clients come who have not heard yet where the addresses are: a successor of our make has announced
    /// itself twice by then.
    const STRAGGLERS: Duration = Duration::from_millis(100);

    /// New clients wait from now on. Where that is not possible, some are lost.
    pub(super) fn shut(&mut self, doors: Arc<[TcpListener]>) {
        let Some(attachment) = &self.attachment else { return };
        match Doorstep::open(attachment.index, &attachment.settings.addresses, doors) {
            Ok(doorstep) => self.departure.doorstep = Some(doorstep),
            Err(error) => {
                warn!(instance = self.metrics.instance, %error, "clients cannot wait for the next master");
            }
        }
    }

    pub(super) fn leave(&mut self) -> Result<(), RouterError> {
        self.departure.begun = true;
        self.handle(Event::Leave, now())
    }

    pub(super) const fn is_leaving(&self) -> bool {
        self.departure.begun
    }

    pub(super) fn has_left(&self) -> bool {
        self.departure.begun && self.state == State::Initialize
    }

    /// Another host has the addresses now.
    pub(super) fn give_up(&mut self, successor: MacAddress, now: Instant) -> Result<(), RouterError> {
        self.departure.successor = Some(successor);
        self.pass_on();
        self.handle(Event::Claimed, now)
    }

    /// The last thing: returns when nobody should come any more.
    pub(super) fn see_off(&self) {
        let (Some(doorstep), Some(_)) = (&self.departure.doorstep, self.departure.successor) else { return };
        let end = now() + Self::STRAGGLERS;
        loop {
            let left = end.saturating_duration_since(now());
            let mut waiting = [PollFd::new(doorstep.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut waiting, Some(TimeSpec::from_duration(left)), None) {
                Ok(0) => return,
                Ok(_) => self.pass_on(),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    warn!(instance = self.metrics.instance, %errno, "clients cannot be passed on");
                    return;
                }
            }
            if left.is_zero() {
                return;
            }
        }
    }

    fn pass_on(&self) {
        let Self { departure, attachment, .. } = self;
        if let (Some(doorstep), Some(successor), Some(attachment)) =
            (&departure.doorstep, departure.successor, attachment)
            && let Err(error) = doorstep.pass_on(attachment.mac, successor)
        {
            warn!(instance = self.metrics.instance, %error, "clients not passed on to the next master");
        }
    }
}

//! What the state machine says, done.

use std::io;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::poll::ppoll;
use nix::sys::time::TimeSpec;
use tracing::{error, info, warn};
use vrrp::{Action, Event, Family, Priority, Role, encode, step};

use super::{Worker, now};
use crate::announcement;
use crate::router::RouterError;
use crate::router::complaints::Source;
use crate::virtual_address;

impl Worker {
    /// One step of the state machine, with all that follows from it.
    pub(super) fn handle(&mut self, event: Event, now: Instant) -> Result<(), RouterError> {
        let Some(attachment) = &self.attachment else { return Ok(()) };
        let takes_part = self.tracker.fault().is_none() && !self.is_leaving();
        if !takes_part && matches!(event, Event::Start | Event::Resume) {
            return Ok(());
        }
        let before = self.state.role();
        let (state, actions) = step(&attachment.settings, self.state, event, now);
        self.state = state;
        let outcome = actions.into_iter().try_for_each(|action| self.perform(action, now));
        let after = self.state.role();
        if before != after {
            self.master_since = (after == Role::Master).then_some(now);
            self.metrics.changed(after);
            let fault = self.tracker.fault().filter(|_| event == Event::Stop);
            let reason = fault.map_or_else(|| reason(event), ToString::to_string);
            info!(instance = self.metrics.instance, from = %before, to = %after, reason, "role changed");
            self.status.changed(after, reason, now);
        }
        outcome
    }

    fn perform(&mut self, action: Action, now: Instant) -> Result<(), RouterError> {
        let Some(attachment) = &self.attachment else { return Ok(()) };
        match action {
            Action::Send(priority) => {
                self.send(priority, now);
                Ok(())
            }
            Action::Claim => self.claim(attachment.index).map(drop),
            Action::Announce => {
                self.announce(now);
                Ok(())
            }
            Action::Release => {
                // Not the end: a farewell that comes after it still brings somebody who does hold the addresses.
                if let Err(cause) = self.release(attachment.index) {
                    error!(instance = self.metrics.instance, error = %daemon::exit::chain(&cause), "virtual address left behind");
                }
                Ok(())
            }
        }
    }

    /// An advert that cannot be sent is like one that is lost: the next one may arrive.
    fn send(&mut self, priority: Option<Priority>, now: Instant) {
        let Some(attachment) = &self.attachment else { return };
        for to in attachment.settings.destinations() {
            match attachment.adverts.send(&encode(&attachment.settings, priority, to), to) {
                Ok(()) => self.metrics.sent(),
                Err(error) => {
                    if self.complaints.worth_a_line(to, "send", now) {
                        warn!(instance = self.metrics.instance, %to, %error, "advert not sent");
                    }
                }
            }
        }
    }

    pub(super) fn announce(&mut self, now: Instant) {
        let Some(attachment) = &self.attachment else { return };
        for &address in attachment.settings.addresses.as_slice() {
            let mut frames = announcement::frames(attachment.mac, address).into_iter();
            if let Err(error) = frames.try_for_each(|frame| attachment.announcer.send(&frame))
                && self.complaints.worth_a_line(Source::Nobody, "announce", now)
            {
                warn!(instance = self.metrics.instance, %address, %error, "announcement not sent");
            }
        }
    }

    /// Puts the addresses on the interface, and tells whether any was missing. Who is told of them finds us there.
    fn claim(&mut self, index: u32) -> Result<bool, RouterError> {
        let mut missing = false;
        for &network in self.config.addresses.networks() {
            missing |= virtual_address::add(&mut self.netlink, index, network)
                .map_err(|source| self.failure("add a virtual address", source))?;
        }
        if missing && self.family() == Family::Ipv6 {
            let served = self.wait_until_served();
            served.map_err(|source| self.failure("see whether a virtual address works", source))?;
        }
        Ok(missing)
    }

    /// Waits until packets to the addresses arrive, but not for so long that others would miss our adverts.
    fn wait_until_served(&mut self) -> io::Result<()> {
        let Self { netlink, config, .. } = self;
        let mut addresses = config.addresses.networks().iter().map(IpNet::addr).peekable();
        for _ in 0..MOST_LOOKS {
            while let Some(&address) = addresses.peek()
                && virtual_address::arrives(netlink, address)?
            {
                addresses.next();
            }
            let Some(_) = addresses.peek() else { return Ok(()) };
            ppoll(&mut [], Some(TimeSpec::from_duration(LOOK)), None)?;
        }
        let instance = &self.metrics.instance;
        warn!(
            instance,
            "virtual addresses are announced, though the kernel does not know them everywhere yet"
        );
        Ok(())
    }

    /// Puts back what somebody else has taken off while we are master.
    pub(super) fn restore(&mut self, index: u32) -> Result<(), RouterError> {
        if self.state.role() == Role::Master && self.claim(index)? {
            self.announce(now());
            if self.complaints.worth_a_line(Source::Nobody, "restore", now()) {
                warn!(instance = self.metrics.instance, "virtual address had been removed: put back");
            }
        }
        Ok(())
    }

    pub(super) fn release(&mut self, index: u32) -> Result<(), RouterError> {
        virtual_address::remove(&mut self.netlink, index, self.config.addresses.networks())
            .map_err(|source| self.failure("remove a virtual address", source))
    }
}

/// From one look at a new address to the next, and how often. It works after the first one, or milliseconds later.
const LOOK: Duration = Duration::from_micros(500);
const MOST_LOOKS: u32 = 20;

/// Why a role changed, for the operator's timeline.
fn reason(event: Event) -> String {
    match event {
        Event::Start => "the link is up and nothing tracked has failed".to_owned(),
        Event::Resume => "handed over by the former process, which was master".to_owned(),
        Event::Change => "configured to be the owner of the addresses".to_owned(),
        Event::Leave | Event::Claimed | Event::Stop => "asked to stop".to_owned(),
        Event::LinkDown => "the link or the address of adverts is gone".to_owned(),
        Event::Tick => "no advert from a master in time".to_owned(),
        Event::Advert { from, advert } => match advert.priority {
            Some(priority) => format!("advert of priority {priority} from {from}"),
            None => format!("farewell from {from}"),
        },
    }
}

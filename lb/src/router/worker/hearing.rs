//! What comes from the link, as events.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tracing::warn;
use vrrp::{Event, Received, Rejected, Role};

use super::{Worker, now};
use crate::router::RouterError;
use crate::router::rival::{Claim, Hardware};

impl Worker {
    /// For so long a predecessor may still answer for the addresses, until it has heard of us. Our announcements outlast it.
    const SUCCESSION: Duration = Duration::from_millis(100);

    /// Reads the packets that wait; whether there were any.
    pub(super) fn receive(&mut self) -> Result<bool, RouterError> {
        for read in 0..Self::PACKETS_PER_TURN {
            let Some(attachment) = &mut self.attachment else { return Ok(read > 0) };
            let (sender, outcome) = match attachment.adverts.receive() {
                Ok(Some(arrival)) => (arrival.from, arrival.read(&attachment.settings)),
                Ok(None) => return Ok(read > 0),
                // The link monitor has more to say about that.
                Err(error) if error.raw_os_error() == Some(Errno::ENETDOWN as i32) => return Ok(read > 0),
                Err(source) => return Err(self.failure("receive adverts", source)),
            };
            match outcome {
                Ok(Received { from, advert }) => {
                    self.metrics.received();
                    let now = now();
                    self.status.heard(from, advert.priority, now);
                    self.handle(Event::Advert { from, advert }, now)?;
                }
                Err(rejected) => self.reject(sender, rejected, now()),
            }
        }
        Ok(true)
    }

    /// Answers those who claim a virtual address that we hold. What they claim of our master's is none of our business.
    /// Whether there were any.
    pub(super) fn meet_rivals(&mut self, now: Instant) -> Result<bool, RouterError> {
        let Some(attachment) = &mut self.attachment else { return Ok(false) };
        let claims = attachment.rivals.receive(attachment.mac, &attachment.settings.addresses);
        let (claims, read) = match claims {
            Ok((claims, read)) if self.state.role() == Role::Master => (claims, read),
            Ok((_, read)) => return Ok(read),
            // The link monitor has more to say about that.
            Err(error) if error.raw_os_error() == Some(Errno::ENETDOWN as i32) => return Ok(false),
            Err(source) => return Err(self.failure("listen for other owners", source)),
        };
        if self.is_leaving() {
            let successor = claims.first().map(|claim| claim.mac);
            return successor.map_or(Ok(()), |Hardware(mac)| self.give_up(mac, now)).map(|()| read);
        }
        if self.master_since.is_some_and(|since| now < since + Self::SUCCESSION) {
            return Ok(read);
        }
        for Claim { address, mac } in &claims {
            self.metrics.conflict();
            if self.complaints.worth_a_line(*mac, "conflict", now) {
                warn!(instance = self.metrics.instance, %address, %mac, "virtual address claimed by another host");
            }
        }
        if !claims.is_empty() && self.defence.is_due(now) {
            self.announce(now);
        }
        Ok(read)
    }

    fn reject(&mut self, sender: IpAddr, rejected: Rejected, now: Instant) {
        self.metrics.rejected(rejected);
        let ours = rejected != Rejected::RouterId;
        if ours && self.complaints.worth_a_line(sender, rejected.label(), now) {
            warn!(instance = self.metrics.instance, %sender, reason = %rejected, "advert rejected");
        }
    }
}

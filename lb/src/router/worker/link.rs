//! The interface: found, attached to, followed.

use std::net::IpAddr;

use tracing::warn;
use vrrp::Event;

use super::{Worker, now};
use crate::router::RouterError;
use crate::router::attachment::Attachment;
use crate::router::complaints::Source;
use crate::router::interface::Interface;
use crate::virtual_address::{self, Observed};

impl Worker {
    /// Brings the attachment in line with the interface as it is now.
    pub(super) fn look_at_link(&mut self) -> Result<(), RouterError> {
        let found = self.find_interface().map(Some).or_else(|error| match error {
            RouterError::NoInterface { .. } => Ok(None),
            other => Err(other),
        })?;
        let same = |attachment: &Attachment| {
            found.is_some_and(|it| it.up && it.index == attachment.index && it.mac == Some(attachment.mac))
        };
        if let Some(attachment) = &self.attachment {
            let (index, local) = (attachment.index, attachment.settings.local);
            if same(attachment) && self.has_address(index, local)? {
                return self.restore(index);
            }
            self.handle(Event::LinkDown, now())?;
            self.attachment = None;
        }
        let Some(interface) = found.filter(|interface| interface.up) else { return Ok(()) };
        match self.attach(interface) {
            Ok(attachment) => {
                self.attachment = Some(attachment);
                self.handle(Event::Start, now())
            }
            // The next change of a link or an address is the next attempt.
            Err(cause) => {
                if self.complaints.worth_a_line(Source::Nobody, "attach", now()) {
                    warn!(instance = self.metrics.instance, error = %daemon::exit::chain(&cause), "virtual router waits for its interface");
                }
                Ok(())
            }
        }
    }

    /// Whether adverts can still come from `local`.
    fn has_address(&mut self, index: u32, local: IpAddr) -> Result<bool, RouterError> {
        let observed = self.observe(index)?;
        Ok(observed.iter().any(|address| address.usable && address.network.addr() == local))
    }

    fn observe(&mut self, index: u32) -> Result<Vec<Observed>, RouterError> {
        let observed = virtual_address::observe(&mut self.netlink, index, self.config.addresses.family());
        observed.map_err(|source| self.failure("list addresses", source))
    }

    pub(super) fn find_interface(&mut self) -> Result<Interface, RouterError> {
        let name = &self.config.interface;
        let found = Interface::find(&mut self.netlink, name);
        let found = found.map_err(|source| self.failure("look for the interface", source))?;
        found.ok_or_else(|| RouterError::NoInterface { interface: self.config.interface.clone() })
    }

    pub(super) fn attach(&mut self, interface: Interface) -> Result<Attachment, RouterError> {
        let observed = self.observe(interface.index)?;
        let mut attachment = Attachment::open(&self.config, interface, &observed)?;
        attachment.settings.priority = self.tracker.priority();
        self.status.settings(attachment.settings.priority, Some(attachment.settings.local));
        Ok(attachment)
    }
}

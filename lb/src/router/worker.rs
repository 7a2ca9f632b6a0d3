//! The router's thread: waits, turns what it finds into events, and does what the state machine says.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tracing::{error, info, warn};
use vrrp::{Action, Event, Family, Priority, Received, Rejected, Role, State, encode, step};

use super::attachment::{Attachment, settings};
use super::complaints::{Complaints, Source};
use super::interface::{Interface, Monitor};
use super::metrics::InstanceMetrics;
use super::realtime::prefer_this_thread;
use super::rival::{Claim, Defence};
use super::status::SharedStatus;
use super::tracker::Tracker;
use super::{Beginning, Order, Orders, RouterConfig, RouterError, Witness};
use crate::announcement;
use crate::netlink::Netlink;
use crate::virtual_address::{self, Observed};

/// Everything the thread owns.
pub(super) struct Worker {
    config: RouterConfig,
    metrics: InstanceMetrics,
    orders: Arc<Orders>,
    status: Arc<SharedStatus>,
    netlink: Netlink,
    monitor: Monitor,
    /// There is one exactly while the link is up.
    attachment: Option<Attachment>,
    state: State,
    tracker: Tracker,
    complaints: Complaints,
    defence: Defence,
    /// Until when packets wake nobody.
    rest_until: Option<Instant>,
}

/// What woke the thread.
struct Woken {
    orders: bool,
    link: bool,
}

impl Worker {
    /// More packets than the socket's buffer holds: whatever waited is read before a timer is looked at, but somebody
    /// who sends without a pause cannot keep us from the timers.
    const PACKETS_PER_TURN: usize = 512;
    const LONGEST_REST: Duration = Duration::from_millis(50);

    /// Does all that can fail for reasons of configuration, and changes nothing.
    pub(super) fn prepare(
        config: RouterConfig,
        metrics: InstanceMetrics,
        orders: Arc<Orders>,
        status: Arc<SharedStatus>,
    ) -> Result<Self, RouterError> {
        let netlink =
            Netlink::open().map_err(|source| failure(&config, "open netlink", CAP_NET_ADMIN, source))?;
        let monitor =
            Monitor::open().map_err(|source| failure(&config, "watch links", CAP_NET_ADMIN, source))?;
        let (attachment, complaints, defence) = (None, Complaints::default(), Defence::default());
        let (state, tracker) = (State::Initialize, Tracker::begun(config.priority, now()));
        metrics.priority(Some(config.priority));
        let mut worker = Self {
            config,
            metrics,
            orders,
            status,
            netlink,
            monitor,
            attachment,
            state,
            tracker,
            complaints,
            defence,
            rest_until: None,
        };
        let interface = worker.find_interface()?;
        worker.attachment = match worker.attach(interface) {
            // Over IPv6 a link has an address of its own only some time after it is up, once nobody objects to it.
            Err(RouterError::NoAddress { .. }) if worker.family() == Family::Ipv6 => None,
            attached => Some(attached?),
        };
        Ok(worker)
    }

    pub(super) fn follow(&mut self, witness: Box<dyn Witness>) {
        self.tracker.follow(witness);
    }

    /// The first step. Fails where a privilege is missing.
    pub(super) fn begin(&mut self, beginning: Beginning) -> Result<(), RouterError> {
        let interface = self.find_interface()?;
        self.track(now())?;
        let afresh = beginning == Beginning::Afresh || self.tracker.fault().is_some();
        if afresh || !interface.up || self.attachment.is_none() {
            self.release(interface.index)?;
        }
        if !interface.up {
            self.attachment = None;
            warn!(instance = self.metrics.instance, "link is down: the virtual router waits for it");
            return Ok(());
        }
        if self.attachment.is_none() {
            return self.look_at_link();
        }
        let begun = self.handle(
            match beginning {
                Beginning::Afresh => Event::Start,
                Beginning::AsMaster => Event::Resume,
            },
            now(),
        );
        if begun.is_err() {
            // It may have got some of the addresses.
            self.handle(Event::Stop, now())?;
        }
        begun
    }

    /// Runs until it is told to stop, or cannot go on.
    pub(super) fn run(mut self) {
        prefer_this_thread();
        loop {
            match self.turns() {
                Ok(End::HandOver) => return,
                Ok(End::Stop) => break,
                Err(cause) => {
                    // A refusal by an interface that has just gone is no failure of ours.
                    let lost =
                        self.attachment.is_some() && self.look_at_link().is_ok() && self.attachment.is_none();
                    if !lost {
                        error!(instance = self.metrics.instance, error = %daemon::exit::chain(&cause), "virtual router ends");
                        break;
                    }
                }
            }
        }
        if let Err(cause) = self.handle(Event::Stop, now()) {
            error!(instance = self.metrics.instance, error = %daemon::exit::chain(&cause), "virtual router did not end cleanly");
        }
    }

    /// Turn after turn until the router is told to end.
    fn turns(&mut self) -> Result<End, RouterError> {
        loop {
            let woken = self.wait()?;
            if woken.orders
                && let Some(end) = self.obey()?
            {
                return Ok(end);
            }
            let woken_at = now();
            self.note_delay(woken_at);
            if woken.link {
                self.monitor.drain().map_err(|source| self.failure("watch links", source))?;
                self.look_at_link()?;
            }
            let read = self.receive()? | self.meet_rivals(woken_at)?;
            let read_at = read.then(now);
            self.track(woken_at)?;
            self.handle(Event::Tick, woken_at)?;
            self.rest_until = read_at.map(|read_at| Self::rest_after(woken_at, read_at));
        }
    }

    /// Packets take a quarter of a processor at most, however many come: this thread has real-time priority. Timers are
    /// not put off.
    fn rest_after(woken_at: Instant, read_at: Instant) -> Instant {
        read_at + (3 * read_at.saturating_duration_since(woken_at)).min(Self::LONGEST_REST)
    }

    /// Counts a timer that should have been noticed earlier.
    fn note_delay(&self, now: Instant) {
        let tolerated = self.config.version.interval() / 10;
        if self.state.deadline().is_some_and(|deadline| deadline + tolerated < now) {
            self.metrics.late();
        }
    }

    fn obey(&mut self) -> Result<Option<End>, RouterError> {
        let orders = self.orders.take().map_err(|errno| self.failure("read orders", errno.into()))?;
        for order in orders {
            match order {
                Order::Answer => {}
                Order::Stop => return Ok(Some(End::Stop)),
                Order::HandOver => return Ok(Some(End::HandOver)),
                Order::Change(config) => self.change(*config)?,
            }
        }
        Ok(None)
    }

    fn change(&mut self, config: RouterConfig) -> Result<(), RouterError> {
        self.config = config;
        let event = self.judge().unwrap_or(Event::Change);
        let Some(attachment) = &self.attachment else { return Ok(()) };
        let local = attachment.settings.local;
        match settings(&self.config, local) {
            Ok(settings) => {
                if let Some(attachment) = &mut self.attachment {
                    attachment.settings = settings;
                }
                self.take_priority();
                self.handle(event, now())
            }
            Err(cause) => {
                warn!(instance = self.metrics.instance, error = %daemon::exit::chain(&cause), "virtual router goes on with its former settings");
                Ok(())
            }
        }
    }

    /// Looks at what the priority follows, and goes by it.
    fn track(&mut self, now: Instant) -> Result<(), RouterError> {
        let looked = self.tracker.look(&self.config.track, self.state.role(), &mut self.netlink, now);
        looked.map_err(|source| self.failure("look at tracked interfaces", source))?;
        let Some(event) = self.judge() else { return Ok(()) };
        self.take_priority();
        self.handle(event, now)
    }

    /// What follows from what was found, for the operator's timeline too.
    fn judge(&mut self) -> Option<Event> {
        let event = self.tracker.judge(&self.config.track, self.config.priority)?;
        let (priority, configured) = (self.tracker.priority(), self.config.priority);
        let instance = &self.metrics.instance;
        if let Some(fault) = self.tracker.fault() {
            warn!(instance, %fault, "virtual router takes no part");
        } else {
            info!(instance, %priority, %configured, "priority changed");
        }
        self.metrics.priority(self.tracker.fault().is_none().then_some(priority));
        Some(event)
    }

    fn take_priority(&mut self) {
        let priority = self.tracker.priority();
        let attachment = self.attachment.as_mut().map(|attachment| &mut attachment.settings);
        let local = attachment.map(|settings| {
            settings.priority = priority;
            settings.local
        });
        self.status.settings(priority, local);
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> Result<Woken, RouterError> {
        let mut descriptors = vec![
            PollFd::new(self.orders.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
        ];
        let rest_until = self.rest_until.filter(|&rest_until| rest_until > now());
        if let Some(attachment) = self.attachment.as_ref().filter(|_| rest_until.is_none()) {
            descriptors.push(PollFd::new(attachment.adverts.as_fd(), PollFlags::POLLIN));
            descriptors.push(PollFd::new(attachment.rivals.as_fd(), PollFlags::POLLIN));
        }
        let deadlines = [self.state.deadline(), self.tracker.deadline(&self.config.track), rest_until];
        let left =
            deadlines.into_iter().flatten().min().map(|deadline| deadline.saturating_duration_since(now()));
        match ppoll(&mut descriptors, left.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(self.failure("wait", errno.into())),
        }
        let ready = |position: usize| {
            descriptors.get(position).and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
        };
        Ok(Woken { orders: ready(0), link: ready(1) })
    }

    /// Reads the packets that wait; whether there were any.
    fn receive(&mut self) -> Result<bool, RouterError> {
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
    fn meet_rivals(&mut self, now: Instant) -> Result<bool, RouterError> {
        let Some(attachment) = &mut self.attachment else { return Ok(false) };
        let claims = attachment.rivals.receive(attachment.mac, &attachment.settings.addresses);
        let (claims, read) = match claims {
            Ok((claims, read)) if self.state.role() == Role::Master => (claims, read),
            Ok((_, read)) => return Ok(read),
            // The link monitor has more to say about that.
            Err(error) if error.raw_os_error() == Some(Errno::ENETDOWN as i32) => return Ok(false),
            Err(source) => return Err(self.failure("listen for other owners", source)),
        };
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

    /// Brings the attachment in line with the interface as it is now.
    fn look_at_link(&mut self) -> Result<(), RouterError> {
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

    fn find_interface(&mut self) -> Result<Interface, RouterError> {
        let name = &self.config.interface;
        let found = Interface::find(&mut self.netlink, name);
        let found = found.map_err(|source| self.failure("look for the interface", source))?;
        found.ok_or_else(|| RouterError::NoInterface { interface: self.config.interface.clone() })
    }

    fn attach(&mut self, interface: Interface) -> Result<Attachment, RouterError> {
        let observed = self.observe(interface.index)?;
        let mut attachment = Attachment::open(&self.config, interface, &observed)?;
        attachment.settings.priority = self.tracker.priority();
        self.status.settings(attachment.settings.priority, Some(attachment.settings.local));
        Ok(attachment)
    }

    const fn family(&self) -> Family {
        self.config.addresses.family()
    }

    /// One step of the state machine, with all that follows from it.
    fn handle(&mut self, event: Event, now: Instant) -> Result<(), RouterError> {
        let Some(attachment) = &self.attachment else { return Ok(()) };
        if self.tracker.fault().is_some() && matches!(event, Event::Start | Event::Resume) {
            return Ok(());
        }
        let before = self.state.role();
        let (state, actions) = step(&attachment.settings, self.state, event, now);
        self.state = state;
        let outcome = actions.into_iter().try_for_each(|action| self.perform(action, now));
        let after = self.state.role();
        if before != after {
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

    fn announce(&mut self, now: Instant) {
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

    /// Puts the addresses on the interface, and tells whether any was missing.
    fn claim(&mut self, index: u32) -> Result<bool, RouterError> {
        let mut missing = false;
        for &network in self.config.addresses.networks() {
            missing |= virtual_address::add(&mut self.netlink, index, network)
                .map_err(|source| self.failure("add a virtual address", source))?;
        }
        Ok(missing)
    }

    /// Puts back what somebody else has taken off while we are master.
    fn restore(&mut self, index: u32) -> Result<(), RouterError> {
        if self.state.role() == Role::Master && self.claim(index)? {
            self.announce(now());
            if self.complaints.worth_a_line(Source::Nobody, "restore", now()) {
                warn!(instance = self.metrics.instance, "virtual address had been removed: put back");
            }
        }
        Ok(())
    }

    fn release(&mut self, index: u32) -> Result<(), RouterError> {
        virtual_address::remove(&mut self.netlink, index, self.config.addresses.networks())
            .map_err(|source| self.failure("remove a virtual address", source))
    }

    fn failure(&self, action: &'static str, source: io::Error) -> RouterError {
        failure(&self.config, action, CAP_NET_ADMIN, source)
    }
}

/// How the thread is to end.
enum End {
    Stop,
    HandOver,
}

const CAP_NET_ADMIN: &str = "CAP_NET_ADMIN";
pub(super) const CAP_NET_RAW: &str = "CAP_NET_RAW";

/// Says that `capability` is missing if that is why `action` was refused.
pub(super) fn failure(
    config: &RouterConfig,
    action: &'static str,
    capability: &'static str,
    source: io::Error,
) -> RouterError {
    let refused = [Errno::EPERM, Errno::EACCES].map(|errno| Some(errno as i32));
    if refused.contains(&source.raw_os_error()) {
        return RouterError::Permission { action, capability };
    }
    RouterError::Kernel { action, interface: config.interface.clone(), source }
}

/// Why a role changed, for the operator's timeline.
fn reason(event: Event) -> String {
    match event {
        Event::Start => "the link is up and nothing tracked has failed".to_owned(),
        Event::Resume => "handed over by the former process, which was master".to_owned(),
        Event::Change => "configured to be the owner of the addresses".to_owned(),
        Event::Stop => "asked to stop".to_owned(),
        Event::LinkDown => "the link or the address of adverts is gone".to_owned(),
        Event::Tick => "no advert from a master in time".to_owned(),
        Event::Advert { from, advert } => match advert.priority {
            Some(priority) => format!("advert of priority {priority} from {from}"),
            None => format!("farewell from {from}"),
        },
    }
}

#[expect(clippy::disallowed_methods, reason = "the one clock of the virtual router")]
pub(super) fn now() -> Instant {
    Instant::now()
}

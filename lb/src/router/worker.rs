//! The router's thread: waits, turns what it finds into events, and does what the state machine says.

mod deeds;
mod departure;
mod hearing;
mod link;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tracing::{error, info, warn};
use vrrp::{Event, Family, State};

use self::departure::Departure;
use super::attachment::{Attachment, settings};
use super::complaints::Complaints;
use super::interface::Monitor;
use super::metrics::InstanceMetrics;
use super::realtime::prefer_this_thread;
use super::rival::Defence;
use super::status::SharedStatus;
use super::tracker::Tracker;
use super::{Beginning, Order, RouterConfig, RouterError, Witness};
use crate::netlink::Netlink;
use crate::orders::Orders;

/// Everything the thread owns.
pub(super) struct Worker {
    config: RouterConfig,
    metrics: InstanceMetrics,
    orders: Arc<Orders<Order>>,
    status: Arc<SharedStatus>,
    netlink: Netlink,
    monitor: Monitor,
    /// There is one exactly while the link is up.
    attachment: Option<Attachment>,
    state: State,
    tracker: Tracker,
    complaints: Complaints,
    defence: Defence,
    departure: Departure,
    /// Since when we have been master, as we last were.
    master_since: Option<Instant>,
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
    /// A turn costs more than reading: who is woken for every packet of a flood does little else.
    const SHORTEST_REST: Duration = Duration::from_millis(1);
    const LONGEST_REST: Duration = Duration::from_millis(50);

    /// Does all that can fail for reasons of configuration, and changes nothing.
    pub(super) fn prepare(
        config: RouterConfig,
        metrics: InstanceMetrics,
        orders: Arc<Orders<Order>>,
        status: Arc<SharedStatus>,
    ) -> Result<Self, RouterError> {
        let netlink = Netlink::open()
            .map_err(|source| RouterError::of_kernel(&config, "open netlink", CAP_NET_ADMIN, source))?;
        let monitor = Monitor::open()
            .map_err(|source| RouterError::of_kernel(&config, "watch links", CAP_NET_ADMIN, source))?;
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
            departure: Departure::default(),
            master_since: None,
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
                Ok(End::Left) => return self.see_off(),
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
        while !self.has_left() {
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
        Ok(End::Left)
    }

    /// Packets take a quarter of a processor at most, however many come: this thread has real-time priority. Timers are
    /// not put off.
    fn rest_after(woken_at: Instant, read_at: Instant) -> Instant {
        let rest = 3 * read_at.saturating_duration_since(woken_at);
        read_at + rest.clamp(Self::SHORTEST_REST, Self::LONGEST_REST)
    }

    /// Counts a timer that should have been noticed earlier.
    fn note_delay(&self, now: Instant) {
        let tolerated = self.config.version.interval() / 10;
        if self.state.deadline().is_some_and(|deadline| deadline + tolerated < now) {
            self.metrics.late();
        }
    }

    fn obey(&mut self) -> Result<Option<End>, RouterError> {
        for order in self.orders.take() {
            match order {
                Order::Answer => {}
                Order::Stop => return Ok(Some(End::Stop)),
                Order::HandOver => return Ok(Some(End::HandOver)),
                Order::Shut(doors) => self.shut(doors),
                Order::Leave => self.leave()?,
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
        if self.is_leaving() {
            return Ok(());
        }
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
            PollFd::new(self.orders.bell().as_fd(), PollFlags::POLLIN),
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
        ];
        let rest_until = self.rest_until.filter(|&rest_until| rest_until > now());
        if let Some(attachment) = self.attachment.as_ref().filter(|_| rest_until.is_none()) {
            descriptors.push(PollFd::new(attachment.adverts.as_fd(), PollFlags::POLLIN));
            descriptors.push(PollFd::new(attachment.rivals.as_fd(), PollFlags::POLLIN));
        }
        let look_at = self.tracker.deadline(&self.config.track).filter(|_| !self.is_leaving());
        let deadlines = [self.state.deadline(), look_at, rest_until];
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

    const fn family(&self) -> Family {
        self.config.addresses.family()
    }

    fn failure(&self, action: &'static str, source: io::Error) -> RouterError {
        RouterError::of_kernel(&self.config, action, CAP_NET_ADMIN, source)
    }
}

/// How the thread is to end.
enum End {
    Left,
    Stop,
    HandOver,
}

const CAP_NET_ADMIN: &str = "CAP_NET_ADMIN";

#[expect(clippy::disallowed_methods, reason = "the one clock of the virtual router")]
pub(super) fn now() -> Instant {
    Instant::now()
}

//! Routers, a link between them and one client on it, in virtual time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vrrp::{
    Action, Advert, Audience, Event, Preempt, Priority, Role, RouterId, Settings, State, Version,
    VirtualAddresses, step,
};

/// The most that a frame is under way.
pub(crate) const DELAY: Duration = Duration::from_millis(5);

/// A sequence of numbers that a seed determines (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub(crate) fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }

    /// One of `count` things.
    pub(crate) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.below(u64::try_from(count).unwrap())).unwrap()
    }
}

/// A router and the machine it runs on.
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) state: State,
    /// Whether the machine has the virtual address; it outlives a killed process.
    pub(crate) holds: bool,
    pub(crate) running: bool,
    paused: bool,
    /// Adverts that wait in the socket while the process is paused.
    waiting: Vec<(IpAddr, Advert)>,
    /// Nodes with the same number hear each other.
    side: u64,
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Arrival {
        to: usize,
        from: IpAddr,
        advert: Advert,
    },
    /// An announcement.
    Claimed {
        to: usize,
    },
    Start(usize),
    Resume(usize),
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    version: Version,
    pub(crate) now: Instant,
    epoch: Instant,
    pub(crate) random: Random,
    /// Frames lost, per thousand.
    pub(crate) loss: u64,
    client_side: u64,
    /// Where the client sends packets for the virtual address: to whom it last heard announcing it.
    pub(crate) client_sends_to: Option<usize>,
    happenings: BTreeMap<(Instant, u64), Happening>,
    /// When the last frame from one to the other arrives: a link does not reorder.
    latest: BTreeMap<(usize, usize), Instant>,
    scheduled: u64,
    /// What happened, for whoever has to find out why a seed fails.
    pub(crate) diary: Vec<String>,
}

impl World {
    /// All routers start within the first second.
    pub(crate) fn new(seed: u64, version: Version, preempt: Preempt, epoch: Instant) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.below(4);
        let nodes = (1..=count).map(|number| node(number, &mut random, version, preempt)).collect();
        let mut world = Self {
            nodes,
            version,
            now: epoch,
            epoch,
            random,
            loss: 0,
            client_side: 0,
            client_sends_to: None,
            happenings: BTreeMap::new(),
            latest: BTreeMap::new(),
            scheduled: 0,
            diary: Vec::new(),
        };
        for index in 0..world.nodes.len() {
            let after = world.random.milliseconds(0, 1_000);
            world.schedule(after, Happening::Start(index));
        }
        world
    }

    pub(crate) fn masters(&self) -> Vec<usize> {
        let is_master = |&index: &usize| self.nodes[index].state.role() == Role::Master;
        (0..self.nodes.len()).filter(is_master).collect()
    }

    /// Whether it waits for its successor.
    pub(crate) fn leaves(&self, index: usize) -> bool {
        matches!(self.nodes[index].state, State::Leaving { .. })
    }

    /// A running router of the highest priority.
    pub(crate) fn strongest(&self) -> usize {
        let running = (0..self.nodes.len()).filter(|&index| self.nodes[index].running);
        running.max_by_key(|&index| self.priority(index)).unwrap()
    }

    pub(crate) fn priority(&self, index: usize) -> Priority {
        self.nodes[index].settings.priority
    }

    /// Lets `span` go by; `watch` looks at the world after everything that happens.
    pub(crate) fn pass(
        &mut self,
        span: Duration,
        watch: impl Fn(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let end = self.now + span;
        loop {
            let deadline = |node: &Node| node.state.deadline().filter(|_| !node.paused);
            let timers =
                (0..self.nodes.len()).filter_map(|index| Some((deadline(&self.nodes[index])?, index)));
            let timer = timers.min();
            let happening = self.happenings.first_key_value().map(|(&(at, _), _)| at);
            let next = timer.map(|(at, _)| at).into_iter().chain(happening).min();
            let Some(next) = next.filter(|&next| next <= end) else { break };
            self.now = self.now.max(next);
            match timer {
                Some((at, index)) if at <= next => self.handle(index, Event::Tick)?,
                Some(_) | None => self.happen()?,
            }
            watch(self)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self) -> Result<(), String> {
        let Some((_, happening)) = self.happenings.pop_first() else { return Ok(()) };
        match happening {
            Happening::Arrival { to, .. } | Happening::Claimed { to } if !self.nodes[to].running => Ok(()),
            // Not kept: there will be another one.
            Happening::Claimed { to } if self.nodes[to].paused => Ok(()),
            Happening::Claimed { to } => self.handle(to, Event::Claimed),
            Happening::Arrival { to, from, advert } if self.nodes[to].paused => {
                self.nodes[to].waiting.push((from, advert));
                Ok(())
            }
            Happening::Arrival { to, from, advert } => self.handle(to, Event::Advert { from, advert }),
            Happening::Start(index) => {
                self.nodes[index].running = true;
                self.handle(index, Event::Start)
            }
            Happening::Resume(index) => self.resume(index),
        }
    }

    /// What waits in the socket comes before the timer, as in the shell.
    fn resume(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].paused = false;
        for (from, advert) in std::mem::take(&mut self.nodes[index].waiting) {
            self.handle(index, Event::Advert { from, advert })?;
        }
        self.handle(index, Event::Tick)
    }

    pub(crate) fn handle(&mut self, index: usize, event: Event) -> Result<(), String> {
        let node = &mut self.nodes[index];
        let before = node.state.role();
        let (state, actions) = step(&node.settings, node.state, event, self.now);
        node.state = state;
        for action in actions {
            match action {
                Action::Send(priority) => self.send(index, priority)?,
                Action::Claim => self.nodes[index].holds = true,
                Action::Release => self.nodes[index].holds = false,
                Action::Announce => self.announce(index),
            }
        }
        let after = state.role();
        if before != after {
            self.note(&format!("{index}: {before} -> {after} on {event:?}"));
        }
        if self.nodes[index].holds != (after == Role::Master) {
            return Err(format!(
                "node {index} is {after}, but holds the address: {}",
                self.nodes[index].holds
            ));
        }
        Ok(())
    }

    fn send(&mut self, from: usize, priority: Option<Priority>) -> Result<(), String> {
        let advert = Advert { priority, interval: self.interval() };
        if priority.is_none() && self.nodes[from].holds && !self.leaves(from) {
            return Err(format!("node {from} says farewell at once while it holds the address"));
        }
        let local = self.nodes[from].settings.local;
        self.broadcast(from, |to| Happening::Arrival { to, from: local, advert });
        Ok(())
    }

    fn announce(&mut self, from: usize) {
        if self.nodes[from].side == self.client_side {
            self.client_sends_to = Some(from);
        }
        self.broadcast(from, |to| Happening::Claimed { to });
    }

    fn broadcast(&mut self, from: usize, frame: impl Fn(usize) -> Happening) {
        for to in (0..self.nodes.len()).filter(|&to| to != from) {
            let arrival = self.now + Duration::from_micros(self.random.below(5_001));
            if self.nodes[to].side == self.nodes[from].side && self.random.below(1_000) >= self.loss {
                let latest = self.latest.entry((from, to)).or_insert(arrival);
                *latest = arrival.max(*latest);
                let after = latest.duration_since(self.now);
                self.schedule(after, frame(to));
            }
        }
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.scheduled += 1;
        self.happenings.insert((self.now + after, self.scheduled), happening);
    }

    fn note(&mut self, line: &str) {
        self.diary.push(format!("{:>10.3?} {line}", self.now.duration_since(self.epoch)));
    }

    /// Between half an interval and this many thousandths of one.
    pub(crate) fn a_while(&mut self, most: u64) -> Duration {
        self.interval() / 1_000 * u32::try_from(500 + self.random.below(most - 499)).unwrap()
    }

    pub(crate) fn interval(&self) -> Duration {
        self.version.interval()
    }

    /// What separates the weakest router there could be from one that needs no skew.
    pub(crate) fn most_skew(&self) -> Duration {
        match self.version {
            Version::Two { .. } => Duration::from_secs(1),
            Version::Three { .. } => self.interval(),
        }
    }

    /// Something goes wrong.
    pub(crate) fn fault(&mut self) -> Result<(), String> {
        let index = self.random.pick(self.nodes.len());
        let after = self.a_while(20_000);
        match self.random.below(8) {
            0 => self.cut(),
            1 => self.join(),
            2 if self.nodes[index].running && !self.nodes[index].paused => {
                self.note(&format!("{index}: paused for {after:?}"));
                self.nodes[index].paused = true;
                self.schedule(after, Happening::Resume(index));
            }
            3 if self.nodes[index].running && !self.nodes[index].paused => {
                self.kill(index);
                self.schedule(after, Happening::Start(index));
            }
            4..=7 if self.nodes[index].running && !self.nodes[index].paused => {
                let event = [Event::Stop, Event::LinkDown, Event::Leave][self.random.pick(3)];
                self.handle(index, event)?;
                // Whoever leaves may have to wait until nobody has come.
                let over = self.nodes[index].state.deadline().map_or(self.now, |deadline| deadline + DELAY);
                self.schedule(after.max(over - self.now), Happening::Start(index));
            }
            _ => {}
        }
        Ok(())
    }

    fn cut(&mut self) {
        let sides: Vec<u64> = self.nodes.iter().map(|_| self.random.below(2)).collect();
        self.client_side = self.random.below(2);
        self.note(&format!("cut into {sides:?}, client at {}", self.client_side));
        for (node, side) in self.nodes.iter_mut().zip(sides) {
            node.side = side;
        }
    }

    fn join(&mut self) {
        self.note("whole again");
        self.client_side = 0;
        for node in &mut self.nodes {
            node.side = 0;
        }
    }

    /// The process is gone and its machine, too, as far as the link is concerned; what it held it holds.
    pub(crate) fn kill(&mut self, index: usize) {
        self.note(&format!("{index}: killed"));
        let node = &mut self.nodes[index];
        node.running = false;
        node.waiting.clear();
        node.state = State::Initialize;
    }

    /// All is well from now on.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.join();
        self.loss = 0;
        for index in 0..self.nodes.len() {
            if self.nodes[index].paused {
                self.resume(index)?;
            }
            if self.leaves(index) {
                self.handle(index, Event::Stop)?;
            }
            if self.nodes[index].state == State::Initialize {
                self.nodes[index].running = true;
                self.handle(index, Event::Start)?;
            }
        }
        Ok(())
    }
}

fn node(number: u64, random: &mut Random, version: Version, preempt: Preempt) -> Node {
    let number = u8::try_from(number).unwrap();
    // Few priorities, so that equal ones meet.
    let priority = [1, 50, 100, 100, 200, 254][random.pick(6)];
    let settings = Settings {
        router_id: RouterId::new(51).unwrap(),
        priority: Priority::new(priority).unwrap(),
        version,
        preempt,
        local: [10, 0, 0, number].into(),
        audience: Audience::Group,
        addresses: VirtualAddresses::new(vec![[10, 0, 0, 250].into()]).unwrap(),
    };
    Node {
        settings,
        state: State::Initialize,
        holds: false,
        running: false,
        paused: false,
        waiting: Vec::new(),
        side: 0,
    }
}

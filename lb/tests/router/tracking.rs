//! What the priority follows, as the link sees it.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lb::router::{Beginning, Router, RouterConfig, RouterMetrics, Sight, Track, TrackedInterface, Witness};
use prometheus::Registry;
use socket2::Socket;
use vrrp::{Priority, Role};

use crate::lab::{Keepalived, Lab, await_that, hear, holds_throughout};
use crate::{config, others_settings, start};

/// A front door that is as the test wants it.
#[derive(Clone)]
struct Staged {
    beats: Arc<AtomicU64>,
    hangs: Arc<AtomicBool>,
    sees_backend: Arc<AtomicBool>,
}

impl Staged {
    fn well() -> Self {
        Self { beats: Arc::default(), hangs: Arc::default(), sees_backend: Arc::new(AtomicBool::new(true)) }
    }

    fn start(&self, lab: &Lab, config: RouterConfig) -> Router {
        let metrics = RouterMetrics::register(&Registry::new()).unwrap();
        let witness = self.clone();
        lab.ours.run(|| {
            Router::prepare(config, &metrics).unwrap().follow(witness).start(Beginning::Afresh).unwrap()
        })
    }
}

impl Witness for Staged {
    fn relay_beats(&self) -> Option<Vec<u64>> {
        if !self.hangs.load(Ordering::Relaxed) {
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
        Some(vec![self.beats.load(Ordering::Relaxed)])
    }

    fn sees_backend(&self) -> Option<bool> {
        Some(self.sees_backend.load(Ordering::Relaxed))
    }
}

/// Waits for an advert of this priority, the farewell included.
#[track_caller]
fn await_advert(listener: &Socket, priority: Option<Priority>) {
    let found = |packet: Option<Vec<u8>>| {
        let received = vrrp::decode(&others_settings(), &packet.unwrap()).unwrap();
        received.advert.priority == priority
    };
    // More than five seconds of adverts, which is as long as anything is put off here.
    assert!((0..100).any(|_| found(hear(listener, Duration::from_secs(5)))), "no advert of {priority:?}");
}

#[test]
fn a_master_whose_relay_hangs_says_farewell_and_takes_part_again_afterwards() {
    let lab = Lab::new();
    let (staged, listener) = (Staged::well(), lab.listener());
    let router = staged.start(&lab, config(100, false));
    await_that("we hold the address", || lab.ours.holds_virtual_address());
    assert!(holds_throughout(Duration::from_secs(2), || router.role() == Role::Master));
    staged.hangs.store(true, Ordering::Relaxed);
    await_advert(&listener, None);
    assert!(!lab.ours.holds_virtual_address());
    assert_eq!(router.status().reason, "the relay hangs or does not accept");
    // What happens to the link meanwhile makes it no part of the virtual router.
    for state in ["down", "up"] {
        lab.ours.ip(&["link", "set", "eth0", state]);
    }
    assert!(holds_throughout(Duration::from_secs(1), || router.role() == Role::Initialize));
    staged.hangs.store(false, Ordering::Relaxed);
    await_that("we hold the address again", || lab.ours.holds_virtual_address());
}

#[test]
fn a_tracked_interface_is_a_weight_or_a_fault() {
    let lab = Lab::new();
    for other in ["eth1", "eth2"] {
        lab.ours.ip(&["link", "add", "name", other, "type", "veth", "peer", "name", &format!("{other}p")]);
        lab.ours.ip(&["link", "set", &format!("{other}p"), "up"]);
        lab.ours.ip(&["link", "set", other, "up"]);
    }
    let tracked = |name: &str, weight| TrackedInterface { name: name.to_owned(), weight };
    let interfaces = vec![tracked("eth1", NonZeroU8::new(30)), tracked("eth2", None)];
    let track = Track { interfaces, ..Track::default() };
    let listener = lab.listener();
    let router = start(&lab, RouterConfig { track, ..config(100, false) }).unwrap();
    await_advert(&listener, Priority::new(100));
    lab.ours.ip(&["link", "set", "eth1", "down"]);
    await_advert(&listener, Priority::new(70));
    assert!(lab.ours.holds_virtual_address(), "nobody is stronger");
    assert_eq!(router.status().priority, Priority::new(70).unwrap());
    lab.ours.ip(&["link", "delete", "eth2"]);
    await_advert(&listener, None);
    assert!(!lab.ours.holds_virtual_address());
    lab.ours.ip(&["link", "add", "name", "eth2", "type", "veth", "peer", "name", "eth2p"]);
    lab.ours.ip(&["link", "set", "eth2p", "up"]);
    lab.ours.ip(&["link", "set", "eth2", "up"]);
    await_advert(&listener, Priority::new(70));
    lab.ours.ip(&["link", "set", "eth1", "up"]);
    await_advert(&listener, Priority::new(100));
}

#[test]
fn a_master_that_sees_no_backend_gives_way_to_a_keepalived_that_preempts() {
    let lab = Lab::new();
    let staged = Staged::well();
    let sight = Sight { weight: NonZeroU8::new(60).unwrap(), delay: Duration::from_secs(1) };
    let track = Track { backends: Some(sight), ..Track::default() };
    let router = staged.start(&lab, RouterConfig { track, ..config(150, true) });
    await_that("we are master", || router.role() == Role::Master);
    let _keepalived = Keepalived::start(&lab, 100);
    let serves = || router.role() == Role::Master && !lab.other.holds_virtual_address();
    assert!(holds_throughout(Duration::from_secs(2), serves));
    staged.sees_backend.store(false, Ordering::Relaxed);
    await_that("keepalived takes over", || {
        router.role() == Role::Backup && lab.other.holds_virtual_address()
    });
    assert_eq!(router.status().priority, Priority::new(90).unwrap());
    staged.sees_backend.store(true, Ordering::Relaxed);
    await_that("we are master again", || router.role() == Role::Master);
}

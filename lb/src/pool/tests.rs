use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use prometheus::Registry;

use super::*;

fn pool(policy: Policy, events: &[Option<Event>]) -> Arc<Pool> {
    let backends = Backends::numbered(events.len());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let pool = Pool::new(&backends, balance(policy), THRESHOLDS, &metrics);
    for (backend, event) in events.iter().enumerate() {
        if let Some(event) = event {
            pool.observe(backend, *event, &"test");
        }
    }
    pool
}

const THRESHOLDS: Thresholds =
    Thresholds { rise: NonZeroU32::MIN, fall: NonZeroU32::MIN, kill: None, drain: None };

fn balance(policy: Policy) -> Balance {
    Balance { policy, slow_start: Duration::ZERO }
}

fn lease(pool: &Arc<Pool>, tried: &[usize]) -> Option<Lease> {
    pool.lease(tried, Ipv4Addr::LOCALHOST.into()).ok()
}

fn chosen(lease: Option<Lease>) -> Option<usize> {
    lease.map(|lease| lease.member().id)
}

const UP: Option<Event> = Some(Event::ProbeOk);

#[test]
fn round_robin_is_exact_across_threads() {
    let pool = pool(Policy::RoundRobin, &[UP, UP, UP]);
    let work = || (0..1000).map_while(|_| chosen(lease(&pool, &[]))).collect::<Vec<_>>();
    let chosen: Vec<usize> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for backend in 0..3 {
        assert_eq!(chosen.iter().filter(|one| **one == backend).count(), 1000, "backend {backend}");
    }
}

#[test]
fn least_connections_counts_leases_and_forgets_them_when_they_end() {
    let pool = pool(Policy::LeastConnections, &[UP, UP]);
    let held: Vec<Lease> = (0..10).filter_map(|_| lease(&pool, &[])).collect();
    let active = || pool.members().iter().map(|member| member.metrics.active.get()).collect::<Vec<_>>();
    assert_eq!(active(), [5, 5]);
    drop(held);
    assert_eq!(active(), [0, 0]);
    let first = lease(&pool, &[]).unwrap();
    assert_ne!(chosen(lease(&pool, &[])), Some(first.member().id));
}

#[test]
fn only_backends_that_are_up_and_untried_are_leased() {
    let unready = Some(Event::ProbeUnready);
    let down = Some(Event::ProbeFailed);
    let pool = pool(Policy::RoundRobin, &[None, unready, down, UP, UP]);
    assert!((0..10).all(|_| matches!(chosen(lease(&pool, &[])), Some(3 | 4))));
    assert_eq!(chosen(lease(&pool, &[3])), Some(4));
    assert_eq!(chosen(lease(&pool, &[3, 4])), None);
}

/// `name=address` each.
fn backends(list: &[&str]) -> Backends {
    Backends::listed(list.iter().map(|entry| entry.split_once('=').unwrap()))
}

fn reconfigure(pool: &Pool, list: &[&str]) {
    pool.reconfigure(&backends(list), balance(Policy::LeastConnections), THRESHOLDS);
}

/// The numbers of those who take connections.
fn takers(pool: &Arc<Pool>) -> BTreeSet<usize> {
    let leases: Vec<Lease> = (0..20).filter_map(|_| lease(pool, &[])).collect();
    leases.iter().map(|lease| lease.member().id).collect()
}

#[test]
fn who_stays_keeps_health_and_connections_and_who_is_new_is_probed_first() {
    let pool = pool(Policy::LeastConnections, &[UP, UP]);
    let held: Vec<Lease> = (0..4).filter_map(|_| lease(&pool, &[])).collect();
    reconfigure(&pool, &["m3=172.16.60.3:6443", "m2=172.16.60.2:6443"]);
    assert_eq!(takers(&pool), [1].into());
    assert_eq!(pool.members().iter().map(|member| member.id).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(pool.members()[1].metrics.active.get(), 2, "its connections are still counted");
    pool.observe(2, Event::ProbeOk, &"test");
    // Two connections of the second are older than these.
    let next: Vec<usize> = (0..2).filter_map(|_| lease(&pool, &[])).map(|lease| lease.member().id).collect();
    assert_eq!(next, [2, 2]);
    drop(held);
}

#[test]
fn who_is_taken_out_is_forgotten_with_its_last_connection() {
    let pool = pool(Policy::RoundRobin, &[UP, UP]);
    let lease = (0..2).filter_map(|_| lease(&pool, &[])).find(|lease| lease.member().id == 0);
    reconfigure(&pool, &["m2=172.16.60.2:6443"]);
    assert_eq!((takers(&pool), pool.status(0)), ([1].into(), Some(Status::Up)));
    drop(lease);
    assert_eq!((pool.status(0), pool.status(1)), (None, Some(Status::Up)));
    // It is another one that comes under the old name.
    reconfigure(&pool, &["m1=172.16.60.1:6443", "m2=172.16.60.2:6443"]);
    assert_eq!((takers(&pool), pool.status(2)), ([1].into(), Some(Status::Unknown)));
}

#[test]
fn what_the_kernel_carries_is_counted_with_what_the_relay_carries() {
    let pool =
        all_up(&backends(&["m1=172.16.60.1:6443", "m2=172.16.60.2:6443"]), balance(Policy::RoundRobin));
    let _own = lease(&pool, &[]).unwrap();
    let carry = |list: &[(usize, usize, u64)]| {
        let members = pool.members();
        let of = |&(id, connections, total): &(usize, usize, u64)| {
            (members[id].backend.address, Carried { connections, total })
        };
        pool.note_carried(list.iter().map(of).collect());
    };
    let seen = |id: usize| {
        let standings = pool.standings();
        let Standing { member, connections, .. } = &standings[id];
        (*connections, member.metrics.active.get(), member.metrics.connections.get())
    };
    for (carried, first, second, all) in [
        (&[(0, 3, 7), (1, 2, 2)][..], (4, 4, 7), (2, 2, 2), 5),
        (&[(0, 1, 9)], (2, 2, 9), (0, 0, 2), 1),
        // The second one is back, and the kernel counts it anew.
        (&[(0, 1, 9), (1, 1, 1)], (2, 2, 9), (1, 1, 3), 2),
    ] {
        carry(carried);
        assert_eq!((seen(0), seen(1), pool.carried()), (first, second, all), "{carried:?}");
    }
    // One that is taken out is shown as long as the kernel has connections of it.
    carry(&[(1, 1, 1)]);
    reconfigure(&pool, &["m1=172.16.60.1:6443"]);
    assert_eq!(pool.standings().len(), 2);
    carry(&[]);
    assert_eq!(pool.standings().len(), 1);
}

#[test]
fn who_comes_back_before_it_is_forgotten_is_probed_again_and_keeps_its_connections() {
    let pool = pool(Policy::LeastConnections, &[UP]);
    let held = lease(&pool, &[]);
    reconfigure(&pool, &["m2=172.16.60.2:6443"]);
    reconfigure(&pool, &["m1=172.16.60.1:6443"]);
    assert_eq!((takers(&pool), pool.status(0)), ([].into(), Some(Status::Unknown)));
    pool.observe(0, Event::ProbeOk, &"test");
    assert_eq!((takers(&pool), pool.members()[0].metrics.active.get()), ([0].into(), 1));
    drop(held);
}

#[test]
fn a_name_shows_the_backend_that_has_it_now() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let pool =
        Pool::new(&backends(&["m1=172.16.60.1:6443"]), balance(Policy::RoundRobin), THRESHOLDS, &metrics);
    let up = || {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "fairway_lb_backend_up");
        family
            .map(|family| family.get_metric().iter().map(|it| it.get_gauge().get_value()).collect::<Vec<_>>())
    };
    pool.observe(0, Event::ProbeOk, &"test");
    let held = lease(&pool, &[]);
    assert_eq!(up(), Some(vec![1.0]));
    reconfigure(&pool, &["m1=172.16.60.9:6443"]);
    assert_eq!(up(), Some(vec![0.0]), "the new one is not probed yet");
    pool.observe(1, Event::ProbeOk, &"test");
    pool.observe(0, Event::ProbeFailed, &"test");
    assert_eq!(up(), Some(vec![1.0]));
    drop(held);
    assert_eq!(up(), Some(vec![1.0]), "the former one is forgotten, its successor is not");
    reconfigure(&pool, &["m2=172.16.60.9:6443"]);
    assert_eq!(up(), Some(vec![0.0]), "one that had no connections is forgotten at once");
}

#[test]
fn who_is_drained_by_the_operator_takes_nothing_until_the_word_is_taken_back() {
    let pool = pool(Policy::RoundRobin, &[UP, UP]);
    let name = |text: &str| BackendName::new(text.to_owned()).unwrap();
    assert!(!pool.drain(&name("m3"), true), "there is no such backend");
    assert!(pool.drain(&name("m1"), true));
    assert_eq!((takers(&pool), pool.members()[0].metrics.up.get()), ([1].into(), 0));
    // Neither its health nor a reload changes that.
    pool.observe(0, Event::ProbeFailed, &"test");
    pool.observe(0, Event::ProbeOk, &"test");
    reconfigure(&pool, &["m2=172.16.60.2:6443"]);
    reconfigure(&pool, &["m1=172.16.60.1:6443", "m2=172.16.60.2:6443"]);
    pool.observe(2, Event::ProbeOk, &"test");
    assert_eq!(takers(&pool), [1].into());
    assert!(pool.drain(&name("m1"), false));
    assert_eq!((takers(&pool), pool.members()[0].metrics.up.get()), ([1, 2].into(), 1));
}

/// A pool of backends that are all up.
fn all_up(backends: &Backends, balance: Balance) -> Arc<Pool> {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let pool = Pool::new(backends, balance, THRESHOLDS, &metrics);
    for member in pool.members() {
        pool.observe(member.id, Event::ProbeOk, &"test");
    }
    pool
}

#[test]
fn without_a_weight_a_backend_takes_nothing_and_is_judged_all_the_same() {
    let backends = Backends::numbered(2).with(0, |backend| backend.weight = 0);
    for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::SourceHash] {
        let pool = all_up(&backends, balance(policy));
        assert_eq!((takers(&pool), pool.status(0)), ([1].into(), Some(Status::Up)), "{policy:?}");
        assert_eq!(pool.members()[0].metrics.up.get(), 0, "{policy:?}");
        assert_eq!(chosen(lease(&pool, &[1])), None, "{policy:?}");
    }
}

#[test]
fn backups_take_connections_where_nobody_else_is_left() {
    let backends = Backends::numbered(4).with(0, |backend| backend.backup = true);
    let backends = backends.with(1, |backend| backend.backup = true);
    for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::SourceHash] {
        let pool = all_up(&backends, balance(policy));
        let clients = || (1..=50).map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
        let takers = |tried: &[usize]| -> BTreeSet<usize> {
            clients().filter_map(|client| chosen(pool.lease(tried, client).ok())).collect()
        };
        assert_eq!(takers(&[]), [2, 3].into(), "{policy:?}");
        assert_eq!(takers(&[2]), [3].into(), "{policy:?}");
        assert_eq!(takers(&[2, 3]), [0, 1].into(), "{policy:?}: a client finds nobody else");
        pool.observe(2, Event::ProbeFailed, &"test");
        assert_eq!(takers(&[]), [3].into(), "{policy:?}");
        pool.observe(3, Event::ProbeUnready, &"test");
        assert_eq!(takers(&[]), [0, 1].into(), "{policy:?}");
        assert_eq!(takers(&[0, 1]), [].into(), "{policy:?}");
        pool.observe(2, Event::ProbeOk, &"test");
        assert_eq!(takers(&[]), [2].into(), "{policy:?}");
    }
}

#[test]
fn nobody_has_more_connections_than_it_may() {
    let most = |count| move |backend: &mut Backend| backend.max_connections = NonZeroU32::new(count);
    let backends =
        Backends::numbered(3).with(0, most(2)).with(1, most(5)).with(2, |backend| backend.backup = true);
    for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::SourceHash] {
        let pool = all_up(&backends, balance(policy));
        let mut held: Vec<Lease> = (0..7).map(|_| lease(&pool, &[]).unwrap()).collect();
        let active = || pool.members().iter().map(|member| member.metrics.active.get()).collect::<Vec<_>>();
        assert_eq!(active(), [2, 5, 0], "{policy:?}");
        let refusal = |tried: &[usize]| pool.lease(tried, Ipv4Addr::LOCALHOST.into()).err();
        assert_eq!(
            refusal(&[]),
            Some(Refusal::Full),
            "{policy:?}: a backup is for the dead, not for the busy"
        );
        assert_eq!(refusal(&[0]), Some(Refusal::Full), "{policy:?}");
        assert_eq!(refusal(&[0, 1, 2]), Some(Refusal::Down), "{policy:?}");
        let position = held.iter().position(|lease| lease.member().id == 0).unwrap();
        held.swap_remove(position);
        assert_eq!(chosen(lease(&pool, &[])), Some(0), "{policy:?}: who has room again");
    }
}

#[test]
fn who_comes_back_starts_slowly_and_who_is_new_does_not() {
    let slow_start = Duration::from_hours(1);
    for policy in [Policy::RoundRobin, Policy::LeastConnections] {
        let pool = all_up(&Backends::numbered(2), Balance { policy, slow_start });
        let taken = || {
            let leases: Vec<Lease> = (0..110).filter_map(|_| lease(&pool, &[])).collect();
            leases.iter().filter(|lease| lease.member().id == 0).count()
        };
        assert_eq!(taken(), 55, "{policy:?}: both are new");
        pool.observe(0, Event::ProbeFailed, &"test");
        pool.observe(0, Event::ProbeOk, &"test");
        assert_eq!(taken(), 10, "{policy:?}: the first has come back");
        pool.observe(1, Event::ProbeUnready, &"test");
        assert_eq!(taken(), 110, "{policy:?}: nobody else is there");
        pool.observe(1, Event::ProbeOk, &"test");
        assert_eq!(taken(), 55, "{policy:?}: both have come back");
        reconfigure(&pool, &["m1=172.16.60.1:6443", "m2=172.16.60.2:6443"]);
        assert_eq!(taken(), 55, "{policy:?}: without slow start");
    }
}

#[test]
fn who_is_drained_no_longer_starts_slowly_too() {
    let slow_start = Duration::from_hours(1);
    let pool = all_up(&Backends::numbered(2), Balance { policy: Policy::RoundRobin, slow_start });
    let name = pool.members()[1].backend.name.clone();
    pool.drain(&name, true);
    pool.drain(&name, false);
    assert_eq!((0..110).filter(|_| chosen(lease(&pool, &[])) == Some(1)).count(), 10);
}

#[test]
fn turns_begin_anew_when_others_have_left() {
    let pool = all_up(&Backends::numbered(8), balance(Policy::RoundRobin));
    assert_eq!(chosen(lease(&pool, &[])), Some(0), "it now owes a turn to each of seven");
    (2..8).for_each(|backend| {
        pool.observe(backend, Event::ProbeFailed, &"test");
    });
    let taken: Vec<_> = (0..4).filter_map(|_| chosen(lease(&pool, &[]))).collect();
    assert_eq!(taken, [1, 0, 1, 0]);
}

#[tokio::test]
async fn a_backup_does_not_open_the_door_while_others_are_unknown() {
    let backends = Backends::numbered(2).with(0, |backend| backend.backup = true);
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let pool = Pool::new(&backends, balance(Policy::RoundRobin), THRESHOLDS, &metrics);
    let settled = async || {
        tokio::select! {
            biased;
            () = pool.settled() => true,
            () = std::future::ready(()) => false,
        }
    };
    pool.observe(0, Event::ProbeOk, &"test");
    assert!(!settled().await, "another backend may turn out to be up");
    pool.observe(1, Event::ProbeFailed, &"test");
    assert!(settled().await);
}

#[tokio::test]
async fn settled_waits_for_one_up_or_all_known() {
    let down = Some(Event::ProbeFailed);
    let cases: [(&[Option<Event>], bool); 5] = [
        (&[None, None], false),
        (&[down, None], false),
        (&[None, UP], true),
        (&[down, down], true),
        (&[Some(Event::ProbeUnready), down], true),
    ];
    for (events, expected) in cases {
        let pool = pool(Policy::RoundRobin, events);
        let settled = tokio::select! {
            biased;
            () = pool.settled() => true,
            () = std::future::ready(()) => false,
        };
        assert_eq!(settled, expected, "{events:?}");
    }
}

#[test]
fn connects_that_fail_together_count_once() {
    // When each connect begins and fails, in the order in which they fail, and how many count.
    type Case = (&'static str, &'static [(u64, u64)], usize);
    let began = Instant::now();
    let cases: [Case; 4] = [
        ("one after another", &[(0, 250), (250, 500), (600, 600), (600, 600)], 4),
        ("all at once", &[(0, 250), (0, 250), (0, 250)], 1),
        ("those that were on their way", &[(0, 250), (100, 350), (240, 490)], 1),
        ("and one that began afterwards", &[(0, 250), (100, 350), (260, 510), (300, 550)], 2),
    ];
    for (name, connects, expected) in cases {
        let pool = pool(Policy::RoundRobin, &[UP]);
        let mut state = pool.state();
        let at = |millis| began + Duration::from_millis(millis);
        let entry = state.entry_mut(0).unwrap();
        let count = connects.iter().filter(|(began, failed)| entry.blame(at(*began), at(*failed))).count();
        assert_eq!(count, expected, "{name}");
    }
}

#[tokio::test]
async fn a_failed_connect_wants_a_probe_even_if_nobody_waits_yet() {
    let pool = pool(Policy::RoundRobin, &[UP]);
    pool.connect_failed(0, Instant::now(), ConnectFailure::Refused);
    pool.members()[0].probe_wanted().await;
}

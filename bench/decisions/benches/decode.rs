//! What an advert of another router costs to read: any host on the link can send as many as it likes.

#![expect(clippy::expect_used, reason = "a benchmark on broken input should stop")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use vrrp::{
    AdvertInterval, Audience, Checksum, GROUP_IPV4, PROTOCOL, Preempt, Priority, RouterId, Settings,
    TIME_TO_LIVE, Version, VirtualAddresses, decode, encode,
};

fn settings(router: u8, node: u8) -> Option<Settings> {
    Some(Settings {
        router_id: RouterId::new(router)?,
        priority: Priority::new(250)?,
        version: Version::Three { interval: AdvertInterval::ONE_SECOND, checksum: Checksum::PseudoHeader },
        preempt: Preempt::Never,
        local: [172, 16, 60, node].into(),
        audience: Audience::Group,
        addresses: VirtualAddresses::new(vec![[172, 16, 60, 250].into()])?,
    })
}

/// An advert of a router with these settings, IPv4 header included.
fn advert(settings: &Settings) -> Vec<u8> {
    let message = encode(settings, Some(settings.priority), IpAddr::V4(GROUP_IPV4));
    let length = u8::try_from(20 + message.len()).expect("an advert is short");
    let mut packet = vec![0x45, 0, 0, length, 0, 0, 0, 0, TIME_TO_LIVE, PROTOCOL, 0, 0];
    packet.extend(Ipv4Addr::new(172, 16, 60, THEIRS).octets());
    packet.extend(GROUP_IPV4.octets());
    packet.extend(message);
    packet
}

/// The last numbers of the nodes' addresses.
const OURS: u8 = 241;
const THEIRS: u8 = 242;

fn adverts(criterion: &mut Criterion) {
    let router = |router, node| settings(router, node).expect("it is a virtual router");
    let ours = router(51, OURS);
    let [good, others] = [51, 52].map(|number| advert(&router(number, THEIRS)));
    let mut damaged = good.clone();
    *damaged.last_mut().expect("an advert has bytes") ^= 1;
    assert!(
        decode(&ours, &good).is_ok() && decode(&ours, &others).is_err() && decode(&ours, &damaged).is_err()
    );
    let mut group = criterion.benchmark_group("reading an advert");
    for (name, packet) in [("of this router", good), ("of another", others), ("damaged", damaged)] {
        group.bench_function(name, |bencher| bencher.iter(|| decode(black_box(&ours), black_box(&packet))));
    }
}

criterion_group!(benches, adverts);
criterion_main!(benches);

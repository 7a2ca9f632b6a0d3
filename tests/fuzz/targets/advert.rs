//! Whatever bytes come from the link: no panic, and what is taken for an advert comes from where it may.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use vrrp::{
    AdvertInterval, Audience, Checksum, Password, Preempt, Priority, RouterId, Settings, Version,
    VirtualAddresses, WholeSeconds, decode,
};

fn settings(version: Version) -> Option<Settings> {
    Some(Settings {
        router_id: RouterId::new(51)?,
        priority: Priority::new(100)?,
        version,
        preempt: Preempt::Never,
        local: IpAddr::V4(Ipv4Addr::new(172, 16, 60, 241)),
        audience: Audience::Group,
        addresses: VirtualAddresses::new(vec![IpAddr::V4(Ipv4Addr::new(172, 16, 60, 250))])?,
    })
}

fuzz_target!(|packet: &[u8]| {
    let interval = AdvertInterval::ONE_SECOND;
    let second = WholeSeconds::new(std::time::Duration::from_secs(1)).expect("a whole second");
    for version in [
        Version::Three { interval, checksum: Checksum::PseudoHeader },
        Version::Three { interval, checksum: Checksum::Plain },
        Version::Two { interval: second, password: None },
        Version::Two { interval: second, password: Password::new("fairway") },
    ] {
        let settings = settings(version).expect("settings of a router");
        if let Ok(received) = decode(&settings, packet) {
            assert_ne!(received.from, settings.local, "our own packets do not count");
            assert!(!received.advert.interval.is_zero(), "an interval of 0 is never believed");
        }
    }
});

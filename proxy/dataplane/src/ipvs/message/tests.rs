use std::time::Duration;

use super::*;

fn frontend(text: &str, protocol: Protocol) -> Frontend {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Frontend::new(address.ip(), Port::new(address.port()).unwrap(), protocol)
}

fn target(text: &str, protocol: Protocol) -> Target {
    Target::Address(frontend(text, protocol))
}

fn backend(text: &str) -> Backend {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Backend::new(address.ip(), Port::new(address.port()).unwrap())
}

/// AF, PROTOCOL, ADDR, PORT of TCP 10.254.0.1:443, as `ipvsadm` sends them.
const KEY: [u8; 44] = [
    6, 0, 1, 0, 2, 0, 0, 0, // family 2
    6, 0, 2, 0, 6, 0, 0, 0, // protocol 6
    20, 0, 3, 0, 10, 254, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // address
    6, 0, 4, 0, 1, 187, 0, 0, // port 443, on the wire
];

#[test]
fn a_service_is_named_by_its_key() {
    let payload = about(Command::DeleteService, target("10.254.0.1:443", Protocol::Tcp));
    let expected = [&[3, 1, 0, 0, 48, 0, 1, 0x80][..], &KEY[..40], &KEY[40..]].concat();
    // The key has 4 + 44 bytes less the two that only pad the last attribute.
    assert_eq!(payload[..4], [3, 1, 0, 0]);
    assert_eq!(payload[8..], KEY);
    assert_eq!(payload.len(), expected.len());
    assert_eq!(payload, expected);
}

#[test]
fn what_is_said_of_a_service_is_understood_again() {
    for (address, protocol, scheduler) in [
        ("10.254.0.1:443", Protocol::Tcp, "rr"),
        ("[fd00:254::1]:53", Protocol::Udp, "mh"),
        ("10.254.0.2:5060", Protocol::Sctp, "lc"),
    ] {
        let by_address = target(address, protocol);
        for target in [by_address, Target::Mark { mark: 0x0fa0_0001, is_v4: by_address.is_v4() }] {
            for persistence in [None, Some(Duration::from_hours(3))] {
                let payload = service(Command::NewService, target, scheduler, persistence);
                let scheduler = scheduler.to_owned();
                let found = FoundService { target, scheduler, falls_back: true, persistence };
                assert_eq!(found_service(&payload), Some(found));
            }
        }
    }
}

#[test]
fn what_is_said_of_a_server_is_understood_again() {
    for (address, server_address, weight) in
        [("10.254.0.1:443", "172.16.60.241:6443", 1), ("[fd00:254::1]:53", "[fd00:1::1]:5353", 0)]
    {
        let target = target(address, Protocol::Tcp);
        let share = Share { weight, upper_threshold: 5 };
        let mut payload = server(Command::NewServer, target, backend(server_address), share);
        assert_eq!(found_server(target, &payload), None, "a kernel says how many connections there are");
        let mut counts = Vec::new();
        attribute(&mut counts, server::ACTIVE, &3_u32.to_ne_bytes());
        attribute(&mut counts, server::INACTIVE, &4_u32.to_ne_bytes());
        let mut statistics = Vec::new();
        attribute(&mut statistics, CONNECTIONS, &9_u64.to_ne_bytes());
        nested(&mut counts, server::STATISTICS, &statistics);
        let nest = find(&payload[HEADER..], SERVER).unwrap().to_vec();
        payload = header(Command::NewServer as u8);
        nested(&mut payload, SERVER, &[nest, counts].concat());
        let backend = backend(server_address);
        let found = FoundServer { backend, weight, upper_threshold: 5, active: 3, inactive: 4, total: 9 };
        assert_eq!(found_server(target, &payload), Some(found));
    }
}

#[test]
fn another_command_can_say_the_same() {
    let target = target("10.254.0.1:443", Protocol::Tcp);
    let say = |command| service(command, target, "rr", None);
    assert_eq!(instead(say(Command::NewService), Command::SetService), say(Command::SetService));
}

#[test]
fn servers_that_are_reached_otherwise_are_not_ours() {
    let target = target("10.254.0.1:443", Protocol::Tcp);
    let mut attributes = Vec::new();
    attribute(&mut attributes, server::ADDRESS, &address("10.1.0.1".parse().unwrap()));
    attribute(&mut attributes, server::PORT, &443_u16.to_be_bytes());
    for kind in [server::WEIGHT, server::ACTIVE, server::INACTIVE] {
        attribute(&mut attributes, kind, &1_u32.to_ne_bytes());
    }
    for (forwarding, ours) in [(0_u32, true), (0x100, true), (1, false), (2, false), (3, false)] {
        let mut all = attributes.clone();
        attribute(&mut all, server::FORWARDING, &forwarding.to_ne_bytes());
        let mut payload = header(Command::NewServer as u8);
        nested(&mut payload, SERVER, &all);
        assert_eq!(found_server(target, &payload).is_some(), ours, "{forwarding}");
    }
}

#[test]
fn what_is_cut_short_or_of_another_kind_is_nothing() {
    let payload = service(Command::NewService, target("10.254.0.1:443", Protocol::Tcp), "rr", None);
    for length in 0..payload.len() - 4 {
        // It may lack what nobody asks for here; it never is something else.
        let found = found_service(&payload[..length]);
        assert!(found.is_none_or(|found| found.scheduler == "rr"), "{length}");
    }
    assert_eq!(found_service(&header(1)), None);
    assert_eq!(family(&get_family()), None);
}

#[test]
fn timeouts_that_are_zero_are_left_alone() {
    let seconds = Duration::from_secs;
    assert_eq!(set_timeouts(Timeouts::default()), None);
    let some = Timeouts { tcp: seconds(900), udp: seconds(300), ..Timeouts::default() };
    let expected =
        [&[12, 1, 0, 0, 8, 0, 4, 0][..], &900_u32.to_ne_bytes(), &[8, 0, 6, 0], &300_u32.to_ne_bytes()];
    assert_eq!(set_timeouts(some), Some(expected.concat()));
}

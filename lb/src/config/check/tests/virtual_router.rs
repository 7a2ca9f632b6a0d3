use std::net::IpAddr;
use std::num::NonZeroU8;

use vrrp::{Audience, Password, Peers, Version, WholeSeconds};

use super::*;
use crate::router::{Sight, Track, TrackedInterface};

/// How the example shows interfaces that are tracked.
const TRACKED: &str = "# interfaces: [{name: eth1, weight: -30}, {name: eth2}]";

#[test]
fn preemption_may_have_patience() {
    for (written, expected) in [
        ("preempt: true", Preempt::After(Duration::ZERO)),
        ("preempt: true\n  preemptDelay: 90s", Preempt::After(Duration::from_secs(90))),
    ] {
        let text = shortest().replace("interface: eth0", &format!("interface: eth0\n  {written}"));
        let router = Files::new().parse(&text).unwrap().virtual_routers.remove(0);
        assert_eq!(router.preempt, expected, "{written}");
    }
}

#[test]
fn peers_replace_the_group() {
    let audience = |text: &str| Files::new().parse(text).unwrap().virtual_routers.remove(0).audience;
    assert_eq!(audience(EXAMPLE), Audience::Group);
    let peers = [241, 242, 243].map(|host| IpAddr::from([172, 16, 60, host]));
    assert_eq!(audience(&with(PEERS, &PEERS[2..])), Audience::Peers(Peers::new(peers.into()).unwrap()));
}

#[test]
fn version_2_has_its_own_defaults_and_a_password() {
    let parse = |fields: &str| {
        let text = shortest().replace("interface: eth0", &format!("interface: eth0\n  version: 2{fields}"));
        Files::new().parse(&text).map(|mut config| config.virtual_routers.remove(0).version)
    };
    let seconds = |count| WholeSeconds::new(Duration::from_secs(count)).unwrap();
    let cases = [
        ("", Version::Two { interval: seconds(1), password: None }),
        ("\n  advertInterval: 255s", Version::Two { interval: seconds(255), password: None }),
        (
            "\n  authentication: {password: '12345678'}",
            Version::Two { interval: seconds(1), password: Password::new("12345678") },
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(parse(fields).unwrap(), expected, "{fields}");
    }
    let mistakes = [
        (
            "\n  advertInterval: 500ms",
            "virtualRouter.advertInterval: must be from 1s to 255s in whole seconds in version 2, found 500ms",
        ),
        (
            "\n  advertInterval: 256s",
            "virtualRouter.advertInterval: must be from 1s to 255s in whole seconds in version 2, found 256s",
        ),
        (
            "\n  authentication: {password: '123456789'}",
            "virtualRouter.authentication.password: must be 1 to 8 bytes, none of them 0",
        ),
        (
            "\n  authentication: {password: \"\"}",
            "virtualRouter.authentication.password: must be 1 to 8 bytes, none of them 0",
        ),
        (
            "\n  authentication: {password: 1111}",
            "virtualRouter.authentication.password: must be text: write one of digits in quotes",
        ),
        ("\n  authentication: {}", "virtualRouter.authentication.password: is required"),
    ];
    for (fields, expected) in mistakes {
        assert_eq!(parse(fields).unwrap_err().to_string(), expected, "{fields}");
    }
}

/// The shortest example with IPv6 addresses and these fields of the virtual router.
fn over_ipv6(fields: &str) -> String {
    let text = shortest().replace("- 172.16.60.250/32", "- fe80::fa/64\n    - fd00::fa/128");
    text.replace("interface: eth0", &format!("interface: eth0\n  {fields}"))
}

#[test]
fn a_virtual_router_may_be_of_ipv6() {
    for fields in ["", "checksum: pseudo-header", "peers: [fe80::1, fe80::2]", "peers: [fd00::1, fd00::2]"] {
        let router = Files::new().parse(&over_ipv6(fields)).unwrap().virtual_routers.remove(0);
        assert_eq!(router.addresses.family(), vrrp::Family::Ipv6, "{fields}");
    }
}

#[test]
fn what_ipv6_does_not_know_is_refused() {
    let cases = [
        ("version: 2", "virtualRouter.version: must be 3 for IPv6 addresses: 2 knows IPv4 only"),
        (
            "checksum: plain",
            "virtualRouter.checksum: must be pseudo-header for IPv6 addresses, which have no other form",
        ),
        (
            "peers: [172.16.60.242]",
            "virtualRouter.peers: 172.16.60.242 is not an IPv6 address, as `addresses` are",
        ),
        (
            "peers: [fe80::2, fd00::3]",
            "virtualRouter.peers: must all be link-local addresses, or none: adverts come from one address",
        ),
        (
            "peers: ['::ffff:1.2.3.4']",
            "virtualRouter.peers[0]: ::ffff:1.2.3.4 cannot be the address of a peer",
        ),
        (
            "peers: [fd00::fa]",
            "virtualRouter.peers: fd00::fa is a virtual address: it moves, a peer does not",
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(problems(&over_ipv6(fields)), expected);
    }
}

/// The example with these virtual routers.
fn with_routers(routers: &[&str]) -> String {
    let start = EXAMPLE.find("virtualRouter:").unwrap();
    let end = EXAMPLE.find("# Where clients knock").unwrap();
    let list = routers.iter().map(|router| format!("{{{router}}}")).collect::<Vec<_>>().join(", ");
    format!("{}virtualRouters: [{list}]\n{}", &EXAMPLE[..start], &EXAMPLE[end..])
}

#[test]
fn there_may_be_several_virtual_routers() {
    let text = with_routers(&[
        "interface: eth0, routerId: 51, addresses: [172.16.60.250/32, 172.16.60.251/32]",
        "interface: eth0, routerId: 51, addresses: [fe80::fa/64, fd00::fa/128]",
        "interface: eth1, routerId: 51, addresses: [fe80::fa/64], priority: 200",
        "interface: eth0, routerId: 52, addresses: [172.16.60.252/32], version: 2",
    ]);
    let routers = Files::new().parse(&text).unwrap().virtual_routers;
    let instances: Vec<String> = routers.iter().map(RouterConfig::instance).collect();
    assert_eq!(instances, ["eth0-51-ipv4", "eth0-51-ipv6", "eth1-51-ipv6", "eth0-52-ipv4"]);
    assert_eq!(routers[2].priority.number(), 200);
}

#[test]
fn virtual_routers_that_cannot_be_told_apart_are_refused() {
    let one = "interface: eth0, routerId: 51, addresses: [172.16.60.250/32]";
    let twin = "interface: eth0, routerId: 51, addresses: [172.16.60.251/32]";
    let thief = "interface: eth1, routerId: 52, addresses: [172.16.60.250/24]";
    assert_eq!(
        problems(&with_routers(&[one, twin, thief])),
        "virtualRouters[1].routerId: 51 is already that of virtualRouters[0] on eth0\n\
         virtualRouters[2].addresses: 172.16.60.250 is already one of virtualRouters[0]"
    );
    let ipv6 = "interface: eth0, routerId: 51, addresses: [fe80::fa/64]";
    let thief = "interface: eth0, routerId: 52, addresses: [fe80::fa/64]";
    assert_eq!(
        problems(&with_routers(&[one, ipv6, thief])),
        "virtualRouters[2].addresses: fe80::fa is already one of virtualRouters[1]"
    );
    assert_eq!(
        problems(&with_routers(&["interface: eth0", one])),
        "virtualRouters[0].routerId: is required\nvirtualRouters[0].addresses: is required"
    );
    assert_eq!(problems(&with_routers(&[])), "virtualRouters: must list 1 to 16 virtual routers, found 0");
    let text = with_routers(&[one])
        + "\nvirtualRouter: {interface: eth0, routerId: 52, addresses: [172.16.60.251/32]}\n";
    assert_eq!(
        problems(&text),
        "virtualRouters: cannot be given beside virtualRouter: list that one here, too"
    );
}

#[test]
fn without_a_virtual_router_only_the_relay_runs() {
    let start = EXAMPLE.find("virtualRouter:").unwrap();
    let end = EXAMPLE.find("frontend:").unwrap();
    let text = [&EXAMPLE[..start], &EXAMPLE[end..]].concat();
    assert_eq!(Files::new().parse(&text).unwrap().virtual_routers, []);
}

#[test]
fn what_is_tracked_may_be_nothing_or_more() {
    let track = |text: &str| Files::new().parse(text).unwrap().virtual_routers.remove(0).track;
    assert_eq!(track(EXAMPLE), Track::default());
    let sight = Sight { weight: NonZeroU8::MIN.saturating_add(19), delay: Duration::from_secs(5) };
    let backends = with("weight: 0 # default", "weight: -20").replace("relay: true", "relay: false");
    assert_eq!(track(&backends), Track { relay: false, backends: Some(sight), interfaces: Vec::new() });
    let interfaces = &TRACKED[2..];
    let tracked = |name: &str, weight| TrackedInterface { name: name.to_owned(), weight };
    let expected = vec![tracked("eth1", NonZeroU8::new(30)), tracked("eth2", None)];
    assert_eq!(track(&with(TRACKED, interfaces)).interfaces, expected);
}

#[test]
fn nonsense_is_not_tracked() {
    let cases = [
        ("[{name: eth1}, {name: eth1}]", "virtualRouter.track.interfaces[1].name: eth1 is listed twice"),
        ("[{weight: -1}]", "virtualRouter.track.interfaces[0].name: is required"),
        (
            "[{name: a/b}]",
            "virtualRouter.track.interfaces[0].name: must be the name of an interface, found \"a/b\"",
        ),
        (
            "[{name: eth1, weight: 0}]",
            "virtualRouter.track.interfaces[0].weight: must be from -253 to -1, found 0",
        ),
        ("[{name: eth1, wait: 1}]", "virtualRouter.track.interfaces[0].wait: unknown field"),
    ];
    for (interfaces, expected) in cases {
        assert_eq!(problems(&with(TRACKED, &format!("interfaces: {interfaces}"))), expected);
    }
    let sight = [
        ("weight: 0 # default", "weight: 5", "weight: must be from -253 to 0, found 5"),
        ("delay: 5s # default", "delay: 2h", "delay: must be from 0ns to 3600s, found 7200s"),
    ];
    for (find, replacement, expected) in sight {
        let expected = format!("virtualRouter.track.backends.{expected}");
        assert_eq!(problems(&with(find, replacement)), expected);
    }
    let owner = with(TRACKED, &TRACKED[2..]).replace("priority: 100 # default", "priority: 255");
    let owner = owner.replace("weight: 0 # default", "weight: -1");
    let has_no_effect = "has no effect on priority 255, which the owner of the addresses always has";
    let fields = ["backends.weight", "interfaces[0].weight"];
    let expected = fields.map(|field| format!("virtualRouter.track.{field}: {has_no_effect}"));
    assert_eq!(problems(&owner), expected.join("\n"));
}

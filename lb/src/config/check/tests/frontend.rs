use super::*;

#[test]
fn congestion_control_is_the_systems_unless_named() {
    assert_eq!(Files::new().parse(EXAMPLE).unwrap().frontend.congestion_control, None);
    let config = Files::new().parse(&with("# congestionControl: cubic", "congestionControl: cubic")).unwrap();
    assert_eq!(config.frontend.congestion_control.unwrap().as_str(), "cubic");
}

#[test]
fn the_frontend_may_have_an_address_of_each_family() {
    let both = "listen: ['172.16.60.250:8443', '[fd00::fa]:8443']";
    let config = Files::new().parse(&with("listen: 172.16.60.250:8443", both)).unwrap();
    let expected = ["172.16.60.250:8443", "[fd00::fa]:8443"].map(|address| address.parse().unwrap());
    assert_eq!(config.frontend.listen, expected);
}

#[test]
fn backends_may_differ() {
    let fields = "weight: 256, backup: true, maxConnections: 1000000, sendProxy: true";
    let text = shortest().replace(
        "  - name: m1\n    address: 172.16.60.241:6443",
        &format!("  - {{name: m1, address: 172.16.60.241:6443, {fields}}}"),
    );
    let backends = Files::new().parse(&text).unwrap().backends;
    let told: Vec<_> =
        backends.iter().map(|it| (it.weight, it.backup, it.max_connections, it.send_proxy)).collect();
    let plain = (1, false, None, false);
    assert_eq!(told, [(256, true, NonZeroU32::new(1_000_000), true), plain, plain]);
}

#[test]
fn somebody_must_have_a_weight() {
    let text = shortest().replace(":6443\n", ":6443\n    weight: 0\n");
    assert_eq!(problems(&text), "backends: all have weight 0: nobody would take connections");
}

#[test]
fn weights_grow_where_they_count() {
    let parse = |fields: &str| {
        let text = shortest()
            .replace("  listen: 172.16.60.250:8443", &format!("  listen: 172.16.60.250:8443\n  {fields}"));
        Files::new().parse(&text).map(|config| config.frontend.balance)
    };
    for (name, policy) in
        [("round-robin", Policy::RoundRobin), ("least-connections", Policy::LeastConnections)]
    {
        let expected = Balance { policy, slow_start: Duration::from_mins(1) };
        assert_eq!(parse(&format!("balance: {name}\n  slowStart: 1m")).unwrap(), expected);
    }
    let nonsense = parse("balance: source-hash\n  slowStart: 1m").unwrap_err().to_string();
    assert_eq!(
        nonsense,
        "frontend.slowStart: has no effect with balance: source-hash, which knows no degrees"
    );
}

#[test]
fn rebalancing_is_off_unless_a_pace_is_given() {
    assert_eq!(Files::new().parse(EXAMPLE).unwrap().rebalance.per_minute, None);
    let text = with("perMinute: 0", "perMinute: 30");
    assert_eq!(Files::new().parse(&text).unwrap().rebalance.per_minute, NonZeroU32::new(30));
    let vain = text.replace("balance: round-robin", "balance: source-hash");
    let expected = "rebalance.perMinute: has no effect with balance: source-hash: clients would come back";
    assert_eq!(problems(&vain), expected);
}

#[test]
fn what_only_the_relay_does_is_refused_of_virtual_services() {
    let text = "
apiVersion: fairway.dev/v1alpha1
kind: FrontDoor
frontend: {listen: ['0.0.0.0:8443'], forwarding: ipvs, slowStart: 1s, congestionControl: cubic}
rebalance: {perMinute: 6}
backends:
  - {name: m1, address: '172.16.60.241:6443', weight: 0}
  - {name: m2, address: '172.16.60.242:6443', weight: 2, backup: true, maxConnections: 9, sendProxy: true}
  - {name: m3, address: '[fd00::1]:6443'}
healthCheck: {kind: tcp}
";
    let expected = "frontend.slowStart: has no effect with forwarding: ipvs
frontend.congestionControl: has no effect with forwarding: ipvs
rebalance.perMinute: has no effect with forwarding: ipvs
frontend.listen[0]: must be one address and port with forwarding: ipvs, found 0.0.0.0:8443
backends[1].backup: has no effect with forwarding: ipvs
backends[1].maxConnections: has no effect with forwarding: ipvs
backends[1].sendProxy: has no effect with forwarding: ipvs
backends[2].address: [fd00::1]:6443 is of another family than an address of the frontend
";
    assert_eq!(problems(text), expected.trim_end());
    assert!(Files::new().parse(&text.replace("ipvs", "relay")).is_ok());
}

#[test]
fn a_listener_on_every_address_includes_the_loopback_one() {
    let cases = [
        ("0.0.0.0:1", "127.0.0.1:1", true),
        ("[::]:1", "[::1]:1", true),
        ("127.0.0.1:1", "0.0.0.0:1", true),
        ("0.0.0.0:1", "127.0.0.1:2", false),
        ("10.0.0.1:1", "10.0.0.1:1", true),
        ("[::ffff:10.0.0.1]:1", "10.0.0.1:1", true),
        ("0.0.0.0:1", "10.0.0.1:1", false),
        ("10.0.0.1:0", "10.0.0.1:0", false),
    ];
    for (listen, other, expected) in cases {
        assert_eq!(overlap(listen.parse().unwrap(), other.parse().unwrap()), expected, "{listen} {other}");
    }
}

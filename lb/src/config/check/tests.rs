use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};

use rustls::pki_types::ServerName;
use vrrp::{Audience, Password, Peers, Preempt, Version, WholeSeconds};

use super::*;
use crate::config::{Check, Tls};
use crate::router::{Sight, Track, TrackedInterface};

const EXAMPLE: &str = include_str!("../../../tests/fixtures/fairway-lb.yaml");

/// A certificate authority, a certificate of a client, its key, and the key of somebody else; made once per test.
struct Files(BTreeMap<&'static str, Vec<u8>>);

impl Files {
    fn new() -> Self {
        let authority = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
        let client = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        Self(BTreeMap::from([
            ("/etc/kubernetes/pki/ca.crt", authority.cert.pem().into_bytes()),
            ("/client.crt", client.cert.pem().into_bytes()),
            ("/client.key", client.signing_key.serialize_pem().into_bytes()),
            ("/other.key", authority.signing_key.serialize_pem().into_bytes()),
            ("/nonsense", b"nonsense".to_vec()),
            ("/broken.crt", b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n".to_vec()),
        ]))
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        parse(text, &|path: &Path| {
            let contents = path.to_str().and_then(|path| self.0.get(path));
            contents.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

/// The example without the lines that say what would hold anyway.
fn shortest() -> String {
    EXAMPLE.lines().filter(|line| !line.ends_with("# default")).collect::<Vec<_>>().join("\n")
}

/// The example with one piece of it replaced.
fn with(find: &str, replacement: &str) -> String {
    assert_eq!(EXAMPLE.matches(find).count(), 1, "{find}");
    EXAMPLE.replacen(find, replacement, 1)
}

fn problems(text: &str) -> String {
    Files::new().parse(text).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_example_shows_the_defaults() {
    let shortest = shortest().replace("admin:", "");
    let shown = Files::new().parse(EXAMPLE).unwrap();
    let implied = Files::new().parse(&shortest).unwrap();
    assert!(EXAMPLE.lines().count() > shortest.lines().count() + 10, "{shortest}");
    assert_eq!(shown.virtual_routers, implied.virtual_routers);
    assert_eq!(shown.frontend, implied.frontend);
    assert_eq!(shown.backends, implied.backends);
    assert_eq!(shown.health_check, implied.health_check);
    assert_eq!(shown.rebalance, implied.rebalance);
    assert_eq!(shown.admin, implied.admin);
    assert_eq!(shown.control_socket, implied.control_socket);
}

#[test]
fn the_readme_shows_a_configuration_that_is_accepted() {
    let readme = include_str!("../../../../README.md");
    let example = readme.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let config = Files::new().parse(example).unwrap();
    assert_eq!(config.backends.iter().count(), 3);
}

#[test]
fn the_example_is_read_as_written() {
    let config = Files::new().parse(EXAMPLE).unwrap();
    let router = &config.virtual_routers[0];
    assert_eq!((router.interface.as_str(), router.router_id.number()), ("eth0", 51));
    assert_eq!((router.priority.number(), router.preempt), (100, Preempt::Never));
    assert_eq!(router.version.interval(), Duration::from_millis(100));
    assert_eq!(router.addresses.networks(), ["172.16.60.250/32".parse().unwrap()]);
    assert_eq!(config.frontend.listen, ["172.16.60.250:8443".parse().unwrap()]);
    assert_eq!(config.frontend.connect_timeout, Duration::from_millis(250));
    let names: Vec<&str> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["m1", "m2", "m3"]);
    let Check::Https(http, tls) = &config.health_check.check else { panic!("{:?}", config.health_check) };
    assert_eq!((http.path.as_str(), http.live_path.as_str()), ("/readyz", "/livez"));
    let address = config.backends[0].address;
    assert_eq!(tls.server_name(address), ServerName::from(address.ip()));
}

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
fn a_server_name_replaces_the_address() {
    let config = Files::new().parse(&with("# serverName: kubernetes", "serverName: kubernetes")).unwrap();
    let name = tls_of(&config).server_name(config.backends[0].address);
    assert_eq!(name, ServerName::try_from("kubernetes").unwrap());
}

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
fn a_client_certificate_is_used() {
    let identity = "certificateFile: /client.crt\n    keyFile: /client.key";
    let config = Files::new().parse(&with("# serverName: kubernetes", identity)).unwrap();
    assert!(tls_of(&config).client().client_auth_cert_resolver.has_certs());
    let config = Files::new().parse(EXAMPLE).unwrap();
    assert!(!tls_of(&config).client().client_auth_cert_resolver.has_certs());
}

fn tls_of(config: &Config) -> &Tls {
    match &config.health_check.check {
        Check::Https(_, tls) | Check::Tls(tls) => tls,
        other => panic!("{other:?}"),
    }
}

/// The example with other kinds of checks, which have no use for some of its lines.
fn with_kind(kind: &str, fields: &str) -> String {
    let start = EXAMPLE.find("healthCheck:").unwrap();
    let end = EXAMPLE.find("# /metrics and /healthz").unwrap();
    format!("{}healthCheck: {{kind: {kind}{fields}}}\n{}", &EXAMPLE[..start], &EXAMPLE[end..])
}

#[test]
fn other_kinds_of_checks_need_less() {
    let parse = |kind, fields| Files::new().parse(&with_kind(kind, fields)).unwrap().health_check.check;
    assert_eq!(parse("tcp", ""), Check::Tcp);
    assert!(matches!(parse("tls", ", tls: {caFile: /etc/kubernetes/pki/ca.crt}"), Check::Tls(_)));
    let Check::Http(http) = parse("http", ", path: /health, expectBody: well") else { panic!("not http") };
    assert_eq!((http.path.as_str(), http.expect_body.as_deref()), ("/health", Some("well")));
    let vain = ", path: /, tls: {caFile: /nowhere}";
    let expected = "healthCheck.path: has no effect with this kind of check\n\
                    healthCheck.tls: has no effect with this kind of check";
    assert_eq!(problems(&with_kind("tcp", vain)), expected);
    assert_eq!(problems(&with_kind("tls", "")), "healthCheck.tls: is required");
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
fn a_status_may_be_one_or_several() {
    let cases: [(&str, &[u16], &[u16]); 4] = [
        ("200", &[200], &[199, 201, 500]),
        ("200-299", &[200, 250, 299], &[199, 300]),
        ("[200, 401]", &[200, 401], &[201, 400, 402]),
        ("[200-204, '301-302']", &[200, 204, 301, 302], &[205, 300, 303]),
    ];
    for (written, among, others) in cases {
        let text = with("expectStatus: 200", &format!("expectStatus: {written}"));
        let config = Files::new().parse(&text).unwrap();
        let Check::Https(http, _) = config.health_check.check else { panic!("{written}") };
        let includes = |code: &u16| http.expect_status.includes((*code).try_into().unwrap());
        assert!(among.iter().all(includes) && !others.iter().any(includes), "{written}");
    }
}

#[test]
fn what_is_never_and_what_follows_from_the_interval() {
    let check =
        |find: &str, replacement: &str| Files::new().parse(&with(find, replacement)).unwrap().health_check;
    assert_eq!(check("kill: 10", "kill: 0").kill, None);
    assert_eq!(check("kill: 10", "kill: 2").kill, Some(defaults::FALL));
    assert_eq!(
        check("drainDeadline: 0s", "drainDeadline: 90s").drain_deadline,
        Some(Duration::from_secs(90))
    );
    assert_eq!(check("drainDeadline: 0s", "drainDeadline: 0s").drain_deadline, None);
    for (interval, fast) in [(10, 10), (40, 10), (1000, 200)] {
        let text = shortest().replace("healthCheck:", &format!("healthCheck:\n  interval: {interval}ms"));
        let fast_interval = Files::new().parse(&text).unwrap().health_check.fast_interval;
        assert_eq!(fast_interval, Duration::from_millis(fast), "{interval}");
    }
}

#[test]
fn each_mistake_is_one_problem_with_its_path() {
    for (find, replacement, expected) in MISTAKES {
        assert_eq!(problems(&with(find, replacement)), *expected);
    }
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

#[test]
fn what_a_library_says_of_a_file_is_passed_on() {
    let cases = [
        (
            "caFile: /etc/kubernetes/pki/ca.crt",
            "caFile: /broken.crt",
            "healthCheck.tls.caFile: is not valid PEM: ",
        ),
        (
            "# serverName: kubernetes",
            "certificateFile: /client.crt\n    keyFile: /nonsense",
            "healthCheck.tls.keyFile: holds no PEM private key: ",
        ),
        (
            "# serverName: kubernetes",
            "certificateFile: /client.crt\n    keyFile: /other.key",
            "healthCheck.tls.keyFile: does not fit the certificate: ",
        ),
    ];
    for (find, replacement, expected) in cases {
        let problems = problems(&with(find, replacement));
        assert!(problems.starts_with(expected) && problems.lines().count() == 1, "{problems}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text =
        "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nvirtualRouter: {routerId: 300}\nbackends: []\n";
    let expected = [
        "virtualRouter.interface: is required",
        "virtualRouter.routerId: must be from 1 to 255, found 300",
        "virtualRouter.addresses: is required",
        "frontend: is required",
        "backends: must list 1 to 64 backends, found 0",
        "healthCheck: is required",
    ];
    assert_eq!(problems(text).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_unreadable_file_is_a_problem() {
    let problems = read(Path::new("/does/not/exist.yaml")).map(|_| ()).unwrap_err().to_string();
    assert!(problems.starts_with("cannot read /does/not/exist.yaml: "), "{problems}");
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

/// How the example shows a password.
const PASSWORD: &str = "# authentication: {password: fairway}";
/// How the example shows peers.
const TRACKED: &str = "# interfaces: [{name: eth1, weight: -30}, {name: eth2}]";
const PEERS: &str = "# peers: [172.16.60.241, 172.16.60.242, 172.16.60.243]";

/// What is replaced in the example, by what, and what is said of it.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("v1alpha1", "v2", "apiVersion: must be fairway.dev/v1alpha1, found \"fairway.dev/v2\""),
    ("kind: FrontDoor", "kind: Back", "kind: must be FrontDoor, found \"Back\""),
    ("kind: FrontDoor", "", "kind: is required"),
    (
        "interface: eth0",
        "interface: far-too-long-a-name",
        "virtualRouter.interface: must be the name of an interface, found \"far-too-long-a-name\"",
    ),
    ("routerId: 51", "routerId: 0", "virtualRouter.routerId: must be from 1 to 255, found 0"),
    ("priority: 100", "priority: 256", "virtualRouter.priority: must be from 1 to 255, found 256"),
    (
        "advertInterval: 100ms",
        "advertInterval: 105ms",
        "virtualRouter.advertInterval: must be from 10ms to 40.95s in steps of 10ms, found 105ms",
    ),
    (
        "advertInterval: 100ms",
        "advertInterval: 41s",
        "virtualRouter.advertInterval: must be from 10ms to 40.95s in steps of 10ms, found 41s",
    ),
    ("version: 3", "version: 4", "virtualRouter.version: must be from 2 to 3, found 4"),
    (
        "version: 3 # default",
        "version: 2",
        "virtualRouter.checksum: has no effect in version 2, which has one form only\n\
         virtualRouter.advertInterval: must be from 1s to 255s in whole seconds in version 2, found 100ms",
    ),
    (
        PASSWORD,
        "authentication: {password: fairway}",
        "virtualRouter.authentication: is not known to version 3: passwords are of version 2",
    ),
    (PEERS, "peers: []", "virtualRouter.peers: must list 1 to 32 peers, found 0"),
    (PEERS, "peers: [172.16.60.242, 172.16.60.242]", "virtualRouter.peers[1]: 172.16.60.242 is listed twice"),
    (PEERS, "peers: [224.0.0.18]", "virtualRouter.peers[0]: 224.0.0.18 cannot be the address of a peer"),
    (
        PEERS,
        "peers: [m2]",
        "virtualRouter.peers[0]: must be an IP address such as 172.16.60.242, found \"m2\"\n\
         virtualRouter.peers: must list 1 to 32 peers, found 0",
    ),
    (
        PEERS,
        "peers: [172.16.60.250]",
        "virtualRouter.peers: 172.16.60.250 is a virtual address: it moves, a peer does not",
    ),
    (PEERS, "peers: [fd00::f2]", "virtualRouter.peers: fd00::f2 is not an IPv4 address, as `addresses` are"),
    (
        "preemptDelay: 0s",
        "preemptDelay: 5s",
        "virtualRouter.preemptDelay: has no effect without preempt: true",
    ),
    (
        "preemptDelay: 0s",
        "preemptDelay: 2h",
        "virtualRouter.preemptDelay: must be from 0ns to 3600s, found 7200s\n\
         virtualRouter.preemptDelay: has no effect without preempt: true",
    ),
    (
        "    - 172.16.60.250/32",
        "    - 172.16.60.250/32\n    - 172.16.60.250/24",
        "virtualRouter.addresses[1]: 172.16.60.250 is listed twice",
    ),
    (
        "    - 172.16.60.250/32",
        "    - 224.0.0.18/32",
        "virtualRouter.addresses[0]: 224.0.0.18 cannot be a virtual address",
    ),
    (
        "    - 172.16.60.250/32",
        "    - 172.16.60.250/32\n    - fd00::fa/128",
        "virtualRouter.addresses[1]: fd00::fa is not an IPv4 address, as the first one is: it takes another router",
    ),
    (
        "    - 172.16.60.250/32",
        "    - fd00::fa/128\n    - fe80::fa/64",
        "virtualRouter.addresses[1]: fe80::fa must come first, as a link-local address",
    ),
    (
        "    - 172.16.60.250/32",
        "    - ::1/128",
        "virtualRouter.addresses[0]: ::1 cannot be a virtual address",
    ),
    (
        "    - 172.16.60.250/32",
        "    - ff02::12/128",
        "virtualRouter.addresses[0]: ff02::12 cannot be a virtual address",
    ),
    ("    - 172.16.60.250/32", "    []", "virtualRouter.addresses: must list 1 to 255 addresses, found 0"),
    (
        "listen: 172.16.60.250:8443",
        "listen: 172.16.60.250:0",
        "frontend.listen: must name a port: clients of a virtual address could not know it",
    ),
    ("listen: 172.16.60.250:8443", "listen: []", "frontend.listen: must list 1 to 16 addresses, found 0"),
    (
        "listen: 172.16.60.250:8443",
        "listen: ['172.16.60.250:8443', '172.16.60.250:8443']",
        "frontend.listen[1]: 172.16.60.250:8443 is listed twice",
    ),
    (
        "listen: 172.16.60.250:8443",
        "listen: ['172.16.60.250:8443', '[fd00::fa]']",
        "frontend.listen[1]: must be an IP address and port such as 172.16.60.241:6443, found \"[fd00::fa]\"",
    ),
    (
        "listen: 172.16.60.250:8443",
        "listen: ['172.16.60.250:8443', '127.0.0.1:8405', '172.16.60.242:6443']",
        "admin.listen: 127.0.0.1:8405 is also where the frontend listens\n\
         backends[1].address: 172.16.60.242:6443 is where the frontend listens: connections would loop",
    ),
    (
        "balance: round-robin",
        "balance: random",
        "frontend.balance: must be one of round-robin, least-connections, source-hash, found \"random\"",
    ),
    (
        "connectTimeout: 250ms",
        "connectTimeout: 0s",
        "frontend.connectTimeout: must be from 10ms to 3600s, found 0ns",
    ),
    (
        "# congestionControl: cubic",
        "congestionControl: a name too long",
        "frontend.congestionControl: must be 1 to 15 letters, digits, '-', '_' or '.', found \"a name too long\"",
    ),
    ("peerTimeout: 2m", "peerTimeout: 1s", "frontend.peerTimeout: must be from 4s to 86400s, found 1s"),
    (
        "name: m1",
        "name: m 1",
        "backends[0].name: must be 1 to 63 letters, digits, '-', '_' or '.', found \"m 1\"",
    ),
    ("name: m3", "name: m1", "backends[2].name: m1 is already the name of backends[0]"),
    (
        "172.16.60.243:6443",
        "172.16.60.242:6443",
        "backends[2].address: 172.16.60.242:6443 is already the address of backends[1]",
    ),
    (
        "172.16.60.243:6443",
        "0.0.0.0:6443",
        "backends[2].address: must be an address and port that can be connected to, found 0.0.0.0:6443",
    ),
    (
        "172.16.60.243:6443",
        "172.16.60.250:8443",
        "backends[2].address: 172.16.60.250:8443 is where the frontend listens: connections would loop",
    ),
    (
        "172.16.60.243:6443",
        "172.16.60.250:6443",
        "backends[2].address: 172.16.60.250 is a virtual address: it moves, a backend does not",
    ),
    ("kind: https", "kind: ping", "healthCheck.kind: must be one of https, http, tls, tcp, found \"ping\""),
    ("perMinute: 0", "perMinute: 601", "rebalance.perMinute: must be from 0 to 600, found 601"),
    ("dryRun: false", "dryRun: 1", "rebalance.dryRun: must be true or false, found 1"),
    ("idle: 5s", "idle: 2h", "rebalance.idle: must be from 10ms to 3600s, found 7200s"),
    ("path: /readyz", "path: readyz", "healthCheck.path: must be a path such as /readyz, found \"readyz\""),
    ("livePath: /livez", "livePath: ''", "healthCheck.livePath: must be a path such as /livez, found \"\""),
    (
        "expectStatus: 200",
        "expectStatus: [200, 600]",
        "healthCheck.expectStatus: must be a status, a range such as 200-299, or a list of them, found [200,600]",
    ),
    (
        "expectStatus: 200",
        "expectStatus: 299-200",
        "healthCheck.expectStatus: must be a status, a range such as 200-299, or a list of them, found \"299-200\"",
    ),
    (
        "expectStatus: 200",
        "expectStatus: []",
        "healthCheck.expectStatus: must be a status, a range such as 200-299, or a list of them, found []",
    ),
    ("# expectBody: ok", "expectBody: ''", "healthCheck.expectBody: must be 1 to 1024 bytes, found 0"),
    ("rise: 2", "rise: 0", "healthCheck.rise: must be from 1 to 100, found 0"),
    ("kill: 10", "kill: 1", "healthCheck.kill: must be 0 or at least fall, which is 2"),
    ("kill: 10", "kill: 1001", "healthCheck.kill: must be from 0 to 1000, found 1001"),
    (
        "drainDeadline: 0s",
        "drainDeadline: 25h",
        "healthCheck.drainDeadline: must be from 0ns to 86400s, found 90000s",
    ),
    ("timeout: 300ms", "timeout: 5ms", "healthCheck.timeout: must be from 10ms to 3600s, found 5ms"),
    (
        "fastInterval: 50ms",
        "fastInterval: 300ms",
        "healthCheck.fastInterval: 300ms is longer than interval, 250ms",
    ),
    (
        "fastInterval: 50ms",
        "fastInterval: 1ms",
        "healthCheck.fastInterval: must be from 10ms to 3600s, found 1ms",
    ),
    (
        " interval: 250ms",
        " interval: 1ms",
        "healthCheck.interval: must be from 10ms to 3600s, found 1ms\n\
         healthCheck.fastInterval: 50ms is longer than interval, 1ms",
    ),
    (
        "caFile: /etc/kubernetes/pki/ca.crt",
        "caFile: /missing",
        "healthCheck.tls.caFile: cannot read /missing: entity not found",
    ),
    (
        "caFile: /etc/kubernetes/pki/ca.crt",
        "caFile: /nonsense",
        "healthCheck.tls.caFile: holds no PEM certificate",
    ),
    ("caFile: /etc/kubernetes/pki/ca.crt", "serverName: kubernetes", "healthCheck.tls.caFile: is required"),
    (
        "# serverName: kubernetes",
        "serverName: not a name",
        "healthCheck.tls.serverName: must be a DNS name or an IP address, found \"not a name\"",
    ),
    (
        "# serverName: kubernetes",
        "certificateFile: /client.crt",
        "healthCheck.tls.keyFile: is required where certificateFile is given",
    ),
    (
        "# serverName: kubernetes",
        "keyFile: /client.key",
        "healthCheck.tls.certificateFile: is required where keyFile is given",
    ),
    (
        "127.0.0.1:8405",
        "172.16.60.250:8443",
        "admin.listen: 172.16.60.250:8443 is also where the frontend listens",
    ),
    (
        "socket: /run/fairway-lb/control.sock",
        "socket: control.sock",
        "admin.socket: must be an absolute path of at most 96 bytes, found \"control.sock\"",
    ),
    (
        "handOverDeadline: 1h",
        "handOverDeadline: 25h",
        "frontend.handOverDeadline: must be from 0ns to 86400s, found 90000s",
    ),
    ("admin:", "administration: {}\nadmin:", "administration: unknown field"),
    ("name: m1", "name: m1\n    wait: 3", "backends[0].wait: unknown field"),
    ("weight: 1", "weight: 257", "backends[0].weight: must be from 0 to 256, found 257"),
    ("weight: 1", "weight: -1", "backends[0].weight: must be from 0 to 256, found -1"),
    ("backup: false", "backup: 1", "backends[0].backup: must be true or false, found 1"),
    ("sendProxy: false", "sendProxy: v2", "backends[0].sendProxy: must be true or false, found \"v2\""),
    (
        "# maxConnections: 5000",
        "maxConnections: 0",
        "backends[0].maxConnections: must be from 1 to 1000000, found 0",
    ),
    ("slowStart: 0s", "slowStart: 2h", "frontend.slowStart: must be from 0ns to 3600s, found 7200s"),
];

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
backends[1].weight: has no effect with forwarding: ipvs
backends[1].backup: has no effect with forwarding: ipvs
backends[1].maxConnections: has no effect with forwarding: ipvs
backends[1].sendProxy: has no effect with forwarding: ipvs
backends[2].address: [fd00::1]:6443 is of another family than an address of the frontend
";
    assert_eq!(problems(text), expected.trim_end());
    assert!(Files::new().parse(&text.replace("ipvs", "relay")).is_ok());
}

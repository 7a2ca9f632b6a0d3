use super::*;

/// How the example shows a password.
const PASSWORD: &str = "# authentication: {password: fairway}";

#[test]
fn each_mistake_is_one_problem_with_its_path() {
    for (find, replacement, expected) in MISTAKES {
        assert_eq!(problems(&with(find, replacement)), *expected);
    }
}

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

//! All scenarios: first those of Services that clients in the cluster find by cluster addresses.

mod exposed;
mod placed;

use plan::{Protocol, Source};

use super::{Expected, Scenario, reaches, scenario};
use crate::objects::{self, Endpoint, Object};

/// All scenarios.
pub fn table() -> Vec<Scenario> {
    [addresses(), ports(), endpoints(), others(), exposed::table(), placed::table()].concat()
}

const LEFT: &str = "10.1.0.1";
const RIGHT: &str = "10.1.0.2";
const LEFT_V6: &str = "fd00:1::1";
const HTTP: (&str, &str, u16) = ("http", "TCP", 8080);

/// A Service at 10.254.0.10:80.
fn web() -> Object {
    objects::service("web", "10.254.0.10").port("http", "TCP", 80)
}

/// On the scenarios' node.
fn left() -> Endpoint {
    Endpoint::ready(LEFT).on("m1")
}

/// On another.
fn right() -> Endpoint {
    Endpoint::ready(RIGHT).on("m2")
}

fn addresses() -> Vec<Scenario> {
    let dual = objects::service("web", "10.254.0.10")
        .with("/spec", "clusterIPs", vec!["10.254.0.10", "fd00:254::10"])
        .with("/spec", "ipFamilies", vec!["IPv4", "IPv6"])
        .with("/spec", "ipFamilyPolicy", "RequireDualStack");
    vec![
        scenario("A1: a service with one endpoint reaches it")
            .service(objects::service("web", "10.254.0.10").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)]))
            .packet("10.254.0.11", 80, Protocol::Tcp, Expected::Pass)
            .packet(LEFT, 8080, Protocol::Tcp, Expected::Pass),
        scenario("A1 over IPv6")
            .service(objects::service("web", "fd00:254::10").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT_V6])
            .packet("fd00:254::10", 80, Protocol::Tcp, reaches(&[(LEFT_V6, 8080)])),
        scenario("a service of both families reaches the endpoints of each by its own address")
            .service(dual.port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .behind("web", &[HTTP], &[LEFT_V6])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)]))
            .packet("fd00:254::10", 80, Protocol::Tcp, reaches(&[(LEFT_V6, 8080)])),
    ]
}

fn ports() -> Vec<Scenario> {
    let dns = objects::service("dns", "10.254.0.2").port("dns-tcp", "TCP", 53).port("dns", "UDP", 53);
    vec![
        scenario("A3: the endpoint's port is the slice's, not the service's")
            .service(objects::service("web", "10.254.0.10").port("https", "TCP", 443))
            .behind("web", &[("https", "TCP", 8443)], &[LEFT])
            .packet("10.254.0.10", 443, Protocol::Tcp, reaches(&[(LEFT, 8443)]))
            .packet("10.254.0.10", 8443, Protocol::Tcp, Expected::Refused),
        scenario("A4: one number for two protocols is two ports")
            .service(dns)
            .behind("dns", &[("dns-tcp", "TCP", 5353), ("dns", "UDP", 53)], &[LEFT])
            .packet("10.254.0.2", 53, Protocol::Tcp, reaches(&[(LEFT, 5353)]))
            .packet("10.254.0.2", 53, Protocol::Udp, reaches(&[(LEFT, 53)])),
        scenario("A5: a TCP port is no UDP port")
            .service(objects::service("web", "10.254.0.10").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Udp, Expected::Refused),
        scenario("each port finds the endpoint's port of its name")
            .service(objects::service("web", "10.254.0.10").port("http", "TCP", 80).port("admin", "TCP", 81))
            .behind("web", &[HTTP, ("admin", "TCP", 9090)], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)]))
            .packet("10.254.0.10", 81, Protocol::Tcp, reaches(&[(LEFT, 9090)])),
    ]
}

fn endpoints() -> Vec<Scenario> {
    vec![
        scenario("A2: a service with two endpoints reaches both")
            .service(web())
            .behind("web", &[HTTP], &[LEFT, RIGHT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080), (RIGHT, 8080)])),
        scenario("A8: a pod reaches itself through its service")
            .service(web())
            .behind("web", &[HTTP], &[LEFT])
            .sent((Source::Pod, [10, 1, 0, 1]), ("10.254.0.10", 80), Protocol::Tcp, reaches(&[(LEFT, 8080)])),
        scenario("A9 and A10: who is no pod of the node is masqueraded")
            .service(web())
            .behind("web", &[HTTP], &[LEFT, RIGHT])
            .from(Source::Node, ("10.254.0.10", 80), reaches(&[(LEFT, 8080), (RIGHT, 8080)]).masqueraded())
            .from(
                Source::Outside,
                ("10.254.0.10", 80),
                reaches(&[(LEFT, 8080), (RIGHT, 8080)]).masqueraded(),
            ),
        scenario("A12: a service without endpoints refuses").service(web()).packet(
            "10.254.0.10",
            80,
            Protocol::Tcp,
            Expected::Refused,
        ),
        scenario("endpoints that are not ready are not reached")
            .service(web())
            .behind("web", &[HTTP], &[LEFT])
            .behind_these("web", &[HTTP], [Endpoint::unready(RIGHT)])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080)])),
        scenario("a service whose endpoints are all unready refuses")
            .service(web())
            .behind_these("web", &[HTTP], [LEFT, RIGHT].map(Endpoint::unready))
            .packet("10.254.0.10", 80, Protocol::Tcp, Expected::Refused),
        scenario("the endpoints of all slices count, and each once")
            .service(web())
            .behind("web", &[HTTP], &[LEFT])
            .behind("web", &[HTTP], &[LEFT, RIGHT])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[(LEFT, 8080), (RIGHT, 8080)])),
        scenario("A14: an endpoint may be a node's own address")
            .service(web())
            .behind("web", &[("http", "TCP", 9000)], &["172.16.60.242"])
            .packet("10.254.0.10", 80, Protocol::Tcp, reaches(&[("172.16.60.242", 9000)])),
        scenario("endpoints of no service serve nobody")
            .service(web())
            .behind("other", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, Expected::Refused),
    ]
}

fn others() -> Vec<Scenario> {
    let web = |name| objects::service(name, "10.254.0.10").port("http", "TCP", 80);
    let external =
        web("web").with("/spec", "type", "ExternalName").with("/spec", "externalName", "example.org");
    vec![
        scenario("a headless service is not ours")
            .service(objects::service("web", "None").port("http", "TCP", 80))
            .behind("web", &[HTTP], &[LEFT])
            .packet(LEFT, 80, Protocol::Tcp, Expected::Pass),
        scenario("a service of another proxy is not ours")
            .service(web("web").label("service.kubernetes.io/service-proxy-name", "other"))
            .behind("web", &[HTTP], &[LEFT])
            .packet("10.254.0.10", 80, Protocol::Tcp, Expected::Pass),
        scenario("an external name is not ours").service(external).behind("web", &[HTTP], &[LEFT]).packet(
            "10.254.0.10",
            80,
            Protocol::Tcp,
            Expected::Pass,
        ),
    ]
}

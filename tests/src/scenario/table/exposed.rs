//! Services that clients outside of the cluster find: by node ports, load balancers and external addresses.

use plan::{Protocol, Source};
use serde_json::json;

use super::{HTTP, LEFT, RIGHT, left, reaches, right, scenario, web};
use crate::objects::Object;
use crate::scenario::{Expected, NODE_ADDRESS, Scenario};

const NODE_PORT: (&str, u16) = (NODE_ADDRESS, 30_080);
const BALANCER: (&str, u16) = ("172.16.60.230", 80);
const EXTERNAL: (&str, u16) = ("172.16.60.231", 80);
const CLUSTER: (&str, u16) = ("10.254.0.10", 80);
const EVERYWHERE: [(&str, u16); 3] = [NODE_PORT, BALANCER, EXTERNAL];
const SOURCES: [Source; 3] = [Source::Pod, Source::Node, Source::Outside];

pub(super) fn table() -> Vec<Scenario> {
    [node_ports(), policies(), balancers()].concat()
}

/// A Service at all addresses there are.
fn exposed(policy: &str) -> Object {
    with_node_port(web())
        .with("/spec", "type", "LoadBalancer")
        .with("/spec", "externalIPs", vec![EXTERNAL.0])
        .with("/spec", "externalTrafficPolicy", policy)
        .with("", "status", json!({"loadBalancer": {"ingress": [{"ip": BALANCER.0}]}}))
}

fn with_node_port(object: Object) -> Object {
    object.with("/spec", "type", "NodePort").with("/spec/ports/0", "nodePort", NODE_PORT.1)
}

/// Any of both, their sender's address replaced.
fn both() -> Expected {
    reaches(&[(LEFT, 8080), (RIGHT, 8080)]).masqueraded()
}

fn each(scenario: Scenario, sources: &[Source], to: &[(&str, u16)], expected: &Expected) -> Scenario {
    let pairs = sources.iter().flat_map(|source| to.iter().map(move |to| (*source, *to)));
    pairs.fold(scenario, |scenario, (source, to)| scenario.from(source, to, expected.clone()))
}

fn node_ports() -> Vec<Scenario> {
    let served =
        |name| scenario(name).service(with_node_port(web())).behind_these("web", &[HTTP], [left(), right()]);
    vec![
        each(served("B1 and B2: everybody reaches a node port"), &SOURCES, &[NODE_PORT], &both()),
        served("a node port is a port of its own protocol").packet(
            NODE_ADDRESS,
            NODE_PORT.1,
            Protocol::Udp,
            Expected::Pass,
        ),
        each(
            served("B3: other addresses of the node have no node ports"),
            &[Source::Outside],
            &[("10.60.1.241", NODE_PORT.1)],
            &Expected::Pass,
        ),
        each(
            scenario("B5: a node port without endpoints refuses").service(with_node_port(web())),
            &SOURCES,
            &[NODE_PORT],
            &Expected::Refused,
        ),
        each(
            served("B7: loopback addresses have no node ports"),
            &[Source::Pod, Source::Node],
            &[("127.0.0.1", NODE_PORT.1)],
            &Expected::Pass,
        ),
        served("a cluster address has no node port").packet(
            CLUSTER.0,
            NODE_PORT.1,
            Protocol::Tcp,
            Expected::Refused,
        ),
    ]
}

fn policies() -> Vec<Scenario> {
    let of = |name, policy| scenario(name).service(exposed(policy));
    let local = reaches(&[(LEFT, 8080)]);
    let remote = reaches(&[(RIGHT, 8080)]);
    let all = of("C1 and C15: under the policy Cluster everybody reaches all endpoints", "Cluster");
    let kept =
        of("C2: under the policy Local who is outside reaches this node's endpoints as himself", "Local");
    let away =
        of("C3 and C4: without endpoints here who is outside is dropped, and who is inside is not", "Local");
    let nobody = of("under the policy Local and without endpoints anywhere everybody is refused", "Local");
    vec![
        each(all.behind_these("web", &[HTTP], [left(), right()]), &SOURCES, &EVERYWHERE, &both()),
        each(kept.behind_these("web", &[HTTP], [left(), right()]), &[Source::Outside], &EVERYWHERE, &local)
            .from(Source::Pod, NODE_PORT, reaches(&[(LEFT, 8080), (RIGHT, 8080)]))
            .from(Source::Node, NODE_PORT, both()),
        each(
            each(
                each(
                    away.behind_these("web", &[HTTP], [right()]),
                    &[Source::Outside],
                    &EVERYWHERE,
                    &Expected::Dropped,
                ),
                &[Source::Pod],
                &EVERYWHERE,
                &remote,
            ),
            &[Source::Node],
            &EVERYWHERE,
            &remote.clone().masqueraded(),
        ),
        each(
            nobody.behind_these("web", &[HTTP], [left().but_unready(), right().but_unready()]),
            &SOURCES,
            &EVERYWHERE,
            &Expected::Refused,
        ),
        of("C6: the external policy says nothing about cluster addresses", "Local")
            .behind_these("web", &[HTTP], [left(), right()])
            .from(Source::Pod, CLUSTER, reaches(&[(LEFT, 8080), (RIGHT, 8080)]))
            .from(Source::Outside, CLUSTER, both()),
        of("of an external address a service has its own ports and no others", "Cluster")
            .behind_these("web", &[HTTP], [left(), right()])
            .from(Source::Outside, (EXTERNAL.0, 81), Expected::Pass)
            .from(Source::Outside, (CLUSTER.0, 81), Expected::Refused),
        scenario("C9: the external policy of a service that is not exposed means nothing")
            .service(web().with("/spec", "externalTrafficPolicy", "Local"))
            .behind_these("web", &[HTTP], [right()])
            .from(Source::Pod, CLUSTER, remote.clone())
            .from(Source::Outside, CLUSTER, remote.masqueraded()),
        of("a terminating endpoint here is better than dropping", "Local")
            .behind_these("web", &[HTTP], [left().but_leaving(), right()])
            .from(Source::Outside, BALANCER, local)
            .from(Source::Pod, BALANCER, reaches(&[(RIGHT, 8080)])),
    ]
}

fn balancers() -> Vec<Scenario> {
    let with = |name, entry| {
        let status = json!({"loadBalancer": {"ingress": [entry]}});
        scenario(name).service(exposed("Cluster").with("", "status", status)).behind_these(
            "web",
            &[HTTP],
            [left()],
        )
    };
    let served = || reaches(&[(LEFT, 8080)]).masqueraded();
    let ranges = exposed("Cluster").with("/spec", "loadBalancerSourceRanges", vec![" 172.16.60.0/26"]);
    let only =
        || scenario("C10: source ranges keep others out, of the load balancer alone").service(ranges.clone());
    let bad = |scenario: Scenario, to, expected| {
        scenario.sent((Source::Outside, [172, 16, 60, 200]), to, Protocol::Tcp, expected)
    };
    let only = only().behind_these("web", &[HTTP], [left()]).from(Source::Outside, BALANCER, served());
    let only = bad(bad(bad(only, BALANCER, Expected::Dropped), EXTERNAL, served()), NODE_PORT, served());
    vec![
        only,
        with("C14: an address of mode VIP is caught", json!({"ip": BALANCER.0, "ipMode": "VIP"})).from(
            Source::Pod,
            BALANCER,
            served(),
        ),
        with(
            "C14: an address of mode Proxy leads to the balancer",
            json!({"ip": BALANCER.0, "ipMode": "Proxy"}),
        )
        .from(Source::Pod, BALANCER, Expected::Pass)
        .from(Source::Outside, BALANCER, Expected::Pass),
        with("a balancer with a name and no address is somebody else", json!({"hostname": "lb.example.org"}))
            .from(Source::Pod, BALANCER, Expected::Pass),
    ]
}

//! Which endpoints count: by policy, by condition and by place. And slices as they really arrive.

use plan::{Protocol, Source};

use super::{HTTP, LEFT, RIGHT, left, reaches, right, scenario, web};
use crate::objects::{self, Endpoint};
use crate::scenario::{Expected, Scenario};

const CLUSTER: (&str, u16) = ("10.254.0.10", 80);
const INSIDE: [Source; 2] = [Source::Pod, Source::Node];

pub(super) fn table() -> Vec<Scenario> {
    [internal_policy(), conditions(), hints(), slices()].concat()
}

/// A pod of the node meets this at 10.254.0.10:80.
fn case(name: &'static str, endpoints: &[Endpoint], expected: Expected) -> Scenario {
    let scenario = scenario(name).service(web()).behind_these("web", &[HTTP], endpoints.to_vec());
    scenario.from(Source::Pod, CLUSTER, expected)
}

fn internal_policy() -> Vec<Scenario> {
    let local = web().with("/spec", "internalTrafficPolicy", "Local");
    let with = |name, endpoints: &[Endpoint], expected: Expected| {
        let scenario = scenario(name).service(local.clone()).behind_these("web", &[HTTP], endpoints.to_vec());
        INSIDE.into_iter().fold(scenario, |scenario, source| {
            let masqueraded = source == Source::Node;
            let expected = if masqueraded { expected.clone().masqueraded() } else { expected.clone() };
            scenario.from(source, CLUSTER, expected)
        })
    };
    vec![
        with(
            "D1: under the internal policy Local only this node's endpoints count",
            &[left(), right()],
            only(LEFT),
        ),
        with("D2: with endpoints elsewhere alone it drops", &[right()], Expected::Dropped),
        with("with unready endpoints alone it refuses", &[right().but_unready()], Expected::Refused),
        with(
            "a terminating endpoint here is better than dropping, here too",
            &[left().but_leaving(), right()],
            only(LEFT),
        ),
    ]
}

fn only(address: &str) -> Expected {
    reaches(&[(address, 8080)])
}

fn conditions() -> Vec<Scenario> {
    vec![
        case(
            "D5: terminating endpoints wait while others are ready",
            &[left(), right().but_leaving()],
            only(LEFT),
        ),
        case(
            "D6: terminating endpoints serve where none is ready",
            &[left().but_leaving(), right().but_gone()],
            only(LEFT),
        ),
        case("D8: endpoints that are nothing serve nobody", &[left().but_unready()], Expected::Refused),
        case("D9: an endpoint without conditions is ready", &[left().without_conditions()], only(LEFT)),
    ]
}

fn hints() -> Vec<Scenario> {
    let third = || Endpoint::ready("10.1.0.3").on("m3");
    let all = reaches(&[(LEFT, 8080), (RIGHT, 8080)]);
    vec![
        case(
            "D10: endpoints meant for this zone are preferred",
            &[left().for_zone("az-1"), right().for_zone("az-1"), third().for_zone("az-3")],
            all.clone(),
        ),
        case("D11: one endpoint without a hint frees all", &[left().for_zone("az-2"), right()], all.clone()),
        case(
            "hints for other zones alone are not followed",
            &[left().for_zone("az-2"), right().for_zone("az-3")],
            all,
        ),
        case(
            "hints for nodes come before those for zones",
            &[left().for_zone("az-1").for_node("m2"), right().for_zone("az-2").for_node("m1")],
            only(RIGHT),
        ),
    ]
}

fn slices() -> Vec<Scenario> {
    let two = || objects::service("web", CLUSTER.0).port("http", "TCP", 80).port("admin", "TCP", 81);
    vec![
        scenario("F1: ports may be spread over slices")
            .service(two())
            .behind("web", &[HTTP], &[LEFT])
            .behind("web", &[("admin", "TCP", 9090)], &[RIGHT])
            .packet(CLUSTER.0, 80, Protocol::Tcp, only(LEFT))
            .packet(CLUSTER.0, 81, Protocol::Tcp, reaches(&[(RIGHT, 9090)])),
        scenario("F2: of two who have one address, who does not leave is believed")
            .service(web())
            .behind_these("web", &[HTTP], [left().but_leaving()])
            .behind_these("web", &[HTTP], [left()])
            .packet(CLUSTER.0, 80, Protocol::Tcp, only(LEFT)),
        scenario("F5: endpoints of the other family are nobody's")
            .service(web())
            .behind("web", &[HTTP], &["fd00:1::1"])
            .packet(CLUSTER.0, 80, Protocol::Tcp, Expected::Refused),
        scenario("F12: a service that is labelled headless is not ours")
            .service(web().label("service.kubernetes.io/headless", ""))
            .behind("web", &[HTTP], &[LEFT])
            .packet(CLUSTER.0, 80, Protocol::Tcp, Expected::Pass),
    ]
}

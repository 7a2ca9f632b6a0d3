use super::*;

fn frontend(address: &str) -> Frontend {
    Frontend::new(address.parse().unwrap(), Port::new(443).unwrap(), Protocol::Tcp)
}

fn verdicts(elements: &BTreeSet<Element>) -> Vec<Verdict> {
    let verdict = |element: &Element| match element.value {
        Some(Value::Verdict(verdict)) => Some(verdict),
        Some(Value::Mark(_)) | None => None,
    };
    elements.iter().filter_map(verdict).collect()
}

#[test]
fn a_service_has_one_verdict() {
    let (everyone, outside) = (frontend("10.254.0.1"), frontend("10.254.0.1").for_outside());
    let rules = |masquerade, when_empty| Rules { masquerade, when_empty, ..Rules::default() };
    let cases = [
        (everyone, true, rules(Masquerade::Never, WhenEmpty::Drop), Verdict::Accept),
        (everyone, true, rules(Masquerade::Always, WhenEmpty::Drop), Verdict::Masquerade),
        (everyone, true, rules(Masquerade::FromOutsidePods, WhenEmpty::Drop), Verdict::MasqueradeOthers),
        (outside, true, rules(Masquerade::Always, WhenEmpty::Drop), Verdict::ServeOutside),
        (everyone, false, rules(Masquerade::Always, WhenEmpty::Drop), Verdict::Drop),
        (outside, false, rules(Masquerade::Always, WhenEmpty::Refuse), Verdict::Refuse),
    ];
    for (frontend, is_served, rules, expected) in cases {
        let elements = Element::of_service(frontend, &rules, is_served, None);
        assert_eq!(verdicts(&elements), [expected], "{frontend}, {rules}, {is_served}");
    }
}

#[test]
fn rules_are_known_again() {
    let group = AffinityGroup(0xfeed);
    let when_empty = WhenEmpty::Drop;
    for frontend in ["10.254.0.1", "fd00:254::1"].map(frontend) {
        for (frontend, timeout, scheduler) in [
            (frontend, Duration::ZERO, Scheduler::RoundRobin),
            (frontend.for_outside(), Duration::from_secs(9), Scheduler::WeightedLeastConnections),
        ] {
            for masquerade in [Masquerade::Never, Masquerade::FromOutsidePods, Masquerade::Always] {
                let affinity = Some(Affinity { group, timeout });
                for (affinity, scheduler) in [(None, Scheduler::RoundRobin), (affinity, scheduler)] {
                    let rules = Rules { when_empty, affinity, masquerade, scheduler, ..Rules::default() };
                    let elements = Element::of_service(frontend, &rules, false, None);
                    let found: Vec<_> = elements.iter().filter_map(Element::registration).collect();
                    assert_eq!(found, [(frontend, rules)]);
                }
            }
        }
    }
}

#[test]
fn ranges_are_known_again_as_far_as_they_say_something() {
    let ranges = ["10.0.0.0/8", "10.1.0.0/16", "172.16.60.7/32", "0.0.0.0/1", "fd00::/9"];
    let ranges = ranges.map(|range| range.parse().unwrap());
    let rules = Rules { source_ranges: Some(ranges.into()), ..Rules::default() };
    for (address, expected) in
        [("10.254.0.1", vec!["0.0.0.0/1", "172.16.60.7/32"]), ("fd00:254::1", vec!["fd00::/9"])]
    {
        let elements = Element::of_service(frontend(address), &rules, true, None);
        let found = elements.iter().filter_map(Element::restriction);
        let found: Vec<String> = found.filter_map(|(_, range)| Some(range?.to_string())).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn nobody_is_admitted_where_nobody_is_named() {
    let rules = Rules { source_ranges: Some(BTreeSet::new()), ..Rules::default() };
    let elements = Element::of_service(frontend("10.254.0.1"), &rules, true, None);
    let found: Vec<_> = elements.iter().filter_map(Element::restriction).collect();
    assert_eq!(found, [(frontend("10.254.0.1"), None)]);
}

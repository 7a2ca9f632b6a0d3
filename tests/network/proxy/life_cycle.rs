//! What the process goes through, and what clients notice of it: nothing.

use tests::traffic::{self, HoldReport};
use tests::{Process, Program, Result, binary, objects};

use super::node::{LIMIT, Node, POD_PORT, UNREACHABLE, until};

pub(super) const TARGET: &str = "10.254.0.10:80";

pub(super) fn manifests(node: &Node, pods: &[&str]) -> Result<()> {
    let both = |object: objects::Object, port| object.port("t", "TCP", port).port("u", "UDP", port);
    let service = both(objects::service("web", "10.254.0.10"), 80).json();
    let slice = both(objects::slice("web", "web-1"), POD_PORT).ready(pods).json();
    node.write("web.yaml", &format!("{service}\n---\n{slice}\n")).map(drop)
}

pub(super) const PODS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];

/// D1, H8, and an upgrade: the next process is another one in the place of the first.
#[test]
fn twenty_ends_and_starts_break_and_delay_nothing() -> Result<()> {
    type End = fn(&mut Process) -> Result<()>;
    let killed: End = Process::kill;
    let asked: End = |process| {
        let status = process.terminate(LIMIT)?;
        assert!(status.success(), "{status}");
        Ok(())
    };
    let node = Node::with_pods()?;
    manifests(&node, &PODS)?;
    let mut proxy = node.proxy_of_files()?;
    for (how, end) in [("SIGKILL", killed), ("SIGTERM", asked)] {
        let holder = node.hold(TARGET, 6000)?;
        let load = node.load(TARGET)?;
        for _ in 0..20 {
            end(&mut proxy)?;
            // Nobody owns the state, and clients are served.
            load.await_more(5)?;
            proxy = node.proxy_of_files()?;
            let log = proxy.log()?;
            assert!(log.contains("adopting what the kernel forwards already"), "{how}: {log}");
            assert!(!log.contains("rules written"), "nothing is to be written after {how}: {log}");
        }
        let (errors, backends) = load.stop()?;
        assert_eq!(errors, [""; 0], "{how}");
        let (least, most) = (backends.values().min(), backends.values().max());
        // The round goes on where it was. The held connections took part in it before the load began.
        let spread = most.zip(least).map(|(most, least)| most - least);
        assert!(backends.len() == 3 && spread.is_some_and(|spread| spread <= 1), "{how}: {backends:?}");
        let held: HoldReport = traffic::finish(holder, LIMIT)?;
        assert_eq!((held.opened, held.broken), (50, Vec::new()), "{how}");
    }
    Ok(())
}

/// G10: every pod is replaced, one at a time, and ends when it has had no new connections for a moment.
#[test]
fn a_rolling_replacement_of_every_pod_is_noticed_by_nobody() -> Result<()> {
    let mut node = Node::with_pods()?;
    manifests(&node, &PODS)?;
    let _proxy = node.proxy_of_files()?;
    let load = node.load_of(TARGET, 200)?;
    let addresses: Vec<String> = (1..=9).map(|number| format!("10.1.0.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    for number in 4..=9_u8 {
        node.serve(number, &format!("pod-{number}"), POD_PORT)?;
        // First the new one comes, then the old one is taken out, and at last it ends.
        let last = usize::from(number);
        manifests(&node, &addresses[last - 4..last])?;
        load.await_more(40)?;
        manifests(&node, &addresses[last - 3..last])?;
        until("the old pod has no new connections", || {
            let before = load.attempts()?.len();
            load.await_more(20)?;
            let old = format!("pod-{}", number - 3);
            Ok(load.attempts()?[before..].iter().all(|attempt| attempt.backend.as_ref() != Some(&old)))
        })?;
        node.end_oldest()?;
    }
    let (errors, backends) = load.stop()?;
    assert_eq!(errors, [""; 0]);
    assert!(
        backends.keys().eq((1..=9).map(|number| format!("pod-{number}")).collect::<Vec<_>>().iter()),
        "{backends:?}"
    );
    Ok(())
}

/// What the systemd unit leaves it.
#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    let unit = include_str!("../../../proxy/deploy/fairway-proxy.service");
    let capabilities = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let kept = capabilities.unwrap_or_default().split_whitespace().map(|name| {
        let name = name.trim_start_matches("CAP_").to_lowercase();
        format!(",+{name}")
    });
    let bounds = format!("--bounding-set=-all{}", kept.collect::<String>());
    let node = Node::with_pods()?;
    manifests(&node, &PODS[..2])?;
    let settings = node.settings();
    let program = Program::new("setpriv").arguments([bounds.as_str(), "--inh-caps=-all", "--no-new-privs"]);
    let program = program.arguments([binary("fairway-proxy")?]).arguments([
        "--cgroup".as_ref(),
        settings.cgroup.as_path(),
        "--bpf-fs".as_ref(),
        &settings.bpf_fs,
        "--manifests".as_ref(),
        node.directory(),
    ]);
    let mut proxy = program.inside(&node.namespace).spawn()?;
    node.await_step(&mut proxy)?;
    node.await_backends(TARGET, &["pod-1", "pod-2"])?;
    manifests(&node, &PODS[1..])?;
    node.await_backends(TARGET, &["pod-2", "pod-3"])?;
    let log = proxy.log()?;
    // Containers may lack the right to the score themselves.
    let complains =
        |line: &str| line.contains("WARN") && !line.contains("oom score") || line.contains("ERROR");
    assert!(!log.lines().any(complains), "{log}");
    Ok(())
}

#[test]
fn what_changed_while_it_was_away_is_caught_up() -> Result<()> {
    let node = Node::with_pods()?;
    manifests(&node, &PODS)?;
    node.proxy_of_files()?.kill()?;
    manifests(&node, &PODS[..1])?;
    node.await_backends(TARGET, &["pod-1", "pod-2", "pod-3"])?;
    let _proxy = node.proxy_of_files()?;
    node.await_backends(TARGET, &["pod-1"])?;
    node.await_metric("fairway_proxy_frontends", 2.0)
}

/// D3.
#[test]
fn a_second_proxy_of_the_same_state_refuses_and_the_first_goes_on() -> Result<()> {
    let node = Node::with_pods()?;
    manifests(&node, &PODS)?;
    let mut first = node.proxy_of_files()?;
    let manifests_flag = node.directory().display().to_string();
    let (status, said) = node.program(&["--manifests", &manifests_flag])?.run(LIMIT)?;
    assert_eq!(status.code(), Some(1), "starting again may help: {said}");
    assert!(said.contains("fairway is in use by another fairway-proxy"), "{said}");
    let (status, said) = node.clean_up()?;
    assert_eq!(status.code(), Some(1), "{said}");
    manifests(&node, &PODS[1..])?;
    node.await_backends(TARGET, &["pod-2", "pod-3"])?;
    assert_eq!(first.ended()?, None);
    Ok(())
}

#[test]
fn two_nodes_of_one_machine_do_not_disturb_each_other() -> Result<()> {
    let nodes = [Node::with_pods()?, Node::with_pods()?];
    manifests(&nodes[0], &PODS[..1])?;
    manifests(&nodes[1], &PODS[1..])?;
    let mut proxies = [nodes[0].proxy_of_files()?, nodes[1].proxy_of_files()?];
    nodes[0].await_backends(TARGET, &["pod-1"])?;
    nodes[1].await_backends(TARGET, &["pod-2", "pod-3"])?;
    proxies[0].kill()?;
    let (status, said) = nodes[0].clean_up()?;
    assert!(status.success(), "{said}");
    nodes[0].await_error(TARGET, UNREACHABLE)?;
    nodes[1].await_backends(TARGET, &["pod-2", "pod-3"])?;
    assert!(!nodes[1].is_bare()?);
    Ok(())
}

/// D14.
#[test]
fn cleanup_leaves_nothing_and_may_be_repeated() -> Result<()> {
    let node = Node::with_pods()?;
    manifests(&node, &PODS)?;
    node.proxy_of_files()?.terminate(LIMIT)?;
    node.await_backends(TARGET, &["pod-1", "pod-2", "pod-3"])?;
    assert!(!node.is_bare()?);
    for _ in 0..2 {
        let (status, said) = node.clean_up()?;
        assert!(status.success(), "{said}");
        assert!(node.is_bare()?);
    }
    node.await_error(TARGET, UNREACHABLE)?;
    // Nor is anything in the way of a new start, or of the other spelling.
    node.proxy_of_files()?.terminate(LIMIT)?;
    node.await_backends(TARGET, &["pod-1", "pod-2", "pod-3"])?;
    let (status, said) = node.program(&["--cleanup"])?.run(LIMIT)?;
    assert!(status.success(), "{said}");
    until("nothing is left", || node.is_bare())
}

/// What mode ipvs left of itself where somebody took its interface away.
#[test]
fn cleanup_removes_a_table_without_an_interface() -> Result<()> {
    let node = Node::new()?;
    for family in ["ip", "ip6"] {
        node.namespace.command("nft", &["add", "table", family, "fairway-proxy"])?;
    }
    node.namespace.command("nft", &["add", "table", "ip", "others"])?;
    for _ in 0..2 {
        let (status, said) = node.clean_up()?;
        assert!(status.success(), "{said}");
        assert_eq!(node.namespace.command("nft", &["list", "tables"])?.trim(), "table ip others");
    }
    Ok(())
}

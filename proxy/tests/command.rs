//! The program as a supervisor and an administrator meet it: what it says and how it exits.
#![expect(clippy::unwrap_used, reason = "a test may say so by panicking")]

use std::fs;
use std::process::Command;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/kube-proxy-config.yaml");

/// Its exit code and what it wrote to standard error.
fn fairway_proxy(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fairway-proxy"))
        .args(arguments)
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_kube_proxy_configuration_is_valid() {
    let (code, said) = fairway_proxy(&["check", FIXTURE]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("configuration is valid"), "{said}");
}

#[test]
fn every_problem_of_a_configuration_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, "kind: KubeProxyConfiguration\nmode: 5\nclusterCIRD: 10.0.0.0/8\n").unwrap();
    let file = file.to_str().unwrap();
    let problems = "apiVersion: is required\nmode: must be one of ebpf, iptables, ipvs, nftables, found 5\n\
        clusterCIRD: unknown field\n";
    for arguments in [&["check", file][..], &["--config", file]] {
        assert_eq!(fairway_proxy(arguments), (Some(78), problems.into()), "{arguments:?}");
    }
}

#[test]
fn it_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_fairway-proxy")).arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), said),
        (Some(0), concat!("fairway-proxy ", env!("CARGO_PKG_VERSION"), "\n").into())
    );
}

#[test]
fn the_configuration_in_force_can_be_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let file = file.to_str().unwrap();
    let (code, said) = fairway_proxy(&["--write-config-to", file, "--cluster-cidr=10.0.0.0/8", "--v=2"]);
    assert_eq!(code, Some(0), "{said}");
    let written = fs::read_to_string(file).unwrap();
    assert!(written.contains("clusterCIDR: \"10.0.0.0/8\"\n"), "{written}");
    assert!(written.contains("iptables:\n  localhostNodePorts: true\n"), "{written}");
    assert_eq!(fairway_proxy(&["check", file]).0, Some(0));
    let (code, said) = fairway_proxy(&["--write-config-to", "/nowhere/config.yaml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("write /nowhere/config.yaml: No such file"), "{said}");
}

#[test]
fn what_a_restart_cannot_mend_has_its_own_exit_code() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--config", "/nowhere/config.yaml"], 78, "read /nowhere/config.yaml: No such file"),
        (&["--kubeconfig", "/nowhere/kubeconfig"], 78, "read kubeconfig /nowhere/kubeconfig"),
        (&["--master", "nonsense"], 78, "--master: \"nonsense\" is not a URL"),
        (&[], 78, "neither --kubeconfig nor --master is given"),
        (&["--proxy-mode", "userspace"], 78, "--proxy-mode: must be one of ebpf, "),
        (&["--colour"], 2, "unexpected argument"),
    ];
    for (arguments, expected, sentence) in cases {
        let (code, said) = fairway_proxy(arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {said}");
        assert!(said.contains(sentence), "{arguments:?}: {said}");
    }
}

//! It does not start: by its exit code a supervisor knows whether to try again, and by its words a person what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitStatus;

use tests::{Error, Program, Result, binary, kubeconfig};

use super::node::{LIMIT, Node};

/// Fails, with what it said, unless it ended with `code` and said all of `words`.
fn assert_refused(ended: (ExitStatus, String), code: i32, words: &[&str]) {
    let (status, said) = ended;
    assert_eq!(status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn what_it_is_told_is_checked_as_a_whole() -> Result<()> {
    let node = Node::new()?;
    let write = |name: &str, text: &str| Ok::<_, Error>(node.write(name, text)?.display().to_string());
    let config = write(
        "config.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         healthzBindAddress: here\nmetricsBindAddress: there\nmode: fast\n",
    )?;
    let garbage = write("garbage", "apiVersion: {{")?;
    let authority = node.directory().join("no.crt");
    let no_authority = write("no-authority", &kubeconfig("10.1.0.100:6443", &authority, "token"))?;
    let missing = node.directory().join("missing").display().to_string();
    let rows: [(&[&str], i32, &[&str]); 8] = [
        (&["--config", &config], 78, &["healthzBindAddress: ", "metricsBindAddress: ", "mode: "]),
        (&["--config", &missing], 78, &["missing"]),
        (
            &["--healthz-bind-address=x", "--metrics-bind-address=y"],
            78,
            &["--healthz-bind", "--metrics-bind"],
        ),
        (&["--kubeconfig", &missing], 78, &["missing"]),
        (&["--kubeconfig", &garbage], 78, &["garbage"]),
        (&["--kubeconfig", &no_authority], 78, &["no.crt"]),
        (&[], 78, &["--kubeconfig", "no pod of a cluster"]),
        (&["--no-such-flag"], 2, &["--no-such-flag"]),
    ];
    for (arguments, code, words) in rows {
        assert_refused(node.program(arguments)?.run(LIMIT)?, code, words);
        assert!(node.is_bare()?, "{arguments:?}: the kernel is not touched before all is proved");
    }
    Ok(())
}

#[test]
fn a_place_that_cannot_be_used_is_named() -> Result<()> {
    let node = Node::new()?;
    let manifests = node.directory().display().to_string();
    let (settings, elsewhere) = (node.settings(), node.directory().join("state"));
    let start = |cgroup: &Path, bpf_fs: &Path| {
        let places = ["--cgroup".as_ref(), cgroup, "--bpf-fs".as_ref(), bpf_fs];
        let program =
            Program::ours("fairway-proxy")?.arguments(["--manifests", &manifests]).arguments(places);
        program.inside(&node.namespace).run(LIMIT)
    };
    assert_refused(
        start(node.directory(), &settings.bpf_fs)?,
        78,
        &[&manifests, "not a directory of a cgroup v2"],
    );
    assert_refused(start(Path::new("/nowhere"), &settings.bpf_fs)?, 78, &["/nowhere"]);
    assert_refused(start(&settings.cgroup, &elsewhere)?, 78, &["state", "not on a bpffs"]);
    assert!(!elsewhere.exists());
    Ok(())
}

#[test]
fn without_privilege_it_says_which_it_wants() -> Result<()> {
    let node = Node::new()?;
    // Where nobody may look, nobody could start it.
    let open = |path: &Path| {
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .map_err(Error::system("open", path.display()))
    };
    let program = node.directory().join("fairway-proxy");
    fs::copy(binary("fairway-proxy")?, &program).map_err(Error::system("copy", program.display()))?;
    open(node.directory())?;
    let settings = node.settings();
    let nobody = || {
        let identity = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let places = ["--cgroup".as_ref(), settings.cgroup.as_path(), "--bpf-fs".as_ref(), &settings.bpf_fs];
        let program = Program::new("setpriv").arguments(identity).arguments([program.as_path()]);
        program
            .arguments(["--manifests".as_ref(), node.directory()])
            .arguments(places)
            .inside(&node.namespace)
    };
    assert_refused(nobody().run(LIMIT)?, 77, &["not permitted to", "CAP_BPF"]);
    Ok(())
}

/// D8: a machine where nobody mounted a cgroup v2, as one with cgroup v1 alone.
#[test]
fn a_kernel_that_lacks_something_is_told_apart() -> Result<()> {
    let node = Node::new()?;
    let script = "umount --lazy --all --types cgroup2 && exec \"$@\"";
    let program = Program::new("unshare")
        .arguments(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arguments([binary("fairway-proxy")?])
        .arguments(["--manifests".as_ref(), node.directory()])
        .arguments(["--bpf-fs".as_ref(), node.settings().bpf_fs.as_path()])
        .inside(&node.namespace);
    assert_refused(program.run(LIMIT)?, 69, &["the kernel lacks a mounted cgroup v2"]);
    assert!(node.is_bare()?);
    Ok(())
}

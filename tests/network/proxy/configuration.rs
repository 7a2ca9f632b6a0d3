//! The configuration file changes while the process runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tests::{Error, Result, objects};

use super::node::{LIMIT, METRICS_PORT, Node, POD_PORT, until};

const TARGET: &str = "10.254.0.10:80";

fn configuration(rest: &str) -> String {
    format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{rest}\n")
}

/// The directory that a `ConfigMap` is mounted at, as the kubelet keeps it: every file is a link into `..data`, a link to
/// a directory that is never changed but replaced.
struct Mount {
    directory: PathBuf,
    versions: u32,
}

impl Mount {
    fn new(node: &Node, text: &str) -> Result<Self> {
        let mut mount = Self { directory: node.directory().join("mount"), versions: 0 };
        fs::create_dir(&mount.directory).map_err(Error::system("make", mount.directory.display()))?;
        mount.update(text)?;
        symlink("..data/config.conf", mount.file()).map_err(Error::system("link", "config.conf"))?;
        Ok(mount)
    }

    fn file(&self) -> PathBuf {
        self.directory.join("config.conf")
    }

    fn update(&mut self, text: &str) -> Result<()> {
        let old = self.version();
        self.versions += 1;
        let (new, draft) = (self.version(), self.directory.join("..data_tmp"));
        let failed = || Error::system("replace", new.display());
        fs::create_dir(&new).map_err(failed())?;
        fs::write(new.join("config.conf"), configuration(text)).map_err(failed())?;
        symlink(&new, &draft).map_err(failed())?;
        fs::rename(&draft, self.directory.join("..data")).map_err(failed())?;
        if self.versions > 1 { fs::remove_dir_all(old).map_err(failed()) } else { Ok(()) }
    }

    fn version(&self) -> PathBuf {
        self.directory.join(format!("..version_{}", self.versions))
    }
}

/// kube-proxy ends at each of these, also for a file that its next start refuses.
#[test]
fn a_changed_configuration_is_followed_in_place_where_that_is_safe() -> Result<()> {
    let node = Node::with_pods()?;
    let both = |object: objects::Object, port| object.port("t", "TCP", port).port("u", "UDP", port);
    let service = both(objects::service("web", "10.254.0.10"), 80).json();
    let slice = both(objects::slice("web", "web-1"), POD_PORT).ready(&["10.1.0.1"]).json();
    let manifests = node.directory().join("manifests");
    fs::create_dir(&manifests).map_err(Error::system("make", manifests.display()))?;
    node.write("manifests/web.yaml", &format!("{service}\n---\n{slice}\n"))?;
    let mut mount = Mount::new(&node, "healthzBindAddress: 127.0.0.1:10256\noomScoreAdj: 500")?;
    let (config, manifests) = (mount.file().display().to_string(), manifests.display().to_string());
    let mut proxy = node.proxy(&["--config", &config, "--manifests", &manifests])?;
    let oom_score = format!("/proc/{}/oom_score_adj", proxy.id());
    let oom_score = || fs::read_to_string(&oom_score).map_err(Error::system("read", &oom_score));
    assert_eq!(oom_score()?, "500\n");
    let metric = |name: &str, value: &str| -> Result<bool> {
        let (_, page) = node.get(METRICS_PORT, "/metrics")?.unwrap_or_default();
        Ok(page.lines().any(|line| line == format!("fairway_proxy_{name} {value}")))
    };
    assert!(metric("configuration_usable", "1")?);

    mount.update("healthzBindAddress: nowhere\nnodePortAddresses: anywhere\noomScoreAdj: 400")?;
    for field in ["healthzBindAddress", "nodePortAddresses"] {
        let said = format!("configuration file not usable, the one in force stays field=\"{field}\"");
        proxy.wait_for_log(&said, LIMIT)?;
    }
    assert!(metric("configuration_usable", "0")? && metric("reloads_total{result=\"refused\"}", "1")?);
    assert_eq!(oom_score()?, "500\n", "nothing of it is in force");

    let more = "healthzBindAddress: 127.0.0.1:1111\noomScoreAdj: 400\nlogging: {verbosity: 4, format: json}\n\
                ipvs: {scheduler: mh}";
    mount.update(more)?;
    proxy.wait_for_log("configuration changed in place", LIMIT)?;
    until("the new address is served", || Ok(node.get(1111, "/livez")?.is_some()))?;
    assert_eq!(node.get(10_256, "/livez")?, None, "and not the old one");
    assert_eq!(oom_score()?, "400\n");
    assert!(metric("configuration_usable", "1")? && metric("reloads_total{result=\"applied\"}", "1")?);
    proxy.wait_for_log("\"level\":\"DEBUG\"", LIMIT)?;
    node.await_backends(TARGET, &["pod-1"])?;
    assert_eq!(proxy.ended()?, None);

    mount.update(&format!("{more}\nclusterCIDR: 10.1.0.0/24"))?;
    assert_eq!(proxy.wait(LIMIT)?.code(), Some(1), "for the supervisor to start it again");
    let log = proxy.log()?;
    assert!(log.contains("config.conf has changed in clusterCIDR: starting again applies it"), "{log}");
    node.await_backends(TARGET, &["pod-1"])
}

#[test]
fn init_only_puts_the_programs_in_place_and_ends() -> Result<()> {
    let node = Node::new()?;
    let manifests = node.directory().display().to_string();
    let (status, said) = node.program(&["--manifests", &manifests, "--init-only=true"])?.run(LIMIT)?;
    assert!(status.success(), "{said}");
    assert!(!node.is_bare()?, "{said}");
    let _proxy = node.proxy_of_files()?;
    Ok(())
}

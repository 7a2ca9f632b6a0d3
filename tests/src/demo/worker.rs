//! The worker: a proxy, and pods that serve and ask.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::network::Network;
use crate::{BpfFs, Cgroup, Error, Process, Program, Result, admin, wait};

/// How long the proxy may take to be in step with the API server.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a program may take to answer for its metrics.
pub(crate) const METRICS_PATIENCE: Duration = Duration::from_secs(1);
/// Where the proxy serves its metrics.
const METRICS_PORT: u16 = 10_249;
/// When rules were last queued and last written, as kube-proxy names it; seconds since 1970.
const QUEUED: &str = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}";
const WRITTEN: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}";

/// A node with a proxy.
#[derive(Debug)]
pub(crate) struct Worker {
    proxy: Option<Process>,
    starts: usize,
    folder: PathBuf,
    /// The control group of everything on the node: the proxy serves its members. Dropped after the proxy.
    pub cgroup: Cgroup,
    bpf_fs: BpfFs,
}

impl Worker {
    /// A node whose proxy does not run yet. `kubeconfig` tells it where the API server is.
    pub(crate) fn new(folder: &Path, kubeconfig: &str) -> Result<Self> {
        let file = folder.join("proxy.kubeconfig");
        std::fs::write(&file, kubeconfig).map_err(Error::system("write", file.display()))?;
        let (cgroup, bpf_fs) = (Cgroup::new("worker")?, BpfFs::new()?);
        Ok(Self { proxy: None, starts: 0, folder: folder.to_owned(), cgroup, bpf_fs })
    }

    /// Starts the proxy; it is not in step yet.
    pub(crate) fn start_proxy(&mut self, network: &Network) -> Result<()> {
        self.starts += 1;
        let program = Program::ours("fairway-proxy")?
            .arguments(["--kubeconfig".into(), self.folder.join("proxy.kubeconfig")])
            .arguments(["--cgroup".as_ref(), self.cgroup.path(), "--bpf-fs".as_ref(), self.bpf_fs.path()])
            .arguments(["--hostname-override", "worker"])
            .inside(&network.worker)
            .log_to(self.folder.join(format!("fairway-proxy-{}.log", self.starts)));
        self.proxy = Some(program.spawn()?);
        Ok(())
    }

    /// Waits until the proxy has written what the API server told it.
    pub(crate) fn await_proxy(&mut self, network: &Network) -> Result<()> {
        wait::until_some("the proxy is in step with the API server", PATIENCE, || {
            if let Some(status) = self.proxy.as_mut().map(Process::ended).transpose()?.flatten() {
                return Err(Error::Ended { program: "fairway-proxy".to_owned(), status: status.to_string() });
            }
            let metrics = admin::metrics(&network.worker, METRICS_PORT, METRICS_PATIENCE)?;
            let written = metrics.and_then(|metrics| admin::value::<f64>(&metrics, WRITTEN));
            Ok(written.filter(|&when| when > 0.0).map(drop))
        })
    }

    /// How long the latest change took in the proxy: from the watch event until the kernel had it. By its own metrics;
    /// `None` while it does not serve them, or a change is on its way.
    pub(crate) fn latest_change(network: &Network) -> Result<Option<Duration>> {
        let metrics = admin::metrics(&network.worker, METRICS_PORT, METRICS_PATIENCE)?;
        let times = metrics.and_then(|metrics| {
            admin::value::<f64>(&metrics, WRITTEN).zip(admin::value::<f64>(&metrics, QUEUED))
        });
        Ok(times.and_then(|(written, queued)| Duration::try_from_secs_f64(written - queued).ok()))
    }

    /// `kill -9`.
    pub(crate) fn kill_proxy(&mut self) -> Result<()> {
        self.proxy.take().map_or(Ok(()), |mut proxy| proxy.kill())
    }
}

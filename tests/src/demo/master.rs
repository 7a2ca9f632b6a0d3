//! A master: a front door and an apiserver, in a namespace of their own.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::control_plane::{Apiserver, ControlPlane};
use super::metrics::metrics;
use super::network::{APISERVER_PORT, FRONT_DOOR, MASTERS, MasterPlan, Network, VIRTUAL_ADDRESS};
use crate::{Error, Process, Program, Result};

/// Where a front door serves its metrics.
const METRICS_PORT: u16 = 8_405;
/// How long a process may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// A master.
#[derive(Debug)]
pub struct Master {
    /// What was planned.
    pub plan: MasterPlan,
    position: usize,
    folder: PathBuf,
    starts: usize,
    front_door: Option<Process>,
    apiserver: Option<Apiserver>,
}

impl Master {
    /// One of [`MASTERS`], not running yet. Its files go to `folder`.
    pub fn new(position: usize, folder: &Path) -> Self {
        let plan = MASTERS[position];
        Self { plan, position, folder: folder.to_owned(), starts: 0, front_door: None, apiserver: None }
    }

    /// Starts the apiserver.
    pub fn start_apiserver(&mut self, network: &Network, control_plane: &ControlPlane) -> Result<()> {
        let (namespace, _) = &network.masters[self.position];
        self.apiserver = Some(control_plane.start_apiserver(self.position, namespace)?);
        Ok(())
    }

    /// Starts the front door.
    pub fn start_front_door(&mut self, network: &Network, control_plane: &ControlPlane) -> Result<()> {
        let file = self.folder.join(format!("{}.yaml", self.plan.name));
        let text = configuration(self.plan, control_plane.authority_file());
        std::fs::write(&file, text).map_err(Error::system("write", file.display()))?;
        self.starts += 1;
        let log = self.folder.join(format!("{}-fairway-lb-{}.log", self.plan.name, self.starts));
        let program = Program::ours("fairway-lb")?
            .arguments(["--config".as_ref(), file.as_os_str()])
            .inside(&network.masters[self.position].0)
            .log_to(log);
        self.front_door = Some(program.spawn()?);
        Ok(())
    }

    /// Whether the virtual address is on its interface.
    pub fn holds_address(&self, network: &Network) -> Result<bool> {
        let address = VIRTUAL_ADDRESS.to_string();
        let shown =
            network.masters[self.position].0.ip(&["-oneline", "address", "show", "to", &address])?;
        Ok(!shown.trim().is_empty())
    }

    /// Whether the front door knows its role, and every apiserver to be ready.
    pub fn is_settled(&mut self, network: &Network) -> Result<bool> {
        if let Some(status) = self.front_door.as_mut().map(Process::ended).transpose()?.flatten() {
            return Err(self.ended(status));
        }
        let Some(metrics) = metrics(&network.masters[self.position].0, METRICS_PORT)? else { return Ok(false) };
        let is_up = |name: &str| metrics.value(&format!("fairway_lb_backend_up{{backend=\"{name}\"}}")) == Some(1.0);
        let has_role = metrics.value("fairway_lb_vrrp_state").is_some_and(|state| state > 0.0);
        Ok(has_role && MASTERS.iter().all(|master| is_up(master.name)))
    }

    /// The whole node is gone from one instant to the next: its cable first, so that nothing can say goodbye.
    pub fn die(&mut self, network: &Network) -> Result<()> {
        network.unplug(self.position)?;
        if let Some(mut front_door) = self.front_door.take() {
            front_door.kill()?;
        }
        self.apiserver = None;
        Ok(())
    }

    /// The node boots: no address is left from its former life, and its programs start anew.
    pub fn boot(&mut self, network: &Network, control_plane: &ControlPlane) -> Result<()> {
        if self.holds_address(network)? {
            let address = format!("{VIRTUAL_ADDRESS}/32");
            network.masters[self.position].0.ip(&["address", "delete", &address, "dev", "eth0"])?;
        }
        network.plug(self.position)?;
        self.start_apiserver(network, control_plane)?;
        self.start_front_door(network, control_plane)
    }

    /// Ends the front door as a service manager does; returns when it is gone.
    pub fn stop_front_door(&mut self) -> Result<()> {
        let Some(mut front_door) = self.front_door.take() else { return Ok(()) };
        let status = front_door.terminate(PATIENCE)?;
        if status.success() {
            return Ok(());
        }
        Err(self.ended(status))
    }

    /// Its apiserver, while the node lives.
    pub const fn apiserver(&mut self) -> Option<&mut Apiserver> {
        self.apiserver.as_mut()
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Ended { program: format!("fairway-lb of {}", self.plan.name), status: status.to_string() }
    }
}

/// What a front door is told.
fn configuration(plan: MasterPlan, authority: &Path) -> String {
    let backends: String = MASTERS
        .iter()
        .map(|master| format!("  - {{name: {}, address: \"{}:{APISERVER_PORT}\"}}\n", master.name, master.address))
        .collect();
    format!(
        "apiVersion: fairway.dev/v1alpha1\n\
         kind: FrontDoor\n\
         virtualRouter:\n\
        \x20 interface: eth0\n\
        \x20 routerId: 51\n\
        \x20 priority: {}\n\
        \x20 advertInterval: 100ms\n\
        \x20 addresses: [{VIRTUAL_ADDRESS}/32]\n\
         frontend: {{listen: \"{FRONT_DOOR}\"}}\n\
         backends:\n{backends}\
         healthCheck: {{tls: {{caFile: \"{}\"}}}}\n",
        plan.priority,
        authority.display(),
    )
}

//! A master: a front door and an apiserver, in a namespace of their own.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::control_plane::{Apiserver, ControlPlane};
use super::network::{APISERVER_PORT, MASTERS, Network};
use super::worker::METRICS_PATIENCE;
use crate::topology::{FRONT_DOOR, Host, INTERFACE, VIRTUAL_ADDRESS};
use crate::{Error, Process, Program, Result, admin};

/// Where a front door serves its metrics.
const METRICS_PORT: u16 = 8_405;
/// How long a process may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// A master.
#[derive(Debug)]
pub(crate) struct Master {
    position: usize,
    folder: PathBuf,
    starts: usize,
    front_door: Option<Process>,
    apiserver: Option<Apiserver>,
}

impl Master {
    /// One of [`MASTERS`], not running yet. Its files go to `folder`.
    pub(crate) fn new(position: usize, folder: &Path) -> Self {
        Self { position, folder: folder.to_owned(), starts: 0, front_door: None, apiserver: None }
    }

    /// Starts the apiserver.
    pub(crate) fn start_apiserver(&mut self, network: &Network, control_plane: &ControlPlane) -> Result<()> {
        // What served until now gives its address up first.
        self.apiserver = None;
        self.apiserver = Some(control_plane.start_apiserver(self.position, network)?);
        Ok(())
    }

    /// Starts the front door.
    pub(crate) fn start_front_door(&mut self, network: &Network, control_plane: &ControlPlane) -> Result<()> {
        let file = self.folder.join(format!("{}.yaml", self.name()));
        let control = self.folder.join(format!("{}-control.sock", self.name()));
        let masters = network.link.masters();
        let text = configuration(self.position, masters, control_plane.authority_file(), &control);
        std::fs::write(&file, text).map_err(Error::system("write", file.display()))?;
        self.starts += 1;
        let log = self.folder.join(format!("{}-fairway-lb-{}.log", self.name(), self.starts));
        let program = Program::ours("fairway-lb")?
            .arguments(["--config".as_ref(), file.as_os_str()])
            .inside(network.master(self.position).namespace())
            .log_to(log);
        self.front_door = Some(program.spawn()?);
        Ok(())
    }

    /// Whether the front door knows its role, and every apiserver to be ready.
    pub(crate) fn is_settled(&mut self, network: &Network) -> Result<bool> {
        if let Some(status) = self.front_door.as_mut().map(Process::ended).transpose()?.flatten() {
            return Err(self.ended(status));
        }
        let node = network.master(self.position).namespace();
        let Some(metrics) = admin::metrics(node, METRICS_PORT, METRICS_PATIENCE)? else {
            return Ok(false);
        };
        let value = |name: &str| admin::value::<f64>(&metrics, name);
        let is_up = |name: &str| value(&format!("fairway_lb_backend_up{{backend=\"{name}\"}}")) == Some(1.0);
        let has_role = value(&format!("fairway_lb_vrrp_state{{instance=\"{INTERFACE}-51-ipv4\"}}"))
            .is_some_and(|state| state > 0.0);
        Ok(has_role && MASTERS.iter().all(|master| is_up(master)))
    }

    /// The whole node is gone from one instant to the next: its cable first, so that nothing can say goodbye.
    pub(crate) fn die(&mut self, network: &Network) -> Result<()> {
        network.link.unplug(network.master(self.position))?;
        if let Some(mut front_door) = self.front_door.take() {
            front_door.kill()?;
        }
        self.apiserver = None;
        Ok(())
    }

    /// The node boots: no address is left from its former life, and its programs start anew.
    pub(crate) fn boot(&mut self, network: &Network, control_plane: &ControlPlane) -> Result<()> {
        let host = network.master(self.position);
        if host.holds(VIRTUAL_ADDRESS)? {
            let address = format!("{VIRTUAL_ADDRESS}/32");
            host.namespace().ip(&["address", "delete", &address, "dev", INTERFACE])?;
        }
        network.link.plug(host)?;
        self.start_apiserver(network, control_plane)?;
        self.start_front_door(network, control_plane)
    }

    /// Ends the front door as a service manager does; returns when it is gone.
    pub(crate) fn stop_front_door(&mut self) -> Result<()> {
        let Some(mut front_door) = self.front_door.take() else { return Ok(()) };
        let status = front_door.terminate(PATIENCE)?;
        if status.success() {
            return Ok(());
        }
        Err(self.ended(status))
    }

    /// Its apiserver; that of a dead node is an error.
    pub(crate) fn apiserver(&mut self) -> Result<&mut Apiserver> {
        let program = format!("the apiserver of {}", self.name());
        let ended = || Error::Ended { program, status: "its node".to_owned() };
        self.apiserver.as_mut().ok_or_else(ended)
    }

    const fn name(&self) -> &'static str {
        MASTERS[self.position]
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Ended { program: format!("fairway-lb of {}", self.name()), status: status.to_string() }
    }
}

/// What a front door is told. The first master wants the address most.
fn configuration(position: usize, masters: &[Host], authority: &Path, control: &Path) -> String {
    let priority = 250 - 10 * position;
    let backend = |(name, host): (&&str, &Host)| {
        format!("{{name: {name}, address: \"{}:{APISERVER_PORT}\"}}", host.address())
    };
    let backends: Vec<String> = MASTERS.iter().zip(masters).map(backend).collect();
    format!(
        "apiVersion: fairway.dev/v1alpha1\n\
         kind: FrontDoor\n\
         virtualRouter:\n\
        \x20 interface: {INTERFACE}\n\
        \x20 routerId: 51\n\
        \x20 priority: {priority}\n\
        \x20 advertInterval: 100ms\n\
        \x20 addresses: [{VIRTUAL_ADDRESS}/32]\n\
         frontend: {{listen: \"{FRONT_DOOR}\"}}\n\
         backends: [{}]\n\
         healthCheck: {{tls: {{caFile: \"{}\"}}}}\n\
         admin: {{socket: \"{}\"}}\n",
        backends.join(", "),
        authority.display(),
        control.display(),
    )
}

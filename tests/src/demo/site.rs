//! Everything that runs, and what a stage asks of all of it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::control_plane::ControlPlane;
use super::master::Master;
use super::network::{MASTERS, NOBODY, Network, POD_PORT, PODS, WEB};
use super::worker::Worker;
use crate::topology::VIRTUAL_ADDRESS;
use crate::{Api, Error, Namespace, Process, Program, Result, objects, wait};

/// How long nodes may take to find together.
const PATIENCE: Duration = Duration::from_secs(20);

/// The whole set. What runs is dropped before what it runs in.
#[derive(Debug)]
pub(crate) struct Site {
    /// The masters, in the order of [`MASTERS`].
    pub masters: Vec<Master>,
    /// The worker.
    pub worker: Worker,
    /// Who writes objects, through the virtual address.
    pub api: Api,
    /// The API server.
    pub control_plane: ControlPlane,
    /// The namespaces.
    pub network: Network,
    servers: Vec<Process>,
    folder: PathBuf,
    logs: Cell<usize>,
}

impl Site {
    /// Lays the cables; nothing runs but the pods' servers. Files go to `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let network = Network::new()?;
        let control_plane = ControlPlane::new(folder, &network)?;
        let worker = Worker::new(folder, &control_plane.kubeconfig())?;
        let api = control_plane.api(network.link.client().namespace())?;
        let masters = (0..MASTERS.len()).map(|position| Master::new(position, folder)).collect();
        let mut servers = Vec::new();
        for (pod, (name, address)) in network.pods.iter().zip(PODS) {
            servers.push(serve(pod, name, &format!("{address}:{POD_PORT}"), folder)?);
        }
        let (folder, logs) = (folder.to_owned(), Cell::new(0));
        Ok(Self { masters, worker, api, control_plane, network, servers, folder, logs })
    }

    /// Starts the apiservers, then the front doors.
    pub(crate) fn start_masters(&mut self) -> Result<()> {
        for master in &mut self.masters {
            master.start_apiserver(&self.network, &self.control_plane)?;
        }
        for master in &mut self.masters {
            master.start_front_door(&self.network, &self.control_plane)?;
        }
        Ok(())
    }

    /// Who holds the virtual address, once exactly one does among those that are `connected`.
    pub(crate) fn holder(&self, connected: impl Fn(usize) -> bool) -> Result<usize> {
        wait::until_some("one master holds the virtual address", PATIENCE, || {
            let mut holders = Vec::new();
            for (position, master) in self.network.link.masters().iter().enumerate() {
                if connected(position) && master.holds(VIRTUAL_ADDRESS)? {
                    holders.push(position);
                }
            }
            Ok(if let [holder] = holders[..] { Some(holder) } else { None })
        })
    }

    /// Waits until every front door has a role and knows every apiserver to be ready.
    pub(crate) fn settle(&mut self) -> Result<()> {
        wait::until_some("every front door is in order", PATIENCE, || {
            for master in &mut self.masters {
                if !master.is_settled(&self.network)? {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Writes the Services, and that `pods` serve.
    pub(crate) fn write_services(&self, pods: &[&str]) -> Result<()> {
        let web = objects::service("web", &WEB.ip().to_string())
            .port("tcp", "TCP", WEB.port())
            .port("udp", "UDP", WEB.port())
            .with("/spec/ports/0", "targetPort", POD_PORT)
            .with("/spec/ports/1", "targetPort", POD_PORT);
        let nobody = objects::service("nobody", &NOBODY.ip().to_string()).port("tcp", "TCP", NOBODY.port());
        for object in self.control_plane.own_service(&self.network) {
            self.api.apply(&object)?;
        }
        for service in [web, nobody] {
            self.api.apply(&service.json())?;
        }
        self.write_endpoints(pods).map(drop)
    }

    /// Writes that the pods of these names serve; returns once the API server has it.
    pub(crate) fn write_endpoints(&self, pods: &[&str]) -> Result<Value> {
        let serving = PODS.iter().filter(|(name, _)| pods.contains(name));
        let addresses: Vec<String> = serving.map(|(_, address)| address.to_string()).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let ports = [("tcp", "TCP", POD_PORT), ("udp", "UDP", POD_PORT)];
        self.api.apply(&self.control_plane.endpoints("web", &ports, &addresses))
    }

    /// Fails if a pod's server ended.
    pub(crate) fn check_pods(&mut self) -> Result<()> {
        for server in &mut self.servers {
            if let Some(status) = server.ended()? {
                return Err(Error::Ended {
                    program: "the server of a pod".to_owned(),
                    status: status.to_string(),
                });
            }
        }
        Ok(())
    }

    /// An apiserver begins to stop: it is not ready any more, and still serves.
    pub(crate) fn drain_apiserver(&mut self, master: usize) -> Result<()> {
        self.masters[master].apiserver()?.drain()
    }

    /// Another takes its place.
    pub(crate) fn replace_apiserver(&mut self, master: usize) -> Result<()> {
        self.masters[master].start_apiserver(&self.network, &self.control_plane)
    }

    /// A new file for the log of a client.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        let number = self.logs.get();
        self.logs.set(number + 1);
        self.folder.join(format!("{number}-{name}.log"))
    }
}

/// A pod's server, which answers with its name.
fn serve(pod: &Namespace, name: &str, address: &str, folder: &Path) -> Result<Process> {
    let program = Program::ours("traffic")?.arguments(["serve", address, "--name", name]);
    let mut process = program.inside(pod).log_to(folder.join(format!("pod-{name}.log"))).spawn()?;
    process.wait_for_log("listening", PATIENCE)?;
    Ok(process)
}

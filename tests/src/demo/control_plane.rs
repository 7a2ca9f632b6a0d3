//! The API server: three of the real one on one etcd, or three stubs on one store.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::network::{APISERVER_PORT, KUBERNETES, MASTERS, Network};
use crate::apiserver::{Options, Store, Stub};
use crate::certificates::{Authority, Identity};
use crate::kube_apiserver::{self, ADMIN_TOKEN, KubeApiserver, PROXY_TOKEN, assets};
use crate::namespace::command;
use crate::topology::FRONT_DOOR;
use crate::{Api, Error, Namespace, Result, objects};

/// A real apiserver goes on serving for so long after it has said that it is not ready: longer than it is watched.
const SHUTDOWN_DELAY: &str = "--shutdown-delay-duration=8s";
const ETCD_PORT: u16 = 2379;

/// Everything the apiservers share.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    kind: Kind,
    /// The certificate that clients trust, PEM.
    authority: String,
    authority_file: PathBuf,
}

#[derive(Debug)]
enum Kind {
    /// The identities are in the order of [`MASTERS`].
    Stub {
        identities: Vec<Identity>,
        store: Store,
    },
    Real {
        shared: Box<kube_apiserver::ControlPlane>,
        version: String,
    },
}

/// One apiserver.
#[derive(Debug)]
pub(crate) enum Apiserver {
    /// Ours.
    Stub(Stub),
    /// Kubernetes'.
    Real(KubeApiserver),
}

impl ControlPlane {
    /// The real one where `KUBEBUILDER_ASSETS` says where it is, else the stub. The stubs' certificates go to `folder`.
    pub(crate) fn new(folder: &Path, network: &Network) -> Result<Self> {
        if std::env::var_os("KUBEBUILDER_ASSETS").is_some() {
            Self::real(network)
        } else {
            Self::stub(folder, network)
        }
    }

    fn stub(folder: &Path, network: &Network) -> Result<Self> {
        let authority = Authority::new("fairway demo")?;
        let authority_file = folder.join("ca.crt");
        std::fs::write(&authority_file, authority.pem())
            .map_err(Error::system("write", authority_file.display()))?;
        let mut identities = Vec::new();
        for (name, host) in MASTERS.iter().zip(network.link.masters()) {
            let addresses =
                [FRONT_DOOR.ip(), KUBERNETES.ip(), host.address().into()].map(|ip| ip.to_string());
            let identity = authority.server(name, &addresses.each_ref().map(String::as_str))?;
            identity.write(folder, name)?;
            identities.push(identity);
        }
        Ok(Self {
            kind: Kind::Stub { identities, store: Store::default() },
            authority: authority.pem().to_owned(),
            authority_file,
        })
    }

    fn real(network: &Network) -> Result<Self> {
        let assets = assets()?;
        let version = command(&assets.join("kube-apiserver").display().to_string(), &["--version"])?;
        let version = version.trim().to_owned();
        let etcd = SocketAddr::new(network.store.address().into(), ETCD_PORT);
        let shared = kube_apiserver::ControlPlane::start(&assets, etcd, network.store.namespace())?;
        let mut shared = shared.with_flags(&[SHUTDOWN_DELAY]);
        shared.etcd().keep_log()?;
        let (authority, authority_file) = (shared.authority().pem().to_owned(), shared.authority_file());
        Ok(Self { kind: Kind::Real { shared: Box::new(shared), version }, authority, authority_file })
    }

    /// What answers, for people.
    pub(crate) fn name(&self) -> &str {
        match &self.kind {
            Kind::Stub { .. } => "a stub that speaks its protocol",
            Kind::Real { version, .. } => version,
        }
    }

    /// The file that clients find the authority's certificate in.
    pub(crate) fn authority_file(&self) -> &Path {
        &self.authority_file
    }

    /// The certificates of the apiservers, PEM, by name: clients tell them apart by these.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        MASTERS.iter().map(|name| (*name, self.authority_file.with_file_name(format!("{name}.crt"))))
    }

    /// Starts the apiserver of a master; returns when it is ready.
    pub(crate) fn start_apiserver(&self, position: usize, network: &Network) -> Result<Apiserver> {
        let (name, host) = (MASTERS[position], network.master(position));
        let address = SocketAddr::new(host.address().into(), APISERVER_PORT);
        match &self.kind {
            Kind::Stub { identities, store, .. } => {
                let listener = host.namespace().run(|| TcpListener::bind(address))?;
                let listener = listener.map_err(Error::system("listen on", address))?;
                let options = Options::new(name, identities[position].clone());
                Ok(Apiserver::Stub(Stub::serve(listener, options, store)?))
            }
            Kind::Real { shared, .. } => {
                let names = [FRONT_DOOR.ip().to_string()];
                let mut server = shared.apiserver(
                    name,
                    address,
                    &names.each_ref().map(String::as_str),
                    host.namespace(),
                )?;
                server.process().keep_log()?;
                Ok(Apiserver::Real(server))
            }
        }
    }

    /// A client that may write objects, through the front door.
    pub(crate) fn api(&self, from: &Namespace) -> Result<Api> {
        Ok(Api::new(FRONT_DOOR, &self.authority)?.with_token(ADMIN_TOKEN).inside(from))
    }

    /// The proxy's kubeconfig: it knows the virtual address and no master.
    pub(crate) fn kubeconfig(&self) -> String {
        crate::kubeconfig(&FRONT_DOOR.to_string(), &self.authority_file, PROXY_TOKEN)
    }

    /// The Service `kubernetes` and who is behind it, unless the API server writes them itself.
    pub(crate) fn own_service(&self, network: &Network) -> Vec<Value> {
        match &self.kind {
            Kind::Stub { .. } => {
                let addresses: Vec<String> =
                    network.link.masters().iter().map(|host| host.address().to_string()).collect();
                let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
                let service = objects::service("kubernetes", &KUBERNETES.ip().to_string())
                    .port("https", "TCP", KUBERNETES.port())
                    .with("/spec/ports/0", "targetPort", APISERVER_PORT);
                vec![
                    service.json(),
                    self.endpoints("kubernetes", &[("https", "TCP", APISERVER_PORT)], &addresses),
                ]
            }
            Kind::Real { .. } => Vec::new(),
        }
    }

    /// Who is behind a service, in the kind of object that a proxy of this API server's age reads.
    pub(crate) fn endpoints(&self, service: &str, ports: &[(&str, &str, u16)], addresses: &[&str]) -> Value {
        let object = match &self.kind {
            Kind::Stub { .. } => objects::slice(service, service),
            Kind::Real { .. } => objects::endpoints(service),
        };
        let add = |object: objects::Object, &(name, protocol, port): &_| object.port(name, protocol, port);
        ports.iter().fold(object.ready(addresses), add).json()
    }
}

impl Apiserver {
    /// Begins to stop: not ready any more, but still serving.
    pub(crate) fn drain(&mut self) -> Result<()> {
        match self {
            Self::Stub(stub) => {
                stub.faults(|faults| faults.unready = true);
                Ok(())
            }
            Self::Real(server) => server.process().signal(Signal::SIGTERM),
        }
    }
}

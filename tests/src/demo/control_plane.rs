//! The API server: three of the real one on one etcd, or three stubs on one store.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::network::{APISERVER_PORT, FRONT_DOOR, KUBERNETES, MASTERS, MasterPlan};
use crate::apiserver::{Options, Store, Stub};
use crate::certificates::{Authority, Identity};
use crate::{Api, Error, Namespace, Result, objects};

/// What the proxy and the writer of objects show. The stub asks for none.
const TOKEN: &str = "demo";

/// Everything the apiservers share.
#[derive(Debug)]
pub struct ControlPlane {
    authority: Authority,
    folder: PathBuf,
    authority_file: PathBuf,
    /// In the order of [`MASTERS`]: clients tell the apiservers apart by them.
    identities: Vec<Identity>,
    store: Store,
}

/// One apiserver.
#[derive(Debug)]
pub struct Apiserver {
    stub: Stub,
}

impl ControlPlane {
    /// Makes the certificates, in `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        let authority = Authority::new("fairway demo")?;
        let authority_file = folder.join("ca.crt");
        std::fs::write(&authority_file, authority.pem())
            .map_err(Error::system("write", authority_file.display()))?;
        let identities = MASTERS.iter().map(|plan| issue(&authority, plan, folder)).collect::<Result<_>>()?;
        let folder = folder.to_owned();
        Ok(Self { authority, folder, authority_file, identities, store: Store::default() })
    }

    /// What answers, for the report.
    pub fn name(&self) -> String {
        "stub that speaks the API server's protocol".to_owned()
    }

    /// The file that clients find the authority's certificate in.
    pub fn authority_file(&self) -> &Path {
        &self.authority_file
    }

    /// The certificates of the apiservers, PEM, by name.
    pub fn certificates(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        MASTERS.iter().map(|plan| (plan.name, self.folder.join(format!("{}.crt", plan.name))))
    }

    /// Starts the apiserver of a master.
    pub fn start_apiserver(&self, position: usize, namespace: &Namespace) -> Result<Apiserver> {
        let plan = MASTERS[position];
        let address = SocketAddr::new(plan.address.into(), APISERVER_PORT);
        let identity = self.identities[position].clone();
        let listener = namespace.run(|| TcpListener::bind(address))?;
        let listener = listener.map_err(Error::system("listen on", address))?;
        Ok(Apiserver { stub: Stub::serve(listener, Options::new(plan.name, identity), &self.store)? })
    }

    /// A client that writes objects through the front door.
    pub fn api(&self, from: &Namespace) -> Result<Api> {
        Ok(Api::new(FRONT_DOOR, self.authority.pem())?.with_token(TOKEN).inside(from))
    }

    /// The proxy's kubeconfig: it knows the virtual address and no master.
    pub fn kubeconfig(&self) -> String {
        crate::kubeconfig(&FRONT_DOOR.to_string(), &self.authority_file, TOKEN)
    }

    /// The Service `kubernetes` and who is behind it. A real apiserver writes them itself.
    pub fn own_service(&self) -> Vec<Value> {
        let service = objects::service("kubernetes", &KUBERNETES.ip().to_string());
        let service = service.port("https", "TCP", KUBERNETES.port()).with(
            "/spec/ports/0",
            "targetPort",
            APISERVER_PORT,
        );
        let addresses = MASTERS.map(|master| master.address.to_string());
        let addresses = addresses.each_ref().map(String::as_str);
        vec![service.json(), self.endpoints("kubernetes", ("https", APISERVER_PORT), &addresses)]
    }

    /// Who is behind a service, in the kind of object this API server knows.
    pub fn endpoints(&self, service: &str, (port, number): (&str, u16), addresses: &[&str]) -> Value {
        objects::slice(service, service).port(port, "TCP", number).ready(addresses).json()
    }
}

impl Apiserver {
    /// Begins to stop as a real one does: not ready any more, but still serving.
    pub fn drain(&mut self) {
        self.stub.faults(|faults| faults.unready = true);
    }

    /// Ready again.
    pub fn recover(&mut self) {
        self.stub.faults(|faults| faults.unready = false);
    }
}

/// A certificate for every address a client may know an apiserver by.
fn issue(authority: &Authority, plan: &MasterPlan, folder: &Path) -> Result<Identity> {
    let names = [FRONT_DOOR.ip(), KUBERNETES.ip(), plan.address.into()].map(|name| name.to_string());
    let identity = authority.server(plan.name, &names.each_ref().map(String::as_str))?;
    identity.write(folder, plan.name)?;
    Ok(identity)
}

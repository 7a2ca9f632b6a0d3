//! An apiserver on the node's link, whom the proxy watches over TLS.

use std::net::TcpListener;

use serde_json::Value;
use tests::apiserver::{Options, Release, Store, Stub};
use tests::certificates::Authority;
use tests::{Error, Namespace, Plug, Process, Result, kubeconfig};

use super::node::Node;

/// Where the proxy is told to find it.
pub(crate) const ADDRESS: &str = "10.1.0.100";
pub(crate) const PORT: u16 = 6443;
pub(crate) const TOKEN: &str = "proxy-token";

/// What all apiservers share: the objects and the certificates.
pub(crate) struct ControlPlane {
    pub(crate) store: Store,
    options: Options,
}

/// One apiserver at [`ADDRESS`]. Dropping it is `kill -9`.
pub(crate) struct Apiserver {
    stub: Option<Stub>,
    namespace: Namespace,
    plug: Plug,
    options: Options,
    store: Store,
}

impl ControlPlane {
    /// Serves this generation of the API. Writes the kubeconfig of the node's proxy.
    pub(crate) fn new(node: &Node, release: Release) -> Result<Self> {
        let authority = Authority::new("cluster")?;
        let certificate = node.write("ca.crt", authority.pem())?;
        node.write("kubeconfig", &kubeconfig(&format!("{ADDRESS}:{PORT}"), &certificate, TOKEN))?;
        let mut options = Options::new("one", authority.server("one", &[ADDRESS])?);
        options.release = release;
        options.tokens = vec![TOKEN.to_owned()];
        Ok(Self { store: Store::default(), options })
    }

    /// Starts an apiserver on a host of its own.
    pub(crate) fn apiserver(&self, node: &Node) -> Result<Apiserver> {
        let namespace = Namespace::new("master")?;
        let plug = node.switch.attach(&namespace, "eth0", &[&format!("{ADDRESS}/24")])?;
        let (options, store) = (self.options.clone(), self.store.clone());
        let mut apiserver = Apiserver { stub: None, namespace, plug, options, store };
        apiserver.start()?;
        Ok(apiserver)
    }

    /// Creates or replaces objects.
    pub(crate) fn put(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        objects.into_iter().try_for_each(|object| self.store.put(object).map(drop))
    }
}

impl Apiserver {
    /// Starts it where it was.
    pub(crate) fn start(&mut self) -> Result<()> {
        let listener = self.namespace.run(|| TcpListener::bind((ADDRESS, PORT)))?;
        let listener = listener.map_err(Error::system("bind", ADDRESS))?;
        self.stub = Some(Stub::serve(listener, self.options.clone(), &self.store)?);
        Ok(())
    }

    /// From its next start on it has a certificate of another authority, whose own is returned, PEM, and knows this token alone.
    pub(crate) fn change_secrets(&mut self, token: &str) -> Result<String> {
        self.options.tokens = vec![token.to_owned()];
        let authority = Authority::new("successor")?;
        self.options.identity = authority.server("one", &[ADDRESS])?;
        Ok(authority.pem().to_owned())
    }

    /// Kills it: its connections are reset or closed by the kernel, and nobody listens any more.
    pub(crate) fn kill(&mut self) {
        drop(self.stub.take());
    }

    /// Parts it from everybody without a word: no packet comes back from there.
    pub(crate) fn vanish(&self, node: &Node) -> Result<()> {
        node.switch.detach(&self.plug)
    }
}

/// Starts a proxy that watches the apiserver, and waits until it is in step.
pub(crate) fn watching_proxy(node: &Node) -> Result<Process> {
    node.proxy(&["--kubeconfig", &node.directory().join("kubeconfig").display().to_string()])
}

//! A real etcd and real apiservers, from the folder that `KUBEBUILDER_ASSETS` names.
//!
//! Any folder with `etcd` and `kube-apiserver` does, from 1.20 on. No controller runs: tests write Endpoints and slices
//! themselves. Users: `admin-token` (system:masters) and `proxy-token` (system:kube-proxy); RBAC is on.
//!
//! ```no_run
//! use tests::Namespace;
//! use tests::kube_apiserver::{ControlPlane, assets};
//!
//! let node = Namespace::new("master")?;
//! let plane = ControlPlane::start(&assets()?, "127.0.0.1:2379".parse().expect("valid"), &node)?;
//! let server = plane.apiserver("one", "127.0.0.1:6443".parse().expect("valid"), &[], &node)?;
//! server.admin().get("/api/v1/namespaces/default/services")?;
//! # Ok::<(), tests::Error>(())
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::KeyPair;
use tempfile::TempDir;

use crate::certificates::{Authority, Identity};
use crate::{Api, Error, Namespace, Process, Program, Result, wait};

/// The bearer token of a user who may do everything.
pub const ADMIN_TOKEN: &str = "admin-token";
/// The bearer token of `system:kube-proxy`.
pub const PROXY_TOKEN: &str = "proxy-token";

const TOKENS: &str = "admin-token,admin,admin,\"system:masters\"\nproxy-token,system:kube-proxy,kube-proxy\n";
const VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// A first start writes the bootstrap objects and takes seconds; a busy machine more.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// The folder with `etcd` and `kube-apiserver`.
pub fn assets() -> Result<PathBuf> {
    let missing = |what: String| Error::NoAssets { what };
    let folder = std::env::var_os(VARIABLE).map(PathBuf::from);
    let folder = folder.ok_or_else(|| missing(format!("{VARIABLE} is not set")))?;
    for binary in ["etcd", "kube-apiserver"] {
        if !folder.join(binary).is_file() {
            return Err(missing(format!("{VARIABLE} is {}, which has no {binary}", folder.display())));
        }
    }
    Ok(folder)
}

/// One etcd and what all apiservers on it share: authority, users, keys. Ends with the test.
#[derive(Debug)]
pub struct ControlPlane {
    assets: PathBuf,
    directory: TempDir,
    authority: Authority,
    etcd: SocketAddr,
    flags: Vec<String>,
    process: Process,
}

impl ControlPlane {
    /// Starts etcd on `etcd` inside `namespace`. Apiservers must be able to reach that address from theirs.
    pub fn start(assets: &Path, etcd: SocketAddr, namespace: &Namespace) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("fw-kube-")
            .tempdir()
            .map_err(Error::system("make", "a directory"))?;
        let url = format!("http://{etcd}");
        let peer = format!("http://127.0.0.1:{}", etcd.port().saturating_add(1));
        let process = Program::new(assets.join("etcd"))
            .arguments(["--name", "test", "--data-dir"])
            .arguments([directory.path().join("etcd")])
            .arguments(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .arguments(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arguments(["--initial-cluster", &format!("test={peer}"), "--unsafe-no-fsync"])
            .inside(namespace)
            .spawn()?;
        let authority = Authority::new("kubernetes-ca")?;
        let plane =
            Self { assets: assets.to_owned(), directory, authority, etcd, flags: Vec::new(), process };
        plane.write("ca.crt", plane.authority.pem())?;
        plane.write("tokens.csv", TOKENS)?;
        let accounts = KeyPair::generate()
            .map_err(|source| Error::Certificate { subject: "service accounts".to_owned(), source })?;
        plane.write("sa.key", &accounts.serialize_pem())?;
        plane.write("sa.pub", &accounts.public_key_pem())?;
        Ok(plane)
    }

    /// The authority of every certificate here.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The file of its certificate, for kubeconfigs and `fairway-lb`.
    pub fn authority_file(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// Gives the apiservers that are started from now on more flags: `--shutdown-delay-duration=2s`.
    #[must_use]
    pub fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self
    }

    /// The process of etcd.
    pub const fn etcd(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Starts an apiserver and waits until it is ready. Its certificate is good for its address, 10.254.0.1 and
    /// `names`, for example the virtual IP in front of it.
    pub fn apiserver(
        &self,
        name: &str,
        address: SocketAddr,
        names: &[&str],
        namespace: &Namespace,
    ) -> Result<KubeApiserver> {
        let own = address.ip().to_string();
        let names = [&[own.as_str(), "10.254.0.1", "kubernetes", "localhost"], names].concat();
        let identity = self.authority.server(name, &names)?;
        identity.write(self.directory.path(), name)?;
        let process = Program::new(self.assets.join("kube-apiserver"))
            .arguments(self.arguments(name, address))
            .arguments(self.flags.clone())
            .inside(namespace)
            .spawn()?;
        let api = Api::new(address, self.authority.pem())?.inside(namespace);
        let mut server = KubeApiserver { address, identity, api, process };
        server.wait_until_ready(READY_WITHIN)?;
        Ok(server)
    }

    fn arguments(&self, name: &str, address: SocketAddr) -> Vec<String> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        vec![
            format!("--etcd-servers=http://{}", self.etcd),
            format!("--bind-address={}", address.ip()),
            format!("--advertise-address={}", address.ip()),
            format!("--secure-port={}", address.port()),
            format!("--tls-cert-file={}", file(&format!("{name}.crt"))),
            format!("--tls-private-key-file={}", file(&format!("{name}.key"))),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.254.0.0/16".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ]
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).map_err(Error::system("write", path.display()))
    }
}

/// A running kube-apiserver.
#[derive(Debug)]
pub struct KubeApiserver {
    address: SocketAddr,
    identity: Identity,
    api: Api,
    process: Process,
}

impl KubeApiserver {
    /// Where it serves.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificate: clients tell apiservers apart by it.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A client that may do everything, from within its namespace.
    pub fn admin(&self) -> Api {
        self.api.clone().with_token(ADMIN_TOKEN)
    }

    /// A client that may do what kube-proxy may.
    pub fn proxy(&self) -> Api {
        self.api.clone().with_token(PROXY_TOKEN)
    }

    /// The process: to kill it, to end it, to read its log.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until `/readyz` says so; fails at once if the process ends.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<()> {
        let admin = self.admin();
        wait::until_some("kube-apiserver is ready", limit, || {
            if let Some(status) = self.process.ended()? {
                return Err(Error::Ended {
                    program: "kube-apiserver".to_owned(),
                    status: status.to_string(),
                });
            }
            // Before it listens every request fails; the deadline is the judge.
            let answer = admin.request("GET", "/readyz", None).ok();
            Ok(answer.filter(|answer| answer.status == 200).map(drop))
        })
    }
}

//! How health checks authenticate both sides: the files behind `healthCheck.tls`.
//!
//! They are read and parsed when the configuration is checked, not when they are first used; and again when they change,
//! because certificates are renewed while the front door runs. What cannot be used then changes nothing.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::document::Section;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::time::Instant;

/// Reads a file; tests hand in files that are not there.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Who is trusted and, where one is configured, our certificate. Clones share it. Equal where the same files are meant.
#[derive(Clone, Debug)]
pub struct Tls {
    files: Arc<Files>,
    /// The name that certificates must hold, where it is not the backend's address.
    server_name: Option<ServerName<'static>>,
    loaded: Arc<Mutex<Loaded>>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.server_name == other.server_name
    }
}

impl Eq for Tls {}

impl Tls {
    /// What a session with a backend begins with.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.with_loaded(|loaded| Arc::clone(&loaded.client)))
    }

    /// The name that the certificate of a backend at `address` must hold.
    pub fn server_name(&self, address: SocketAddr) -> ServerName<'static> {
        self.server_name.clone().unwrap_or_else(|| ServerName::from(address.ip()))
    }

    /// Reads the files anew, unless that was done within the last second. `None` where nothing is new since the last
    /// time.
    pub fn reload(&self, now: Instant) -> Option<Reload> {
        self.with_loaded(|loaded| {
            if now.duration_since(loaded.looked) < RELOAD_INTERVAL {
                return None;
            }
            loaded.looked = now;
            let found = self.files.read(&|path: &Path| std::fs::read(path));
            if found == loaded.found {
                let outdated = found.as_ref().is_ok_and(Contents::is_outdated);
                let before = std::mem::replace(&mut loaded.outdated, outdated);
                return (outdated && !before).then_some(Reload::Outdated);
            }
            loaded.outdated = false;
            let client = found.as_ref().map_err(Clone::clone).and_then(Contents::client);
            loaded.found = found;
            Some(match client {
                Ok(client) => {
                    loaded.client = Arc::new(client);
                    Reload::Renewed
                }
                Err(mistakes) => Reload::Refused(mistakes),
            })
        })
    }

    fn with_loaded<T>(&self, work: impl FnOnce(&mut Loaded) -> T) -> T {
        // No code that holds the lock leaves it half-changed.
        work(&mut self.loaded.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What became of files that have changed.
#[derive(Debug)]
pub enum Reload {
    /// They are used from now on.
    Renewed,
    /// They cannot be used; what was used before still is.
    Refused(Mistakes),
    /// They have not changed, and no authority in `caFile` is within its time any more, or yet. They still are used: it
    /// is not for health checks to cut off everybody.
    Outdated,
}

/// What is wrong with which field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<(&'static str, String)>);

impl Display for Mistakes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, (field, what)) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(formatter, "{separator}healthCheck.tls.{field}: {what}")?;
        }
        Ok(())
    }
}

/// How long files that have changed may go unnoticed.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Loaded {
    client: Arc<ClientConfig>,
    /// What was found when the files were last read, fit for use or not.
    found: Result<Contents, Mistakes>,
    looked: Instant,
    /// Whether that has been told.
    outdated: bool,
}

pub(super) fn tls(section: &mut Section<'_>, read_file: ReadFile<'_>) -> Option<Tls> {
    let files = files(section);
    let server_name = server_name(section);
    let files = files?;
    let found = files.read(read_file);
    match found.as_ref().map_err(Clone::clone).and_then(Contents::client) {
        Ok(client) => {
            let loaded = Loaded { client: Arc::new(client), found, looked: Instant::now(), outdated: false };
            Some(Tls { files: Arc::new(files), server_name, loaded: Arc::new(Mutex::new(loaded)) })
        }
        Err(Mistakes(list)) => {
            for (field, what) in list {
                section.problem(field, what);
            }
            None
        }
    }
}

fn files(section: &mut Section<'_>) -> Option<Files> {
    let authority = section.text("caFile");
    let authority = section.require("caFile", authority);
    let identity = match (section.text("certificateFile"), section.text("keyFile")) {
        (None, None) => None,
        (Some(chain), Some(key)) => Some((chain.into(), key.into())),
        (Some(_), None) => {
            section.problem("keyFile", "is required where certificateFile is given");
            None
        }
        (None, Some(_)) => {
            section.problem("certificateFile", "is required where keyFile is given");
            None
        }
    };
    Some(Files { authority: authority?.into(), identity })
}

fn server_name(section: &mut Section<'_>) -> Option<ServerName<'static>> {
    let name = section.text("serverName")?;
    let parsed = ServerName::try_from(name.clone()).ok();
    if parsed.is_none() {
        section.problem("serverName", format!("must be a DNS name or an IP address, found {name:?}"));
    }
    parsed
}

#[derive(Debug, PartialEq, Eq)]
struct Files {
    authority: PathBuf,
    /// Our certificate chain and its key.
    identity: Option<(PathBuf, PathBuf)>,
}

impl Files {
    fn read(&self, read_file: ReadFile<'_>) -> Result<Contents, Mistakes> {
        let mut mistakes = Vec::new();
        let mut bytes = |field, path: &Path| {
            let bytes = read_file(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
            bytes.map_err(|what| mistakes.push((field, what))).ok()
        };
        let authority = bytes(CA, &self.authority);
        let identity =
            self.identity.as_ref().map(|(chain, key)| (bytes(CERTIFICATE, chain), bytes(KEY, key)));
        let identity = match identity {
            Some((Some(chain), Some(key))) => Some((chain, key)),
            Some(_) | None => None,
        };
        match authority {
            Some(authority) if mistakes.is_empty() => Ok(Contents { authority, identity }),
            Some(_) | None => Err(Mistakes(mistakes)),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Contents {
    authority: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Contents {
    fn is_outdated(&self) -> bool {
        certificates(CA, &self.authority).is_ok_and(|authorities| authorities.iter().all(is_outdated))
    }

    fn client(&self) -> Result<ClientConfig, Mistakes> {
        let roots = roots(&self.authority);
        let identity =
            self.identity.as_ref().map(|(chain, key)| (certificates(CERTIFICATE, chain), key_in(key)));
        // The provider is named, so that no process-wide default has to be installed first.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| mistake("", "cannot be used", &error));
        let mut client = match (identity, roots) {
            (None, roots) => builder?.with_root_certificates(roots?).with_no_client_auth(),
            (Some((Ok(chain), Ok(key))), Ok(roots)) => {
                let builder = builder?.with_root_certificates(roots);
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| mistake(KEY, "does not fit the certificate", &error))?
            }
            (Some((chain, key)), roots) => {
                let found = [roots.err(), chain.err(), key.err()];
                return Err(Mistakes(found.into_iter().flatten().flat_map(|Mistakes(list)| list).collect()));
            }
        };
        // A resumed session skips the verification that a health check is for.
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}

/// Whether the authority is not within its time. Of an authority itself nobody asks that here (RFC 5280 §6.1), but clients
/// do; so it is looked at as if it were a server's certificate, of which that is the first question.
fn is_outdated(certificate: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anyone = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    if roots.add(certificate.clone()).is_err() {
        return false;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verified = verifier.map(|it| it.verify_server_cert(certificate, &[], &anyone, &[], UnixTime::now()));
    matches!(
        verified,
        Ok(Err(rustls::Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )))
    )
}

fn roots(authority: &[u8]) -> Result<RootCertStore, Mistakes> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA, authority)? {
        let add = roots.add(certificate);
        add.map_err(|error| mistake(CA, "holds a certificate that cannot be trusted", &error))?;
    }
    Ok(roots)
}

fn certificates(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Mistakes> {
    let list = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let list = list.map_err(|error| mistake(field, "is not valid PEM", &error))?;
    if list.is_empty() {
        Err(Mistakes(vec![(field, "holds no PEM certificate".to_owned())]))
    } else {
        Ok(list)
    }
}

fn key_in(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Mistakes> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| mistake(KEY, "holds no PEM private key", &error))
}

fn mistake(field: &'static str, what: &str, error: &dyn Display) -> Mistakes {
    Mistakes(vec![(field, format!("{what}: {error}"))])
}

const CA: &str = "caFile";
const CERTIFICATE: &str = "certificateFile";
const KEY: &str = "keyFile";

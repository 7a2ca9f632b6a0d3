//! The files behind `healthCheck.tls`: read and parsed when the configuration is checked, not when they are first used.
//!
//! What is wrong is noted and read as absent, as everywhere in [`daemon::document`]: with a problem noted there will be
//! no [`Config`](super::Config).

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::document::Section;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::Tls;

/// Reads a file; tests hand in files that are not there.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

pub(super) fn tls(section: &mut Section<'_>, read_file: ReadFile<'_>) -> Option<Tls> {
    let roots = roots(section, read_file);
    let server_name = server_name(section);
    let identity = identity(section, read_file);
    let client = client(section, roots?, identity)?;
    Some(Tls { client: Arc::new(client), server_name })
}

/// Our certificate chain and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client(
    section: &mut Section<'_>,
    roots: RootCertStore,
    identity: Option<Identity>,
) -> Option<ClientConfig> {
    // The provider is named, so that no process-wide default has to be installed first.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = match ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions() {
        Ok(builder) => builder.with_root_certificates(roots),
        Err(error) => return wrong(section, "", "cannot be used", &error),
    };
    let mut client = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => match builder.with_client_auth_cert(chain, key) {
            Ok(client) => client,
            Err(error) => return wrong(section, "keyFile", "does not fit the certificate", &error),
        },
    };
    // A resumed session skips the verification that a health check is for.
    client.resumption = Resumption::disabled();
    Some(client)
}

fn roots(section: &mut Section<'_>, read_file: ReadFile<'_>) -> Option<RootCertStore> {
    let file = section.text("caFile");
    let file = section.require("caFile", file)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(section, "caFile", file, read_file)? {
        if let Err(error) = roots.add(certificate) {
            return wrong(section, "caFile", "holds a certificate that cannot be trusted", &error);
        }
    }
    Some(roots)
}

fn server_name(section: &mut Section<'_>) -> Option<ServerName<'static>> {
    let name = section.text("serverName")?;
    let parsed = ServerName::try_from(name.clone()).ok();
    if parsed.is_none() {
        section.problem("serverName", format!("must be a DNS name or an IP address, found {name:?}"));
    }
    parsed
}

fn identity(section: &mut Section<'_>, read_file: ReadFile<'_>) -> Option<Identity> {
    let (chain_file, key_file) = (section.text("certificateFile"), section.text("keyFile"));
    match (&chain_file, &key_file) {
        (None, None) | (Some(_), Some(_)) => {}
        (Some(_), None) => section.problem("keyFile", "is required where certificateFile is given"),
        (None, Some(_)) => section.problem("certificateFile", "is required where keyFile is given"),
    }
    let chain = chain_file.and_then(|file| certificates(section, "certificateFile", file, read_file));
    let key = key_file.and_then(|file| private_key(section, file, read_file));
    Some((chain?, key?))
}

fn certificates(
    section: &mut Section<'_>,
    field: &str,
    file: String,
    read_file: ReadFile<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = bytes(section, field, file, read_file)?;
    match CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => {
            section.problem(field, "holds no PEM certificate");
            None
        }
        Ok(certificates) => Some(certificates),
        Err(error) => wrong(section, field, "is not valid PEM", &error),
    }
}

fn private_key(
    section: &mut Section<'_>,
    file: String,
    read_file: ReadFile<'_>,
) -> Option<PrivateKeyDer<'static>> {
    let bytes = bytes(section, "keyFile", file, read_file)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some(key),
        Err(error) => wrong(section, "keyFile", "holds no PEM private key", &error),
    }
}

fn bytes(section: &mut Section<'_>, field: &str, file: String, read_file: ReadFile<'_>) -> Option<Vec<u8>> {
    let path = PathBuf::from(file);
    match read_file(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => wrong(section, field, &format!("cannot read {}", path.display()), &error),
    }
}

fn wrong<T>(section: &mut Section<'_>, field: &str, what: &str, error: &dyn Display) -> Option<T> {
    section.problem(field, format!("{what}: {error}"));
    None
}

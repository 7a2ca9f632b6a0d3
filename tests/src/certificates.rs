//! Certificates for tests: an authority and what it issues, and the TLS settings made of them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::{Error, Result};

/// A certificate authority that lives as long as the test.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Result<Self> {
        let make = || {
            let mut parameters = CertificateParams::default();
            parameters.distinguished_name.push(DnType::CommonName, name);
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate()?;
            let pem = parameters.self_signed(&key)?.pem();
            Ok(Self { issuer: Issuer::new(parameters, key), pem })
        };
        make().map_err(|source| Error::Certificate { subject: name.to_owned(), source })
    }

    /// Its own certificate, PEM: what clients trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate, valid for `names`: DNS names and addresses.
    pub fn server(&self, name: &str, names: &[&str]) -> Result<Identity> {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        self.issue(name, None, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate: the apiserver takes the common name for the user and the organization for the group.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        self.issue(user, group, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        name: &str,
        organization: Option<&str>,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity> {
        let make = || {
            let mut parameters = CertificateParams::new(names)?;
            parameters.distinguished_name.push(DnType::CommonName, name);
            if let Some(organization) = organization {
                parameters.distinguished_name.push(DnType::OrganizationName, organization);
            }
            parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            parameters.extended_key_usages = vec![usage];
            parameters.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            let certificate = parameters.signed_by(&key, &self.issuer)?.pem();
            Ok(Identity { certificate, key: key.serialize_pem() })
        };
        make().map_err(|source| Error::Certificate { subject: name.to_owned(), source })
    }
}

impl Identity {
    /// Writes `<name>.crt` and `<name>.key` into `directory`.
    pub fn write(&self, directory: &Path, name: &str) -> Result<()> {
        for (extension, text) in [("crt", &self.certificate), ("key", &self.key)] {
            let path = directory.join(format!("{name}.{extension}"));
            std::fs::write(&path, text).map_err(Error::system("write", path.display()))?;
        }
        Ok(())
    }

    /// The certificate as it goes over the wire: tells servers with certificates of their own apart.
    pub fn der(&self) -> Result<Vec<u8>> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map(|der| der.to_vec())
            .map_err(Error::tls)
    }
}

/// A TLS server with `identity`. With `client_authority`, a client that shows a certificate must have it from there;
/// one that shows none is let in.
pub fn server_tls(identity: &Identity, client_authority: Option<&str>) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(Error::tls)?;
    let builder = match client_authority {
        Some(pem) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider)
                .allow_unauthenticated()
                .build()
                .map_err(Error::tls)?,
        ),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain(identity)?, key(identity)?).map_err(Error::tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A TLS client that trusts `authority` (PEM) and shows `identity` if it is given. It never resumes a session, so that
/// every connection costs what a new client's costs.
pub fn client_tls(authority: &str, identity: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::tls)?
        .with_root_certificates(roots(authority)?);
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(chain(identity)?, key(identity)?).map_err(Error::tls)?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(Error::tls)?).map_err(Error::tls)?;
    }
    Ok(roots)
}

fn chain(identity: &Identity) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
    certificates.collect::<std::result::Result<_, _>>().map_err(Error::tls)
}

fn key(identity: &Identity) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(Error::tls)
}

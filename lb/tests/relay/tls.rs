//! A certificate authority and an HTTPS server that answers as badly as told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::lab::backend;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// One that is no longer valid.
    pub(crate) fn expired() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, a DNS name or an IP address.
    pub(crate) fn sign(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new([name.to_owned()]).unwrap();
        Identity { certificate: parameters.signed_by(&key, &self.0).unwrap(), key }
    }

    /// One that is no longer valid.
    pub(crate) fn sign_expired(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        Identity { certificate: parameters.signed_by(&key, &self.0).unwrap(), key }
    }

    fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }
}

impl Identity {
    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// What the server sends, whatever it is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    /// These bytes, then the end.
    Send(&'static str),
    /// The second to whoever asks for `/livez`, the first to everybody else; then the end.
    Answers(&'static str, &'static str),
    /// A head, then a byte of a body that never ends every now and then.
    Drip,
    /// A head, then as fast a body as can be, which never ends.
    Flood,
    /// Nothing, not even a handshake.
    Silence,
    /// The end, instead of a handshake.
    Close,
}

const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ILL: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\netcd";
pub(crate) const READY: Behaviour = Behaviour::Send(WELL);
pub(crate) const UNREADY: Behaviour = Behaviour::Answers(ILL, WELL);
pub(crate) const DEAD: Behaviour = Behaviour::Send(ILL);

/// A running server. Its behaviour may change between connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    behaviour: Arc<std::sync::Mutex<Behaviour>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Serves as `identity`; where `clients` is given, only those that it signed for.
    pub(crate) async fn start(
        identity: &Identity,
        clients: Option<&Authority>,
        behaviour: Behaviour,
    ) -> Self {
        let acceptor = acceptor(identity, clients);
        let behaviour = Arc::new(std::sync::Mutex::new(behaviour));
        let connections = Arc::new(AtomicUsize::new(0));
        let (current, count) = (Arc::clone(&behaviour), Arc::clone(&connections));
        let address = backend(move |stream| {
            count.fetch_add(1, Ordering::SeqCst);
            answer(stream, acceptor.clone(), *current.lock().unwrap())
        });
        Self { address: address.await, behaviour, connections }
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn answer(stream: TcpStream, acceptor: TlsAcceptor, behaviour: Behaviour) {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    match behaviour {
        Behaviour::Close => return,
        Behaviour::Silence => return std::future::pending().await,
        Behaviour::Send(_) | Behaviour::Answers(..) | Behaviour::Drip | Behaviour::Flood => {}
    }
    // A client that leaves early is what some tests are about.
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut request = [0; 4096];
    let Ok(1..) = stream.read(&mut request).await else { return };
    let sent = match behaviour {
        Behaviour::Answers(_, live) if request.starts_with(b"GET /livez ") => {
            stream.write_all(live.as_bytes()).await
        }
        Behaviour::Send(bytes) | Behaviour::Answers(bytes, _) => stream.write_all(bytes.as_bytes()).await,
        Behaviour::Drip | Behaviour::Flood => stream.write_all(HEAD).await,
        Behaviour::Silence | Behaviour::Close => return,
    };
    let mut going_on = sent.is_ok();
    while going_on {
        going_on = match behaviour {
            Behaviour::Drip => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                stream.write_all(b".").await.and(stream.flush().await).is_ok()
            }
            Behaviour::Flood => stream.write_all(&[b'.'; 4096]).await.is_ok(),
            Behaviour::Send(_) | Behaviour::Answers(..) | Behaviour::Silence | Behaviour::Close => false,
        };
    }
    drop(stream.shutdown().await);
}

fn acceptor(identity: &Identity, clients: Option<&Authority>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
    let config = builder.with_single_cert(vec![identity.certificate.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

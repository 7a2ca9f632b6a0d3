//! What the relay leaves as it is: TLS, from the names of protocols to certificates, and silence.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::lab::{Lab, Settings, Single, within};
use crate::tls::{Authority, Identity};

fn chain(identity: &Identity) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_slice(identity.certificate_pem().as_bytes()).unwrap()]
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes()).unwrap()
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_protocols_and_certificates_pass_between_client_and_backend() {
    let authority = Authority::new();
    let (server, client) = (authority.sign("kubernetes"), authority.sign("admin"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&authority), Arc::clone(&provider));
    let mut serving = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain(&server), key(&server))
        .unwrap();
    serving.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    let mut asking = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&authority))
        .with_client_auth_cert(chain(&client), key(&client))
        .unwrap();
    asking.alpn_protocols = vec![b"h2".into()];

    let single = Single::listen().await;
    let lab = Lab::start(&[single.address]);
    let (asked, served) = tokio::join!(
        async {
            let name = ServerName::try_from("kubernetes").unwrap();
            let stream = lab.connect().await;
            within("client", TlsConnector::from(Arc::new(asking)).connect(name, stream)).await.unwrap()
        },
        async {
            within("server", TlsAcceptor::from(Arc::new(serving)).accept(single.accept().await))
                .await
                .unwrap()
        }
    );
    let (asked, served) = (asked.get_ref().1, served.get_ref().1);
    assert_eq!(asked.peer_certificates().unwrap(), chain(&server));
    assert_eq!(served.peer_certificates().unwrap(), chain(&client));
    assert_eq!((asked.alpn_protocol(), served.alpn_protocol()), (Some(&b"h2"[..]), Some(&b"h2"[..])));
    assert_eq!(served.server_name(), Some("kubernetes"));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_speak() {
    let single = Single::listen().await;
    let settings = Settings { frontend: "connectTimeout: 20ms", ..Settings::default() };
    let lab = Lab::start_with(&[single.address], &settings);
    let (mut client, mut backend) = (lab.connect().await, single.accept().await);
    for _ in 0..2 {
        // Many times as long as a connect may take.
        tokio::time::sleep(Duration::from_millis(400)).await;
        backend.write_all(b"after a while").await.unwrap();
        let mut said = [0; 13];
        within("the backend's words", client.read_exact(&mut said)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.write_all(&said).await.unwrap();
        let mut said = [0; 13];
        within("the client's words", backend.read_exact(&mut said)).await.unwrap();
        assert_eq!(&said, b"after a while");
    }
    assert_eq!(lab.active(0), 1);
    lab.stop().await;
}

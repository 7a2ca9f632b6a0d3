//! The other end of [`super::load()`] by TCP and UDP, which says that it is ready to whoever asks over HTTPS on the same port.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::load::{CHUNK, DATAGRAM, LARGEST, Work, raise_descriptor_limit};
use crate::certificates::{Identity, server_tls};
use crate::{Error, Result};

/// What a TLS record of a handshake begins with (RFC 8446 §5.1): no [`Work`] does.
const HANDSHAKE: u8 = 22;
const READY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Where to listen and who to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Answer {
    /// Addresses and ports, TCP and UDP.
    #[arg(required = true)]
    pub addresses: Vec<SocketAddr>,
    /// The certificate for health checks, PEM.
    #[arg(long)]
    pub certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    pub key: PathBuf,
}

/// Answers for ever. `ready` is called when it listens.
pub async fn answer(settings: &Answer, ready: impl FnOnce()) -> Result<()> {
    raise_descriptor_limit()?;
    let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::system("read", path.display()));
    let identity = Identity { certificate: read(&settings.certificate)?, key: read(&settings.key)? };
    let acceptor = TlsAcceptor::from(server_tls(&identity, None)?);
    let mut servers = JoinSet::new();
    for &address in &settings.addresses {
        let listener = TcpListener::bind(address).await.map_err(Error::system("bind TCP", address))?;
        let socket = UdpSocket::bind(address).await.map_err(Error::system("bind UDP", address))?;
        let acceptor = acceptor.clone();
        servers.spawn(accept(listener, acceptor));
        servers.spawn(async move { echo(socket).await.map_err(Error::system("serve UDP", address)) });
    }
    ready();
    match servers.join_next().await {
        Some(ended) => {
            ended.map_err(|error| Error::system("serve", "an address")(io::Error::other(error)))?
        }
        None => Ok(()),
    }
}

/// An answer to each datagram.
async fn echo(socket: UdpSocket) -> io::Result<()> {
    let (mut question, answer) = ([0; DATAGRAM.0], [0x5a; DATAGRAM.1]);
    loop {
        let (_, from) = socket.recv_from(&mut question).await?;
        match socket.send_to(&answer, from).await {
            Ok(_) => {}
            // Its client is gone, or its client's host said so of an earlier answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let acceptor = acceptor.clone();
                // A client that is not served as it should be reports the failure itself.
                tokio::spawn(async move { drop(serve(stream, acceptor).await) });
            }
            // Out of descriptors, most likely: others must close some first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let first = stream.read_u8().await?;
    let (reader, writer) = stream.into_split();
    match first {
        HANDSHAKE => say_ready(reader, writer, acceptor).await,
        first if first == Work::Up as u8 => swallow(reader, writer).await,
        first if first == Work::Down as u8 => pour(reader, writer).await,
        _ => reply(BufReader::new(reader), writer).await,
    }
}

async fn say_ready(reader: OwnedReadHalf, writer: OwnedWriteHalf, acceptor: TlsAcceptor) -> io::Result<()> {
    let whole = tokio::io::join((&[HANDSHAKE][..]).chain(reader), writer);
    let mut stream = BufReader::new(acceptor.accept(whole).await?);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    stream.write_all(READY).await?;
    stream.shutdown().await
}

/// Counts what comes, and says how much it was.
async fn swallow(mut reader: OwnedReadHalf, mut writer: OwnedWriteHalf) -> io::Result<()> {
    let (mut buffer, mut total) = (vec![0; CHUNK], 0_u64);
    loop {
        match reader.read(&mut buffer).await? {
            0 => return writer.write_u64(total).await,
            length => total += length as u64,
        }
    }
}

/// Sends until the client says that it has enough, by a second byte, and stays until it has read everything: a closed
/// socket with bytes to send is the first thing that a kernel short of memory resets.
async fn pour(mut reader: OwnedReadHalf, mut writer: OwnedWriteHalf) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    let mut byte = [0];
    tokio::select! {
        enough = reader.read(&mut byte) => drop(enough?),
        broken = async {
            loop {
                if let Err(error) = writer.write_all(&chunk).await {
                    break error;
                }
            }
        } => return Err(broken),
    }
    writer.shutdown().await?;
    reader.read(&mut byte).await.map(drop)
}

/// An answer of the announced size to each question of the announced size.
async fn reply(mut reader: BufReader<OwnedReadHalf>, mut writer: OwnedWriteHalf) -> io::Result<()> {
    let mut question = vec![0; bounded(reader.read_u32().await?)?];
    let answer = vec![0x5a; bounded(reader.read_u32().await?)?];
    loop {
        match reader.read_exact(&mut question).await {
            Ok(_) => writer.write_all(&answer).await?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn bounded(size: u32) -> io::Result<usize> {
    usize::try_from(size)
        .ok()
        .filter(|size| (1..=LARGEST).contains(size))
        .ok_or_else(|| io::Error::other(format!("{size} bytes at a time")))
}

/// A server for the tests of this process.
#[cfg(test)]
pub(super) async fn in_background() -> Result<SocketAddr> {
    let identity = crate::certificates::Authority::new("load")?.server("answer", &["127.0.0.1"])?;
    let acceptor = TlsAcceptor::from(server_tls(&identity, None)?);
    let bound = || Error::system("bind", "a free port");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(bound())?;
    let address = listener.local_addr().map_err(bound())?;
    tokio::spawn(accept(listener, acceptor));
    tokio::spawn(echo(UdpSocket::bind(address).await.map_err(bound())?));
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::certificates::{Authority, client_tls};

    #[tokio::test]
    async fn a_health_check_on_the_same_port_is_answered() -> Result<()> {
        let authority = Authority::new("load")?;
        let identity = authority.server("answer", &["127.0.0.1"])?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Error::system("bind", "a port"))?;
        let address = listener.local_addr().map_err(Error::system("bind", "a port"))?;
        tokio::spawn(accept(listener, TlsAcceptor::from(server_tls(&identity, None)?)));
        let exchange = async {
            let connector = TlsConnector::from(Arc::clone(&client_tls(authority.pem(), None)?));
            let stream = TcpStream::connect(address).await.map_err(Error::tls)?;
            let name = ServerName::IpAddress(address.ip().into());
            let mut stream = connector.connect(name, stream).await.map_err(Error::tls)?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.map_err(Error::tls)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.map_err(Error::tls)?;
            Ok::<_, Error>(answer)
        };
        assert_eq!(exchange.await?, READY);
        Ok(())
    }
}

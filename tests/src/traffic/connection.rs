//! One client's connection, whatever the protocol: open it, ask who is there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::client_tls;
use crate::{Error, Result};

/// The largest answer that is read.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Whom to reach and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// Address and port to connect to.
    pub address: SocketAddr,
    /// How to speak to it.
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    pub protocol: Protocol,
    /// The authority (PEM file) of the server's certificate, which must be valid for the address.
    #[arg(long, required_if_eq("protocol", "tls"))]
    pub authority: Option<PathBuf>,
    /// NAME=FILE: who shows the certificate in this PEM file is called NAME. May be given several times.
    #[arg(long = "backend", value_parser = parse_backend)]
    pub backends: Vec<Backend>,
    /// What to GET through TLS.
    #[arg(long, default_value = "/readyz")]
    pub path: String,
}

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// A line each way.
    Tcp,
    /// HTTPS, one GET per request.
    Tls,
    /// A datagram each way, each sent to the address anew; the answer must come from there.
    Udp,
    /// A datagram each way over a connected socket.
    ConnectedUdp,
}

/// A server known by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What to call it.
    pub name: String,
    /// The PEM file of its certificate.
    pub certificate: PathBuf,
}

fn parse_backend(text: &str) -> std::result::Result<Backend, String> {
    let (name, certificate) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok(Backend { name: name.to_owned(), certificate: certificate.into() })
}

/// Opens connections to one target.
#[derive(Debug)]
pub(super) struct Dialer {
    address: SocketAddr,
    protocol: Protocol,
    path: String,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    names: BTreeMap<Vec<u8>, String>,
}

#[derive(Debug)]
pub(super) enum Connection {
    Tcp(BufReader<TcpStream>),
    Tls { stream: Box<BufReader<TlsStream<TcpStream>>>, backend: String, request: String },
    Udp { socket: UdpSocket, target: SocketAddr },
    ConnectedUdp(UdpSocket),
}

impl Dialer {
    pub(super) fn new(target: &Target) -> Result<Self> {
        let tls = match &target.authority {
            Some(file) => {
                let pem = std::fs::read_to_string(file).map_err(Error::system("read", file.display()))?;
                let mut names = BTreeMap::new();
                for backend in &target.backends {
                    let der = CertificateDer::from_pem_file(&backend.certificate).map_err(Error::tls)?;
                    names.insert(der.to_vec(), backend.name.clone());
                }
                Some(Tls { config: client_tls(&pem, None)?, names })
            }
            None => None,
        };
        Ok(Self { address: target.address, protocol: target.protocol, path: target.path.clone(), tls })
    }

    pub(super) async fn open(&self) -> io::Result<Connection> {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        match self.protocol {
            Protocol::Tcp => Ok(Connection::Tcp(BufReader::new(self.connect().await?))),
            Protocol::Tls => self.connect_tls().await,
            Protocol::Udp => {
                Ok(Connection::Udp { socket: UdpSocket::bind((any, 0)).await?, target: self.address })
            }
            Protocol::ConnectedUdp => {
                let socket = UdpSocket::bind((any, 0)).await?;
                socket.connect(self.address).await?;
                Ok(Connection::ConnectedUdp(socket))
            }
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn connect_tls(&self) -> io::Result<Connection> {
        let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("TLS needs --authority"))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, self.connect().await?).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let backend = shown.and_then(|certificate| tls.names.get(certificate.as_ref())).cloned();
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.address);
        let stream = Box::new(BufReader::new(stream));
        Ok(Connection::Tls { stream, backend: backend.unwrap_or_else(|| "unknown".to_owned()), request })
    }
}

impl Connection {
    /// The other end, as the socket has it: what `getpeername` says.
    pub(super) fn peer(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.get_ref().peer_addr(),
            Self::Tls { stream, .. } => stream.get_ref().get_ref().0.peer_addr(),
            Self::Udp { target, .. } => Ok(*target),
            Self::ConnectedUdp(socket) => socket.peer_addr(),
        }
    }

    /// One request; returns the name of the server that answered.
    pub(super) async fn ask(&mut self) -> io::Result<String> {
        match self {
            Self::Tcp(stream) => {
                stream.write_all(b"who\n").await?;
                let mut line = String::new();
                if stream.read_line(&mut line).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(first_word(&line))
            }
            Self::Tls { stream, backend, request } => {
                stream.write_all(request.as_bytes()).await?;
                read_http(stream).await?;
                Ok(backend.clone())
            }
            Self::Udp { socket, target } => {
                let mut buffer = [0; 512];
                socket.send_to(b"who", *target).await?;
                let (length, from) = socket.recv_from(&mut buffer).await?;
                if from != *target {
                    return Err(io::Error::other(format!("asked {target}, answered by {from}")));
                }
                Ok(first_word(&String::from_utf8_lossy(&buffer[..length])))
            }
            Self::ConnectedUdp(socket) => {
                let mut buffer = [0; 512];
                socket.send(b"who").await?;
                let length = socket.recv(&mut buffer).await?;
                Ok(first_word(&String::from_utf8_lossy(&buffer[..length])))
            }
        }
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Reads one answer; anything but 200 is an error.
async fn read_http(stream: &mut BufReader<TlsStream<TcpStream>>) -> io::Result<()> {
    let mut length = 0_usize;
    let mut status = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        match (status.is_some(), line.strip_prefix("content-length:")) {
            (false, _) => status = Some(line),
            (true, Some(value)) => length = value.trim().parse().map_err(io::Error::other)?,
            (true, None) if line.is_empty() => break,
            (true, None) => {}
        }
    }
    if length > LARGEST_ANSWER {
        return Err(io::Error::other(format!("an answer of {length} bytes")));
    }
    stream.read_exact(&mut vec![0; length]).await?;
    let status = status.unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(io::Error::other(status)) }
}

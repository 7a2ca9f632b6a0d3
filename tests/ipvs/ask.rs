//! Asks a service who answers and whom he sees.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use plan::{Frontend, Protocol};
use tests::Namespace;

/// Who is refused hears of it long before this has passed.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);
/// A guest without hardware support is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Who answered, and whom he saw.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) seen: IpAddr,
}

/// Asks a frontend from a place, and waits so long for an answer.
pub(crate) fn ask_for(place: &Namespace, frontend: Frontend, patience: Duration) -> io::Result<Answer> {
    let to = SocketAddr::new(frontend.address(), frontend.port().number());
    let exchange = || {
        let mut buffer = [0; 200];
        let length = if frontend.protocol() == Protocol::Udp {
            let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().unwrap() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(patience))?;
            socket.send(b"who\n")?;
            socket.recv(&mut buffer)?
        } else {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(b"who\n")?;
            stream.read(&mut buffer)?
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let (name, seen) = text.trim().split_once(' ').ok_or(ErrorKind::InvalidData)?;
        let seen: SocketAddr = seen.parse().map_err(io::Error::other)?;
        Ok(Answer { name: name.to_owned(), seen: seen.ip().to_canonical() })
    };
    place.run(exchange).unwrap()
}

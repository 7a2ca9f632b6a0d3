//! Backends: servers that say who they are.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};

/// Answers are local: what takes longer is lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A TCP server that sends its own address to every client, then echoes what it gets.
pub(crate) struct TcpServer {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl TcpServer {
    /// Call it inside the node's network. Port 0 lets the kernel choose.
    pub(crate) fn start(address: &str) -> Self {
        let listener = Arc::new(TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        let accepting = Arc::clone(&listener);
        let thread = std::thread::spawn(move || {
            // Ends when the listener is shut down.
            while let Ok((stream, _)) = accepting.accept() {
                std::thread::spawn(move || greet_and_echo(stream, address));
            }
        });
        Self { address, listener, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn greet_and_echo(mut stream: TcpStream, name: SocketAddr) {
    let mut serve = || -> io::Result<()> {
        writeln!(stream, "{name}")?;
        let mut buffer = [0; 256];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..count])?;
        }
    };
    // A client that leaves early is none of the server's business.
    serve().unwrap_or_default();
}

/// Connects and reads who answered.
pub(crate) fn ask(frontend: &str) -> io::Result<SocketAddr> {
    greeting(&mut connect(frontend)?)
}

/// Connects, with a deadline for what follows.
pub(crate) fn connect(frontend: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(frontend)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads who answered.
pub(crate) fn greeting(stream: &mut TcpStream) -> io::Result<SocketAddr> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).parse().map_err(io::Error::other)
}

/// A UDP server that answers every datagram with its own address.
pub(crate) struct UdpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// Call it inside the node's network. Port 0 lets the kernel choose.
    pub(crate) fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, client)) = socket.recv_from(&mut buffer) {
                    socket.send_to(address.to_string().as_bytes(), client).unwrap();
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Sends a datagram; returns who answered and from which address the answer seemed to come.
pub(crate) fn exchange(socket: &UdpSocket, frontend: &str) -> io::Result<(SocketAddr, SocketAddr)> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"who?", frontend)?;
    let mut buffer = [0; 64];
    let (count, source) = socket.recv_from(&mut buffer)?;
    let name = String::from_utf8_lossy(&buffer[..count]).parse().map_err(io::Error::other)?;
    Ok((name, source))
}

//! What is sent arrives whole, and what goes wrong on the way is told to whom it concerns.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tests::objects;
use tests::{Error, Namespace, Result};

use super::site::{LOCAL, LOCAL6, Site, both};

const PATIENCE: Duration = Duration::from_secs(5);
/// Where the echo listens.
const ECHO: u16 = 9000;
/// Of the Service `echo`.
const TARGETS: [&str; 2] = ["10.254.0.7:7", "[fd00:254::7]:7"];
/// Of the Service `nobody`, whose endpoints do not listen.
const DEAF: [&str; 2] = ["10.254.0.9:9", "[fd00:254::9]:9"];

/// Both ways in which packets go on.
const WAYS: [&str; 2] = ["redirect", "stack"];

fn echo_site(way: &str) -> Result<(Site, tests::Process)> {
    let site = Site::new()?;
    let service = |name: &str, address: &str, port| both(objects::service(name, address), port).json();
    let slice = |name: &str, address: &str, port| {
        both(objects::slice(name, &format!("{name}-1")), port).ready(&[address]).json()
    };
    site.objects(&[
        service("echo", "10.254.0.7", 7),
        slice("echo", LOCAL, ECHO),
        service("echo6", "fd00:254::7", 7),
        slice("echo6", LOCAL6, ECHO),
        service("nobody", "10.254.0.9", 9),
        slice("nobody", LOCAL, 9),
        service("nobody6", "fd00:254::9", 9),
        slice("nobody6", LOCAL6, 9),
    ])?;
    let proxy = site.proxy(&["--cluster-cidr=10.42.0.0/16,fd42::/16", "--packet-forwarding", way])?;
    Ok((site, proxy))
}

fn io_error(error: io::Error) -> Error {
    Error::system("talk to", "the echo")(error)
}

fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
    namespace.run(work)?.map_err(io_error)
}

/// What the other end came to.
fn joined<T>(other: JoinHandle<io::Result<T>>) -> Result<T> {
    let outcome = other.join().unwrap_or_else(|_panic| Err(io::Error::other("the other end panicked")));
    outcome.map_err(io_error)
}

fn address(target: &str) -> io::Result<SocketAddr> {
    target.parse().map_err(io::Error::other)
}

/// The address, of a target's family, to which a client binds that does not mind.
fn any(target: &str) -> &'static str {
    if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }
}

fn pattern(length: usize) -> Vec<u8> {
    (0_u8..251).cycle().take(length).collect()
}

/// A15: datagrams of one packet and of many, both ways.
#[test]
fn datagrams_in_fragments_arrive_whole() -> Result<()> {
    WAYS.into_iter().try_for_each(fragments)
}

fn fragments(way: &str) -> Result<()> {
    let (site, _proxy) = echo_site(way)?;
    let echo = inside(&site.local, || UdpSocket::bind(("::", ECHO)))?;
    echo.set_read_timeout(Some(PATIENCE)).map_err(io_error)?;
    let sizes = [1, 1400, 8192, 30_000];
    let server = thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; 65_536];
        for _ in 0..sizes.len() * TARGETS.len() {
            let (length, from) = echo.recv_from(&mut buffer)?;
            echo.send_to(&buffer[..length], from)?;
        }
        Ok(())
    });
    for target in TARGETS {
        let client = inside(&site.out, || {
            let socket = UdpSocket::bind(any(target))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(address(target)?)?;
            Ok(socket)
        })?;
        for size in sizes {
            let mut buffer = vec![0; 65_536];
            client.send(&pattern(size)).map_err(io_error)?;
            let length = client.recv(&mut buffer).map_err(io_error)?;
            assert!(buffer[..length] == pattern(size), "{size} bytes to {target}");
        }
    }
    joined(server)
}

/// A15: a stream, of which the kernel makes packets larger than any link's.
#[test]
fn streams_arrive_whole() -> Result<()> {
    WAYS.into_iter().try_for_each(streams)
}

fn streams(way: &str) -> Result<()> {
    const LENGTH: usize = 4 << 20;
    let (site, _proxy) = echo_site(way)?;
    let echo = inside(&site.local, || TcpListener::bind(("::", ECHO)))?;
    let server = thread::spawn(move || -> io::Result<()> {
        for _ in TARGETS {
            let (mut stream, _) = echo.accept()?;
            let mut writer = stream.try_clone()?;
            io::copy(&mut stream, &mut writer)?;
        }
        Ok(())
    });
    for target in TARGETS {
        let mut stream = inside(&site.out, || super::connect(address(target)?, PATIENCE))?;
        let mut writer = stream.try_clone().map_err(io_error)?;
        let sender = thread::spawn(move || -> io::Result<()> {
            writer.write_all(&pattern(LENGTH))?;
            writer.shutdown(std::net::Shutdown::Write)
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).map_err(io_error)?;
        assert!(received == pattern(LENGTH), "{} bytes came back from {target}", received.len());
        joined(sender)?;
    }
    joined(server)
}

/// The pod's own ICMP error, about a packet that the client never sent, reaches the client as one about what it did send.
#[test]
fn a_client_hears_of_an_error_that_a_pod_reports() -> Result<()> {
    WAYS.into_iter().try_for_each(error_of_a_pod)
}

fn error_of_a_pod(way: &str) -> Result<()> {
    let (site, _proxy) = echo_site(way)?;
    for target in DEAF {
        let outcome = site.out.run(|| -> io::Result<usize> {
            let socket = UdpSocket::bind(any(target))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(address(target)?)?;
            socket.send(b"who")?;
            socket.recv(&mut [0; 16])
        })?;
        let kind = outcome.map_err(|error| error.kind());
        assert_eq!(kind, Err(io::ErrorKind::ConnectionRefused), "{target}");
    }
    Ok(())
}

/// And the other way round: the client is gone, and the pod hears of it.
#[test]
fn a_pod_hears_of_an_error_that_a_client_reports() -> Result<()> {
    WAYS.into_iter().try_for_each(error_of_a_client)
}

fn error_of_a_client(way: &str) -> Result<()> {
    let (site, _proxy) = echo_site(way)?;
    for target in TARGETS {
        let echo = inside(&site.local, || UdpSocket::bind(("::", ECHO)))?;
        echo.set_read_timeout(Some(PATIENCE)).map_err(io_error)?;
        inside(&site.out, || {
            let socket = UdpSocket::bind(any(target))?;
            socket.send_to(b"who", address(target)?)
        })?;
        let (_, from) = echo.recv_from(&mut [0; 16]).map_err(io_error)?;
        echo.connect(from).map_err(io_error)?;
        echo.send(b"me").map_err(io_error)?;
        let kind = echo.recv(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(kind, Err(io::ErrorKind::ConnectionRefused), "{target}");
    }
    Ok(())
}

/// A packet that may not pass another router is answered, not swallowed: `traceroute` sees the node.
#[test]
fn a_client_hears_that_its_packet_has_passed_too_many_routers() -> Result<()> {
    WAYS.into_iter().try_for_each(too_many_routers)
}

fn too_many_routers(way: &str) -> Result<()> {
    let (site, _proxy) = echo_site(way)?;
    let outcome = site.out.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_default_ttl", "1")?;
        super::connect(address(TARGETS[0])?, PATIENCE).map(drop)
    })?;
    assert_eq!(outcome.map_err(|error| error.kind()), Err(io::ErrorKind::HostUnreachable));
    Ok(())
}

/// The way to the pod is narrower than the client's: the client is told, and cuts its datagrams accordingly.
#[test]
fn a_client_hears_that_its_packet_is_too_big() -> Result<()> {
    WAYS.into_iter().try_for_each(too_big)
}

fn too_big(way: &str) -> Result<()> {
    let (site, _proxy) = echo_site(way)?;
    site.node.namespace.ip(&["link", "set", "pod5", "mtu", "1300"])?;
    site.local.ip(&["link", "set", "eth0", "mtu", "1300"])?;
    for target in TARGETS {
        let echo = inside(&site.local, || UdpSocket::bind(("::", ECHO)))?;
        echo.set_read_timeout(Some(PATIENCE)).map_err(io_error)?;
        let server = thread::spawn(move || echo.recv(&mut [0; 2048]));
        inside(&site.out, || {
            let socket = UdpSocket::bind(any(target))?;
            socket.connect(address(target)?)?;
            for _ in 0..50 {
                // The first are too big, or fail with the news of it; the next ones are cut.
                drop(socket.send(&pattern(1400)));
                thread::park_timeout(Duration::from_millis(20));
                if server.is_finished() {
                    break;
                }
            }
            Ok(())
        })?;
        assert_eq!(joined(server)?, 1400, "{target}");
    }
    Ok(())
}

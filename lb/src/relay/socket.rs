//! The options of the relay's sockets.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{CongestionControl, Frontend};

/// Whether this process may use that congestion control here; the kernel may load a module for it.
pub(super) fn try_congestion_control(name: &CongestionControl) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.set_tcp_congestion(name.as_str().as_bytes())
}

/// Listens on an address of the frontend, whether or not this node holds it, together with others that do the same.
/// Accepted sockets inherit the options that [`prepare`] and [`watch_over`] set (`tcp_create_openreq_child`).
pub(super) fn listen(address: SocketAddr, frontend: &Frontend) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    prepare_listener(&SockRef::from(&socket), frontend)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket for a connection to a backend. [`watch_over`] is left to be done.
pub(super) fn outgoing(address: SocketAddr, frontend: &Frontend) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    prepare(&SockRef::from(&socket), frontend)?;
    Ok(socket)
}

/// Begins to connect `socket` to `address`; whether it comes to that, its readiness tells.
pub(super) fn connect(socket: Socket, address: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        connected => connected?,
    }
    Ok(socket.into())
}

/// Gives a listening socket the options that `frontend` asks for, whatever it had before.
pub(super) fn change(socket: &SockRef<'_>, frontend: &Frontend) -> io::Result<()> {
    if frontend.congestion_control.is_none() {
        let system = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.tcp_congestion()?;
        // The kernel gives it padded with zeroes.
        let name = system.split(|&byte| byte == 0).next().unwrap_or_default();
        socket.set_tcp_congestion(name)?;
    }
    prepare_listener(socket, frontend)
}

fn prepare_listener(socket: &SockRef<'_>, frontend: &Frontend) -> io::Result<()> {
    prepare(socket, frontend)?;
    watch_over(socket, frontend.peer_timeout)
}

/// Small writes go out at once.
fn prepare(socket: &SockRef<'_>, frontend: &Frontend) -> io::Result<()> {
    if let Some(name) = &frontend.congestion_control {
        socket.set_tcp_congestion(name.as_str().as_bytes())?;
    }
    socket.set_tcp_nodelay(true)
}

/// A peer that has vanished is found out within `peer_timeout`: one that owes an acknowledgement by the kernel's
/// retransmissions, an idle one by keep-alive probes, of which several fit into that time.
pub(super) fn watch_over(socket: &SockRef<'_>, peer_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(peer_timeout))?;
    let interval = (peer_timeout / 8).max(Duration::from_secs(1));
    let keepalive =
        TcpKeepalive::new().with_time(2 * interval).with_interval(interval).with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}

/// As many as the kernel allows (`net.core.somaxconn`).
const BACKLOG: i32 = 65_535;
/// Not decisive: with `TCP_USER_TIMEOUT` the kernel counts time, not probes.
const KEEPALIVE_RETRIES: u32 = 6;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::config::{Balance, Forwarding, Policy};

    const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

    fn frontend() -> Frontend {
        Frontend {
            listen: vec![ANY_PORT],
            forwarding: Forwarding::Relay,
            balance: Balance { policy: Policy::RoundRobin, slow_start: Duration::ZERO },
            connect_timeout: Duration::from_secs(1),
            peer_timeout: Duration::from_secs(16),
            hand_over_deadline: Duration::ZERO,
            congestion_control: None,
        }
    }

    #[test]
    fn accepted_sockets_inherit_the_watch_over_their_peer() {
        let listener = listen(ANY_PORT, &frontend()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // The handshake is over: the connection is in the queue.
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(4));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(16)));
    }

    #[test]
    fn both_sides_use_the_congestion_control_that_is_named() {
        let offered = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
        let used = |socket: &SockRef<'_>| {
            let name = String::from_utf8(socket.tcp_congestion().unwrap()).unwrap();
            name.trim_end_matches('\0').to_owned()
        };
        // One of them at least is not the system's own choice.
        for name in offered.split_whitespace() {
            let mut frontend = frontend();
            frontend.congestion_control = CongestionControl::new(name.to_owned());
            let listener = listen(ANY_PORT, &frontend).unwrap();
            let address = listener.local_addr().unwrap();
            let _client = TcpStream::connect(address).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(used(&SockRef::from(&accepted)), name);
            assert_eq!(used(&SockRef::from(&outgoing(address, &frontend).unwrap())), name);
        }
    }

    #[test]
    fn other_settings_hold_for_whoever_is_accepted_next() {
        let mut frontend = frontend();
        let system = SockRef::from(&listen(ANY_PORT, &frontend).unwrap()).tcp_congestion().unwrap();
        let other = if system.starts_with(b"reno\0") { "cubic" } else { "reno" };
        frontend.congestion_control = CongestionControl::new(other.to_owned());
        let listener = listen(ANY_PORT, &frontend).unwrap();
        frontend.congestion_control = None;
        frontend.peer_timeout = Duration::from_secs(40);
        change(&SockRef::from(&listener), &frontend).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_congestion().unwrap(), system);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(40)));
    }

    #[test]
    fn an_address_of_nobody_can_be_listened_on() {
        // Addresses for documentation (RFC 5737, RFC 3849): no node has them.
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
            listen(address.parse().unwrap(), &frontend()).unwrap();
        }
    }

    #[test]
    fn two_listeners_share_a_port() {
        let first = listen(ANY_PORT, &frontend()).unwrap();
        listen(first.local_addr().unwrap(), &frontend()).unwrap();
    }
}

//! Connected UDP sockets whose backend is gone.
//!
//! A datagram socket that is connected was translated once: what it sends goes where it went, also when nobody is there
//! any more, and nothing tells its application. So when UDP services lose backends, the node's network namespaces are
//! searched for such sockets. Each is connected to its frontend again, through the descriptor of a process that has it,
//! and its application notices nothing. Where there is no other backend, or no such process can be seen, it is ended
//! (`SOCK_DESTROY`): its next call fails, and the application connects anew.
//!
//! Only sockets that were translated are touched: the programs remember them in [`ebpf_abi::ORIGINS`]. Whether a backend
//! is gone is read from the maps, so a search may come at any time, and serves any number of removals.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use bytemuck::{AnyBitPattern, NoUninit};
use ebpf_abi::{Audience, BackendId, MemberKey, Origin, OriginKey, Service, ServiceKey};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use nix::errno::Errno;
use rustix::net::sockopt::socket_cookie;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::maps::{pinned_hash, system_error};
use super::namespaces::{Namespace, namespaces};
use super::pins::Pins;
use super::pod::Plain;
use super::sock_diag::{AF_INET, Connected, FAMILIES, Message};
use crate::{Error, Inspection};

/// After this time the search is repeated: a socket may have been about to connect while it was searched for. No search
/// follows another sooner.
const PAUSE: Duration = Duration::from_millis(250);

/// A thread that searches when told to, and ends with this value.
#[derive(Debug)]
pub(super) struct StaleSockets {
    due: SyncSender<()>,
    outcome: Arc<Outcome>,
}

/// As in [`Inspection`], counted by the thread.
#[derive(Debug, Default)]
struct Outcome {
    moved: AtomicU64,
    ended: AtomicU64,
    failures: AtomicU64,
    lacking: OnceLock<&'static str>,
}

impl StaleSockets {
    /// Starts the thread, with eyes of its own on the pinned maps.
    pub(super) fn start(pins: &Pins) -> Result<Self, Error> {
        let search = Search {
            origins: pinned_hash(pins, ebpf_abi::ORIGINS)?,
            services: pinned_hash(pins, ebpf_abi::SERVICES)?,
            members: pinned_hash(pins, ebpf_abi::MEMBERS)?,
            outcome: Arc::default(),
        };
        let outcome = Arc::clone(&search.outcome);
        // A search that is due need not be said to be so twice.
        let (due, told) = sync_channel(1);
        std::thread::Builder::new()
            .name("stale-sockets".into())
            .spawn(move || search.run(&told))
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { due, outcome })
    }

    /// Backends of UDP services are gone. Does not wait.
    pub(super) fn search(&self) {
        match self.due.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => {
                self.outcome.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What became of them since the last time.
    pub(super) fn report(&self, inspection: &mut Inspection) {
        let Outcome { moved, ended, failures, lacking } = &*self.outcome;
        inspection.sockets_moved = moved.swap(0, Ordering::Relaxed);
        inspection.sockets_ended = ended.swap(0, Ordering::Relaxed);
        inspection.socket_failures = failures.swap(0, Ordering::Relaxed);
        inspection.lacking = lacking.get().copied();
    }
}

struct Search {
    origins: Eye<OriginKey, Origin>,
    services: Eye<ServiceKey, Service>,
    members: Eye<MemberKey, BackendId>,
    outcome: Arc<Outcome>,
}

/// A map to look into.
type Eye<K, V> = HashMap<MapData, Plain<K>, Plain<V>>;

/// A socket whose backend is gone.
struct Stale {
    socket: Connected,
    /// As the application named it.
    frontend: SocketAddr,
    /// Whether anybody is behind it.
    served: bool,
}

impl Search {
    fn run(&self, told: &Receiver<()>) {
        while told.recv().is_ok() {
            self.everywhere();
            loop {
                std::thread::park_timeout(PAUSE);
                let again = told.try_recv().is_ok();
                self.everywhere();
                if !again {
                    break;
                }
            }
        }
    }

    fn everywhere(&self) {
        let found = namespaces().unwrap_or_else(|_error| {
            self.failed();
            Vec::new()
        });
        for namespace in found {
            match namespace.visit(|| self.here(&namespace)) {
                Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
                    self.outcome.lacking.get_or_init(|| "CONFIG_INET_DIAG_DESTROY");
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.outcome.lacking.get_or_init(|| "CONFIG_INET_UDP_DIAG");
                }
                Err(_) => self.failed(),
                Ok(_) => {}
            }
        }
    }

    fn failed(&self) {
        self.outcome.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// In the namespace that this thread is in.
    fn here(&self, namespace: &Namespace) -> io::Result<()> {
        let diag = Diag::open()?;
        let mut stale = Vec::new();
        for family in FAMILIES {
            for socket in diag.connected(family)? {
                stale.extend(self.stale(socket)?);
            }
        }
        let inodes = stale.iter().filter(|stale| stale.served).map(|stale| stale.socket.inode);
        let holders = namespace.holders(&inodes.collect());
        for Stale { socket, frontend, served } in stale {
            let moved = served
                && holders.get(&socket.inode).is_some_and(|&(process, descriptor)| {
                    // It may have been closed meanwhile, or be out of reach; then it is ended.
                    reconnect(&socket, frontend, process, descriptor).is_ok()
                });
            if moved {
                self.outcome.moved.fetch_add(1, Ordering::Relaxed);
            } else if diag.end(socket)? {
                self.outcome.ended.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn stale(&self, socket: Connected) -> io::Result<Option<Stale>> {
        let (address, port) = socket.peer();
        let peer = OriginKey { cookie: socket.cookie(), address, port, reserved: [0; 3] };
        let Some(named) = look_up(&self.origins, peer)? else { return Ok(None) };
        let frontend = ServiceKey {
            address: named.address,
            port: named.port,
            protocol: 17,
            audience: Audience::EVERYONE,
        };
        let service = look_up(&self.services, frontend)?;
        if let Some(Service { id: service, .. }) = service
            && look_up(&self.members, MemberKey { service, address, port, reserved: 0 })?.is_some()
        {
            return Ok(None);
        }
        let mapped = Ipv6Addr::from_octets(named.address.octets());
        let address = if socket.family == AF_INET { mapped.to_canonical() } else { mapped.into() };
        let served = service.is_some_and(|service| service.slots > 0);
        Ok(Some(Stale { socket, frontend: SocketAddr::new(address, named.port.number()), served }))
    }
}

/// Connects a socket anew through the descriptor that a process has of it: the programs translate it as they do for the
/// process itself.
fn reconnect(socket: &Connected, frontend: SocketAddr, process: u32, descriptor: i32) -> io::Result<()> {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(Errno::ESRCH)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let descriptor: OwnedFd = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?;
    if socket_cookie(&descriptor)? != socket.cookie() {
        return Err(Errno::EBADF.into());
    }
    UdpSocket::from(descriptor).connect(frontend)
}

/// A socket of `NETLINK_SOCK_DIAG`, for the namespace it was opened in.
struct Diag(Socket);

impl Diag {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The connected UDP sockets of a family.
    fn connected(&self, family: u8) -> io::Result<Vec<Connected>> {
        self.ask(Message::List(family))
    }

    /// Ends a socket; false where it is gone already.
    fn end(&self, socket: Connected) -> io::Result<bool> {
        match self.ask(Message::End(socket)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(&self, request: Message) -> io::Result<Vec<Connected>> {
        self.0.send(&request.request(), 0)?;
        let mut found = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(Message::Socket(socket)) => found.push(socket),
                    NetlinkPayload::Error(answer) if answer.code.is_some() => return Err(answer.to_io()),
                    NetlinkPayload::Done(answer) if answer.code != 0 => {
                        return Err(io::Error::from_raw_os_error(-answer.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(found),
                    _ => {}
                }
            }
        }
    }
}

fn look_up<K, V>(map: &Eye<K, V>, key: K) -> io::Result<Option<V>>
where
    K: NoUninit + AnyBitPattern,
    V: NoUninit + AnyBitPattern,
{
    match map.get(&Plain(key), 0) {
        Ok(value) => Ok(Some(value.0)),
        Err(aya::maps::MapError::KeyNotFound) => Ok(None),
        Err(error) => {
            let code = system_error(&error).and_then(io::Error::raw_os_error);
            Err(code.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error))
        }
    }
}

//! What deciding is measured on. Its benchmarks are a package of their own: they ask other features of the crates that both
//! depend on, and beside the others they would have all of the proxy built once more.

use std::net::{IpAddr, Ipv4Addr};

use plan::{Backend, Forwarding, Frontend, Port, Protocol};

/// A plan of `services` ClusterIPs with `endpoints` backends each, the same every time.
///
/// Addresses count up from 10.0.0.0 (frontends) and 100.64.0.0 (backends).
pub fn cluster(services: u32, endpoints: u32) -> Forwarding {
    let address = |base: [u8; 4], offset: u32| {
        IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits().wrapping_add(offset)))
    };
    let backends = |service: u32| {
        (0..endpoints)
            .map(move |endpoint| Backend::new(address([100, 64, 0, 0], service * endpoints + endpoint), PORT))
    };
    let frontend = |service: u32| Frontend::new(address([10, 0, 0, 0], service), PORT, Protocol::Tcp);
    (0..services).map(|service| (frontend(service), backends(service).collect())).collect()
}

/// That of every frontend and every backend.
pub const PORT: Port = match Port::new(8080) {
    Some(port) => port,
    None => unreachable!(),
};

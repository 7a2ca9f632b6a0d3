//! The addresses of this machine's interfaces, as far as they are the machine's own.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use dataplane::Ipvs;
use nix::ifaddrs::getifaddrs;

/// Those of both families. What mode ipvs has on an interface of its own are addresses of Services.
pub(crate) fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let own = getifaddrs()?.filter(|interface| interface.interface_name != Ipvs::INTERFACE);
    let addresses = own.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_loopback_address() {
        let addresses = addresses().expect("they can be read");
        assert!(addresses.iter().any(IpAddr::is_loopback), "{addresses:?}");
    }
}

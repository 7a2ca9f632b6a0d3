//! From one Service and its endpoints to what a node should forward for it.

use std::collections::BTreeSet;

use plan::{Backend, Forwarding, Frontend};

use crate::cluster::{Family, Readiness, Service, ServicePort, Slice};

/// The frontends of `service`, each with the endpoints that take its new connections: those of the frontend's family
/// that are ready or, where none is ready, those that are terminating and still serve
/// (`CategorizeEndpoints` in kube-proxy's `topology.go`).
pub fn translate<'slice>(
    service: &Service,
    slices: &(impl Iterator<Item = &'slice Slice> + Clone),
) -> Forwarding {
    let mut forwarding = Forwarding::new();
    for port in &service.ports {
        for &address in &service.addresses {
            let backends = backends(port, Family::of(address), slices.clone());
            let service = plan::Service { backends, ..plan::Service::default() };
            forwarding.insert(Frontend::new(address, port.port, port.protocol), service);
        }
    }
    forwarding
}

fn backends<'slice>(
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'slice Slice>,
) -> BTreeSet<Backend> {
    let (mut ready, mut leaving) = (BTreeSet::new(), BTreeSet::new());
    for group in slices.flat_map(|slice| &slice.groups) {
        let same = group.ports.iter().filter(|at| at.name == port.name && at.protocol == port.protocol);
        for at in same {
            for endpoint in group.endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == family) {
                let backend = Backend::new(endpoint.address, at.port);
                match endpoint.readiness {
                    Readiness::Ready => ready.insert(backend),
                    Readiness::Leaving => leaving.insert(backend),
                };
            }
        }
    }
    if ready.is_empty() { leaving } else { ready }
}

#[cfg(test)]
mod tests {
    use plan::{Port, Protocol};

    use super::*;
    use crate::cluster::{Endpoint, EndpointPort, Group, Name};

    fn port(name: &str, number: u16, protocol: Protocol) -> EndpointPort {
        EndpointPort { name: name.into(), port: Port::new(number).expect("not 0"), protocol }
    }

    fn slice(ports: &[EndpointPort], endpoints: &[(&str, Readiness)]) -> Slice {
        let endpoint = |(address, readiness): &(&str, _)| Endpoint {
            address: address.parse().expect("an address"),
            readiness: *readiness,
        };
        let group = Group { ports: ports.to_vec(), endpoints: endpoints.iter().map(endpoint).collect() };
        Slice { service: Name::new(None, "web"), groups: vec![group], triggered: None }
    }

    fn translated(addresses: &[&str], ports: &[EndpointPort], slices: &[Slice]) -> Vec<String> {
        let port = |port: &EndpointPort| ServicePort {
            name: port.name.clone(),
            port: port.port,
            protocol: port.protocol,
        };
        let service = Service {
            created: None,
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            ports: ports.iter().map(port).collect(),
            unserved: BTreeSet::new(),
        };
        let line = |(frontend, service): (&Frontend, &plan::Service)| {
            let backends: Vec<String> = service.backends.iter().map(Backend::to_string).collect();
            format!("{frontend} -> {}", backends.join(" "))
        };
        translate(&service, &slices.iter()).iter().map(line).collect()
    }

    const READY: Readiness = Readiness::Ready;
    const LEAVING: Readiness = Readiness::Leaving;

    #[test]
    fn slices_are_joined_and_the_same_endpoint_counts_once() {
        let http = [port("", 80, Protocol::Tcp)];
        let target = [port("", 8080, Protocol::Tcp)];
        let slices = [
            slice(&target, &[("10.1.0.1", READY), ("10.1.0.2", READY)]),
            slice(&target, &[("10.1.0.1", READY)]),
        ];
        assert_eq!(
            translated(&["10.0.0.1"], &http, &slices),
            ["TCP 10.0.0.1:80 -> 10.1.0.1:8080 10.1.0.2:8080"]
        );
        assert_eq!(translated(&["10.0.0.1"], &http, &[]), ["TCP 10.0.0.1:80 -> "]);
    }

    #[test]
    fn leaving_endpoints_serve_only_where_none_is_ready() {
        let http = [port("", 80, Protocol::Tcp)];
        let cases: [(&[(&str, Readiness)], &str); 3] = [
            (&[("10.1.0.1", READY), ("10.1.0.2", LEAVING)], "TCP 10.0.0.1:80 -> 10.1.0.1:80"),
            (&[("10.1.0.2", LEAVING)], "TCP 10.0.0.1:80 -> 10.1.0.2:80"),
            (&[("10.1.0.1", LEAVING), ("10.1.0.1", READY)], "TCP 10.0.0.1:80 -> 10.1.0.1:80"),
        ];
        for (endpoints, expected) in cases {
            assert_eq!(translated(&["10.0.0.1"], &http, &[slice(&http, endpoints)]), [expected]);
        }
    }

    #[test]
    fn families_do_not_mix() {
        let http = [port("", 80, Protocol::Tcp)];
        let slices = [slice(&http, &[("10.1.0.1", READY)]), slice(&http, &[("fd01::1", LEAVING)])];
        assert_eq!(
            translated(&["10.0.0.1", "fd00::1"], &http, &slices),
            ["TCP 10.0.0.1:80 -> 10.1.0.1:80", "TCP [fd00::1]:80 -> [fd01::1]:80"]
        );
    }

    #[test]
    fn a_port_takes_its_endpoints_by_name_and_protocol() {
        let dns = [port("dns", 53, Protocol::Udp), port("dns-tcp", 53, Protocol::Tcp)];
        let slices = [
            slice(&[port("dns", 5353, Protocol::Udp)], &[("10.1.0.1", READY)]),
            slice(&[port("dns-tcp", 5354, Protocol::Tcp)], &[("10.1.0.2", READY)]),
            slice(&[port("dns", 5355, Protocol::Tcp)], &[("10.1.0.3", READY)]),
        ];
        assert_eq!(
            translated(&["10.0.0.1"], &dns, &slices),
            ["TCP 10.0.0.1:53 -> 10.1.0.2:5354", "UDP 10.0.0.1:53 -> 10.1.0.1:5353"]
        );
    }
}

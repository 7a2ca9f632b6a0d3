//! SCTP through a virtual service.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use dataplane::Dataplane;
use plan::{Backend, Change, Frontend, Port, Service};
use socket2::{Domain, Protocol, Socket, Type};
use tests::Namespace;

use crate::ask::PATIENCE;
use crate::site::{SERVERS, Site, each};

const SERVICES: [&str; 2] = ["10.254.0.1:36412", "[fd00:254::1]:36412"];
const PORT: u16 = 36_412;

#[test]
fn associations_are_shared_out_in_turn() {
    let site = Site::new();
    let mut ipvs = site.open();
    for (name, place) in SERVERS.iter().zip(&site.servers) {
        for any in ["0.0.0.0", "[::]"] {
            answer(place, name, &format!("{any}:{PORT}"));
        }
    }
    for (address, server) in SERVICES.into_iter().zip(["10.2.0.1", "fd00:2::1"]) {
        let to: SocketAddr = address.parse().unwrap();
        let port = Port::new(PORT).unwrap();
        let frontend = Frontend::new(to.ip(), port, plan::Protocol::Sctp);
        let backends = (1..=3).map(|number| Backend::new(format!("{server}{number}").parse().unwrap(), port));
        let service: Service = backends.collect();
        assert!(ipvs.apply(&[Change::AddService { frontend, service }]).is_empty());
        let mut met = BTreeMap::new();
        for _ in 0..6 {
            *met.entry(ask(&site.client, to)).or_default() += 1;
        }
        assert_eq!(met, each(2), "{address}");
    }
}

fn socket(address: SocketAddr) -> Socket {
    let protocol = Protocol::from(nix::libc::IPPROTO_SCTP);
    Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol)).unwrap()
}

/// Says its name to whoever comes, for as long as the test's process lives.
fn answer(place: &Namespace, name: &str, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = place.run(|| {
        let listener = socket(address);
        if address.is_ipv6() {
            listener.set_only_v6(true).unwrap();
        }
        listener.bind(&address.into()).unwrap();
        listener.listen(8).unwrap();
        listener
    });
    let (listener, name) = (listener.unwrap(), name.to_owned());
    thread::spawn(move || {
        while let Ok((mut association, _)) = listener.accept() {
            // Whoever left before it was told needs no answer.
            drop(association.write_all(name.as_bytes()));
        }
    });
}

fn ask(place: &Namespace, to: SocketAddr) -> String {
    let exchange = || {
        let mut association = socket(to);
        association.set_read_timeout(Some(PATIENCE)).unwrap();
        association.connect_timeout(&to.into(), PATIENCE).unwrap();
        let mut buffer = [0; 16];
        let length = association.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    place.run(exchange).unwrap()
}

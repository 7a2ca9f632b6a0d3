//! What one change takes of the kernel, however much there is.

use dataplane::{Dataplane, Ipvs, IpvsTraffic, Traffic};
use plan::{Backend, Change, Frontend, Port, Protocol, Service, Weight};
use tests::Namespace;

use crate::site::{self, apply};

const FEW: u16 = 10;
const MANY: u16 = 10_000;

fn frontend(number: u16) -> Frontend {
    let [high, low] = number.to_be_bytes();
    Frontend::new([10, 254, high, low].into(), Port::new(443).unwrap(), Protocol::Tcp)
}

fn backend(last: u8) -> Backend {
    Backend::new([100, 64, 0, last].into(), Port::new(6443).unwrap())
}

/// What is said and heard when a backend comes, and when one leaves, among so many services.
fn exchanged_among(services: u16) -> [IpvsTraffic; 2] {
    let node = Namespace::new("node").unwrap();
    let mut ipvs = node.run(site::open).unwrap();
    let service: Service = [backend(1), backend(2)].into_iter().collect();
    let add = |number| Change::AddService { frontend: frontend(number), service: service.clone() };
    apply(&mut ipvs, &(0..services).map(add).collect::<Vec<_>>());
    let (frontend, backend) = (frontend(services / 2), backend(3));
    let mut before = ipvs.traffic();
    let mut since = |ipvs: &Ipvs| {
        let now = ipvs.traffic();
        let exchanged = IpvsTraffic {
            services: difference(now.services, before.services),
            addresses: difference(now.addresses, before.addresses),
            table: difference(now.table, before.table),
        };
        before = now;
        exchanged
    };
    apply(&mut ipvs, &[Change::AddBackend { frontend, backend, weight: Weight::ONE }]);
    let came = since(&ipvs);
    // As the sync does it: whether it has connections is asked first.
    ipvs.recount(frontend).unwrap();
    apply(&mut ipvs, &[Change::RemoveBackend { frontend, backend }]);
    [came, since(&ipvs)]
}

fn difference(after: Traffic, before: Traffic) -> Traffic {
    Traffic {
        requests: after.requests - before.requests,
        dumps: after.dumps - before.dumps,
        calls: after.calls - before.calls,
        ..Traffic::default()
    }
}

#[test]
fn a_change_is_a_handful_of_messages_whatever_there_is() {
    let [came, left] = exchanged_among(FEW);
    assert_eq!([came, left], exchanged_among(MANY));
    for IpvsTraffic { services, addresses, table } in [came, left] {
        assert_eq!(addresses, Traffic::default());
        // An element is a transaction: its begin and its end are messages, too.
        assert!(services.requests <= 2 && table.requests <= 3, "{services:?} {table:?}");
        assert!(services.calls + table.calls <= 8, "{services:?} {table:?}");
        assert_eq!(table.dumps, 0);
    }
    // The servers of the one service.
    assert_eq!((came.services.dumps, left.services.dumps), (0, 1));
}

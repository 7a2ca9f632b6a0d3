//! Services for clients in one VLAN by servers in another, in mode ebpf: each VLAN has an interface, at which frames have no
//! tag, and programs of its own.

use tests::{Cgroup, Namespace};

use crate::modes::start_ebpf;
use crate::process::Cluster;
use crate::site::{SERVERS, each, frontend};

/// Moves what a place has on an interface to a VLAN on the same cable.
fn tag(place: &Namespace, interface: &str, vlan: u16, address: &str, gateway: Option<&str>) {
    let mut lines = vec![
        format!("address flush dev {interface}"),
        format!("link add link {interface} name vlan{vlan} type vlan id {vlan}"),
        format!("address add {address} dev vlan{vlan}"),
        format!("link set vlan{vlan} up"),
    ];
    lines.extend(gateway.map(|gateway| format!("route add default via {gateway}")));
    place.ip_lines(&lines).unwrap();
}

#[test]
fn clients_and_servers_of_vlans_meet() {
    let cluster = Cluster::new();
    let site = &cluster.site;
    let cgroup = Cgroup::new("nobody").unwrap();
    let _process = start_ebpf(&cluster, cgroup.path(), "1h");
    cluster.await_backends(&SERVERS);

    // Interfaces of VLANs that come while it runs.
    tag(&site.director, "eth0", 100, "10.1.0.1/24", None);
    tag(&site.director, "eth1", 200, "10.2.0.1/24", None);
    tag(&site.client, "eth0", 100, "10.1.0.2/24", Some("10.1.0.1"));
    for (number, server) in (11..).zip(&site.servers) {
        tag(server, "eth0", 200, &format!("10.2.0.{number}/24"), Some("10.2.0.1"));
    }
    cluster.await_backends(&SERVERS);

    assert_eq!(site.dial(frontend(), 30).unwrap(), each(10));
    let mut held = site.hold(frontend());
    for _ in 0..20 {
        assert_eq!(held.ask().unwrap(), held.name);
    }
}

//! The rules that kube-proxy writes for nftables, in the shape it has given them since Kubernetes 1.33: verdict maps from
//! frontends to the chain of a service, there a map from a random number to the chain of an endpoint, there the translation.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::contender::{BACKEND_PORT, Contender, NODE_PORT, Path, SERVICE_PORT};
use super::site::PODS;
use crate::node::{other_address, other_endpoints};

/// Endpoints of each of the other services, for eBPF too.
pub(super) const OTHER_ENDPOINTS: u32 = 2;

/// Input for `nft -f`: all services of the contender's node.
pub(super) fn rules(contender: Contender) -> String {
    let mut rules = Rules { chains: String::new(), elements: String::new() };
    for protocol in ["tcp", "udp"] {
        let local: Vec<Ipv4Addr> = contender.backends(Path::Local).collect();
        rules.service("web", protocol, (contender.cluster_ip(), SERVICE_PORT), &local);
        let across: Vec<Ipv4Addr> = contender.backends(Path::Across).collect();
        let public = Ipv4Addr::from_bits(contender.cluster_ip().to_bits() + 1);
        rules.service("public", protocol, (public, SERVICE_PORT), &across);
        rules.node_port("public", protocol);
    }
    for number in 0..super::site::others(contender) {
        let endpoints: Vec<Ipv4Addr> = other_endpoints(number, OTHER_ENDPOINTS).collect();
        rules.service(&format!("other-{number}"), "tcp", (other_address(number), SERVICE_PORT), &endpoints);
    }
    let Rules { chains, elements } = rules;
    let node = contender.node_ip();
    format!(
        "table ip kube-proxy {{\n{BASE}{chains}}}\nadd element ip kube-proxy nodeport-ips {{ {node} }}\n{elements}"
    )
}

/// What is there however many services there are.
const BASE: &str = "
  set cluster-ips { type ipv4_addr; }
  set nodeport-ips { type ipv4_addr; }
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-nodeports { type inet_proto . inet_service : verdict; }
  map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading {
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }
  chain reject-chain { reject; }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject
    ip daddr { 10.96.0.0/12 } drop
  }
  chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
  chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
  chain filter-prerouting {
    type filter hook prerouting priority -110;
    ct state new jump firewall-check
  }
  chain filter-input {
    type filter hook input priority -110;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority -110;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority -110;
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
  }
  chain filter-output-post-dnat {
    type filter hook output priority -90;
    ct state new jump cluster-ips-check
  }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
";

struct Rules {
    chains: String,
    elements: String,
}

impl Rules {
    fn service(
        &mut self,
        name: &str,
        protocol: &str,
        (address, port): (Ipv4Addr, u16),
        endpoints: &[Ipv4Addr],
    ) {
        let mut choice = String::new();
        for (number, endpoint) in endpoints.iter().enumerate() {
            let chain = format!("endpoint-{name}/{protocol}/{endpoint}");
            self.chain(
                &chain,
                &format!(
                    "    ip saddr {endpoint} jump mark-for-masquerade\n    meta l4proto {protocol} dnat to {endpoint}:{BACKEND_PORT}\n"
                ),
            );
            let comma = if number == 0 { "" } else { ", " };
            append(&mut choice, format_args!("{comma}{number} : goto {chain}"));
        }
        let count = endpoints.len();
        let chain = format!("service-{name}/{protocol}");
        self.chain(
            &chain,
            &format!(
                "    ip daddr {address} {protocol} dport {port} ip saddr != {PODS} jump mark-for-masquerade\n    numgen random mod {count} vmap {{ {choice} }}\n"
            ),
        );
        append(
            &mut self.elements,
            format_args!(
                "add element ip kube-proxy service-ips {{ {address} . {protocol} . {port} : goto {chain} }}\n"
            ),
        );
        append(&mut self.elements, format_args!("add element ip kube-proxy cluster-ips {{ {address} }}\n"));
    }

    fn node_port(&mut self, name: &str, protocol: &str) {
        let chain = format!("external-{name}/{protocol}");
        self.chain(&chain, &format!("    jump mark-for-masquerade\n    goto service-{name}/{protocol}\n"));
        append(
            &mut self.elements,
            format_args!(
                "add element ip kube-proxy service-nodeports {{ {protocol} . {NODE_PORT} : goto {chain} }}\n"
            ),
        );
    }

    fn chain(&mut self, name: &str, rules: &str) {
        append(&mut self.chains, format_args!("  chain {name} {{\n{rules}  }}\n"));
    }
}

#[expect(clippy::expect_used, reason = "a string takes whatever is written to it")]
fn append(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.write_fmt(words).expect("writing to a string cannot fail");
}

//! The eBPF dataplane keeps what every dataplane promises.

use dataplane::contract;

use crate::node::Node;

#[test]
fn the_ebpf_dataplane_keeps_the_contract() {
    let node = Node::new("contract");
    contract::holds(|| Box::new(node.open()));
}

#[test]
fn the_ebpf_dataplane_keeps_the_contract_when_it_is_full() {
    let node = Node::new("full");
    contract::holds_when_full(|| Box::new(node.open_sized(4, 5)), 4, 5);
}

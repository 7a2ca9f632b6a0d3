//! Tier 5: a real etcd and kube-apiserver. Needs root and `KUBEBUILDER_ASSETS`; without the latter every test is ignored
//! and says so, and the stub stands for the apiserver in the other tiers.

mod front_door;
#[expect(dead_code, reason = "the network tests use the rest")]
#[path = "../network/proxy/node.rs"]
mod node;
mod proxy;
mod stub;

//! Tier 4: topologies in network namespaces, with real packets. Needs root.

mod front_door;
mod harness;
mod proxy;
mod site;
mod stub_process;
mod traffic;
mod virtual_router;

//! Tier 4: topologies in network namespaces, with real packets. Needs root.

mod harness;
mod stub_process;
mod traffic;

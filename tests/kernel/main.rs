//! Tier 3: real sockets through real programs. Needs root.
//!
//! Every test has a [`node::Node`] of its own: a network namespace, a control group that the test's process enters, and
//! a bpffs. A process is in one control group only, so the nodes take turns.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod balance;
mod contract;
mod drift;
mod lifecycle;
mod node;
mod older;
mod packets;
#[path = "../scenarios/planned.rs"]
mod planned;
mod reach;
mod refusal;
mod rules;
mod server;
mod stale_sockets;

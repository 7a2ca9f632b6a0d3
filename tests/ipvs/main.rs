//! Tier 3, in a guest: what the kernel of the machine that tests are developed on need not have. That is the IP virtual server,
//! and VLANs.
//!
//! ```text
//!   client 10.1.0.2 ---- 10.1.0.1 director 10.2.0.1 ---- servers 10.2.0.11, .12, .13
//!   pod    10.3.0.2 ---- 10.3.0.1 /
//! ```
//!
//! In IPv6 they are `fd00:1::2` and so on.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod absent_modules;
mod ask;
mod contract;
mod debian_11;
mod drain;
mod forwarding;
mod front_door;
mod kube_proxy;
mod modes;
mod neighbours;
#[path = "../scenarios/planned.rs"]
mod planned;
mod process;
mod rules;
mod scale;
mod scenarios;
mod sctp;
mod site;
mod vlan;

//! What a node should forward, as a value.
//!
//! ```text
//!   Forwarding  (desired)  --+
//!                            +--diff--> [Change]  --apply--> kernel
//!   Observed    (found)    --+                                 |
//!        ^                                                     |
//!        +---------------------- observe ----------------------+
//! ```
//!
//! Everything here is pure: no socket, no clock, no Kubernetes. A front end (fairway-proxy, fairway-lb) derives a
//! [`Forwarding`]; a dataplane reports what it holds as [`Observed`]; [`diff()`] names the steps from one to the other.
//! The laws those steps obey are in `tests/laws.rs`.

#![warn(clippy::wildcard_enum_match_arm)]

mod backend;
mod change;
mod diff;
mod forwarding;
mod frontend;
pub mod maglev;
mod observed;
mod rules;
mod scope;
mod service;
mod trace;

pub use backend::{Backend, Weight};
pub use change::Change;
pub use diff::{diff, diff_frontend};
pub use forwarding::Forwarding;
pub use frontend::{Audience, Frontend, Port, Protocol};
pub use observed::{Observed, ObservedBackend, ObservedService};
pub use rules::{Affinity, AffinityGroup, Masquerade, Rules, Scheduler, WhenEmpty};
pub use scope::Scope;
pub use service::Service;
pub use trace::{Ground, Packet, Source, Verdict, matching, trace, verdict};

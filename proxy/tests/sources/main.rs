//! The whole loop, from each source of Services and endpoints to a dataplane in memory.
#![expect(clippy::unwrap_used, reason = "a test may say so by panicking")]

mod api;
mod failure;
mod manifests;
mod node;
mod opening;
mod watch;
mod window;

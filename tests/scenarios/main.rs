//! Tier 2: whole programs without privileges, against a stub and on a dataplane in memory.

#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

mod configuration;
mod dependencies;
mod events;
mod forwarding;
mod health_checks;
mod node;
mod planned;
mod service_cidrs;
mod stub;
mod sync;

//! What both long-running binaries need and neither wants to write twice.
//!
//! * [`exit`] turns errors into exit codes that a service supervisor understands.
//! * [`document`] and [`problems`] read configuration so that every problem is reported at once, with its path.
//! * [`telemetry`] writes logs.
//! * [`admin`] answers `/metrics` and the health endpoints.
//! * [`signal`] is the wish to stop.
//!
//! It knows nothing of plans, dataplanes or VRRP.

pub mod admin;
pub mod document;
pub mod exit;
pub mod problems;
pub mod signal;
pub mod telemetry;

//! What both long-running binaries need and neither wants to write twice.
//!
//! * [`exit`]: errors to exit codes that a service supervisor understands
//! * [`document`] and [`problems`]: configuration files, read so that every problem is reported at once with its path
//! * [`telemetry`]: logs
//! * [`admin`]: the HTTP server of `/metrics` and the health endpoints
//! * [`signal`]: the wish to stop
//!
//! It knows nothing of plans, dataplanes or VRRP.

pub mod admin;
pub mod document;
pub mod exit;
pub mod problems;
pub mod signal;
pub mod telemetry;

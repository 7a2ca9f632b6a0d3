//! fairway-proxy

pub mod arguments;
mod clock;
pub mod cluster;
pub mod config;
mod health_check;
mod metrics;
mod pacing;
pub mod planner;
mod sync;
pub mod translate;

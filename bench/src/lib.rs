//! What is measured of the whole, and of its parts; decisions by themselves are in the crate `decisions`.

pub mod command;
pub mod document;
pub mod ends;
pub mod fail_over;
pub mod front_door;
pub mod guest;
pub mod instructions;
pub mod machine;
pub mod measure;
pub mod node;
pub mod programs;
mod rest;
pub mod results;
pub mod scale;
pub mod service_path;
pub mod statistics;
pub mod usage;
pub mod virtual_services;

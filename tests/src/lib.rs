//! The harness: everything a test on real kernels, sockets and packets needs and no test should write itself.
//!
//! `README.md` of this package is the tour; each module shows its use.

pub mod admin;
mod api;
pub mod apiserver;
mod bpf_fs;
pub mod capture;
pub mod certificates;
mod cgroup;
pub mod demo;
mod error;
pub mod kube_apiserver;
mod label;
mod namespace;
pub mod objects;
pub mod outage;
mod process;
pub mod scenario;
pub mod topology;
pub mod traffic;
pub mod wait;

pub use api::{Answer, Api, WatchEnd, kubeconfig};
pub use bpf_fs::BpfFs;
pub use cgroup::{Cgroup, mount_point};
pub use error::{Error, Result};
pub use namespace::{Namespace, Plug, Switch, require_root};
pub use process::{Process, Program, binary, ended_by};

//! The front door of a Kubernetes control plane: a virtual IP that one of several nodes holds, and on each node a
//! relay that spreads connections over the apiservers that are ready.
//!
//! ```text
//!   main thread: one single-threaded runtime         relay threads, one per core          a thread per virtual router
//!
//!     admin server: /metrics, /healthz                 accept, connect, pump                 adverts, timer, link
//!     one probe task per backend ---+                     ^        |                              |
//!     signals, supervision          |                     |        | failed connects              v
//!                                   +-----> Pool: health, turn, connection counts          virtual addresses
//! ```
//!
//! * The relay runs whatever the role of the node; a fail-over moves the address and nothing else. A node whose relay
//!   hangs gives the address up. Backends are a weight at most, and none when all nodes lose sight of them: moving the
//!   address because all of them are sick would cut every connection and cure none.
//! * Probes have a thread that no client's bytes pass through, so load does not make backends look dead.
//! * Every task may be cancelled at any await: a probe is repeated, an admin request too. What serves clients is no task: the
//!   end of a relay thread closes its connections on both sides, that of a virtual router hands the address over, in order.

mod advert_socket;
mod announcement;
mod arguments;
mod bell;
pub mod config;
mod control;
#[cfg(test)]
mod deployment;
mod error;
mod front_door;
mod handover;
pub mod health;
pub mod metrics;
mod netlink;
mod notify;
mod orders;
mod packet_filter;
mod packet_socket;
pub mod pool;
pub mod probe;
mod proxy_protocol;
pub mod rebalance;
pub mod relay;
pub mod reload;
pub mod router;
mod server;
mod signals;
pub mod status;
mod virtual_address;
mod virtual_services;

use std::path::Path;

use daemon::exit::{Code, Failure};

pub use arguments::{Arguments, Task};
pub use error::Error;

/// Does what the command line asks for; returns when it is done, which for serving is when SIGTERM or SIGINT arrives.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match Task::from(arguments) {
        Task::Check { file } => check(&file),
        Task::Status { socket, json } => status(&socket, json),
        Task::Drain { socket, backend, drained } => {
            let word = if drained { "drain" } else { "undrain" };
            control::command(&socket, &format!("{word} {backend}")).map_err(Failure::failed)
        }
        Task::Serve { config, take_over, log_format, log_level } => {
            daemon::telemetry::start(&log_level, log_format)
                .map_err(|error| Failure::new(Code::Configuration, error))?;
            let (file, config) = (config.clone(), config::read(&config)?);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|source| Error::Runtime { source })?;
            Ok(runtime.block_on(server::serve(file, config, take_over))?)
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer to a question asked on the command line")]
fn check(file: &Path) -> Result<(), Failure> {
    config::read(file)?;
    println!("{}: ok", file.display());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer to a question asked on the command line")]
fn status(socket: &Path, json: bool) -> Result<(), Failure> {
    let status = control::status(socket).map_err(Failure::failed)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(Failure::failed)?);
    } else {
        print!("{status}");
    }
    Ok(())
}

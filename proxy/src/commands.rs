//! What the program does other than to run.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use daemon::exit::{Code, Failure};
use dataplane::{Ebpf, Ipvs};

use crate::arguments::{Asking, Command, read_config};
use crate::ask::ask;
use crate::config::{Config, yaml};
use crate::explain::Question;
use crate::{configuration, doctor, kernel, kube_proxy, warn};

/// Does it.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { file } => check(&file),
        Command::Cleanup { kube_proxy: true, .. } => kube_proxy::clear_away(),
        Command::Cleanup { bpf_fs, .. } => cleanup(&bpf_fs),
        Command::Explain { sender, destination, asking } => {
            let question = Question { sender, destination, json: asking.json };
            print(&ask(served_at(&asking)?, &format!("/explain?{question}")).map_err(Failure::failed)?)
        }
        Command::Doctor { asking } => examine(&asking),
    }
}

/// Writes the configuration in force to a file.
pub(crate) fn write_config(path: &Path, config: &Config) -> Result<(), Failure> {
    std::fs::write(path, yaml(&config.document))
        .map_err(|source| Failure::failed(WriteFailed { path: path.to_owned(), source }))?;
    tracing::info!(file = %path.display(), "configuration written");
    Ok(())
}

/// Takes out of the kernel whatever this proxy ever put into it.
pub(crate) fn cleanup(bpf_fs: &Path) -> Result<(), Failure> {
    Ebpf::cleanup(bpf_fs).map_err(kernel)?;
    Ipvs::cleanup().map_err(kernel)?;
    tracing::info!(bpf_fs = %bpf_fs.display(), "nothing of this proxy is left in the kernel");
    Ok(())
}

/// The configuration in force could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("write {}", path.display())]
struct WriteFailed {
    path: PathBuf,
    source: io::Error,
}

fn check(file: &Path) -> Result<(), Failure> {
    let reading = read_config(file).map_err(configuration)?;
    warn(&reading.warnings);
    tracing::info!(file = %file.display(), "configuration is valid");
    Ok(())
}

/// Says what is wrong on this node; that something is ends in a failure.
fn examine(asking: &Asking) -> Result<(), Failure> {
    let report = doctor::diagnose(&doctor::gather(served_at(asking)?).map_err(Failure::failed)?);
    print(&if asking.json {
        format!("{}\n", serde_json::to_string_pretty(&report).map_err(Failure::failed)?)
    } else {
        report.to_string()
    })?;
    if report.is_well() { Ok(()) } else { Err(Failure::failed("something is wrong, see above")) }
}

/// Where the proxy that is asked serves its metrics.
fn served_at(asking: &Asking) -> Result<SocketAddr, Failure> {
    if let Some(at) = asking.at {
        return Ok(at);
    }
    let reading = asking.config.as_deref().map(read_config).transpose().map_err(configuration)?;
    let config = reading.map_or_else(Config::default, |reading| reading.config());
    config.metrics.ok_or_else(|| Failure::new(Code::Configuration, "metricsBindAddress: nothing is served"))
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(Failure::failed)
}

//! Clients and servers for the inside of namespaces; the last line of a client's output is its report as JSON.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::net::SocketAddr;

use clap::Parser;
use serde::Serialize;
use tests::{Error, Result, traffic, wait};

#[derive(Parser)]
enum Arguments {
    /// Answers by TCP and UDP with a name.
    Serve(traffic::Serve),
    /// New connections at a steady rate.
    Dial {
        #[command(flatten)]
        dial: traffic::Dial,
        /// Prints when it began, and every attempt when it ends, as lines of JSON.
        #[arg(long)]
        each: bool,
    },
    /// Connections that are kept open.
    Hold(traffic::Hold),
    /// Swallows bytes and counts them.
    Sink {
        /// Address and port.
        address: SocketAddr,
    },
    /// As many bytes as go through one connection.
    Pour(traffic::Pour),
    /// As much as goes: bytes, requests or connections.
    Load(traffic::Load),
    /// The other end of `load`.
    Answer(traffic::Answer),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Serve(settings) => traffic::run_serve(settings, || println!("listening")).await,
        Arguments::Dial { dial, each } => {
            if each {
                println!("{{\"began_nanoseconds\":{}}}", wait::unix_nanoseconds());
            }
            let show = |attempt: &traffic::Attempt| match serde_json::to_string(attempt) {
                Ok(line) if each => println!("{line}"),
                Ok(_) | Err(_) => {}
            };
            print(&traffic::run_dial(&dial, show).await?)
        }
        Arguments::Hold(settings) => print(&traffic::run_hold(&settings, || println!("holding")).await?),
        Arguments::Sink { address } => traffic::sink(address, || println!("listening")).await,
        Arguments::Pour(settings) => print(&traffic::pour(&settings).await?),
        Arguments::Load(settings) => {
            print(&traffic::load(&settings, |count| println!("opened {count}")).await?)
        }
        Arguments::Answer(settings) => traffic::answer(&settings, || println!("listening")).await,
    }
}

fn print(report: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report).map_err(Error::json("the report"))?);
    Ok(())
}

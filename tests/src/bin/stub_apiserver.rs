//! The stub apiserver as a process: for namespaces, demonstrations and curl.

#![expect(clippy::print_stdout, reason = "its output says how to reach it")]

use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use tests::apiserver::{Options, Release, Store, Stub};
use tests::certificates::Identity;
use tests::{Error, Result};

/// A stub that speaks the apiserver's protocol. Faults: POST /fairway-test/COMMAND.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    address: SocketAddr,
    /// Its certificate, PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    key: PathBuf,
    /// Its name, told in a header.
    #[arg(long, default_value = "stub")]
    name: String,
    /// The authority, PEM, of client certificates.
    #[arg(long)]
    client_authority: Option<PathBuf>,
    /// A bearer token to let in; without any everybody is. May be given several times.
    #[arg(long)]
    token: Vec<String>,
    /// Which API to serve.
    #[arg(long, value_enum, default_value_t = Served::Current)]
    release: Served,
    /// A file of JSON objects, one after the other, to start with. May be given several times.
    #[arg(long)]
    objects: Vec<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Served {
    /// Without discovery.k8s.io/v1, as 1.12 to 1.20.
    Old,
    /// As of today.
    Current,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let identity = Identity { certificate: read(&arguments.certificate)?, key: read(&arguments.key)? };
    let mut options = Options::new(&arguments.name, identity);
    options.tokens = arguments.token;
    options.client_authority = arguments.client_authority.as_ref().map(read).transpose()?;
    options.release = match arguments.release {
        Served::Old => Release::Old,
        Served::Current => Release::Current,
    };
    let store = Store::default();
    for file in &arguments.objects {
        for object in serde_json::Deserializer::from_str(&read(file)?).into_iter() {
            store.put(object.map_err(Error::json(file.display()))?)?;
        }
    }
    let listener = TcpListener::bind(arguments.address).map_err(Error::system("bind", arguments.address))?;
    let stub = Stub::serve(listener, options, &store)?;
    println!("listening on {}", stub.address());
    // Until a signal ends the process: there is nothing to save.
    pending().await
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::system("read", path.display()))
}

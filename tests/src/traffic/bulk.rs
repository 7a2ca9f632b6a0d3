//! As many bytes as go through one connection.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Error, Result, wait};

const CHUNK: usize = 128 * 1024;

/// What to pour and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Pour {
    /// A sink.
    pub address: SocketAddr,
    /// For how long.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub milliseconds: u32,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PourReport {
    /// Bytes that the sink has counted.
    pub bytes: u64,
    /// From the first byte to the sink's receipt.
    pub seconds: f64,
    /// Bits per second.
    pub rate: f64,
}

/// Swallows what is poured into it, for ever, and gives each client a receipt.
pub async fn sink(address: SocketAddr, ready: impl FnOnce()) -> Result<()> {
    let listener = TcpListener::bind(address).await.map_err(Error::system("bind", address))?;
    ready();
    loop {
        let (mut stream, _) = listener.accept().await.map_err(Error::system("accept on", address))?;
        tokio::spawn(async move {
            let (mut buffer, mut total) = (vec![0; CHUNK], 0_u64);
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                total += length as u64;
            }
            // A client that does not wait for its receipt has reported the failure itself.
            drop(stream.write_u64(total).await);
        });
    }
}

/// Pours for as long as told and returns what the sink has counted.
pub async fn pour(settings: &Pour) -> Result<PourReport> {
    let failed = || Error::system("pour into", settings.address);
    let mut stream = TcpStream::connect(settings.address).await.map_err(failed())?;
    let (chunk, mut sent) = (vec![0x5a; CHUNK], 0_u64);
    let start = wait::now();
    let end = start + Duration::from_millis(settings.milliseconds.into());
    while wait::now() < end {
        stream.write_all(&chunk).await.map_err(failed())?;
        sent += chunk.len() as u64;
    }
    stream.shutdown().await.map_err(failed())?;
    let bytes = stream.read_u64().await.map_err(failed())?;
    if bytes != sent {
        return Err(failed()(std::io::Error::other(format!("{sent} bytes sent, {bytes} arrived"))));
    }
    let seconds = (wait::now() - start).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let rate = bytes as f64 * 8.0 / seconds;
    Ok(PourReport { bytes, seconds, rate })
}

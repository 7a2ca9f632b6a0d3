//! A server that says who it is.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::{Error, Result};

/// Where to listen and what to say.
#[derive(Clone, Debug, clap::Args)]
pub struct Serve {
    /// Address and port, TCP and UDP.
    pub address: SocketAddr,
    /// The name to answer with, one word.
    #[arg(long)]
    pub name: String,
}

/// Answers every line (TCP) and every datagram (UDP) with `NAME CLIENT-ADDRESS`, for ever. `ready` is called when both
/// sockets are bound.
pub async fn serve(settings: Serve, ready: impl FnOnce()) -> Result<()> {
    let Serve { address, name } = settings;
    let listener = TcpListener::bind(address).await.map_err(Error::system("bind TCP", address))?;
    let socket = UdpSocket::bind(address).await.map_err(Error::system("bind UDP", address))?;
    ready();
    let connections = async {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => drop(tokio::spawn(answer_lines(stream, format!("{name} {from}\n")))),
                // Out of descriptors, most likely: others must close some first.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::select! {
        outcome = answer_datagrams(&socket, &name) => outcome.map_err(Error::system("serve UDP", address)),
        () = connections => Ok(()),
    }
}

async fn answer_datagrams(socket: &UdpSocket, name: &str) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let (_, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(format!("{name} {from}").as_bytes(), from).await?;
    }
}

/// Until the client has had enough, in whatever way it says so.
async fn answer_lines(stream: TcpStream, answer: String) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while let Ok(length) = stream.read_line(&mut line).await {
        if length == 0 || stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}

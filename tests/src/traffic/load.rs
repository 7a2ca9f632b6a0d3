//! As much as goes: bytes, requests or connections, one after the other on each of so many connections.
//!
//! A connection begins with one byte that says what is to come ([`Work`]); where answers are wanted, the sizes of
//! question and answer follow, each in four bytes. A datagram says nothing and is answered by one of a fixed size. The
//! other end is [`super::answer()`]. Bounded in time and number.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::paced::{Turns, ask};
use crate::{Error, Result, wait};

pub(super) const CHUNK: usize = 128 * 1024;
/// The largest question or answer, in bytes.
pub(super) const LARGEST: usize = 64 * 1024;
/// How long a datagram and its answer are, in bytes: a question to a name server and what it says.
pub(super) const DATAGRAM: (usize, usize) = (64, 256);
/// A datagram that is not answered by then was lost.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// Connections that are opened at the same time where many are to be held.
const OPENERS: usize = 64;

/// What a connection is for. The discriminant is its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[repr(u8)]
pub enum Work {
    /// Bytes from the client to the server, which counts them.
    Up = b'U',
    /// Bytes from the server to the client.
    Down = b'D',
    /// A question of 256 bytes, an answer of 1,024, and so on.
    Requests = b'R',
    /// The same at a fixed rate, [`PACE`](super::PACE), whatever the number of connections.
    Paced = b'P',
    /// One question and one answer of the sizes of a TLS handshake with certificate, then the end; and so on.
    Connections = b'C',
    /// One question and one answer, then silence.
    Idle = b'I',
    /// A datagram and its answer, and so on, by connected sockets.
    Datagrams = b'G',
}

impl Work {
    /// As `--work` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Requests => "requests",
            Self::Paced => "paced",
            Self::Connections => "connections",
            Self::Idle => "idle",
            Self::Datagrams => "datagrams",
        }
    }
}

/// How much of what, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Whom: servers of `traffic answer`, or what stands before them. Connections take turns.
    #[arg(required = true)]
    pub addresses: Vec<SocketAddr>,
    /// What to do.
    #[arg(long, value_enum)]
    pub work: Work,
    /// How many connections at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=9_500))]
    pub connections: u32,
    /// For how long.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub milliseconds: u32,
}

impl Load {
    /// Puts another address first: the one that comes so many turns later.
    fn take_turn(&mut self, turns: usize) {
        let count = self.addresses.len().max(1);
        self.addresses.rotate_left(turns % count);
    }

    /// Whose turn it is.
    fn address(&self) -> std::io::Result<SocketAddr> {
        self.addresses.first().copied().ok_or_else(|| std::io::Error::other("no address"))
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Bytes that arrived at their end.
    pub bytes: u64,
    /// Answers that arrived whole.
    pub answered: usize,
    /// From the start until the last of the above.
    pub seconds: f64,
    /// Half of the answers took at most this, in microseconds; of connections from the dial.
    pub p50: u32,
    /// 99 of 100 answers took at most this.
    pub p99: u32,
    /// 999 of 1,000 answers took at most this.
    pub p999: u32,
    /// Processor time of the client, user and system, in seconds.
    pub cpu_seconds: f64,
    /// How many connections failed; of datagrams, how many were lost.
    pub failed: usize,
    /// Why the first of them did.
    pub error: Option<String>,
}

/// Loads as told; `opened` is called with the number of connections that idle, once those that are to do.
pub async fn load(settings: &Load, opened: impl FnOnce(usize)) -> Result<LoadReport> {
    raise_descriptor_limit()?;
    let start = wait::now();
    let end = start + Duration::from_millis(settings.milliseconds.into());
    let mut tasks = JoinSet::new();
    for (number, connections) in shares(settings).into_iter().enumerate() {
        let mut settings = settings.clone();
        settings.take_turn(number);
        let turns = Turns {
            start,
            end,
            number: u32::try_from(number).unwrap_or(u32::MAX),
            connections: settings.connections,
        };
        match settings.work {
            Work::Paced => drop(tasks.spawn_blocking(move || paced(&settings, &turns))),
            _ => drop(tasks.spawn(work(settings, connections, end))),
        }
    }
    let mut sum = Share::default();
    while let Some(share) = tasks.join_next().await {
        sum.add(share.map_err(|error| Error::system("load", "an address")(std::io::Error::other(error)))?);
    }
    let seconds = (wait::now() - start).as_secs_f64();
    if settings.work == Work::Idle {
        opened(sum.held.len());
        tokio::time::sleep_until(end.into()).await;
    }
    sum.report(seconds)
}

/// As many open files as allowed: both ends of nine thousand connections need more than the usual 1,024.
pub(super) fn raise_descriptor_limit() -> Result<()> {
    let fail = || Error::system("raise", "the limit of open files");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(fail())
}

/// How many connections each task has: one, but where they only wait.
fn shares(settings: &Load) -> Vec<usize> {
    let connections = usize::try_from(settings.connections).unwrap_or(usize::MAX);
    match settings.work {
        Work::Idle => {
            let share = |opener| connections / OPENERS + usize::from(opener < connections % OPENERS);
            (0..OPENERS).map(share).collect()
        }
        Work::Up | Work::Down | Work::Requests | Work::Paced | Work::Connections | Work::Datagrams => {
            vec![1; connections]
        }
    }
}

/// What one task has done.
#[derive(Debug, Default)]
struct Share {
    bytes: u64,
    microseconds: Vec<u32>,
    failed: usize,
    error: Option<String>,
    /// Open until all have reported and the time is over.
    held: Vec<TcpStream>,
}

impl Share {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.microseconds.extend(other.microseconds);
        self.failed += other.failed;
        self.error = self.error.take().or(other.error);
        self.held.extend(other.held);
    }

    fn fail(&mut self, error: &std::io::Error) {
        self.failed += 1;
        self.error.get_or_insert_with(|| error.to_string());
    }

    fn report(mut self, seconds: f64) -> Result<LoadReport> {
        let usage =
            getrusage(UsageWho::RUSAGE_SELF).map_err(Error::system("read", "the usage of the client"))?;
        let used = usage.user_time() + usage.system_time();
        self.microseconds.sort_unstable();
        let of_thousand = |rank| percentile(&self.microseconds, rank);
        Ok(LoadReport {
            bytes: self.bytes,
            answered: self.microseconds.len(),
            seconds,
            p50: of_thousand(500),
            p99: of_thousand(990),
            p999: of_thousand(999),
            cpu_seconds: Duration::from_micros(used.num_microseconds().unsigned_abs()).as_secs_f64(),
            failed: self.failed,
            error: self.error,
        })
    }
}

/// The least of the sorted values that `rank` of 1,000 do not exceed; 0 of none.
fn percentile(sorted: &[u32], rank: usize) -> u32 {
    let rank = (sorted.len() * rank).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

async fn work(mut settings: Load, connections: usize, end: Instant) -> Share {
    let mut share = Share::default();
    let outcome = match settings.work {
        Work::Up => up(&settings, end, &mut share).await,
        Work::Down => down(&settings, end, &mut share).await,
        Work::Requests => requests(&settings, end, &mut share).await,
        Work::Connections => {
            dial(&mut settings, end, &mut share).await;
            Ok(())
        }
        Work::Idle => idle(&settings, connections, &mut share).await,
        Work::Datagrams => datagrams(&settings, end, &mut share).await,
        // On a thread of its own.
        Work::Paced => Ok(()),
    };
    if let Err(error) = outcome {
        share.fail(&error);
    }
    share
}

fn paced(settings: &Load, turns: &Turns) -> Share {
    let mut share = Share::default();
    let mut answered = |took: Duration| share.microseconds.push(microseconds(took));
    if let Err(error) = settings.address().and_then(|address| ask(address, turns, &mut answered)) {
        share.fail(&error);
    }
    share
}

async fn connect(settings: &Load) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(settings.address()?).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn up(settings: &Load, end: Instant, share: &mut Share) -> std::io::Result<()> {
    let mut stream = connect(settings).await?;
    stream.write_u8(Work::Up as u8).await?;
    let (chunk, mut sent) = (vec![0x5a; CHUNK], 0_u64);
    while wait::now() < end {
        stream.write_all(&chunk).await?;
        sent += chunk.len() as u64;
    }
    stream.shutdown().await?;
    share.bytes = stream.read_u64().await?;
    if share.bytes == sent {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("{sent} bytes sent, {} arrived", share.bytes)))
    }
}

async fn down(settings: &Load, end: Instant, share: &mut Share) -> std::io::Result<()> {
    let mut stream = connect(settings).await?;
    stream.write_u8(Work::Down as u8).await?;
    let mut buffer = vec![0; CHUNK];
    let mut told = false;
    loop {
        if !told && wait::now() >= end {
            // The server stops when it hears of it; what is on its way still counts.
            stream.write_u8(Work::Down as u8).await?;
            told = true;
        }
        match (stream.read(&mut buffer).await?, told) {
            (0, true) => return Ok(()),
            (0, false) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            (length, _) => share.bytes += length as u64,
        }
    }
}

async fn requests(settings: &Load, end: Instant, share: &mut Share) -> std::io::Result<()> {
    let mut stream = connect(settings).await?;
    let mut exchange = Exchange::new(Work::Requests);
    while wait::now() < end {
        let asked = wait::now();
        exchange.on(&mut stream).await?;
        share.microseconds.push(microseconds_since(asked));
    }
    Ok(())
}

async fn dial(settings: &mut Load, end: Instant, share: &mut Share) {
    while wait::now() < end {
        let began = wait::now();
        settings.take_turn(1);
        let once = async { Exchange::new(Work::Connections).on(&mut connect(settings).await?).await };
        match once.await {
            Ok(()) => share.microseconds.push(microseconds_since(began)),
            Err(error) => {
                share.fail(&error);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn idle(settings: &Load, connections: usize, share: &mut Share) -> std::io::Result<()> {
    for _ in 0..connections {
        let began = wait::now();
        let mut stream = connect(settings).await?;
        Exchange::new(Work::Idle).on(&mut stream).await?;
        share.microseconds.push(microseconds_since(began));
        share.held.push(stream);
    }
    Ok(())
}

async fn datagrams(settings: &Load, end: Instant, share: &mut Share) -> std::io::Result<()> {
    let address = settings.address()?;
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let (question, mut answer) = ([0x5a; DATAGRAM.0], [0; DATAGRAM.1]);
    while wait::now() < end {
        let asked = wait::now();
        socket.send(&question).await?;
        let Ok(received) = timeout(LOST_AFTER, socket.recv(&mut answer)).await else {
            share.fail(&std::io::ErrorKind::TimedOut.into());
            continue;
        };
        if received? != answer.len() {
            return Err(std::io::Error::other("an answer of another size"));
        }
        share.microseconds.push(microseconds_since(asked));
    }
    Ok(())
}

fn microseconds_since(start: Instant) -> u32 {
    microseconds(wait::now() - start)
}

fn microseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Questions and answers of fixed sizes.
pub(super) struct Exchange {
    /// Goes before the first question.
    announcement: Option<[u8; 9]>,
    question: Vec<u8>,
    /// Where an answer finds room.
    pub(super) answer: Vec<u8>,
}

impl Exchange {
    pub(super) fn new(work: Work) -> Self {
        let (question, answer): (u32, u32) = match work {
            // A ClientHello; what a server with a chain of two certificates says to it.
            Work::Connections => (320, 2_400),
            Work::Up | Work::Down | Work::Requests | Work::Paced | Work::Idle | Work::Datagrams => {
                (256, 1_024)
            }
        };
        let mut announcement = [work as u8; 9];
        announcement[1..5].copy_from_slice(&question.to_be_bytes());
        announcement[5..].copy_from_slice(&answer.to_be_bytes());
        Self { announcement: Some(announcement), question: zeros(question), answer: zeros(answer) }
    }

    /// What is to be said next.
    pub(super) fn question(&mut self) -> Cow<'_, [u8]> {
        match self.announcement.take() {
            Some(announcement) => [&announcement[..], &self.question].concat().into(),
            None => (&self.question[..]).into(),
        }
    }

    async fn on(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(&self.question()).await?;
        stream.read_exact(&mut self.answer).await.map(drop)
    }
}

fn zeros(length: u32) -> Vec<u8> {
    vec![0; usize::try_from(length).unwrap_or(LARGEST)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (values, rank, expected) in [
            (&hundred[..], 500, 50),
            (&hundred, 990, 99),
            (&hundred, 999, 100),
            (&hundred[..2], 990, 2),
            (&[7], 500, 7),
            (&[], 990, 0),
        ] {
            assert_eq!(percentile(values, rank), expected, "{rank} of 1,000 of {}", values.len());
        }
    }

    #[tokio::test]
    async fn every_work_is_done_and_counted() -> Result<()> {
        let address = super::super::answer::in_background().await?;
        for (work, connections) in [
            (Work::Up, 2),
            (Work::Down, 2),
            (Work::Requests, 3),
            (Work::Paced, 3),
            (Work::Connections, 3),
            (Work::Idle, 70),
            (Work::Datagrams, 3),
        ] {
            let settings = Load { addresses: vec![address], work, connections, milliseconds: 200 };
            let report = load(&settings, |_| ()).await?;
            assert_eq!((report.failed, &report.error), (0, &None), "{work:?}");
            assert!(report.cpu_seconds > 0.0, "{work:?}: {report:?}");
            assert!(report.p50 <= report.p99 && report.p99 <= report.p999, "{work:?}: {report:?}");
            match work {
                Work::Up | Work::Down => assert!(report.bytes > 0, "{work:?}: {report:?}"),
                // Not more than there are turns in that time.
                Work::Paced => assert!((4..=2_000).contains(&report.answered), "{work:?}: {report:?}"),
                Work::Requests | Work::Connections | Work::Datagrams => {
                    assert!(report.answered > 3, "{work:?}: {report:?}");
                }
                Work::Idle => assert_eq!(report.answered, 70),
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn connections_that_fail_are_counted_with_the_reason() -> Result<()> {
        // Nobody listens on the port that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(Error::system("bind", "a free port"))?;
        let settings =
            Load { addresses: vec![address], work: Work::Requests, connections: 2, milliseconds: 50 };
        let report = load(&settings, |_| ()).await?;
        assert_eq!((report.answered, report.failed), (0, 2));
        assert!(report.error.is_some_and(|error| error.contains("refused")));
        Ok(())
    }
}

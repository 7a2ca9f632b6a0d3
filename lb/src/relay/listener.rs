//! Accepts clients, as many as there are descriptors for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::libc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::tick::CROWD;
use super::{Shared, connection};

/// Accepts until `stopped` turns true, and then whoever waits already. Each connection is a task of its own, which ends
/// with the thread's runtime.
pub(super) async fn accept(
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let _accepting = Counted::begin(&shared.accepting);
    let mut complaint = Complaint::default();
    loop {
        let next = next(&listener, &shared.free, &mut complaint);
        tokio::select! {
            // An error means that nobody is left who could stop us otherwise.
            _ = stopped.wait_for(|stopped| *stopped) => break,
            (client, address, permit) = next => serve(client, address, permit, &shared),
        }
    }
    // The runtime looks for clients that it has not seen yet.
    tokio::task::yield_now().await;
    while let Ok(permit) = Arc::clone(&shared.free).try_acquire_owned()
        && let Some((client, address)) = waiting(&listener).await
    {
        serve(client, address, permit, &shared);
    }
}

/// A client that waits already, and where it comes from.
async fn waiting(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    tokio::select! {
        biased;
        accepted = listener.accept() => accepted.ok(),
        () = std::future::ready(()) => None,
    }
}

fn serve(client: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit, shared: &Arc<Shared>) {
    let place = Place::take(permit, Arc::clone(shared));
    tokio::spawn(connection::serve(client, address, place, Arc::clone(shared)));
}

/// The next client, once there is room for one. Cancelling it loses no client: those not taken stay in the queue.
async fn next(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
    complaint: &mut Complaint,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let permit = permit(free, complaint).await;
    loop {
        match listener.accept().await {
            Ok((client, address)) => return (client, address, permit),
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                complaint.say(|| tracing::warn!(%error, "clients not accepted"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[expect(clippy::expect_used, reason = "nobody closes the semaphore")]
async fn permit(free: &Arc<Semaphore>, complaint: &mut Complaint) -> OwnedSemaphorePermit {
    if free.available_permits() == 0 {
        complaint.say(|| tracing::warn!("connection limit reached: clients wait until others leave"));
    }
    Arc::clone(free).acquire_owned().await.expect("the semaphore is never closed")
}

/// Errors of the connection that would have been accepted (accept(2), "Error handling"): the next one may be fine.
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::ETIMEDOUT
        )
    )
}

/// Time until the next attempt where the node is out of something that others must give back first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says the same thing at most once per minute.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn say(&mut self, say: impl FnOnce()) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.duration_since(last) >= Duration::from_mins(1)) {
            self.last = Some(now);
            say();
        }
    }
}

/// What a connection takes for as long as it lasts, resting or not: it is counted, and another client may wait for it.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
    is_new: bool,
}

impl Place {
    fn take(permit: OwnedSemaphorePermit, shared: Arc<Shared>) -> Self {
        if shared.carried.fetch_add(1, Ordering::Relaxed).is_multiple_of(CROWD) {
            shared.crowd.notify_one();
        }
        shared.new.fetch_add(1, Ordering::Release);
        Self { _permit: permit, shared, is_new: true }
    }

    /// The connection is idle for the first time, or over.
    pub(super) fn rest(&mut self) {
        if std::mem::take(&mut self.is_new) {
            self.shared.new.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rest();
        self.shared.carried.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one for as long as it lives, however it ends.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

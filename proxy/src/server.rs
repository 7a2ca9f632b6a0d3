//! Where this process answers questions about itself: at the addresses of its configuration, also when they change.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use daemon::admin::{Admin, Routes};
use daemon::exit::Failure;
use tokio::sync::watch;

use crate::config::Config;
use crate::notice::{Notice, Notices};

/// kube-proxy tries an address it could not bind again after this long.
pub(crate) const BIND_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Where this process answers questions about itself.
pub(crate) struct Server {
    /// By a configuration. `None`: nowhere.
    pub(crate) at: fn(&Config) -> Option<SocketAddr>,
    /// What an Event about an address that cannot be bound is called.
    pub(crate) event: &'static str,
}

impl Server {
    /// Answers where the configuration says; ends only where that cannot be bound and is to be fatal.
    pub(crate) async fn run(
        &self,
        mut config: watch::Receiver<Config>,
        notices: &Notices,
        routes: impl Fn() -> Routes,
    ) -> Result<Infallible, Failure> {
        loop {
            let address = (self.at)(&config.borrow_and_update());
            let hard_fail = config.clone();
            let moved = async {
                // Without a sender it stays as it is.
                if config.wait_for(|config| (self.at)(config) != address).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                Err(failure) = self.answer(address, &hard_fail, notices, &routes) => return Err(failure),
                () = moved => {}
            }
        }
    }

    async fn answer(
        &self,
        address: Option<SocketAddr>,
        config: &watch::Receiver<Config>,
        notices: &Notices,
        routes: impl Fn() -> Routes,
    ) -> Result<Infallible, Failure> {
        let Some(address) = address else { return std::future::pending().await };
        let mut said = false;
        loop {
            match Admin::bind(address, routes()).await {
                Ok(admin) => admin.serve().await,
                Err(source) if config.borrow().bind_address_hard_fail => {
                    return Err(Failure::failed(BindFailed { address, source }));
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "address not bound, trying again");
                    if !std::mem::replace(&mut said, true) {
                        notices
                            .leave(Notice::failed_to_start(self.event, format!("bind {address}: {error}")));
                    }
                    tokio::time::sleep(BIND_AGAIN_AFTER).await;
                }
            }
        }
    }
}

/// Why an address is not served.
#[derive(Debug, thiserror::Error)]
#[error("bind {address}")]
struct BindFailed {
    address: SocketAddr,
    source: io::Error,
}

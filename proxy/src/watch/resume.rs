//! After a failure: whether to go on, and when.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use kube::core::Status;
use kube::runtime::watcher;

/// Whether the watch goes on from where it was, or lists anew by itself. Not if the server has forgotten where that was
/// (410), does not know the kind any more (404), or sent what could not be read and is thus lost.
pub(super) fn can_resume(error: &watcher::Error) -> bool {
    use watcher::Error;
    match error {
        Error::WatchError(_) | Error::NoResourceVersion => true,
        Error::InitialListFailed(_) | Error::WatchStartFailed(_) => {
            status(error).is_none_or(|status| !matches!(status.code, 404 | 410))
        }
        Error::WatchFailed(source) => !matches!(source, kube::Error::SerdeError(_)),
    }
}

/// What the server said, where the error is its own.
pub(super) fn status(error: &watcher::Error) -> Option<&Status> {
    use watcher::Error;
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => Some(status),
        Error::InitialListFailed(_)
        | Error::WatchStartFailed(_)
        | Error::WatchFailed(_)
        | Error::NoResourceVersion => None,
    }
}

/// Between half of `delay` and the whole.
pub(super) fn spread(delay: Duration) -> Duration {
    // Differs from process to process and from call to call, which is all it must.
    let random = RandomState::new().build_hasher().finish() % 1000;
    let thousandths = u32::try_from(random).unwrap_or(0);
    delay / 2 + delay / 2 * thousandths / 1000
}

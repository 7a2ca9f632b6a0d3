//! Keeps adverts on time on a node that is short of processors or memory. A master that is late looks like a dead one.

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use thread_priority::{
    Error, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tracing::warn;

/// Lets the calling thread run before every ordinary one (`SCHED_RR`, sched(7)), with the least such priority: the
/// kernel's own threads come first. Where that is not permitted the thread goes on as it is, and the log says so.
pub(super) fn prefer_this_thread() {
    let round_robin = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let preferred = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, round_robin);
    if let Err(error) = preferred {
        let error = match error {
            Error::OS(number) => Errno::from_raw(number).to_string(),
            other => other.to_string(),
        };
        let needs = "CAP_SYS_NICE or LimitRTPRIO=1";
        warn!(error, needs, "no real-time priority: adverts may be late on a busy node");
    }
}

/// Keeps what is mapped now in memory once it has been used: above all the program itself, whose pages the kernel
/// otherwise drops when memory is short, to read them again from a disk that is slow then. Where that is not permitted
/// nothing changes, and the log says so.
///
/// To be called before other threads are started: memory of connections, which comes later, need not be locked, and
/// goes back to the system when it is freed only if it is not.
pub(crate) fn lock_memory() {
    let on_first_use = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | on_first_use) {
        let needs = "CAP_IPC_LOCK or LimitMEMLOCK=infinity";
        warn!(%error, needs, "memory not locked: adverts may be late when memory is short");
    }
}

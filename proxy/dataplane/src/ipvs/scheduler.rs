//! What the kernel calls the schedulers.

use plan::Scheduler;

use crate::Error;

/// The kernel's name of a scheduler; `None` for one that it does not have.
pub(super) const fn kernel_name(scheduler: Scheduler) -> Option<&'static str> {
    Some(match scheduler {
        Scheduler::Random => return None,
        Scheduler::RoundRobin => "rr",
        Scheduler::WeightedRoundRobin => "wrr",
        Scheduler::LeastConnections => "lc",
        Scheduler::WeightedLeastConnections => "wlc",
        Scheduler::Maglev => "mh",
        Scheduler::SourceHash => "sh",
        Scheduler::DestinationHash => "dh",
        Scheduler::ShortestExpectedDelay => "sed",
        Scheduler::NeverQueue => "nq",
    })
}

/// `ENOENT` of a new service: the module of its scheduler could not be loaded.
pub(super) const fn absent(scheduler: Scheduler) -> Error {
    let feature = match scheduler {
        Scheduler::Random => "the scheduler random",
        Scheduler::RoundRobin => "the scheduler rr (module ip_vs_rr)",
        Scheduler::WeightedRoundRobin => "the scheduler wrr (module ip_vs_wrr)",
        Scheduler::LeastConnections => "the scheduler lc (module ip_vs_lc)",
        Scheduler::WeightedLeastConnections => "the scheduler wlc (module ip_vs_wlc)",
        Scheduler::Maglev => "the scheduler mh (module ip_vs_mh)",
        Scheduler::SourceHash => "the scheduler sh (module ip_vs_sh)",
        Scheduler::DestinationHash => "the scheduler dh (module ip_vs_dh)",
        Scheduler::ShortestExpectedDelay => "the scheduler sed (module ip_vs_sed)",
        Scheduler::NeverQueue => "the scheduler nq (module ip_vs_nq)",
    };
    Error::Kernel { feature }
}

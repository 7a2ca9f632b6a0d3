//! What a refusal of the kernel's means.

use std::io;

use nix::errno::Errno;
use plan::{Change, Scheduler};

use super::scheduler;
use crate::Error;

/// The kernel could not be asked, or did not answer.
pub(super) fn lost(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Netlink { action, source }
}

/// Why there is no table: nfnetlink itself may be missing, nftables, or a part of it that a transaction names.
pub(super) fn no_table(source: io::Error) -> Error {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::EINVAL) => {
            Error::Kernel { feature: "nftables (module nf_tables)" }
        }
        Some(Errno::ENOENT) => Error::Kernel {
            feature: "a part of nftables (modules nft_chain_nat, nft_masq, nft_ct, nft_reject_ipv4 and nft_reject_ipv6)",
        },
        Some(Errno::EPERM) => Error::Permission { action: "make a table" },
        _ => Error::Netlink { action: "make the table of", source },
    }
}

/// The kernel's answer to `change`, or to a question.
pub(super) fn refused(action: &'static str, change: Option<&Change>, refusal: Errno) -> Error {
    match (refusal, change.and_then(scheduler_of)) {
        (Errno::EPERM, _) => Error::Permission { action: "change virtual services" },
        // ip_vs_add_service(): the scheduler's module could not be loaded.
        (Errno::ENOENT, Some(scheduler)) => scheduler::absent(scheduler),
        (refusal, _) => Error::Netlink { action, source: refusal.into() },
    }
}

/// The scheduler that a step asks for.
pub(super) const fn scheduler_of(change: &Change) -> Option<Scheduler> {
    match change {
        Change::AddService { service, .. } => Some(service.rules.scheduler),
        Change::SetRules { rules, .. } => Some(rules.scheduler),
        Change::AddBackend { .. }
        | Change::DrainBackend { .. }
        | Change::RemoveBackend { .. }
        | Change::RemoveService { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_for_the_table_is_named() {
        for (refusal, expected) in [
            (Errno::EPROTONOSUPPORT, "the kernel lacks nftables (module nf_tables)"),
            (Errno::EINVAL, "the kernel lacks nftables (module nf_tables)"),
            (Errno::ENOENT, "the kernel lacks a part of nftables"),
            (Errno::EPERM, "not permitted to make a table"),
            (Errno::ENOBUFS, "make the table of the virtual services"),
        ] {
            let said = no_table(refusal.into()).to_string();
            assert!(said.starts_with(expected), "{refusal}: {said}");
        }
    }
}

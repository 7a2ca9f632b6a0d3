//! What IPVS is told, and what its refusal means.

use nix::errno::Errno;

use super::message::Command;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) payload: Vec<u8>,
    /// The refusal that says that it was not needed.
    pub(super) needless: Option<Errno>,
    /// What is to be said of the same then.
    pub(super) instead: Option<Command>,
}

impl Order {
    /// Every refusal is a failure.
    pub(super) const fn plain(payload: Vec<u8>) -> Self {
        Self { payload, needless: None, instead: None }
    }

    /// This refusal is success.
    pub(super) const fn unless(payload: Vec<u8>, needless: Errno) -> Self {
        Self { payload, needless: Some(needless), instead: None }
    }

    /// After this refusal another command is given with the same words.
    pub(super) const fn or(payload: Vec<u8>, needless: Errno, instead: Command) -> Self {
        Self { payload, needless: Some(needless), instead: Some(instead) }
    }
}

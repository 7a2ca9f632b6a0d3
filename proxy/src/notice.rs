//! What the cluster is told besides the log: Events, one for each line that the author of an object, or the owner of this
//! node, should read. Nobody waits for them: what is said faster than they can be written is counted and forgotten.

use prometheus::IntCounter;
use tokio::sync::mpsc;

use crate::cluster::{Cluster, Kind, Name, Refusal};
use crate::planner::Remark;

/// So many await writing.
const QUEUED: usize = 64;

/// One Event in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) about: Subject,
    /// Whether something is not as it should be.
    pub(crate) warns: bool,
    /// Why, in one word of `CamelCase`; kube-proxy's where it has one.
    pub(crate) reason: &'static str,
    /// At what, likewise.
    pub(crate) action: &'static str,
    pub(crate) note: String,
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The Node that this process runs on.
    Node,
    /// An object of the cluster.
    Object {
        kind: Kind,
        name: Name,
        /// By which `kubectl describe` finds it.
        uid: Option<String>,
    },
}

impl Notice {
    /// This process has begun its work.
    pub(crate) fn starting() -> Self {
        let note = concat!("fairway-proxy ", env!("CARGO_PKG_VERSION"), " serves Services by eBPF");
        Self {
            about: Subject::Node,
            warns: false,
            reason: "Starting",
            action: "StartKubeProxy",
            note: note.into(),
        }
    }

    /// An admin server cannot be reached.
    pub(crate) fn failed_to_start(reason: &'static str, note: String) -> Self {
        Self { about: Subject::Node, warns: true, reason, action: "StartKubeProxy", note }
    }

    /// Load balancers cannot ask whether to send a Service's traffic here.
    pub(crate) fn health_check_port_not_bound(service: Name, note: String) -> Self {
        let about = Subject::Object { kind: Kind::Service, name: service, uid: None };
        Self { about, warns: true, reason: "FailedToStartServiceHealthcheck", action: "Listen", note }
    }

    /// An object was not understood.
    pub(crate) fn refused(kind: Kind, name: Name, uid: Option<String>, refusal: &Refusal) -> Self {
        Self {
            about: Subject::Object { kind, name, uid },
            warns: true,
            reason: "Refused",
            action: "Read",
            note: format!("{refusal}; what was known of it before stays in force"),
        }
    }

    /// The dataplane cannot serve a frontend of a Service.
    pub(crate) fn left_out(service: &Name, cluster: &Cluster, reason: &str) -> Self {
        Self::of_service(service, cluster, "NotServed", reason.to_owned())
    }

    /// Nearly everything vanished at once.
    pub(crate) fn held_back() -> Self {
        Self {
            about: Subject::Node,
            warns: true,
            reason: "EmptinessHeldBack",
            action: "Sync",
            note: "nearly everything vanished at once: it stays in force until it comes back, is deleted by an event, or \
                   SIGUSR1 says that it is gone"
                .into(),
        }
    }

    /// A Service is not served as its author meant.
    pub(crate) fn remark(remark: &Remark, cluster: &Cluster) -> Self {
        match remark {
            Remark::Claimed { frontend, winner, loser } => {
                let note = format!("{frontend} is that of {winner}, which is older");
                Self::of_service(loser, cluster, "AddressTaken", note)
            }
            Remark::Disregarded { service, parts } => {
                let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                let note = format!("{}; the rest is served", parts.join("; "));
                Self::of_service(service, cluster, "PartlyServed", note)
            }
            Remark::NoNodeAddress { .. } => Self {
                about: Subject::Node,
                warns: true,
                reason: "NoNodeAddress",
                action: "Sync",
                note: "this node has no address to serve node ports at: its Node object names none".into(),
            },
        }
    }

    fn of_service(name: &Name, cluster: &Cluster, reason: &'static str, note: String) -> Self {
        let uid = cluster.service(name).and_then(|service| service.uid.as_deref()).map(str::to_owned);
        let about = Subject::Object { kind: Kind::Service, name: name.clone(), uid };
        Self { about, warns: true, reason, action: "Sync", note }
    }
}

/// Where notices are left.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    queue: mpsc::Sender<Notice>,
    dropped: IntCounter,
}

impl Notices {
    /// With the end where they are taken out. Where nobody takes them, as without a cluster, they come to nothing.
    pub(crate) fn new(dropped: IntCounter) -> (Self, mpsc::Receiver<Notice>) {
        let (queue, taken) = mpsc::channel(QUEUED);
        (Self { queue, dropped }, taken)
    }

    /// Leaves a notice, if there is room.
    pub(crate) fn leave(&self, notice: Notice) {
        match self.queue.try_send(notice) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.dropped.inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_too_fast_is_counted_and_forgotten() {
        let dropped = IntCounter::new("dropped", "dropped").expect("a counter");
        let (notices, mut taken) = Notices::new(dropped.clone());
        for _ in 0..QUEUED + 3 {
            notices.leave(Notice::held_back());
        }
        assert_eq!(dropped.get(), 3);
        assert_eq!(std::iter::from_fn(|| taken.try_recv().ok()).count(), QUEUED);
        drop(taken);
        notices.leave(Notice::held_back());
        assert_eq!(dropped.get(), 3, "without a cluster nothing is missed");
    }
}

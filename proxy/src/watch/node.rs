//! The Node that this process runs on.

use kube::Client;
use kube::runtime::watcher;

use super::{Follower, Following};
use crate::cluster::{Delta, Node, Standing, Update, kind};
use crate::health_check::SharedHealth;

/// Which Node this is, and who is told of its standing.
pub(crate) struct OwnNode {
    /// `metadata.name`.
    pub(crate) name: String,
    /// What `/healthz` answers from.
    pub(crate) health: SharedHealth,
}

impl OwnNode {
    /// Follows this Node and no other.
    pub(super) fn follower(self, client: Client, following: Following) -> Follower<Node> {
        let selection = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut missed = false;
        let follower = Follower::new(client, following, kind::node, move |news| {
            self.note(&news, &mut missed);
            Update::Node(news)
        });
        Follower { selection, ..follower }
    }

    fn note(&self, news: &Delta<Node>, missed: &mut bool) {
        let mut health = self.health.lock();
        let standing = health.node().after(news);
        let before = health.note_node(standing);
        drop(health);
        let node = &self.name;
        match (before, standing) {
            (Standing::Unknown, Standing::Unknown) => {
                if !std::mem::replace(missed, true) {
                    tracing::warn!(
                        node,
                        "no Node of this name: node ports are not served, and /healthz cannot tell when it is to go"
                    );
                }
            }
            (Standing::Unknown | Standing::Staying, Standing::Leaving) => {
                tracing::info!(node, "node is to go, /healthz turns load balancers away");
            }
            (Standing::Leaving, Standing::Staying) => tracing::info!(node, "node stays after all"),
            (Standing::Unknown | Standing::Staying, Standing::Staying)
            | (Standing::Leaving, Standing::Leaving)
            | (Standing::Staying | Standing::Leaving, Standing::Unknown) => {}
        }
    }
}

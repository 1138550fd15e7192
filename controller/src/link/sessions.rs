//! Open sessions by id, by which a reverse connection finds its node.

use std::collections::HashMap;
use std::sync::Arc;

use flotilla_core::NodeName;
use flotilla_identity::random_id;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::fleet::{LinkRecord, NodeLink, SessionId};

/// The open sessions. They are looked up when a connection starts, never by requests.
#[derive(Default)]
pub(super) struct OpenSessions {
    links: Mutex<HashMap<SessionId, Arc<NodeLink>>>,
}

impl OpenSessions {
    /// Opens a session with a random 128-bit id.
    pub(super) fn open(
        &self,
        node: NodeName,
        peer: LinkRecord,
        stop: &CancellationToken,
    ) -> Arc<NodeLink> {
        let id = random_id();
        let link = Arc::new(NodeLink::new(
            node,
            SessionId(id.into()),
            peer,
            stop.child_token(),
        ));
        self.lock().insert(link.session.clone(), link.clone());
        link
    }

    /// The link of a session. `None` when there is no such session.
    pub(super) fn find(&self, id: &str) -> Option<Arc<NodeLink>> {
        self.lock().get(&SessionId(id.into())).cloned()
    }

    /// Ends a session with its connections and tasks.
    pub(super) fn close(&self, id: &SessionId) {
        if let Some(link) = self.lock().remove(id) {
            link.closed.cancel();
        }
    }

    /// The number of open sessions.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<SessionId, Arc<NodeLink>>> {
        self.links.lock()
    }
}

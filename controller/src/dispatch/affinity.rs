//! Which replica has read the beginning of a conversation, or had its session, before: of the last
//! so many conversations.

use std::sync::Arc;

use flotilla_core::routing::ConversationPrefix;
use flotilla_core::{ModelName, NodeName};
use quick_cache::sync::Cache;
use xxhash_rust::xxh3::xxh3_64;

use super::plan::DispatchPlan;

/// Beginnings and sessions that are remembered: about 10 MB of them.
const REMEMBERED: usize = 100_000;

/// What is remembered. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AffinityCache {
    nodes: Arc<Cache<u64, NodeName>>,
}

/// A replica that may have something in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AffinityHit {
    pub(super) node: NodeName,
    /// Bytes of the conversation that it has read; 0: only the session was there.
    pub(super) bytes: u32,
}

impl AffinityCache {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Arc::new(Cache::new(REMEMBERED)),
        }
    }

    /// Where a model may have what `plan` asks for in memory: most of the conversation first, where
    /// only its session was last.
    pub(super) fn find(
        &self,
        model: &ModelName,
        plan: &DispatchPlan,
    ) -> impl Iterator<Item = AffinityHit> + use<> {
        let salt = salt(model);
        let read = plan.marks.iter().find_map(|mark| {
            let node = self.nodes.get(&key(salt, *mark))?;
            Some(AffinityHit {
                node,
                bytes: mark.bytes,
            })
        });
        let session = plan.session.and_then(|session| {
            let node = self.nodes.get(&(salt ^ session))?;
            Some(AffinityHit { node, bytes: 0 })
        });
        read.into_iter().chain(session)
    }

    /// `node` answers with a model what `plan` asks for.
    pub(super) fn note(&self, model: &ModelName, plan: &DispatchPlan, node: &NodeName) {
        if plan.marks.is_empty() && plan.session.is_none() {
            return;
        }
        let salt = salt(model);
        let marks = plan.marks.iter().map(|mark| key(salt, *mark));
        for key in marks.chain(plan.session.map(|session| salt ^ session)) {
            self.nodes.insert(key, node.clone());
        }
    }
}

/// Sets the memory of one model apart from that of others.
fn salt(model: &ModelName) -> u64 {
    xxh3_64(model.as_str().as_bytes())
}

fn key(salt: u64, mark: ConversationPrefix) -> u64 {
    salt.rotate_left(1) ^ mark.key
}

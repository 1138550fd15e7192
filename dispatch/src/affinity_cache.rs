//! Which replica has read the beginning of a conversation, or had its session, before.

use std::sync::Arc;

use flotilla_core::routing::ConversationPrefix;
use flotilla_core::{ModelName, NodeName};
use quick_cache::sync::Cache;
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::DispatchPlan;

/// Prefixes and sessions that are remembered: about 10 MB of them.
const CAPACITY: usize = 100_000;

/// Remembers where conversations were answered. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AffinityCache {
    nodes: Arc<Cache<u64, NodeName>>,
}

/// A node that may have a part of a conversation in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AffinityHit {
    pub(crate) node: NodeName,
    /// Bytes of the conversation that the node has read. 0 when only the session was there.
    pub(crate) bytes: u32,
}

impl AffinityCache {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Arc::new(Cache::new(CAPACITY)),
        }
    }

    /// Returns the nodes that may have the conversation of `plan` in memory for this model: the node
    /// with the longest prefix first, then the node that had its session.
    pub(crate) fn find(
        &self,
        model: &ModelName,
        plan: &DispatchPlan,
    ) -> impl Iterator<Item = AffinityHit> + use<> {
        let salt = salt(model);
        let longest = plan.prefixes.iter().find_map(|prefix| {
            let node = self.nodes.get(&prefix_key(salt, *prefix))?;
            Some(AffinityHit {
                node,
                bytes: prefix.bytes,
            })
        });
        let session = plan.session.and_then(|session| {
            let node = self.nodes.get(&(salt ^ session))?;
            Some(AffinityHit { node, bytes: 0 })
        });
        longest.into_iter().chain(session)
    }

    /// Remembers that `node` answers the conversation of `plan` with this model.
    pub(crate) fn insert(&self, model: &ModelName, plan: &DispatchPlan, node: &NodeName) {
        if plan.prefixes.is_empty() && plan.session.is_none() {
            return;
        }
        let salt = salt(model);
        let prefixes = plan.prefixes.iter().map(|prefix| prefix_key(salt, *prefix));
        for key in prefixes.chain(plan.session.map(|session| salt ^ session)) {
            self.nodes.insert(key, node.clone());
        }
    }
}

/// Separates the keys of one model from those of others.
fn salt(model: &ModelName) -> u64 {
    xxh3_64(model.as_str().as_bytes())
}

fn prefix_key(salt: u64, prefix: ConversationPrefix) -> u64 {
    salt.rotate_left(1) ^ prefix.key
}

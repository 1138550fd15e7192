//! What applying a resource writes: a pure function of the resource and of what the store has.

use flotilla_core::spec::{FieldChange, Resource, changed_fields};
use serde_json::Value;

use super::apply_result::{Applied, ApplyResult, to_json};
use crate::fleet::DesiredRecord;
use crate::fleet::records::encode;
use crate::store::{Precondition, StoreEntry, StoreError, StoreRevision, StoreWrite, keys};

/// What a record has beside its resource, in bytes.
const RECORD_BYTES: usize = 64;

/// A resource to apply, with its keys.
pub(super) struct ApplyTarget<'a> {
    /// The key of the resource.
    pub(super) key: String,
    /// The resource as it is stored.
    resource: Value,
    /// The document as the user wrote it.
    document: &'a Value,
    /// The key of a model's failed revision, which applying the model clears.
    pub(super) failed_revision: Option<String>,
}

impl<'a> ApplyTarget<'a> {
    pub(super) fn new(resource: &Resource, document: &'a Value) -> Result<Self, StoreError> {
        let (key, resource, failed_revision) = match resource {
            Resource::Model(model) => {
                let failed_revision = keys::failed_revision(model.name());
                let key = keys::model(model.name());
                (key, to_json(model)?, Some(failed_revision))
            }
            Resource::Task(task) => (keys::task(task.name()), to_json(task)?, None),
            Resource::Router(router) => (keys::ROUTER.into(), to_json(router)?, None),
        };
        Ok(Self {
            key,
            resource,
            document,
            failed_revision,
        })
    }

    /// About how many bytes a write of the resource has.
    pub(super) fn stored_bytes(&self) -> usize {
        self.key.len() + self.resource.to_string().len() + RECORD_BYTES
    }
}

/// What applying a resource does.
pub(super) struct ApplyPlan {
    /// The writes. Empty if the store has the resource already.
    pub(super) writes: Vec<StoreWrite>,
    result: ApplyResult,
    changes: Vec<FieldChange>,
    retries_failed_revision: bool,
    /// The revision of the stored resource.
    current: StoreRevision,
}

impl ApplyPlan {
    /// Plans to apply `target` at `now`, in seconds since 1970, where the store has this `entry` of it
    /// and this entry of its `failed` revision.
    pub(super) fn new(
        target: &ApplyTarget<'_>,
        entry: Option<&StoreEntry>,
        failed: Option<&StoreEntry>,
        now: u64,
    ) -> Self {
        let clear_failure = failed.map(|entry| StoreWrite::Delete {
            key: entry.key.clone(),
        });
        let stored =
            entry.and_then(|entry| serde_json::from_slice::<DesiredRecord>(&entry.value).ok());
        let mut plan = Self {
            writes: Vec::new(),
            result: ApplyResult::Unchanged,
            changes: Vec::new(),
            retries_failed_revision: failed.is_some(),
            current: entry.map_or_else(StoreRevision::default, |entry| entry.revision),
        };
        if stored.as_ref().map(|stored| &stored.resource) != Some(&target.resource) {
            plan.changes = stored.as_ref().map_or_else(Vec::new, |stored| {
                changed_fields(&stored.resource, &target.resource, target.document)
            });
            let record = DesiredRecord {
                created: stored.map_or(now, |stored| stored.created),
                resource: target.resource.clone(),
            };
            let precondition;
            (precondition, plan.result) = match entry {
                None => (Precondition::Absent, ApplyResult::Created),
                Some(entry) => (
                    Precondition::Revision(entry.revision),
                    ApplyResult::Configured,
                ),
            };
            let put = StoreWrite::put_if(target.key.clone(), encode(&record), precondition);
            plan.writes.push(put);
        }
        plan.writes.extend(clear_failure);
        plan
    }

    /// What was done, once the writes were written at this revision.
    pub(super) fn into_applied(self, written: Option<StoreRevision>) -> Applied {
        Applied {
            result: self.result,
            changes: self.changes,
            retries_failed_revision: self.retries_failed_revision,
            revision: written
                .filter(|_| !self.writes.is_empty())
                .unwrap_or(self.current),
        }
    }
}

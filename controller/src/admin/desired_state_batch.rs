//! Changes of many resources at once, in few transactions.
//!
//! A change is not atomic as a whole. After an error the first part may be written; sending all of it
//! again completes it.

use std::collections::HashSet;
use std::ops::Range;

use flotilla_core::spec::Resource;
use flotilla_core::{ModelName, TaskName};
use flotilla_telemetry::clock::unix_seconds;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::apply_plan::{ApplyPlan, ApplyTarget};
use super::apply_result::Applied;
use super::batch::ResourceName;
use super::desired_state::{DesiredStateWriter, with_retries};
use crate::store::{
    MAX_CHUNK_BYTES, MAX_WRITES, StoreEntry, StoreError, StoreRevision, StoreWrite, keys,
};

/// Resources of one transaction: each has up to two writes.
const MAX_GROUP: usize = MAX_WRITES / 2;
/// Reads that are made at once.
const CONCURRENT_READS: usize = 32;

impl DesiredStateWriter {
    /// Makes all `documents` the desired state, as [`DesiredStateWriter::apply_document`] does for one.
    /// None of them may occur twice.
    ///
    /// # Errors
    /// Those of [`DesiredStateWriter::apply_document`].
    pub(super) async fn apply_documents(
        &self,
        documents: &[(Resource, Value)],
    ) -> Result<Vec<Applied>, StoreError> {
        let targets = documents
            .iter()
            .map(|(resource, document)| ApplyTarget::new(resource, document));
        let targets: Vec<_> = targets.collect::<Result<_, _>>()?;
        let mut applied = Vec::with_capacity(targets.len());
        for group in groups(targets.iter().map(ApplyTarget::stored_bytes)) {
            let targets = &targets[group];
            applied.extend(with_retries(|| self.apply_group(targets)).await?);
        }
        Ok(applied)
    }

    /// Applies the resources of one transaction.
    async fn apply_group(&self, targets: &[ApplyTarget<'_>]) -> Result<Vec<Applied>, StoreError> {
        let entries = self.read_all(targets.iter().map(|target| Some(target.key.clone())));
        let failed = self.read_all(targets.iter().map(|target| target.failed_revision.clone()));
        let (entries, failed) = futures::try_join!(entries, failed)?;
        let now = unix_seconds();
        let read = entries.iter().zip(&failed);
        let plans: Vec<_> = targets
            .iter()
            .zip(read)
            .map(|(target, (entry, failed))| {
                ApplyPlan::new(target, entry.as_ref(), failed.as_ref(), now)
            })
            .collect();
        let writes: Vec<_> = plans.iter().flat_map(|plan| plan.writes.clone()).collect();
        let written = match writes.is_empty() {
            true => None,
            false => Some(self.store.write(writes).await?),
        };
        let applied = plans.into_iter().map(|plan| plan.into_applied(written));
        Ok(applied.collect())
    }

    /// Deletes resources. Returns for each one whether it existed, and the revision of the last
    /// deletion.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn delete_resources(
        &self,
        resources: &[ResourceName],
    ) -> Result<(Vec<bool>, Option<StoreRevision>), StoreError> {
        let models: Vec<_> = resources.iter().map(model_name).collect();
        let keys = models.iter().map(|name| name.as_ref().map(keys::model));
        let entries = with_retries(|| self.read_all(keys.clone())).await?;
        let mut existing = HashSet::new();
        let present = models.iter().zip(&entries);
        let present = present.filter_map(|(name, entry)| name.as_ref().filter(|_| entry.is_some()));
        let deletes: Vec<_> = present
            .filter(|name| existing.insert((*name).clone()))
            .flat_map(|name| {
                let keys = [
                    keys::model(name),
                    keys::stable_revision(name),
                    keys::failed_revision(name),
                ];
                keys.map(|key| StoreWrite::Delete { key })
            })
            .collect();
        let mut revision = None;
        for chunk in deletes.chunks(MAX_WRITES) {
            revision = Some(self.write(chunk.to_vec()).await?);
        }
        let mut deleted: Vec<_> = entries.iter().map(Option::is_some).collect();
        for (resource, deleted) in resources.iter().zip(&mut deleted) {
            let written = match resource.kind.as_str() {
                "Task" => match TaskName::new(&resource.name) {
                    Ok(name) => self.delete_task(&name).await?,
                    Err(_) => None,
                },
                "Router" => self.delete_router().await?,
                _ => continue,
            };
            *deleted = written.is_some();
            revision = revision.max(written);
        }
        Ok((deleted, revision))
    }

    /// Reads entries, several at once; none where there is no key.
    async fn read_all(
        &self,
        keys: impl Iterator<Item = Option<String>>,
    ) -> Result<Vec<Option<StoreEntry>>, StoreError> {
        let store = &self.store;
        let reads = keys.map(|key| async move {
            match key {
                Some(key) => store.get(&key).await,
                None => Ok(None),
            }
        });
        let reads: Vec<_> = reads.collect();
        let reads = futures::stream::iter(reads).buffered(CONCURRENT_READS);
        reads.try_collect().await
    }
}

/// The name, if it is that of a model.
fn model_name(resource: &ResourceName) -> Option<ModelName> {
    let name = ModelName::new(&resource.name).ok()?;
    (resource.kind == "Model").then_some(name)
}

/// Divides resources of these sizes, in bytes, into groups that fit into one transaction each.
fn groups(sizes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (index, size) in sizes.enumerate() {
        match groups.last_mut() {
            Some(group) if group.len() < MAX_GROUP && bytes + size <= MAX_CHUNK_BYTES => {
                group.end = index + 1;
                bytes += size;
            }
            _ => {
                groups.push(index..index + 1);
                bytes = size;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn groups_hold_all_resources_in_order_and_fit_into_a_transaction(
            sizes in prop::collection::vec(1_usize..MAX_CHUNK_BYTES * 5 / 4, 0..300),
        ) {
            let mut next = 0;
            for group in groups(sizes.iter().copied()) {
                prop_assert_eq!(group.start, next);
                next = group.end;
                let bytes: usize = sizes[group.clone()].iter().sum();
                prop_assert!(group.len() == 1 || bytes <= MAX_CHUNK_BYTES);
                prop_assert!(!group.is_empty() && group.len() <= MAX_GROUP);
            }
            prop_assert_eq!(next, sizes.len());
        }
    }
}

//! Changes the desired state: the only writer of resources in the store.

use std::sync::Arc;

use backon::Retryable;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{ArtifactName, ModelName, NodeName, TaskName};
use flotilla_dispatch::QualityRecord;
use flotilla_identity::keys::{KeyId, KeyRecord};
use flotilla_telemetry::clock::unix_seconds;

use super::apply_plan::{ApplyPlan, ApplyTarget};
use super::apply_result::{Applied, to_json};
use crate::fleet::NodeOperationRecord;
use crate::fleet::records::encode;
use crate::store::{
    Precondition, Store, StoreEntry, StoreError, StoreRevision, StoreWrite, backoff, keys,
};

/// How often a change is tried while others change the same keys.
const MAX_ATTEMPTS: u32 = 5;

/// Writes the desired state: models, tasks, the router, artifacts and node operations. Cheap to
/// clone.
#[derive(Clone)]
pub struct DesiredStateWriter {
    pub(super) store: Arc<dyn Store>,
}

/// Makes a change, and repeats it while etcd does not answer. `change` must be idempotent, as an
/// attempt without an answer may have been written.
pub(super) async fn with_retries<T, C>(change: impl Fn() -> C) -> Result<T, StoreError>
where
    C: Future<Output = Result<T, StoreError>>,
{
    change
        .retry(backoff::client_policy())
        .when(|error| matches!(error, StoreError::Etcd(_)))
        .notify(|problem, _| tracing::debug!(%problem, "retrying a change of the store"))
        .await
}

impl DesiredStateWriter {
    /// A writer to `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Makes `resource` the desired state as [`DesiredStateWriter::apply_document`] does.
    ///
    /// # Errors
    /// Those of [`DesiredStateWriter::apply_document`].
    pub async fn apply(&self, resource: &Resource) -> Result<Applied, StoreError> {
        self.apply_document(resource, &to_json(resource)?).await
    }

    /// Makes `resource` the desired state. Does not write it when it already is, so that no model is
    /// loaded again. Applying a model clears its failed revision, so that the revision is tried
    /// again. `document` is what the user wrote.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when another client changed the resource meanwhile, and those of the
    /// store.
    pub async fn apply_document(
        &self,
        resource: &Resource,
        document: &serde_json::Value,
    ) -> Result<Applied, StoreError> {
        let target = ApplyTarget::new(resource, document)?;
        with_retries(|| self.apply_once(&target)).await
    }

    async fn apply_once(&self, target: &ApplyTarget<'_>) -> Result<Applied, StoreError> {
        let entry = self.store.get(&target.key).await?;
        let failed = match &target.failed_revision {
            Some(key) => self.store.get(key).await?,
            None => None,
        };
        let plan = ApplyPlan::new(target, entry.as_ref(), failed.as_ref(), unix_seconds());
        let written = match plan.writes.is_empty() {
            true => None,
            false => Some(self.store.write(plan.writes.clone()).await?),
        };
        Ok(plan.into_applied(written))
    }

    /// Applies a model like [`DesiredStateWriter::apply`], but only when the model already exists. Returns `None`
    /// when it does not.
    ///
    /// # Errors
    /// Those of [`DesiredStateWriter::apply`].
    pub async fn apply_if_exists(&self, model: &Model) -> Result<Option<Applied>, StoreError> {
        if self.store.get(&keys::model(model.name())).await?.is_none() {
            return Ok(None);
        }
        self.apply(&Resource::Model(model.clone())).await.map(Some)
    }

    /// Deletes a task and its quality measurements. Returns `None` when the task did not exist.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_task(&self, name: &TaskName) -> Result<Option<StoreRevision>, StoreError> {
        let key = keys::task(name);
        if self.store.get(&key).await?.is_none() {
            return Ok(None);
        }
        let qualities = self.store.list(&keys::quality_prefix(name)).await?;
        let qualities = qualities.into_iter().map(|entry| entry.key);
        let deletes: Vec<_> = qualities.map(|key| StoreWrite::Delete { key }).collect();
        // Any number of them. The task goes last: if this is cut off, it can be deleted again.
        with_retries(|| self.store.write_all(None, deletes.clone())).await?;
        self.write(vec![StoreWrite::Delete { key }]).await.map(Some)
    }

    /// Records how well a model was measured to do a task.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_quality(
        &self,
        task: &TaskName,
        model: &ModelName,
        record: &QualityRecord,
    ) -> Result<StoreRevision, StoreError> {
        let key = keys::quality(task, model);
        self.write(vec![StoreWrite::put(key, encode(record))]).await
    }

    /// Deletes the router, after which its defaults hold. Returns `None` when there was none.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_router(&self) -> Result<Option<StoreRevision>, StoreError> {
        let key = keys::ROUTER.to_owned();
        if self.store.get(&key).await?.is_none() {
            return Ok(None);
        }
        self.write(vec![StoreWrite::Delete { key }]).await.map(Some)
    }

    /// Deletes a model with its stable and its failed revision. Returns `None` when the model did
    /// not exist.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_model(
        &self,
        name: &ModelName,
    ) -> Result<Option<StoreRevision>, StoreError> {
        let key = keys::model(name);
        if self.store.get(&key).await?.is_none() {
            return Ok(None);
        }
        let keys = [
            key,
            keys::stable_revision(name),
            keys::failed_revision(name),
        ];
        let deletes = keys.map(|key| StoreWrite::Delete { key });
        self.write(deletes.into()).await.map(Some)
    }

    /// Deletes a node that will not return, with its operation and its enrolment.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_node(&self, name: &NodeName) -> Result<StoreRevision, StoreError> {
        let keys = [
            keys::node(name),
            keys::node_operation(name),
            keys::given_up(name),
            keys::enrolment(name),
        ];
        let deletes = keys.map(|key| StoreWrite::Delete { key });
        self.write(deletes.into()).await
    }

    /// Cordons, drains or uncordons a node. The default record uncordons it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_node_operation(
        &self,
        name: &NodeName,
        operation: NodeOperationRecord,
    ) -> Result<StoreRevision, StoreError> {
        let key = keys::node_operation(name);
        let write = if operation == NodeOperationRecord::default() {
            StoreWrite::Delete { key }
        } else {
            StoreWrite::put(key, encode(&operation))
        };
        self.write(vec![write]).await
    }

    /// Stores the record of a key, in place of one with its id.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn put_key(&self, record: &KeyRecord) -> Result<StoreRevision, StoreError> {
        let write = StoreWrite::put(keys::api_key(&record.id), encode(record));
        self.write(vec![write]).await
    }

    /// Deletes the record of a key, which is not accepted any more then. Returns `None` when there was none.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn delete_key(&self, id: &KeyId) -> Result<Option<StoreRevision>, StoreError> {
        let key = keys::api_key(id);
        if self.store.get(&key).await?.is_none() {
            return Ok(None);
        }
        self.write(vec![StoreWrite::Delete { key }]).await.map(Some)
    }

    /// Publishes uploaded files as an artifact, which models may then name as their source.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_artifact(
        &self,
        name: &ArtifactName,
        files: &Manifest,
    ) -> Result<StoreRevision, StoreError> {
        let write = StoreWrite::put(keys::pushed_manifest(name), encode(files));
        self.write(vec![write]).await
    }

    /// Deletes an artifact. Its files are removed from the controllers' disks later.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_artifact(&self, name: &ArtifactName) -> Result<StoreRevision, StoreError> {
        let key = keys::pushed_manifest(name);
        self.write(vec![StoreWrite::Delete { key }]).await
    }

    /// Writes without a precondition.
    pub(super) async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        with_retries(|| self.store.write(writes.clone())).await
    }

    /// Gives the fleet an id, in an epoch after `epoch` and after the store's own. Nothing changes if it has
    /// the id.
    ///
    /// # Errors
    /// Those of the store; [`StoreError::Conflict`] when others write the same keys all the time.
    pub(super) async fn set_fleet_id(
        &self,
        id: &str,
        epoch: u64,
    ) -> Result<StoreRevision, StoreError> {
        let mut attempt = 1;
        loop {
            let current = self.store.get(keys::FLEET_ID).await?;
            if let Some(entry) = current
                .as_ref()
                .filter(|entry| entry.value == id.as_bytes())
            {
                return Ok(entry.revision);
            }
            let stored = self.store.get(keys::EPOCH).await?;
            let parsed = stored.as_ref().and_then(|e| keys::parse_epoch(&e.value));
            let next = parsed.unwrap_or(0).max(epoch).saturating_add(1);
            let unchanged = |entry: Option<StoreEntry>| {
                entry.map_or(Precondition::Absent, |e| Precondition::Revision(e.revision))
            };
            // The epoch comes first: nodes obey the id as soon as it is there.
            let epoch = StoreWrite::put_if(
                keys::EPOCH.to_owned(),
                next.to_string().into(),
                unchanged(stored),
            );
            let id = StoreWrite::put_if(keys::FLEET_ID.to_owned(), id.into(), unchanged(current));
            match self.write(vec![epoch, id]).await {
                // A controller founds a fleet in a store that has none.
                Err(StoreError::Conflict(_)) if attempt < MAX_ATTEMPTS => attempt += 1,
                written => return written,
            }
        }
    }

    /// Whether the marker `name` is set.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn has_marker(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.store.get(&keys::marker(name)).await?.is_some())
    }

    /// Sets the marker `name`. `flotilla up` marks its first start in this way.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn set_marker(&self, name: &str) -> Result<(), StoreError> {
        let put = StoreWrite::put(keys::marker(name), b"{}".to_vec());
        self.store.write(vec![put]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ApplyResult;
    use crate::fleet::DesiredRecord;
    use crate::store::EmbeddedStore;
    use flotilla_core::spec::{EngineKind, ModelSpec, Replicas};

    #[tokio::test]
    async fn applying_again_changes_nothing_and_keeps_the_creation_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(dir.path()).await.unwrap());
        let desired = DesiredStateWriter::new(store.clone());
        let spec = ModelSpec {
            engine: EngineKind::Simulated,
            ..ModelSpec::default()
        };
        let mut model = Model::new(ModelName::new("m").unwrap(), spec);
        let key = keys::model(model.name());
        let read = async || {
            let entry = store.get(&key).await.unwrap().unwrap();
            let record: DesiredRecord = serde_json::from_slice(&entry.value).unwrap();
            (entry.revision, record.created)
        };
        let apply = async |model: &Model| {
            let resource = Resource::Model(model.clone());
            desired.apply(&resource).await.unwrap()
        };
        let created = apply(&model).await;
        let first = read().await;
        assert_eq!(
            (created.result, created.revision),
            (ApplyResult::Created, first.0)
        );
        let unchanged = apply(&model).await;
        assert_eq!(
            (unchanged.result, unchanged.revision),
            (ApplyResult::Unchanged, first.0)
        );
        assert_eq!(read().await, first);
        model.spec.replicas = Replicas::fixed(2);
        let changed = apply(&model).await;
        assert_eq!(
            (changed.result, changed.revision),
            (ApplyResult::Configured, read().await.0)
        );
        assert_eq!(changed.changes[0].field, "spec.replicas");
        assert!(changed.revision > first.0 && !changed.retries_failed_revision);
        // Applying it again clears a failure without writing the model.
        let failed = keys::failed_revision(model.name());
        store
            .write(vec![StoreWrite::put(failed.clone(), b"{}".to_vec())])
            .await
            .unwrap();
        let before = read().await;
        let retried = apply(&model).await;
        assert_eq!(retried.result, ApplyResult::Unchanged);
        assert!(retried.retries_failed_revision && store.get(&failed).await.unwrap().is_none());
        assert_eq!(read().await, before);
        assert!(desired.delete_model(model.name()).await.unwrap().is_some());
        assert!(desired.delete_model(model.name()).await.unwrap().is_none());
    }
}

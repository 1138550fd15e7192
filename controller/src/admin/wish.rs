//! Changing the wish: the only writer of resources.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{ArtifactName, ModelName, NodeName, TaskName};
use serde::{Deserialize, Serialize};

use crate::fleet::records::encode;
use crate::fleet::{DesiredRecord, NodeOperationRecord, QualityRecord};
use crate::store::{Precondition, Store, StoreError, StoreRevision, StoreWrite, keys};

/// What applying a resource did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplyResult {
    Created,
    Changed,
    Unchanged,
}

/// Tries in all, where the store does not answer: one etcd member that has just died is not to
/// be noticed by whoever changes a wish.
const TRIES: u32 = 4;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(250);

/// The way to change what is wished for. Cheap to clone.
#[derive(Clone)]
pub struct DesiredStateWriter {
    store: Arc<dyn Store>,
}

/// Does what may as well be done twice until the store has answered.
async fn steadily<T, C>(change: impl Fn() -> C) -> Result<T, StoreError>
where
    C: Future<Output = Result<T, StoreError>>,
{
    for _ in 1..TRIES {
        match change().await {
            Err(StoreError::Etcd(problem)) => tracing::debug!(problem, "trying again"),
            done => return done,
        }
        tokio::time::sleep(PAUSE).await;
    }
    change().await
}

impl DesiredStateWriter {
    /// Changes what `store` holds.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Makes the wish for a resource be this one. One that is already so is left alone, so
    /// that nothing is loaded anew. Returns with it the revision that wrote the wish.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else changed it meanwhile.
    pub async fn apply(
        &self,
        resource: &Resource,
    ) -> Result<(ApplyResult, StoreRevision), StoreError> {
        let (key, value, pardon) = match resource {
            Resource::Model(model) => {
                // A revision that failed is tried again when it is wished for again.
                let condemned = keys::failed_revision(model.name());
                (keys::model(model.name()), to_json(model)?, Some(condemned))
            }
            Resource::Task(task) => (keys::task(task.name()), to_json(task)?, None),
            Resource::Router(router) => (keys::ROUTER.into(), to_json(router)?, None),
        };
        let pardon = pardon.map(|key| StoreWrite::Delete { key });
        steadily(|| self.apply_once(&key, &value, pardon.clone())).await
    }

    async fn apply_once(
        &self,
        key: &str,
        resource: &serde_json::Value,
        pardon: Option<StoreWrite>,
    ) -> Result<(ApplyResult, StoreRevision), StoreError> {
        let found = self.store.get(key).await?;
        let known = found
            .as_ref()
            .and_then(|entry| serde_json::from_slice::<DesiredRecord>(&entry.value).ok());
        if let (Some(entry), Some(known)) = (&found, &known)
            && known.resource == *resource
        {
            return Ok((ApplyResult::Unchanged, entry.revision));
        }
        let record = DesiredRecord {
            created: known.map_or_else(unix_seconds, |known| known.created),
            resource: resource.clone(),
        };
        let (expect, applied) = match &found {
            None => (Precondition::Absent, ApplyResult::Created),
            Some(entry) => (Precondition::Revision(entry.revision), ApplyResult::Changed),
        };
        let mut writes = vec![StoreWrite::put_if(key.to_owned(), encode(&record), expect)];
        writes.extend(pardon);
        Ok((applied, self.store.write(writes).await?))
    }

    /// Like [`DesiredStateWriter::apply`], but only where there is a wish for the model already.
    ///
    /// # Errors
    /// Those of [`DesiredStateWriter::apply`].
    pub async fn apply_if_there(&self, model: &Model) -> Result<(), StoreError> {
        if self.store.get(&keys::model(model.name())).await?.is_some() {
            self.apply(&Resource::Model(model.clone())).await?;
        }
        Ok(())
    }

    /// Ends the wish for a task. Returns `None` where there was none.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_task(&self, name: &TaskName) -> Result<Option<StoreRevision>, StoreError> {
        let key = keys::task(name);
        if self.store.get(&key).await?.is_none() {
            return Ok(None);
        }
        let measured = self.store.list(&keys::quality_prefix(name)).await?;
        let measured = measured.into_iter().map(|entry| entry.key);
        let keys = measured.chain([key]);
        let deletes = keys.map(|key| StoreWrite::Delete { key });
        self.write(deletes.collect()).await.map(Some)
    }

    /// Takes down how well a model was measured to do a task.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn note_quality(
        &self,
        task: &TaskName,
        model: &ModelName,
        record: &QualityRecord,
    ) -> Result<StoreRevision, StoreError> {
        let key = keys::quality(task, model);
        self.write(vec![StoreWrite::put(key, encode(record))]).await
    }

    /// Has the fleet route as if no router had been applied. Returns `None` where none was.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_router(&self) -> Result<Option<StoreRevision>, StoreError> {
        self.delete(keys::ROUTER.into()).await
    }

    async fn delete(&self, key: String) -> Result<Option<StoreRevision>, StoreError> {
        if self.store.get(&key).await?.is_none() {
            return Ok(None);
        }
        self.write(vec![StoreWrite::Delete { key }]).await.map(Some)
    }

    /// Ends the wish for a model. Returns `None` where there was none.
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

    /// Forgets a node that will not return.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn forget_node(&self, name: &NodeName) -> Result<StoreRevision, StoreError> {
        let keys = [keys::node(name), keys::node_operation(name)];
        let deletes = keys.map(|key| StoreWrite::Delete { key });
        self.write(deletes.into()).await
    }

    /// Says what is wanted of a node.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn order_node(
        &self,
        name: &NodeName,
        order: NodeOperationRecord,
    ) -> Result<StoreRevision, StoreError> {
        let key = keys::node_operation(name);
        let write = if order == NodeOperationRecord::default() {
            StoreWrite::Delete { key }
        } else {
            StoreWrite::put(key, encode(&order))
        };
        self.write(vec![write]).await
    }

    /// Names files, which models may then be made of.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn push(
        &self,
        name: &ArtifactName,
        files: &Manifest,
    ) -> Result<StoreRevision, StoreError> {
        let write = StoreWrite::put(keys::pushed_manifest(name), encode(files));
        self.write(vec![write]).await
    }

    /// Forgets files that were pushed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn delete_pushed(&self, name: &ArtifactName) -> Result<StoreRevision, StoreError> {
        let key = keys::pushed_manifest(name);
        self.write(vec![StoreWrite::Delete { key }]).await
    }

    /// Writes whatever was there before.
    async fn write(&self, writes: Vec<StoreWrite>) -> Result<StoreRevision, StoreError> {
        steadily(|| self.store.write(writes.clone())).await
    }

    /// Whether something was noted under `name`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn is_noted(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.store.get(&keys::marker(name)).await?.is_some())
    }

    /// Notes something under `name`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn note(&self, name: &str) -> Result<(), StoreError> {
        let put = StoreWrite::put(keys::marker(name), b"{}".to_vec());
        self.store.write(vec![put]).await.map(drop)
    }
}

fn to_json(resource: &impl Serialize) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(resource).map_err(|e| StoreError::Failed(e.to_string()))
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EmbeddedStore;
    use flotilla_core::spec::{EngineKind, ModelSpec, Replicas};

    #[tokio::test]
    async fn applying_again_changes_nothing_and_keeps_the_creation_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(dir.path()).await.unwrap());
        let wish = DesiredStateWriter::new(store.clone());
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
        let created = wish.apply(&Resource::Model(model.clone())).await.unwrap();
        let first = read().await;
        assert_eq!(created, (ApplyResult::Created, first.0));
        let unchanged = wish.apply(&Resource::Model(model.clone())).await.unwrap();
        assert_eq!(unchanged, (ApplyResult::Unchanged, first.0));
        assert_eq!(read().await, first);
        model.spec.replicas = Replicas::fixed(2);
        let changed = wish.apply(&Resource::Model(model.clone())).await.unwrap();
        assert_eq!(changed, (ApplyResult::Changed, read().await.0));
        assert!(changed.1 > first.0);
        assert!(wish.delete_model(model.name()).await.unwrap().is_some());
        assert!(wish.delete_model(model.name()).await.unwrap().is_none());
    }
}

//! What controllers want of this node: the newest word of any of them.

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{ModelName, ModelRevision, StoreRevision};
use flotilla_proto::v1;
use tokio::sync::{Mutex, watch};

use crate::data_dir::{DataDir, NodeDesiredState};
use crate::models::DesiredModel;

/// What controllers want of this node.
pub(crate) struct DesiredStateReceiver {
    home: DataDir,
    /// The last one taken.
    last: Mutex<NodeDesiredState>,
    desired: watch::Sender<Vec<DesiredModel>>,
}

impl DesiredStateReceiver {
    /// Goes on with what `home` kept.
    pub(crate) fn new(home: DataDir) -> (Self, watch::Receiver<Vec<DesiredModel>>) {
        let last = home.order();
        let (desired, receiver) = watch::channel(last.models.clone());
        let orders = Self {
            home,
            last: Mutex::new(last),
            desired,
        };
        (orders, receiver)
    }

    /// Does what a controller wants from now on, unless another one has told something newer.
    /// A fleet with another name is another history: its word counts whatever its revision.
    pub(super) async fn take(&self, message: v1::DesiredState) {
        let mut last = self.last.lock().await;
        if message.fleet == last.fleet && StoreRevision(message.store_revision) < last.revision {
            tracing::debug!(
                message.store_revision,
                %last.revision,
                "an old word of a controller"
            );
            return;
        }
        let order = NodeDesiredState {
            fleet: message.fleet,
            revision: StoreRevision(message.store_revision),
            models: message.models.into_iter().filter_map(read).collect(),
        };
        if *last == order {
            return;
        }
        if let Err(error) = self.home.keep(&order) {
            tracing::warn!(%error, "what to run could not be kept for the next start");
        }
        self.desired.send_replace(order.models.clone());
        *last = order;
    }
}

/// A model that makes no sense here is left out: the controller sees that it never becomes
/// ready.
fn read(desired: v1::DesiredModel) -> Option<DesiredModel> {
    let model = match desired.resource_json.as_str() {
        "" => Ok(None),
        text => serde_json::from_str(text)
            .map_err(|e| e.to_string())
            .and_then(|json| {
                let model = Resource::from_json(json).and_then(Model::try_from);
                model.map(Some).map_err(|e| e.to_string())
            }),
    };
    let files = desired.files.into_iter().map(TryInto::try_into);
    let files = files
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e: flotilla_proto::convert::ConvertError| e.to_string());
    let files = files.and_then(|files| match files.len() {
        0 => Ok(None),
        _ => Manifest::new(files).map(Some).map_err(|e| e.to_string()),
    });
    let name = ModelName::new(&desired.name).map_err(|e| e.to_string());
    match name.and_then(|name| Ok((name, model?, files?))) {
        Ok((name, model, files)) => Some(DesiredModel {
            name,
            revision: ModelRevision(desired.revision),
            model,
            files,
        }),
        Err(error) => {
            let model = desired.name;
            tracing::error!(
                model,
                error,
                "a controller sent a model that cannot be read"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fleet: &str, revision: u64, model: &str) -> v1::DesiredState {
        v1::DesiredState {
            fleet: fleet.into(),
            store_revision: revision,
            models: vec![v1::DesiredModel {
                name: model.into(),
                revision: 1,
                ..Default::default()
            }],
            controllers: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_newest_word_counts_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let names = |desired: &watch::Receiver<Vec<DesiredModel>>| -> Vec<String> {
            desired
                .borrow()
                .iter()
                .map(|d| d.name.to_string())
                .collect()
        };
        let (orders, desired) = DesiredStateReceiver::new(DataDir::open(dir.path()).unwrap());
        orders.take(message("f", 5, "five")).await;
        orders.take(message("f", 4, "four")).await;
        assert_eq!(names(&desired), ["five"]);
        drop((orders, desired));
        let (orders, desired) = DesiredStateReceiver::new(DataDir::open(dir.path()).unwrap());
        orders.take(message("f", 4, "four")).await;
        assert_eq!(names(&desired), ["five"]);
        orders.take(message("f", 6, "six")).await;
        assert_eq!(names(&desired), ["six"]);
        orders.take(message("other", 1, "one")).await;
        assert_eq!(names(&desired), ["one"]);
        orders.take(message("other", 2, "NO NAME")).await;
        assert!(names(&desired).is_empty());
    }
}

//! What a change is about, and the digest of it in a view.

use flotilla_core::{ArtifactName, ModelName, NodeName, TaskName};
use flotilla_identity::keys::KeyId;
use serde::Serialize;
use sha2::Digest;

use crate::fleet::FleetView;

/// The beginning of the paths of the admin API.
const PREFIX: &str = "/api/v1/";
/// Length of a digest, in hexadecimal digits.
const DIGEST_LEN: usize = 16;

/// The objects that a request has changed, among the extensions of its response. A handler adds them whose path does not
/// name them.
#[derive(Debug, Clone)]
pub(crate) struct ChangedObjects(pub(crate) Vec<String>);

/// The object that a path of the admin API names, such as `model/m`. `None`: it names none.
pub(crate) fn object_at(path: &str) -> Option<String> {
    let path = path.strip_prefix(PREFIX)?;
    let (kind, rest) = path.split_once('/').unwrap_or((path, ""));
    let name = rest.split('/').next().unwrap_or_default();
    let kind = match kind {
        "models" => "model",
        "tasks" => "task",
        "routers" => "router",
        "nodes" => "node",
        "artifacts" => "artifact",
        "keys" => "key",
        "datasets" => "dataset",
        "blobs" => "file",
        "fleet" => return Some("fleet".to_owned()),
        _ => return None,
    };
    (!name.is_empty()).then(|| format!("{kind}/{name}"))
}

/// The digest of the desired state of an object. `None`: there is none, or it has no desired state.
pub(super) fn digest(view: &FleetView, object: &str) -> Option<String> {
    let (kind, name) = object.split_once('/').unwrap_or((object, ""));
    match kind {
        "model" => {
            let model = view.models.get(&ModelName::new(name).ok()?)?;
            hash(&model.endpoints.model)
        }
        "task" => hash(&view.routing.tasks.get(&TaskName::new(name).ok()?)?.task),
        "router" => hash(view.routing.router.as_ref()?),
        "node" => hash(&view.nodes.get(&NodeName::new(name).ok()?)?.operation),
        "artifact" => {
            let manifests = &view.manifests.pushed;
            hash(manifests.get(&ArtifactName::new(name).ok()?)?.as_ref())
        }
        "key" => hash(view.keys.get(&name.parse::<KeyId>().ok()?)?.as_ref()),
        "fleet" => hash(&(view.fleet_id.as_ref()?, view.epoch)),
        _ => None,
    }
}

fn hash(value: &impl Serialize) -> Option<String> {
    let json = serde_json::to_vec(value).ok()?;
    let mut digest = hex::encode(sha2::Sha256::digest(json));
    digest.truncate(DIGEST_LEN);
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_object() {
        for (path, object) in [
            ("/api/v1/models/m", Some("model/m")),
            ("/api/v1/tasks/t/quality/m", Some("task/t")),
            ("/api/v1/nodes/n/operation", Some("node/n")),
            ("/api/v1/fleet", Some("fleet")),
            ("/api/v1/keys", None),
            ("/api/v1/apply", None),
            ("/v1/models/m", None),
        ] {
            assert_eq!(object_at(path).as_deref(), object, "{path}");
        }
    }

    #[test]
    fn a_digest_is_of_what_there_is() {
        let mut view = FleetView::default();
        assert_eq!(digest(&view, "fleet"), None);
        view.fleet_id = Some("f".into());
        let first = digest(&view, "fleet").unwrap();
        assert_eq!(first.len(), DIGEST_LEN);
        view.epoch = 1;
        assert_ne!(digest(&view, "fleet"), Some(first));
        assert_eq!(digest(&view, "model/none"), None);
        assert_eq!(digest(&view, "model/No Name"), None);
    }
}

//! The keys of the store.

use flotilla_core::placement::Assignment;
use flotilla_core::spec::ModelSource;
use flotilla_core::{ArtifactName, ModelName, NodeName, TaskName};
use flotilla_identity::enrolment::JoinTokenRecord;
use flotilla_identity::keys::KeyId;
use sha2::Digest;

/// The prefix of all keys.
pub const ROOT: &str = "/flotilla/v1/";

/// The key that holds the id of the leading controller while one leads.
pub const LEADER: &str = "/flotilla/v1/leader";

/// The key of the fleet's id, a random text that the first controller sets once.
pub const FLEET_ID: &str = "/flotilla/v1/fleet-id";

/// The key of the store's epoch; see [`StateVersion`](flotilla_core::StateVersion). Missing: 0.
pub const EPOCH: &str = "/flotilla/v1/epoch";

/// The key of the router's spec.
pub const ROUTER: &str = "/flotilla/v1/router";

/// The key of the fleet's certificate authority, whose private key is encrypted.
pub const AUTHORITY: &str = "/flotilla/v1/authority";
/// The key of the secret that the controllers of the fleet identify themselves to each other with. The first
/// controller sets it once. No API shows it, and no backup has it.
pub const CONTROLLER_SECRET: &str = "/flotilla/v1/controller-secret";

/// A parsed key: what the entry under it describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKey {
    /// [`FLEET_ID`].
    FleetId,
    /// [`EPOCH`].
    Epoch,
    /// [`LEADER`].
    Leader,
    /// [`AUTHORITY`].
    Authority,
    /// The record of a node that has enrolled.
    Enrolment(NodeName),
    /// A join token, by its id.
    JoinToken(String),
    /// [`CONTROLLER_SECRET`].
    ControllerSecret,
    /// The record of an API key, without its secret.
    ApiKey(KeyId),
    /// The spec of a model.
    Model(ModelName),
    /// The spec of a task.
    Task(TaskName),
    /// The spec of the router.
    Router,
    /// The measured quality of a model's answers for a task.
    Quality(TaskName, ModelName),
    /// The last revision of a model that all replicas served.
    StableRevision(ModelName),
    /// The revision of a model that failed to load.
    FailedRevision(ModelName),
    /// The static description of a node.
    Node(NodeName),
    /// The operation on a node: cordon or drain.
    NodeOperation(NodeName),
    /// The mark of a lost node whose models may be placed elsewhere.
    GivenUp(NodeName),
    /// The assignment of a model to a node.
    Assignment(Assignment),
    /// The manifest of files that were pushed under this name.
    PushedManifest(ArtifactName),
    /// The manifest of files that a controller fetched from a source; see [`source_id`].
    FetchedManifest(String),
    /// The progress of fetching the files of a source; see [`source_id`].
    FetchProgress(String),
    /// A running controller, by its id. Leased.
    Controller(String),
    /// The link of a node to a controller, by the controller's id. Leased.
    Link(NodeName, String),
    /// The number of requests for a model in a controller's pending queue, by the controller's
    /// id. Leased.
    Waiting(ModelName, String),
}

/// The key of the record of an API key.
#[must_use]
pub fn api_key(id: &KeyId) -> String {
    format!("{ROOT}keys/{id}")
}

/// The key of a task's spec.
#[must_use]
pub fn task(name: &TaskName) -> String {
    format!("{ROOT}tasks/{name}")
}

/// The key of a model's measured quality for a task.
#[must_use]
pub fn quality(task: &TaskName, model: &ModelName) -> String {
    format!("{ROOT}quality/{task}/{model}")
}

/// The common prefix of the keys of all models' quality for a task.
#[must_use]
pub fn quality_prefix(task: &TaskName) -> String {
    format!("{ROOT}quality/{task}/")
}

/// The key of a model's spec.
#[must_use]
pub fn model(name: &ModelName) -> String {
    format!("{ROOT}models/{name}")
}

/// The key of the last revision of a model that all replicas served.
#[must_use]
pub fn stable_revision(name: &ModelName) -> String {
    format!("{ROOT}stable/{name}")
}

/// The key of the revision of a model that failed to load.
#[must_use]
pub fn failed_revision(name: &ModelName) -> String {
    format!("{ROOT}failed/{name}")
}

/// Returns an identifier of a source of files: a hash of its definition, in hexadecimal.
#[must_use]
pub fn source_id(source: &ModelSource) -> String {
    // A source consists of texts, so that serializing it cannot fail.
    let text = serde_json::to_vec(source).unwrap_or_default();
    hex::encode(&sha2::Sha256::digest(text)[..16])
}

/// The key of the manifest of pushed files.
#[must_use]
pub fn pushed_manifest(name: &ArtifactName) -> String {
    format!("{ROOT}pushed/{name}")
}

/// The key of the manifest of files that a controller fetched.
#[must_use]
pub fn fetched_manifest(source_id: &str) -> String {
    format!("{ROOT}fetched/{source_id}")
}

/// The key of the progress of fetching files.
#[must_use]
pub fn fetch_progress(source_id: &str) -> String {
    format!("{ROOT}fetch-progress/{source_id}")
}

/// The key of the operation on a node.
#[must_use]
pub fn node_operation(name: &NodeName) -> String {
    format!("{ROOT}operations/{name}")
}

/// The key of the mark of a lost node whose models may be placed elsewhere. The leader sets it when it
/// gives the node up, and deletes it when the node is connected again.
#[must_use]
pub fn given_up(name: &NodeName) -> String {
    format!("{ROOT}given-up/{name}")
}

/// The key of a running controller.
#[must_use]
pub fn controller(id: &str) -> String {
    format!("{ROOT}controllers/{id}")
}

/// The key of a node's link to a controller.
#[must_use]
pub fn link(node: &NodeName, controller_id: &str) -> String {
    format!("{ROOT}links/{node}/{controller_id}")
}

/// The key of the number of requests for a model in a controller's pending queue.
#[must_use]
pub fn waiting(model: &ModelName, controller_id: &str) -> String {
    format!("{ROOT}waiting/{model}/{controller_id}")
}

/// The key of a node's record.
#[must_use]
pub fn node(name: &NodeName) -> String {
    format!("{ROOT}nodes/{name}")
}

/// The common prefix of the keys of all enrolled nodes.
pub const ENROLMENTS: &str = "/flotilla/v1/enrolments/";

/// The key of the record of a node that has enrolled.
#[must_use]
pub fn enrolment(name: &NodeName) -> String {
    format!("{ENROLMENTS}{name}")
}

/// The common prefix of the keys of all join tokens.
pub const JOIN_TOKENS: &str = "/flotilla/v1/join-tokens/";

/// The key of a join token.
#[must_use]
pub fn join_token(id: &str) -> String {
    format!("{JOIN_TOKENS}{id}")
}

/// The key of an assignment.
#[must_use]
pub fn assignment(assignment: &Assignment) -> String {
    format!("{ROOT}assignments/{}/{}", assignment.node, assignment.model)
}

/// The key of a marker, which records that something was done once, such as the installation of
/// the demo by `flotilla up`.
#[must_use]
pub fn marker(name: &str) -> String {
    format!("{ROOT}markers/{name}")
}

/// Parses the value under [`EPOCH`].
pub(crate) fn parse_epoch(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

/// Parses a key. Returns `None` for markers and for keys that this version does not know.
#[must_use]
pub fn parse(key: &str) -> Option<StoreKey> {
    match key {
        FLEET_ID => return Some(StoreKey::FleetId),
        EPOCH => return Some(StoreKey::Epoch),
        LEADER => return Some(StoreKey::Leader),
        AUTHORITY => return Some(StoreKey::Authority),
        ROUTER => return Some(StoreKey::Router),
        CONTROLLER_SECRET => return Some(StoreKey::ControllerSecret),
        _ => {}
    }
    let (kind, name) = key.strip_prefix(ROOT)?.split_once('/')?;
    let model = |name| ModelName::new(name).ok();
    let node = |name| NodeName::new(name).ok();
    match kind {
        "keys" => name.parse().ok().map(StoreKey::ApiKey),
        "models" => model(name).map(StoreKey::Model),
        "tasks" => TaskName::new(name).ok().map(StoreKey::Task),
        "stable" => model(name).map(StoreKey::StableRevision),
        "failed" => model(name).map(StoreKey::FailedRevision),
        "nodes" => node(name).map(StoreKey::Node),
        "operations" => node(name).map(StoreKey::NodeOperation),
        "enrolments" => node(name).map(StoreKey::Enrolment),
        "join-tokens" => JoinTokenRecord::is_id(name).then(|| StoreKey::JoinToken(name.to_owned())),
        "given-up" => node(name).map(StoreKey::GivenUp),
        "pushed" => ArtifactName::new(name).ok().map(StoreKey::PushedManifest),
        "fetched" => Some(StoreKey::FetchedManifest(name.to_owned())),
        "fetch-progress" => Some(StoreKey::FetchProgress(name.to_owned())),
        "controllers" => Some(StoreKey::Controller(name.to_owned())),
        "links" => {
            let (name, controller_id) = name.split_once('/')?;
            Some(StoreKey::Link(node(name)?, controller_id.to_owned()))
        }
        "waiting" => {
            let (name, controller_id) = name.split_once('/')?;
            Some(StoreKey::Waiting(model(name)?, controller_id.to_owned()))
        }
        "quality" => {
            let (task, name) = name.split_once('/')?;
            Some(StoreKey::Quality(TaskName::new(task).ok()?, model(name)?))
        }
        "assignments" => {
            let (node_name, name) = name.split_once('/')?;
            Some(StoreKey::Assignment(Assignment {
                node: node(node_name)?,
                model: model(name)?,
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_parsed_to_what_it_was_made_from() {
        let m = ModelName::new("m").unwrap();
        let n = NodeName::new("n").unwrap();
        let t = TaskName::new("t").unwrap();
        let a = ArtifactName::new("a").unwrap();
        let id: KeyId = "0123456789ab".parse().unwrap();
        let on_node = Assignment {
            node: n.clone(),
            model: m.clone(),
        };
        for (key, parsed) in [
            (model(&m), StoreKey::Model(m.clone())),
            (task(&t), StoreKey::Task(t.clone())),
            (node(&n), StoreKey::Node(n.clone())),
            (stable_revision(&m), StoreKey::StableRevision(m.clone())),
            (failed_revision(&m), StoreKey::FailedRevision(m.clone())),
            (node_operation(&n), StoreKey::NodeOperation(n.clone())),
            (given_up(&n), StoreKey::GivenUp(n.clone())),
            (enrolment(&n), StoreKey::Enrolment(n.clone())),
            (
                join_token("0123456789"),
                StoreKey::JoinToken("0123456789".into()),
            ),
            (AUTHORITY.into(), StoreKey::Authority),
            (pushed_manifest(&a), StoreKey::PushedManifest(a)),
            (
                fetched_manifest("id"),
                StoreKey::FetchedManifest("id".into()),
            ),
            (fetch_progress("id"), StoreKey::FetchProgress("id".into())),
            (controller("c"), StoreKey::Controller("c".into())),
            (link(&n, "c"), StoreKey::Link(n, "c".into())),
            (waiting(&m, "c"), StoreKey::Waiting(m.clone(), "c".into())),
            (quality(&t, &m), StoreKey::Quality(t, m)),
            (assignment(&on_node), StoreKey::Assignment(on_node)),
            (ROUTER.into(), StoreKey::Router),
            (LEADER.into(), StoreKey::Leader),
            (FLEET_ID.into(), StoreKey::FleetId),
            (EPOCH.into(), StoreKey::Epoch),
            (CONTROLLER_SECRET.into(), StoreKey::ControllerSecret),
            (api_key(&id), StoreKey::ApiKey(id)),
        ] {
            assert_eq!(parse(&key), Some(parsed), "{key}");
        }
    }

    #[test]
    fn markers_and_unknown_keys_are_not_parsed() {
        let marker = marker("demo");
        for key in [
            "",
            "/other",
            "/flotilla/v1/x/y",
            "/flotilla/v1/models/A B",
            &marker,
        ] {
            assert_eq!(parse(key), None, "{key}");
        }
    }
}

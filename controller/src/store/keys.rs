//! The names of things in the store.

use flotilla_core::placement::Assignment;
use flotilla_core::spec::ModelSource;
use flotilla_core::{ArtifactName, ModelName, NodeName, TaskName};
use sha2::Digest;

/// All of Flotilla's keys begin with this.
pub const ROOT: &str = "/flotilla/v1/";

/// The key that is there as long as a controller leads.
pub const LEADER: &str = "/flotilla/v1/leader";

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKey {
    /// The fleet's own name.
    Fleet,
    /// Who leads.
    Leader,
    /// What is wished for.
    Model(ModelName),
    /// A task that is wished for.
    Task(TaskName),
    /// How the fleet is to route.
    Router,
    /// How well a model was measured to do a task.
    Quality(TaskName, ModelName),
    /// The last revision of a model that every replica served.
    Stable(ModelName),
    /// The revision of a model that did not load.
    Condemned(ModelName),
    /// What a node is.
    Node(NodeName),
    /// What people want of a node.
    Order(NodeName),
    Assignment(Assignment),
    /// Files that were pushed.
    Pushed(ArtifactName),
    /// Files that a controller fetched, by [`source_id`].
    Fetched(String),
    /// How fetching them goes.
    Fetch(String),
    /// A controller; leased.
    Controller(String),
    /// A node's link to a controller; leased.
    Presence(NodeName, String),
    /// Requests that wait for a model on a controller; leased.
    Waiting(ModelName, String),
}

/// The key of the fleet's own name, made once by the first controller.
pub const FLEET: &str = "/flotilla/v1/fleet";

/// The key of the router's wish.
pub const ROUTER: &str = "/flotilla/v1/router";

/// The key of a task's wish.
#[must_use]
pub fn task(name: &TaskName) -> String {
    format!("{ROOT}tasks/{name}")
}

/// The key of how well a model was measured to do a task.
#[must_use]
pub fn quality(task: &TaskName, model: &ModelName) -> String {
    format!("{ROOT}quality/{task}/{model}")
}

/// What the keys of all models' quality for a task begin with.
#[must_use]
pub fn qualities(task: &TaskName) -> String {
    format!("{ROOT}quality/{task}/")
}

/// The key of a model's wish.
#[must_use]
pub fn model(name: &ModelName) -> String {
    format!("{ROOT}models/{name}")
}

/// The key of the last revision of a model that every replica served.
#[must_use]
pub fn stable(name: &ModelName) -> String {
    format!("{ROOT}stable/{name}")
}

/// The key of the revision of a model that did not load.
#[must_use]
pub fn condemned(name: &ModelName) -> String {
    format!("{ROOT}condemned/{name}")
}

/// Tells the source of files from others.
#[must_use]
pub fn source_id(source: &ModelSource) -> String {
    // A source is made of texts: serializing it cannot fail.
    let text = serde_json::to_vec(source).unwrap_or_default();
    hex::encode(&sha2::Sha256::digest(text)[..16])
}

/// The key of files that were pushed.
#[must_use]
pub fn pushed(name: &ArtifactName) -> String {
    format!("{ROOT}pushed/{name}")
}

/// The key of files that a controller fetched.
#[must_use]
pub fn fetched(source: &str) -> String {
    format!("{ROOT}fetched/{source}")
}

/// The key of how fetching them goes.
#[must_use]
pub fn fetch(source: &str) -> String {
    format!("{ROOT}fetch/{source}")
}

/// The key of what people want of a node.
#[must_use]
pub fn order(name: &NodeName) -> String {
    format!("{ROOT}orders/{name}")
}

/// The key of a controller.
#[must_use]
pub fn controller(id: &str) -> String {
    format!("{ROOT}controllers/{id}")
}

/// The key of a node's link to a controller.
#[must_use]
pub fn presence(node: &NodeName, controller: &str) -> String {
    format!("{ROOT}presence/{node}/{controller}")
}

/// The key of the requests that wait for a model on a controller.
#[must_use]
pub fn waiting(model: &ModelName, controller: &str) -> String {
    format!("{ROOT}waiting/{model}/{controller}")
}

/// The key of a node's record.
#[must_use]
pub fn node(name: &NodeName) -> String {
    format!("{ROOT}nodes/{name}")
}

/// The key of an assignment.
#[must_use]
pub fn assignment(assignment: &Assignment) -> String {
    format!("{ROOT}assignments/{}/{}", assignment.node, assignment.model)
}

/// The key under which something is noted that is no resource, such as what `up` did.
#[must_use]
pub fn note(name: &str) -> String {
    format!("{ROOT}notes/{name}")
}

/// What `key` is about; `None` for keys of other versions and for notes.
#[must_use]
pub fn parse(key: &str) -> Option<StoreKey> {
    match key {
        FLEET => return Some(StoreKey::Fleet),
        LEADER => return Some(StoreKey::Leader),
        ROUTER => return Some(StoreKey::Router),
        _ => {}
    }
    let (kind, name) = key.strip_prefix(ROOT)?.split_once('/')?;
    let model = |name| ModelName::new(name).ok();
    let node = |name| NodeName::new(name).ok();
    match kind {
        "models" => model(name).map(StoreKey::Model),
        "tasks" => TaskName::new(name).ok().map(StoreKey::Task),
        "stable" => model(name).map(StoreKey::Stable),
        "condemned" => model(name).map(StoreKey::Condemned),
        "nodes" => node(name).map(StoreKey::Node),
        "orders" => node(name).map(StoreKey::Order),
        "pushed" => ArtifactName::new(name).ok().map(StoreKey::Pushed),
        "fetched" => Some(StoreKey::Fetched(name.to_owned())),
        "fetch" => Some(StoreKey::Fetch(name.to_owned())),
        "controllers" => Some(StoreKey::Controller(name.to_owned())),
        "presence" => {
            let (name, controller) = name.split_once('/')?;
            Some(StoreKey::Presence(node(name)?, controller.to_owned()))
        }
        "waiting" => {
            let (name, controller) = name.split_once('/')?;
            Some(StoreKey::Waiting(model(name)?, controller.to_owned()))
        }
        "quality" => {
            let (task, name) = name.split_once('/')?;
            Some(StoreKey::Quality(TaskName::new(task).ok()?, model(name)?))
        }
        "assignments" => {
            let (node, model) = name.split_once('/')?;
            Some(StoreKey::Assignment(Assignment {
                node: NodeName::new(node).ok()?,
                model: ModelName::new(model).ok()?,
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let model_name = ModelName::new("m").unwrap();
        let node_name = NodeName::new("n").unwrap();
        let both = Assignment {
            node: node_name.clone(),
            model: model_name.clone(),
        };
        assert_eq!(
            parse(&model(&model_name)),
            Some(StoreKey::Model(model_name.clone()))
        );
        assert_eq!(
            parse(&node(&node_name)),
            Some(StoreKey::Node(node_name.clone()))
        );
        assert_eq!(
            parse(&stable(&model_name)),
            Some(StoreKey::Stable(model_name.clone()))
        );
        assert_eq!(
            parse(&condemned(&model_name)),
            Some(StoreKey::Condemned(model_name.clone()))
        );
        assert_eq!(
            parse(&order(&node_name)),
            Some(StoreKey::Order(node_name.clone()))
        );
        assert_eq!(
            parse(&controller("c")),
            Some(StoreKey::Controller("c".into()))
        );
        assert_eq!(
            parse(&presence(&node_name, "c")),
            Some(StoreKey::Presence(node_name.clone(), "c".into()))
        );
        assert_eq!(
            parse(&waiting(&model_name, "c")),
            Some(StoreKey::Waiting(model_name.clone(), "c".into()))
        );
        assert_eq!(parse(&assignment(&both)), Some(StoreKey::Assignment(both)));
        let task_name = TaskName::new("t").unwrap();
        assert_eq!(
            parse(&quality(&task_name, &model_name)),
            Some(StoreKey::Quality(task_name.clone(), model_name.clone()))
        );
        assert_eq!(parse(&task(&task_name)), Some(StoreKey::Task(task_name)));
        assert_eq!(parse(ROUTER), Some(StoreKey::Router));
        assert_eq!(
            (parse(LEADER), parse(FLEET)),
            (Some(StoreKey::Leader), Some(StoreKey::Fleet))
        );
        for other in ["", "/other", "/flotilla/v1/x/y", "/flotilla/v1/models/A B"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

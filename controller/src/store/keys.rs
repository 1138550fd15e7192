//! The names of things in the store.

use flotilla_core::placement::Assignment;
use flotilla_core::{ModelName, NodeName};

/// All of Flotilla's keys begin with this.
pub const ROOT: &str = "/flotilla/v1/";

/// The key that is there as long as a controller leads.
pub const LEADER: &str = "/flotilla/v1/leader";

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Model(ModelName),
    Node(NodeName),
    Assignment(Assignment),
}

/// The key of a model's wish.
#[must_use]
pub fn model(name: &ModelName) -> String {
    format!("{ROOT}models/{name}")
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
pub fn parse(key: &str) -> Option<Subject> {
    let (kind, name) = key.strip_prefix(ROOT)?.split_once('/')?;
    match kind {
        "models" => Some(Subject::Model(ModelName::new(name).ok()?)),
        "nodes" => Some(Subject::Node(NodeName::new(name).ok()?)),
        "assignments" => {
            let (node, model) = name.split_once('/')?;
            Some(Subject::Assignment(Assignment {
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
        assert_eq!(parse(&model(&model_name)), Some(Subject::Model(model_name)));
        assert_eq!(parse(&node(&node_name)), Some(Subject::Node(node_name)));
        assert_eq!(parse(&assignment(&both)), Some(Subject::Assignment(both)));
        for other in ["", "/other", "/flotilla/v1/x/y", "/flotilla/v1/models/A B"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

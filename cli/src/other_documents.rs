//! Documents that commands print and that `apply` and `delete` do not take.

use serde_json::Value;

/// Returns why a document is no resource that files describe, and what to use in its place. `None`: it may
/// be one.
pub(crate) fn explanation(document: &Value) -> Option<&'static str> {
    let has = |fields: &[&str]| fields.iter().all(|field| document.get(field).is_some());
    match document.get("kind").and_then(Value::as_str) {
        Some("Node") => Some(
            "files do not describe nodes, since a node is what its agent reports: use `flotilla cordon`, `uncordon`, `drain` or `delete node NAME`, and the agent's --label, --taint and --zone",
        ),
        Some("Fleet" | "Artifact" | "NodeOperation" | "ApiKey") => {
            Some("this is a part of a backup: use `flotilla restore FILE`")
        }
        Some(_) => None,
        None if has(&["digest", "files", "size"]) => Some(
            "files do not describe artifacts: use `flotilla model push DIR --name NAME` or `flotilla delete artifact NAME`",
        ),
        None if has(&["leader", "link", "http"]) => Some(
            "files do not describe controllers, which the fleet knows while they run: use `flotilla controller`",
        ),
        None if has(&["model", "node", "phase"]) => Some(
            "files do not describe assignments, which the leading controller makes: change the model's replicas, nodeSelector, tolerations or zones",
        ),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_get_and_backup_print_beside_resources_is_explained() {
        for (document, remedy) in [
            (json!({"kind": "Node"}), "flotilla cordon"),
            (json!({"kind": "NodeOperation"}), "flotilla restore"),
            (json!({"kind": "Artifact"}), "flotilla restore"),
            (json!({"kind": "ApiKey"}), "flotilla restore"),
            (json!({"kind": "Fleet"}), "flotilla restore"),
            (
                json!({"name": "a", "digest": "d", "size": 1, "files": 1}),
                "model push",
            ),
            (
                json!({"id": "c", "leader": true, "link": "l", "http": "h"}),
                "flotilla controller",
            ),
            (
                json!({"model": "m", "node": "n", "phase": "Ready"}),
                "replicas",
            ),
        ] {
            let text = explanation(&document).unwrap();
            assert!(text.contains(remedy), "{document}: {text}");
        }
        for document in [json!({"kind": "Model"}), json!({"kind": "Pod"}), json!({})] {
            assert_eq!(explanation(&document), None, "{document}");
        }
    }
}

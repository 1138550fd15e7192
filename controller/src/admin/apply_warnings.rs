//! What is missing for an applied resource to work. It is no error: it may come later.

use flotilla_core::spec::{ModelSource, Resource};

use crate::fleet::FleetView;

/// Returns what `resource` names and the fleet does not have.
pub(super) async fn find(resource: &Resource, view: &FleetView) -> Vec<String> {
    match resource {
        Resource::Model(model) => {
            let warning = match &model.spec.source {
                Some(source) => missing_source(source, view).await,
                None => None,
            };
            warning.into_iter().collect()
        }
        Resource::Task(task) => {
            let models = task.spec.models.iter();
            let missing = models.filter(|model| !view.models.contains_key(*model));
            missing
                .map(|model| format!("spec.models: there is no model '{model}' yet"))
                .collect()
        }
        Resource::Router(router) => {
            let task = router.spec.default_task.iter();
            let missing = task.filter(|task| !view.routing.tasks.contains_key(*task));
            missing
                .map(|task| format!("spec.defaultTask: there is no task '{task}' yet"))
                .collect()
        }
    }
}

/// Returns the warning for a source of files that does not exist, as far as this controller can see.
async fn missing_source(source: &ModelSource, view: &FleetView) -> Option<String> {
    match source {
        ModelSource::Artifact(name) if !view.manifests.pushed.contains_key(name) => Some(format!(
            "spec.source.artifact: there is no artifact '{name}' yet; run `flotilla model push DIR --name {name}`"
        )),
        ModelSource::ControllerPath(path) => match tokio::fs::metadata(path).await {
            Ok(_) => None,
            Err(error) => Some(format!(
                "spec.source.controllerPath: this controller cannot read {}: {error}",
                path.display()
            )),
        },
        _ => None,
    }
}

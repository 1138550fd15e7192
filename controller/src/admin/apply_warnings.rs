//! What is missing for an applied resource to work. It is no error: it may come later.

use flotilla_core::ModelName;
use flotilla_core::spec::{Model, ModelSource, Pipeline, Resource, TaskSpec};

use crate::fleet::FleetView;

/// Returns what `resource` names and the fleet does not have.
pub(super) async fn find(resource: &Resource, view: &FleetView) -> Vec<String> {
    match resource {
        Resource::Model(model) => {
            let source = match &model.spec.source {
                Some(source) => missing_source(source, view).await,
                None => None,
            };
            let base = unusable_base(model, view);
            let unusable = unusable_for_adapters(model, view);
            [source, base, unusable].into_iter().flatten().collect()
        }
        Resource::Task(task) => {
            let models = task.spec.models.iter();
            let missing = models.filter(|model| !view.models.contains_key(*model));
            missing
                .map(|model| format!("spec.models: there is no model '{model}' yet"))
                .chain(useless_learning(&task.spec))
                .collect()
        }
        Resource::Router(router) => {
            let task = router.spec.default_task.iter();
            let missing = task.filter(|task| !view.routing.tasks.contains_key(*task));
            let task =
                missing.map(|task| format!("spec.defaultTask: there is no task '{task}' yet"));
            let encoder = router.spec.encoder.as_ref();
            let encoder = encoder.and_then(|encoder| unusable_encoder(encoder, view));
            task.chain(encoder).collect()
        }
    }
}

/// Returns the warning for a task that learns and whose requests are never kept.
fn useless_learning(spec: &TaskSpec) -> Option<String> {
    let held = spec.learn.is_some() && !spec.zones.is_empty();
    held.then(|| {
        "spec.learn: nothing is kept, because spec.zones holds all requests of the task to privacy zones".into()
    })
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

/// Returns the warning for an encoder that does not exist or makes no embeddings, as far as its spec shows it.
fn unusable_encoder(name: &ModelName, view: &FleetView) -> Option<String> {
    let Some(model) = view.models.get(name) else {
        return Some(format!("spec.encoder: there is no model '{name}' yet"));
    };
    let pipeline = model.endpoints.model.spec.options.pipeline;
    (pipeline == Some(Pipeline::Text)).then(|| {
        format!("spec.encoder: the model '{name}' has pipeline text, an encoder needs embedding")
    })
}

/// Returns the warning for an adapter whose base is not there or cannot have adapters.
fn unusable_base(model: &Model, view: &FleetView) -> Option<String> {
    let name = model.spec.base.as_ref()?;
    let Some(base) = view.models.get(name) else {
        return Some(format!("spec.base: there is no model '{name}' yet"));
    };
    let reason = no_base_reason(&base.endpoints.model)?;
    Some(format!("spec.base: the model '{name}' {reason}"))
}

/// Returns the warning for a model that cannot have the adapters that name it as their base.
fn unusable_for_adapters(model: &Model, view: &FleetView) -> Option<String> {
    let reason = no_base_reason(model)?;
    let adapters: Vec<&str> = view
        .adapters_of(model.name())
        .map(ModelName::as_str)
        .collect();
    let names = adapters.join(", ");
    (!adapters.is_empty())
        .then(|| format!("the model {reason}, but is the base of the adapters: {names}"))
}

/// Returns the reason for which a model cannot have adapters, as far as its spec shows it.
fn no_base_reason(model: &Model) -> Option<String> {
    let spec = &model.spec;
    if spec.base.is_some() {
        return Some("is an adapter itself".into());
    }
    let engine = spec.engine;
    (!engine.has_adapters()).then(|| format!("has engine {engine}, which has no adapters"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::model_view;
    use flotilla_core::spec::{EngineKind, ModelSpec, Router, RouterSpec};
    use std::sync::Arc;

    fn model(name: &str, engine: EngineKind, base: Option<&str>) -> Model {
        let spec = ModelSpec {
            engine,
            base: base.map(|base| ModelName::new(base).unwrap()),
            ..ModelSpec::default()
        };
        Model::new(ModelName::new(name).unwrap(), spec)
    }

    #[tokio::test]
    async fn task_that_learns_but_is_held_to_zones_has_a_warning() {
        let warnings = async |zones: &str| {
            let yaml = format!(
                "{{apiVersion: flotilla.dev/v1, kind: Task, metadata: {{name: t}}, spec: {{models: [m], learn: {{from: feedback}}, zones: {zones}}}}}"
            );
            let task = flotilla_core::spec::parse_yaml(&yaml).unwrap();
            let mut warnings = find(&task[0], &FleetView::default()).await;
            warnings.retain(|warning| warning.starts_with("spec.learn:"));
            warnings.len()
        };
        assert_eq!(warnings("[clinic]").await, 1);
        assert_eq!(warnings("[]").await, 0);
    }

    #[tokio::test]
    async fn encoder_that_is_missing_or_makes_text_has_a_warning() {
        let mut view = FleetView::default();
        for (name, pipeline) in [
            ("minilm", None),
            ("vectors", Some(Pipeline::Embedding)),
            ("chat", Some(Pipeline::Text)),
        ] {
            let mut model = model(name, EngineKind::Llama, None);
            model.spec.options.pipeline = pipeline;
            let view_of_model = model_view(model.clone(), 0);
            view.models
                .insert(model.name().clone(), Arc::new(view_of_model));
        }
        for (name, expected) in [
            ("minilm", None),
            ("vectors", None),
            ("none", Some("spec.encoder: there is no model 'none' yet")),
            (
                "chat",
                Some(
                    "spec.encoder: the model 'chat' has pipeline text, an encoder needs embedding",
                ),
            ),
        ] {
            let router = Router::new(RouterSpec {
                encoder: Some(ModelName::new(name).unwrap()),
                ..RouterSpec::default()
            });
            let found = find(&Resource::Router(router), &view).await;
            assert_eq!(found.first().map(String::as_str), expected);
        }
    }

    #[tokio::test]
    async fn adapter_whose_base_is_unusable_has_a_warning() {
        let mut view = FleetView::default();
        let models = [
            model("chat", EngineKind::Auto, None),
            model("remote", EngineKind::Upstream, None),
            model("tone", EngineKind::Auto, Some("chat")),
            model("lost", EngineKind::Auto, Some("remote")),
        ];
        for model in models {
            let view_of_model = model_view(model.clone(), 0);
            let name = model.name().clone();
            view.models.insert(name, Arc::new(view_of_model));
        }
        let warnings = async |model: Model| find(&Resource::Model(model), &view).await;
        for (base, expected) in [
            ("chat", None),
            ("none", Some("spec.base: there is no model 'none' yet")),
            (
                "tone",
                Some("spec.base: the model 'tone' is an adapter itself"),
            ),
            (
                "remote",
                Some("spec.base: the model 'remote' has engine upstream, which has no adapters"),
            ),
        ] {
            let found = warnings(model("new", EngineKind::Auto, Some(base))).await;
            assert_eq!(found.first().map(String::as_str), expected);
        }
        assert!(
            warnings(model("chat", EngineKind::Llama, None))
                .await
                .is_empty()
        );
        assert_eq!(
            warnings(model("chat", EngineKind::Mistral, None)).await,
            [
                "the model has engine mistral, which has no adapters, but is the base of the adapters: tone"
            ]
        );
    }
}

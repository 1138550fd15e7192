//! The values that apply to a model's requests that name none, as its replicas report them.

use flotilla_core::generate::{DefaultValue, EffectiveDefaults};
use flotilla_core::spec::Model;
use flotilla_proto::v1::{FileDefaults, ModelPhase};

use crate::fleet::{FleetView, ModelView};

/// The values that apply to a model's requests that name none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ReportedDefaults {
    /// The model's context length in tokens. `None` if it is not known.
    pub(super) context_length: Option<u32>,
    pub(super) values: Vec<DefaultValue>,
    /// The nodes on which the model's files say something else.
    pub(super) differing_nodes: Vec<String>,
}

impl ReportedDefaults {
    /// Returns what the first ready replica of the target revision has in force; nothing if there is none
    /// or if the model does not generate text.
    pub(super) fn of_model(model: &ModelView, view: &FleetView) -> Self {
        let endpoints = &model.endpoints;
        let target = endpoints.revisions.target();
        let spec = if target == endpoints.revisions.desired {
            Some(&endpoints.model)
        } else {
            endpoints.stable.as_deref()
        };
        let reported = model.assigned.keys().filter_map(|node| {
            let report = view.nodes.get(node)?.report.load();
            let status = report.model(endpoints.model.name())?;
            let serves = status.phase() == ModelPhase::Ready && status.revision == target.0;
            let files = status.file_defaults.clone().filter(|_| serves)?;
            let context = Some(status.context_length).filter(|length| *length > 0);
            Some((node.to_string(), context, files))
        });
        spec.map(|spec| Self::of_replicas(spec, reported))
            .unwrap_or_default()
    }

    /// Returns what the first of the replicas has in force. Each replica is its node, its context length
    /// and what its files say.
    fn of_replicas(
        model: &Model,
        mut replicas: impl Iterator<Item = (String, Option<u32>, FileDefaults)>,
    ) -> Self {
        let Some((_, context, files)) = replicas.next() else {
            return Self::default();
        };
        let differs =
            |(_, c, f): &(String, Option<u32>, FileDefaults)| (c, f) != (&context, &files);
        let differing_nodes = replicas.filter(differs).map(|(node, ..)| node).collect();
        let defaults = EffectiveDefaults::new(&model.spec, files.into(), context);
        Self {
            context_length: context,
            values: defaults.values(),
            differing_nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::spec::ModelSpec;
    use flotilla_proto::v1::SamplingParams;

    fn replica(node: &str, temperature: f64) -> (String, Option<u32>, FileDefaults) {
        let files = FileDefaults {
            sampling: Some(SamplingParams {
                temperature: Some(temperature),
                ..SamplingParams::default()
            }),
            source: "generation_config.json".into(),
            ..FileDefaults::default()
        };
        (node.into(), Some(512), files)
    }

    #[test]
    fn first_replica_is_shown_and_those_that_differ_are_named() {
        let model = Model::new(ModelName::new("m").unwrap(), ModelSpec::default());
        let replicas = [replica("a", 0.0), replica("b", 0.6), replica("c", 0.0)];
        let defaults = ReportedDefaults::of_replicas(&model, replicas.into_iter());
        assert_eq!(defaults.context_length, Some(512));
        assert_eq!(defaults.differing_nodes, ["b"]);
        let temperature = defaults.values.iter().find(|v| v.field == "temperature");
        let temperature = temperature.unwrap();
        assert_eq!(
            (&temperature.value, &*temperature.source),
            (&0.into(), "generation_config.json")
        );
        let none = ReportedDefaults::of_replicas(&model, std::iter::empty());
        assert_eq!(none, ReportedDefaults::default());
    }
}

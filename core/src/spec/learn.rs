//! What the fleet may keep of a task's requests, to learn from.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ValidationErrors;

/// Number of records that are kept of a task unless its spec says otherwise.
const DEFAULT_KEEP: u32 = 1_000;
/// Largest number of records that are kept of a task.
const MAX_KEEP: u32 = 100_000;

/// The prompts and answers of a task that controllers keep in its dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LearnSpec {
    /// Which requests are kept: `escalations`, `feedback`, or a list of both.
    pub from: LearnSources,
    /// Largest number of records in the task's dataset on each controller, 1 to 100000. The newest are
    /// kept. Default: 1000.
    #[serde(default = "default_keep")]
    #[schemars(range(min = 1, max = 100_000))]
    pub keep: u32,
}

fn default_keep() -> u32 {
    DEFAULT_KEEP
}

impl LearnSpec {
    /// Whether requests of this source are kept.
    #[must_use]
    pub fn learns_from(&self, source: LearnSource) -> bool {
        self.from.0.contains(&source)
    }

    pub(super) fn validate(&self, errors: &mut ValidationErrors) {
        errors.add_if(
            self.from.0.is_empty(),
            "spec.learn.from",
            "must name escalations, feedback or both",
        );
        errors.add_if(
            !(1..=MAX_KEEP).contains(&self.keep),
            "spec.learn.keep",
            format!("must be between 1 and {MAX_KEEP}, is {}", self.keep),
        );
    }
}

/// A reason why a request is kept in the dataset of its task.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LearnSource {
    /// A larger model of the task's cascade answered.
    Escalations,
    /// A client gave feedback on the request.
    Feedback,
}

impl LearnSource {
    /// The name in YAML and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Escalations => "escalations",
            Self::Feedback => "feedback",
        }
    }
}

impl fmt::Display for LearnSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One or several sources. YAML has a name or a list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnSources(BTreeSet<LearnSource>);

impl FromIterator<LearnSource> for LearnSources {
    fn from_iter<I: IntoIterator<Item = LearnSource>>(sources: I) -> Self {
        Self(sources.into_iter().collect())
    }
}

impl Serialize for LearnSources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sources = self.0.iter();
        match (sources.next(), sources.next()) {
            (Some(only), None) => only.serialize(serializer),
            _ => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LearnSources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "must be escalations, feedback, or a list of both"
        )]
        enum SourcesForm {
            One(LearnSource),
            Several(BTreeSet<LearnSource>),
        }
        Ok(match SourcesForm::deserialize(deserializer)? {
            SourcesForm::One(source) => Self::from_iter([source]),
            SourcesForm::Several(sources) => Self(sources),
        })
    }
}

impl JsonSchema for LearnSources {
    fn schema_name() -> Cow<'static, str> {
        "LearnSources".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let source = generator.subschema_for::<LearnSource>();
        json_schema!({
            "description": "A source, or a list of sources.",
            "anyOf": [source, { "type": "array", "items": source, "minItems": 1 }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, parse_yaml};
    use super::*;

    fn learn(spec: &str) -> Result<LearnSpec, String> {
        let yaml = format!(
            "apiVersion: flotilla.dev/v1\nkind: Task\nmetadata: {{name: t}}\nspec: {{models: [m], learn: {spec}}}"
        );
        match parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0) {
            Resource::Task(task) => Ok(task.spec.learn.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_source_or_a_list_of_sources_is_read_and_written_alike() {
        let one = learn("{from: escalations}").unwrap();
        assert!(one.learns_from(LearnSource::Escalations));
        assert!(!one.learns_from(LearnSource::Feedback));
        assert_eq!(one.keep, 1_000);
        let both = learn("{from: [feedback, escalations], keep: 3}").unwrap();
        assert!(both.learns_from(LearnSource::Escalations));
        assert!(both.learns_from(LearnSource::Feedback));
        for before in [one, both] {
            let text = serde_json::to_string(&before).unwrap();
            assert_eq!(serde_json::from_str::<LearnSpec>(&text).unwrap(), before);
        }
    }

    #[test]
    fn unknown_sources_and_numbers_out_of_range_are_refused_by_name() {
        for (spec, message) in [
            ("{from: everything}", "spec.learn.from"),
            ("{from: everything}", "must be escalations, feedback"),
            ("{from: [feedback, prompts]}", "spec.learn.from"),
            ("{from: []}", "spec.learn.from must name"),
            ("{keep: 5}", "from"),
            (
                "{from: feedback, keep: 0}",
                "spec.learn.keep must be between 1 and 100000, is 0",
            ),
            (
                "{from: feedback, keep: 100001}",
                "spec.learn.keep must be between",
            ),
            ("{from: feedback, days: 3}", "days"),
        ] {
            let text = learn(spec).unwrap_err();
            assert!(text.contains(message), "{message} not in: {text}");
        }
    }
}

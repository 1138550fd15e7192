//! The kind `Model`: a model to serve, its engine, its replicas and where they may run.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    API_VERSION, Accelerator, EngineKind, EngineOptions, Metadata, ModelFormat, ModelSource,
    Replicas, RequestDefaults, SystemPrompt, Toleration, ValidationErrors, engine,
};
use crate::{Bytes, HumanDuration, ModelName, ModelRevision, ZoneName};

/// The resource that describes a model to serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
// The defaults alone are not valid: the default engine needs a source.
#[schemars(extend("required" = ["apiVersion", "kind", "metadata", "spec"]))]
#[schemars(transform = super::schema::add_status)]
pub struct Model {
    /// Version of the resource format. Always `flotilla.dev/v1`.
    #[schemars(extend("const" = API_VERSION))]
    pub api_version: String,
    /// Kind of the resource. Always `Model`.
    #[schemars(extend("const" = "Model"))]
    pub kind: String,
    /// Name and labels. Clients put the name into the `model` field of a request.
    pub metadata: Metadata<ModelName>,
    /// The desired state of the model.
    #[serde(default)]
    pub spec: ModelSpec,
}

/// The desired state of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = engine::add_engine_rules)]
pub struct ModelSpec {
    /// What the model does, for people. Default: empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Name of the model that this one is an adapter of (LoRA). The source is then that of the adapter: a
    /// GGUF file, or a folder that PEFT has written. It runs in the process of its base, on nodes that serve the
    /// base. Default: none, the model is no adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ModelName>,
    /// Where the model's files come from. Required with the engines `auto`, `llama` and `mistral`, not allowed
    /// with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ModelSource>,
    /// Format of the model's files. Default: detected from the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<ModelFormat>,
    /// The engine that runs the model. Default: `auto`.
    pub engine: EngineKind,
    /// Settings of the engine. Each one applies to a single engine. Default: all unset.
    #[serde(skip_serializing_if = "EngineOptions::is_empty")]
    pub options: EngineOptions,
    /// A free text that names this revision of the model. Changing it starts a rollout that
    /// reloads the model on every node, even if nothing else changed. Default: empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Number of replicas, each on a node of its own: a fixed number, or a range within which the
    /// number follows load. Default: 1.
    pub replicas: Replicas,
    /// With `replicas.min: 0`: the time without requests after which all replicas are unloaded.
    /// Default: `5m`.
    pub keep_alive: HumanDuration,
    /// Memory that one replica needs, in bytes or with a unit (`512MiB`). Default: what a node has
    /// measured; before any node has loaded the model, an estimate from the size of its files. Of a model
    /// with a process of its own it is the limit of the process, too, and its change is a new revision. Of an
    /// adapter it is what it needs beside its base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Accelerator that a node must have. Default: any node qualifies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Labels that a node must have, all of them. Default: empty, any node qualifies.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that a node may have. Default: empty, only nodes without taints qualify.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Key of a node label over whose values the replicas are spread evenly. Nodes without the
    /// label count as one more value. Default: none, replicas are not spread by label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_by: Option<String>,
    /// Privacy zones of which a node must be in one. Default: empty, any node qualifies.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(with = "Vec<ZoneName>")]
    pub zones: BTreeSet<ZoneName>,
    /// Number of requests that one replica computes at once, 1 to 100000. On a CPU, more than a
    /// few slow each other down. Default: 4.
    #[schemars(range(min = 1, max = MAX_COUNT))]
    pub concurrency: u32,
    /// Number of requests that may wait on one replica beyond `concurrency`, 0 to 100000; further
    /// ones are rejected as overloaded. As many may wait for the first replica to load. Default:
    /// 64.
    #[schemars(range(max = MAX_COUNT))]
    pub queue: u32,
    /// Tokens after which an answer ends if its request names no limit, at least 1. It also ends where
    /// the context is full. Default: 2048; with engine `upstream` none, the server decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-unit" = "tokens"))]
    pub max_tokens: Option<u32>,
    /// The largest token limit that a request may name, at least 1. A larger one is lowered to it.
    /// Default: none, only the context limits answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-unit" = "tokens"))]
    pub max_tokens_limit: Option<u32>,
    /// Values that apply where a request names none. Default: all unset.
    #[serde(skip_serializing_if = "RequestDefaults::is_empty")]
    pub defaults: RequestDefaults,
    /// A text that is put before the conversations. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<SystemPrompt>,
}

/// The default of [`ModelSpec::keep_alive`].
const DEFAULT_KEEP_ALIVE: HumanDuration = HumanDuration(std::time::Duration::from_secs(300));

impl ModelSpec {
    /// Returns whether the model is computed on the accelerator of a node that has one, and takes its memory
    /// rather than that of the node.
    #[must_use]
    pub fn uses_accelerator(&self) -> bool {
        self.engine.computes() && self.accelerator != Some(Accelerator::Cpu)
    }

    /// Returns the memory that the model's process may take. `None` if the spec names none or the model is not
    /// computed in a process of its own.
    #[must_use]
    pub fn runner_memory_limit(&self) -> Option<Bytes> {
        let has_process = self.engine.computes() && self.base.is_none();
        self.memory.filter(|_| has_process)
    }
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            description: String::new(),
            base: None,
            source: None,
            format: None,
            engine: EngineKind::Auto,
            options: EngineOptions::default(),
            revision: String::new(),
            replicas: Replicas::default(),
            keep_alive: DEFAULT_KEEP_ALIVE,
            memory: None,
            accelerator: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            spread_by: None,
            zones: BTreeSet::new(),
            concurrency: 4,
            queue: 64,
            max_tokens: None,
            max_tokens_limit: None,
            defaults: RequestDefaults::default(),
            system_prompt: None,
        }
    }
}

/// The largest number of replicas, concurrent requests or waiting requests that a spec may have.
/// It is far above any use, and low enough that sums cannot overflow.
const MAX_COUNT: u32 = 100_000;

impl Model {
    /// Returns a model with this name and spec.
    #[must_use]
    pub fn new(name: ModelName, spec: ModelSpec) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "Model".into(),
            metadata: Metadata {
                name,
                labels: Default::default(),
            },
            spec,
        }
    }

    /// Returns a hash of the fields for which a node must reload the model when they change, and of
    /// those that its answers depend on: measured quality is that of a revision.
    /// Changes of scale, placement and description keep it. The hash of a spec is the same on
    /// every machine and in every build, because revisions are stored and compared across them.
    #[must_use]
    pub fn serving_revision(&self) -> ModelRevision {
        let spec = &self.spec;
        let served = (
            (&spec.source, spec.format, spec.engine, &spec.options),
            (
                &spec.revision,
                spec.accelerator,
                spec.concurrency,
                spec.queue,
            ),
        );
        // A spec is made of strings and numbers: serializing it cannot fail.
        let mut text = serde_json::to_vec(&served).unwrap_or_default();
        // A spec without these fields has the revision that it had before they existed.
        if !spec.has_no_request_fields() {
            let requests = (
                (spec.max_tokens, spec.max_tokens_limit),
                (&spec.defaults, &spec.system_prompt),
            );
            text.extend(serde_json::to_vec(&requests).unwrap_or_default());
        }
        // The process of a model gets its limit when it starts. A limit that is too small for the model is a
        // revision that fails, and the earlier one goes on.
        if let Some(limit) = spec.runner_memory_limit() {
            text.extend(serde_json::to_vec(&("memory", limit)).unwrap_or_default());
        }
        if let Some(base) = &spec.base {
            text.extend(serde_json::to_vec(&("base", base)).unwrap_or_default());
        }
        let digest: [u8; 32] = Sha256::digest(text).into();
        ModelRevision::from_digest(&digest)
    }

    /// Returns whether a node in one of `zones` would send requests for this model out of `zones`,
    /// to an upstream server that is outside them.
    #[must_use]
    pub fn leaves_zones(&self, zones: &BTreeSet<ZoneName>) -> bool {
        let options = &self.spec.options;
        let inside = options
            .zone
            .as_ref()
            .is_some_and(|zone| zones.contains(zone));
        self.spec.engine == EngineKind::Upstream && !options.url_is_loopback() && !inside
    }

    /// Returns the model's name.
    #[must_use]
    pub fn name(&self) -> &ModelName {
        &self.metadata.name
    }

    /// Checks the rules that the types cannot express.
    ///
    /// # Errors
    /// All invalid fields, each with its path.
    pub fn validate(&self) -> Result<(), ValidationErrors> {
        let mut errors = ValidationErrors::default();
        let spec = &self.spec;
        let check_range = |errors: &mut ValidationErrors, value: u32, min: u32, field: &str| {
            errors.add_if(
                !(min..=MAX_COUNT).contains(&value),
                field,
                format!("must be between {min} and {MAX_COUNT}, is {value}"),
            );
        };
        check_range(&mut errors, spec.replicas.min, 0, "spec.replicas.min");
        check_range(&mut errors, spec.replicas.max, 1, "spec.replicas.max");
        errors.add_if(
            spec.replicas.min > spec.replicas.max,
            "spec.replicas",
            "must have a min of at most its max",
        );
        check_range(&mut errors, spec.concurrency, 1, "spec.concurrency");
        check_range(&mut errors, spec.queue, 0, "spec.queue");
        self.validate_source(&mut errors);
        self.validate_adapter(&mut errors);
        spec.validate_request_fields(&mut errors);
        for (option, readers) in spec.options.set_options() {
            let is_read = readers.contains(&spec.engine);
            // `auto` is always one of the others.
            let readers = readers.iter().filter(|engine| **engine != EngineKind::Auto);
            let names: Vec<String> = readers.map(EngineKind::to_string).collect();
            errors.add_if(
                !is_read,
                &format!("spec.options.{option}"),
                format!(
                    "applies to engine {} only, the engine is {}",
                    names.join(" and "),
                    spec.engine
                ),
            );
        }
        errors.add_if(
            spec.options.threads == Some(0),
            "spec.options.threads",
            "must be at least 1",
        );
        errors.add_if(
            spec.options.max_prompt_seconds == Some(0),
            "spec.options.maxPromptSeconds",
            "must be at least 1",
        );
        errors.add_if(
            spec.options.context_length.is_some_and(|length| length < 2),
            "spec.options.contextLength",
            "must be at least 2",
        );
        if spec.engine == EngineKind::Upstream {
            let url = spec.options.url.as_deref().unwrap_or_default();
            errors.add_if(
                !url.starts_with("http://") && !url.starts_with("https://"),
                "spec.options.url",
                "is needed with engine upstream: the server's base URL, such as http://127.0.0.1:11434/v1",
            );
        }
        if let Some(speed) = spec.options.tokens_per_second {
            errors.add_if(
                !speed.is_finite() || speed < 0.0,
                "spec.options.tokensPerSecond",
                "must be 0 (no pause) or more",
            );
        }
        if let Some(probability) = spec.options.token_probability {
            errors.add_if(
                !(f32::MIN_POSITIVE..=1.0).contains(&probability),
                "spec.options.tokenProbability",
                "must be above 0 and at most 1",
            );
        }
        errors.into_result()
    }

    fn validate_source(&self, errors: &mut ValidationErrors) {
        let spec = &self.spec;
        let Some(source) = &spec.source else {
            errors.add_if(
                spec.engine.computes(),
                "spec.source",
                format!("is needed with engine {}", spec.engine),
            );
            return;
        };
        errors.add_if(
            !spec.engine.computes(),
            "spec.source",
            format!("does not apply to engine {}: remove it", spec.engine),
        );
        source.validate(errors);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Resource, parse_yaml};
    use super::*;

    /// The serving revision of `{engine: simulated}`.
    const PINNED_REVISION: u64 = 2_165_906_573_805_297_435;

    /// Reads the model `m` with this spec.
    pub(in crate::spec) fn model(spec: &str) -> Result<Model, String> {
        let yaml = format!(
            "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {{name: m}}\nspec: {spec}"
        );
        match parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0) {
            Resource::Model(model) => Ok(model),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_suit_a_small_cpu_model() {
        let spec = model("{source: {path: /m}}").unwrap().spec;
        assert_eq!(spec.engine, EngineKind::Auto);
        assert_eq!(spec.replicas, Replicas::fixed(1));
        assert_eq!((spec.concurrency, spec.queue), (4, 64));
    }

    #[test]
    fn remote_upstream_is_outside_every_zone_unless_options_name_one() {
        let clinic = BTreeSet::from([ZoneName::new("clinic").unwrap()]);
        let leaves_zones = |options: &str| {
            let spec = format!("{{engine: upstream, options: {options}}}");
            model(&spec).unwrap().leaves_zones(&clinic)
        };
        for local in [
            "127.0.0.1:11434",
            "localhost",
            "LOCALHOST:80",
            "[::1]:8000",
            "u@127.3.2.1",
        ] {
            assert!(
                !leaves_zones(&format!("{{url: 'http://{local}/v1'}}")),
                "{local}"
            );
        }
        for remote in [
            "api.example",
            "10.0.0.1:80",
            "127.0.0.1@api.example",
            "api.example#@localhost",
        ] {
            assert!(
                leaves_zones(&format!("{{url: 'https://{remote}/v1'}}")),
                "{remote}"
            );
        }
        assert!(!leaves_zones("{url: 'https://10.0.0.1/v1', zone: clinic}"));
        assert!(leaves_zones("{url: 'https://10.0.0.1/v1', zone: shop}"));
        assert!(!model("{engine: simulated}").unwrap().leaves_zones(&clinic));
    }

    #[test]
    fn all_invalid_fields_are_reported() {
        let text = model("{replicas: 0, concurrency: 0, options: {url: x}}").unwrap_err();
        for part in [
            "spec.replicas.max must be between 1",
            "spec.concurrency must be between 1",
            "spec.source is needed",
            "spec.options.url applies to engine upstream only, the engine is auto",
        ] {
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn upstream_requires_a_url() {
        let text = model("{engine: upstream}").unwrap_err();
        assert!(text.starts_with("spec.options.url is needed"), "{text}");
        assert!(model("{engine: upstream, options: {url: 'http://127.0.0.1/v1'}}").is_ok());
    }

    #[test]
    fn scaling_and_placement_keep_the_serving_revision() {
        let base = model("{engine: simulated}").unwrap();
        let rescaled = model(
            "{engine: simulated, replicas: {min: 0, max: 3}, description: x, nodeSelector: {a: b}, \
             tolerations: [{key: t}], spreadBy: region, zones: [z], memory: 1MiB, keepAlive: 5s}",
        )
        .unwrap();
        let other = model("{engine: simulated, queue: 3}").unwrap();
        assert_eq!(base.serving_revision(), rescaled.serving_revision());
        assert_ne!(base.serving_revision(), other.serving_revision());
        let named = model("{engine: simulated, revision: v2}").unwrap();
        assert_ne!(base.serving_revision(), named.serving_revision());
        // Revisions are stored: every build must compute the same one.
        assert_eq!(base.serving_revision(), ModelRevision(PINNED_REVISION));
    }

    #[test]
    fn the_memory_limit_of_a_process_is_part_of_the_revision() {
        let revision = |fields: &str| {
            let spec = format!("{{source: {{path: /m}}{fields}}}");
            model(&spec).unwrap().serving_revision()
        };
        let (without, small, large) = (
            revision(""),
            revision(", memory: 1MiB"),
            revision(", memory: 2MiB"),
        );
        assert_ne!(small, large);
        assert_ne!(without, small);
        // The same size in another unit.
        assert_eq!(revision(", memory: 2048KiB"), large);
    }

    #[test]
    fn model_round_trips_through_yaml() {
        let before = model(
            "{engine: simulated, options: {outputTokens: 9}, memory: 1MiB, replicas: 3, keepAlive: 90s}",
        )
        .unwrap();
        let yaml = serde_yaml_ng::to_string(&before).unwrap();
        assert_eq!(parse_yaml(&yaml).unwrap(), [Resource::Model(before)]);
    }
}

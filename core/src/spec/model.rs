//! The kind `Model`: what to serve, with which engine, how many times.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    API_VERSION, Accelerator, EngineKind, EngineOptions, Metadata, ModelFormat, ModelSource,
    Replicas, Toleration, ValidationErrors,
};
use crate::{Bytes, HumanDuration, ModelName, ModelRevision, ZoneName};

/// A model that the fleet is asked to serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// Always `Model`.
    pub kind: String,
    pub metadata: Metadata<ModelName>,
    #[serde(default)]
    pub spec: ModelSpec,
}

/// How a model is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ModelSpec {
    /// What it does, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where its files are. Needed with [`EngineKind::Mistral`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<ModelSource>,
    /// How its files are made. Default: what they look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<ModelFormat>,
    /// What runs it.
    pub engine: EngineKind,
    /// Settings of the engine; each belongs to one engine.
    #[serde(skip_serializing_if = "EngineOptions::is_empty")]
    pub options: EngineOptions,
    /// A name for this state of the model, for people. Changing it alone loads the model
    /// anew everywhere, one node after the other.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// On how many nodes it is placed.
    pub replicas: Replicas,
    /// With `replicas.min` 0: how long nobody asks for it before it is unloaded everywhere.
    pub keep_alive: HumanDuration,
    /// Memory one replica needs. Without it the node estimates it from the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Only nodes that compute with this. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Only nodes with all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that it does not mind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// A label of nodes: replicas are spread evenly over its values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_by: Option<String>,
    /// Only nodes in one of these privacy zones. Empty: any node.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub zones: BTreeSet<ZoneName>,
    /// Requests one replica computes at once. On a CPU more than a few only slow each
    /// other down.
    pub concurrency: u32,
    /// Requests that may wait on one replica beyond `concurrency`; one more is refused with
    /// "overloaded". As many may wait for the first replica to be loaded.
    pub queue: u32,
}

/// How long a model that may leave memory stays there unused.
const KEEP_ALIVE: HumanDuration = HumanDuration(std::time::Duration::from_secs(300));

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            description: String::new(),
            source: None,
            format: None,
            engine: EngineKind::Mistral,
            options: EngineOptions::default(),
            revision: String::new(),
            replicas: Replicas::default(),
            keep_alive: KEEP_ALIVE,
            memory: None,
            accelerator: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            spread_by: None,
            zones: BTreeSet::new(),
            concurrency: 4,
            queue: 64,
        }
    }
}

/// Most replicas, concurrent and waiting requests that a spec may ask for: far above any
/// use, low enough that sums of them cannot overflow.
const MOST: u32 = 100_000;

impl Model {
    /// A model called `name`, served as `spec` says.
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

    /// Changes when, and only when, something changed that a node must load the model anew
    /// for; scaling, placing or describing it differently is none of that. The same for the
    /// same spec on every machine and in every build: it is compared across them.
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
        let text = serde_json::to_vec(&served).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(text).into();
        ModelRevision::from_digest(&digest)
    }

    /// Whether a request that is held to these privacy zones leaves them by being answered on a node in
    /// one of them: the server that the node would ask is elsewhere.
    #[must_use]
    pub fn leaves_zones(&self, zones: &BTreeSet<ZoneName>) -> bool {
        let options = &self.spec.options;
        let inside = options
            .zone
            .as_ref()
            .is_some_and(|zone| zones.contains(zone));
        self.spec.engine == EngineKind::Upstream && !options.url_is_loopback() && !inside
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &ModelName {
        &self.metadata.name
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Every fault, each with its field path.
    pub fn validate(&self) -> Result<(), ValidationErrors> {
        let mut faults = ValidationErrors::default();
        let spec = &self.spec;
        let between = |faults: &mut ValidationErrors, value: u32, least: u32, field: &str| {
            faults.add_if(
                !(least..=MOST).contains(&value),
                field,
                format!("must be between {least} and {MOST}, is {value}"),
            );
        };
        between(&mut faults, spec.replicas.min, 0, "spec.replicas.min");
        between(&mut faults, spec.replicas.max, 1, "spec.replicas.max");
        faults.add_if(
            spec.replicas.min > spec.replicas.max,
            "spec.replicas",
            "must not have a min above its max",
        );
        between(&mut faults, spec.concurrency, 1, "spec.concurrency");
        between(&mut faults, spec.queue, 0, "spec.queue");
        self.validate_source(&mut faults);
        for (option, engine) in spec.options.set_options() {
            faults.add_if(
                engine != spec.engine,
                &format!("spec.options.{option}"),
                format!("belongs to engine {engine}, the engine is {}", spec.engine),
            );
        }
        if spec.engine == EngineKind::Upstream {
            let url = spec.options.url.as_deref().unwrap_or_default();
            faults.add_if(
                !url.starts_with("http://") && !url.starts_with("https://"),
                "spec.options.url",
                "is needed with engine upstream: the server's base URL, such as http://127.0.0.1:11434/v1",
            );
        }
        if let Some(pace) = spec.options.tokens_per_second {
            faults.add_if(
                !pace.is_finite() || pace < 0.0,
                "spec.options.tokensPerSecond",
                "must be 0 (no pause) or more",
            );
        }
        if let Some(probability) = spec.options.token_probability {
            faults.add_if(
                !(f32::MIN_POSITIVE..=1.0).contains(&probability),
                "spec.options.tokenProbability",
                "must be above 0 and at most 1",
            );
        }
        faults.into_result()
    }

    fn validate_source(&self, faults: &mut ValidationErrors) {
        let spec = &self.spec;
        let Some(source) = &spec.source else {
            faults.add_if(
                spec.engine == EngineKind::Mistral,
                "spec.source",
                "is needed with engine mistral",
            );
            return;
        };
        faults.add_if(
            spec.engine != EngineKind::Mistral,
            "spec.source",
            format!("is not read by engine {}: leave it out", spec.engine),
        );
        match source {
            ModelSource::Path(path) | ModelSource::ControllerPath(path) => faults.add_if(
                path.as_os_str().is_empty(),
                "spec.source",
                "must not be an empty path",
            ),
            ModelSource::Artifact(_) => {}
            ModelSource::Url { url, .. } => faults.add_if(
                !url.starts_with("https://") && !url.starts_with("http://"),
                "spec.source.url",
                "must begin with https:// or http://",
            ),
            ModelSource::HuggingFace(source) => {
                let commit = source.revision.len() == 40
                    && source.revision.bytes().all(|c| c.is_ascii_hexdigit());
                faults.add_if(
                    !commit,
                    "spec.source.huggingFace.revision",
                    "must be a commit of 40 hexadecimal digits, so that all nodes get the same files",
                );
                let plain = |part: &str| {
                    !part.is_empty()
                        && !part.starts_with('.')
                        && part
                            .bytes()
                            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
                };
                let named = source
                    .repo
                    .split_once('/')
                    .is_some_and(|(owner, name)| plain(owner) && plain(name));
                faults.add_if(!named, "spec.source.huggingFace.repo", "must be OWNER/NAME");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, parse_yaml};
    use super::*;

    /// The serving revision of `{engine: simulated}`.
    const PINNED: u64 = 2_165_906_573_805_297_435;

    fn model(spec: &str) -> Result<Model, String> {
        let yaml = format!(
            "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {{name: m}}\nspec: {spec}"
        );
        match parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0) {
            Resource::Model(model) => Ok(model),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_a_small_cpu_model() {
        let spec = model("{source: {path: /m}}").unwrap().spec;
        assert_eq!(spec.engine, EngineKind::Mistral);
        assert_eq!(spec.replicas, Replicas::fixed(1));
        assert_eq!((spec.concurrency, spec.queue), (4, 64));
    }

    #[test]
    fn a_server_elsewhere_is_in_no_zone_unless_it_says_so() {
        let clinic = BTreeSet::from([ZoneName::new("clinic").unwrap()]);
        let leaves = |options: &str| {
            let spec = format!("{{engine: upstream, options: {options}}}");
            model(&spec).unwrap().leaves_zones(&clinic)
        };
        for near in [
            "127.0.0.1:11434",
            "localhost",
            "LOCALHOST:80",
            "[::1]:8000",
            "u@127.3.2.1",
        ] {
            assert!(!leaves(&format!("{{url: 'http://{near}/v1'}}")), "{near}");
        }
        for far in [
            "api.example",
            "10.0.0.1:80",
            "127.0.0.1@api.example",
            "api.example#@localhost",
        ] {
            assert!(leaves(&format!("{{url: 'https://{far}/v1'}}")), "{far}");
        }
        assert!(!leaves("{url: 'https://10.0.0.1/v1', zone: clinic}"));
        assert!(leaves("{url: 'https://10.0.0.1/v1', zone: shop}"));
        assert!(!model("{engine: simulated}").unwrap().leaves_zones(&clinic));
    }

    #[test]
    fn every_fault_is_reported() {
        let text = model("{replicas: 0, concurrency: 0, options: {url: x}}").unwrap_err();
        for part in [
            "spec.replicas.max must be between 1",
            "spec.concurrency must be between 1",
            "spec.source is needed",
            "spec.options.url belongs to engine upstream, the engine is mistral",
        ] {
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn sources_are_checked() {
        for (source, part) in [
            ("path: ''", "must not be an empty path"),
            ("huggingFace: {repo: a/b, revision: main}", "a commit of 40"),
            (
                "huggingFace: {repo: ../b, revision: main}",
                "must be OWNER/NAME",
            ),
            ("url: 'ftp://x', sha256: 00", "64 hexadecimal digits"),
        ] {
            let text = model(&format!("{{source: {{{source}}}}}")).unwrap_err();
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn upstream_needs_a_url() {
        let text = model("{engine: upstream}").unwrap_err();
        assert!(text.starts_with("spec.options.url is needed"), "{text}");
        assert!(model("{engine: upstream, options: {url: 'http://127.0.0.1/v1'}}").is_ok());
    }

    #[test]
    fn scaling_and_placing_are_no_new_serving_revision() {
        let one = model("{engine: simulated}").unwrap();
        let three = model(
            "{engine: simulated, replicas: {min: 0, max: 3}, description: x, nodeSelector: {a: b}, \
             tolerations: [{key: t}], spreadBy: region, zones: [z], memory: 1MiB, keepAlive: 5s}",
        )
        .unwrap();
        let other = model("{engine: simulated, queue: 3}").unwrap();
        assert_eq!(one.serving_revision(), three.serving_revision());
        assert_ne!(one.serving_revision(), other.serving_revision());
        let named = model("{engine: simulated, revision: v2}").unwrap();
        assert_ne!(one.serving_revision(), named.serving_revision());
        // Kept in stores: another build must come to the same.
        assert_eq!(one.serving_revision(), ModelRevision(PINNED));
    }

    #[test]
    fn yaml_round_trips() {
        let before = model(
            "{engine: simulated, options: {outputTokens: 9}, memory: 1MiB, replicas: 3, keepAlive: 90s}",
        )
        .unwrap();
        let yaml = serde_yaml_ng::to_string(&before).unwrap();
        assert_eq!(parse_yaml(&yaml).unwrap(), [Resource::Model(before)]);
    }
}

//! What a model's owner sets once for all requests: sampling values, token limits and a system prompt.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EngineKind, ModelSpec, ValidationErrors};
use crate::generate::sampling_ranges::{
    MAX_STOPS, PENALTY, PROBABILITY, REPETITION_PENALTY, TEMPERATURE,
};
use crate::generate::{SamplingParams, TemplateArgs, check_template_args};

/// The token limit of answers to requests that name none, if the spec does not say.
pub const DEFAULT_MAX_TOKENS: u32 = 2_048;
/// The most bytes of a system prompt.
const MAX_SYSTEM_PROMPT_BYTES: usize = 64 * 1024;
/// The most bytes of a stop text.
const MAX_STOP_BYTES: usize = 1_024;

/// The values that apply where a request names none. A value that is missing here is that of the
/// model's files (`generation_config.json`, or a GGUF file's metadata), else the neutral one. An upstream
/// server gets only the values that are set here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestDefaults {
    /// Sampling temperature, 0 to 2: 0 always takes the most probable token. Default: that of the
    /// model's files, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    /// Sample among the most probable tokens that together have this probability, 0 to 1. Default:
    /// that of the model's files, else 1, all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
    /// Sample among this many most probable tokens; 0 for all. Default: that of the model's files, else
    /// 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "tokens"))]
    pub top_k: Option<u32>,
    /// Drop tokens that are less probable than this fraction of the most probable one, 0 to 1. Default:
    /// that of the model's files, else 0, none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_p: Option<f64>,
    /// Divides a token's logit once it has occurred, 0.01 to 100; 1 for no penalty. Default: that of
    /// the model's files, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100.0))]
    pub repetition_penalty: Option<f64>,
    /// Subtracted from a token's logit for each of its occurrences, -2 to 2. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2.0, max = 2.0))]
    pub frequency_penalty: Option<f64>,
    /// Subtracted from a token's logit once it has occurred, -2 to 2. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2.0, max = 2.0))]
    pub presence_penalty: Option<f64>,
    /// Texts that end an answer, at most 16. Those of a request replace them. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 1_024)))]
    pub stop: Vec<String>,
    /// Seed of the random numbers: the same seed, request and model give the same answer. Default:
    /// random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Arguments of the model's chat template, such as `enable_thinking`. Those of a request
    /// (`chat_template_kwargs`) override them name by name. Default: none.
    #[serde(skip_serializing_if = "TemplateArgs::is_empty")]
    pub chat_template_args: TemplateArgs,
}

/// A text that a model's owner puts before the conversations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SystemPrompt {
    /// The text, at most 65536 bytes.
    #[schemars(length(min = 1, max = 65_536))]
    pub text: String,
    /// Which conversations begin with it. Default: `whenMissing`.
    #[serde(default)]
    pub mode: SystemPromptMode,
}

/// Which conversations begin with a model's system prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SystemPromptMode {
    /// Those without a message of the role `system` or `developer`.
    #[default]
    WhenMissing,
    /// All. A system message with which a conversation begins follows in the same message, after an
    /// empty line.
    Always,
}

impl SystemPromptMode {
    /// The name in specs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WhenMissing => "whenMissing",
            Self::Always => "always",
        }
    }
}

impl RequestDefaults {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the values of sampling, without the token limit.
    #[must_use]
    pub fn sampling(&self) -> SamplingParams {
        let single = |value: Option<f64>| value.map(|value| value as f32);
        SamplingParams {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            seed: self.seed,
            stop: (!self.stop.is_empty()).then(|| self.stop.clone()),
            frequency_penalty: single(self.frequency_penalty),
            presence_penalty: single(self.presence_penalty),
            repetition_penalty: single(self.repetition_penalty),
            ..SamplingParams::default()
        }
    }

    fn validate(&self, errors: &mut ValidationErrors) {
        let penalty = f64::from(*PENALTY.start())..=f64::from(*PENALTY.end());
        let (least, most) = (*REPETITION_PENALTY.start(), *REPETITION_PENALTY.end());
        let repetition_penalty = f64::from(least)..=f64::from(most);
        let values = [
            ("temperature", self.temperature, TEMPERATURE),
            ("topP", self.top_p, PROBABILITY),
            ("minP", self.min_p, PROBABILITY),
            (
                "repetitionPenalty",
                self.repetition_penalty,
                repetition_penalty,
            ),
            ("frequencyPenalty", self.frequency_penalty, penalty.clone()),
            ("presencePenalty", self.presence_penalty, penalty),
        ];
        for (field, value, range) in values {
            let Some(value) = value.filter(|value| !range.contains(value)) else {
                continue;
            };
            // The limits are those of 32-bit numbers.
            let (min, max) = (*range.start() as f32, *range.end() as f32);
            let problem = format!("must be between {min} and {max}, is {value}");
            errors.add(&format!("spec.defaults.{field}"), problem);
        }
        errors.add_if(
            self.stop.len() > MAX_STOPS,
            "spec.defaults.stop",
            format!("must have at most {MAX_STOPS} texts"),
        );
        for (index, text) in self.stop.iter().enumerate() {
            errors.add_if(
                !(1..=MAX_STOP_BYTES).contains(&text.len()),
                &format!("spec.defaults.stop[{index}]"),
                format!("must have between 1 and {MAX_STOP_BYTES} bytes"),
            );
        }
        if let Err(problem) = check_template_args(&self.chat_template_args) {
            errors.add("spec.defaults.chatTemplateArgs", problem);
        }
    }
}

impl ModelSpec {
    /// Returns the most tokens of an answer to a request that names the limit `requested`. `None`: the
    /// request goes to an upstream server and neither names a limit nor does the spec.
    ///
    /// A named limit above `maxTokensLimit` is lowered to it, not rejected: a limit says how long an
    /// answer may be, which a shorter one keeps, and a client of a task cannot know which of its models
    /// answers.
    #[must_use]
    pub fn max_answer_tokens(&self, requested: Option<u32>) -> Option<u32> {
        let built_in = (self.engine != EngineKind::Upstream).then_some(DEFAULT_MAX_TOKENS);
        let limit = self.max_tokens_limit;
        let wanted = requested.or(self.max_tokens).or(built_in).or(limit)?;
        Some(limit.map_or(wanted, |limit| wanted.min(limit)))
    }

    /// Whether the spec says nothing about how requests are answered.
    pub(super) fn has_no_request_fields(&self) -> bool {
        self.max_tokens.is_none()
            && self.max_tokens_limit.is_none()
            && self.defaults.is_empty()
            && self.system_prompt.is_none()
    }

    /// Checks the fields about how requests are answered.
    pub(super) fn validate_request_fields(&self, errors: &mut ValidationErrors) {
        let zero = |tokens: Option<u32>| tokens == Some(0);
        errors.add_if(
            zero(self.max_tokens),
            "spec.maxTokens",
            "must be at least 1",
        );
        errors.add_if(
            zero(self.max_tokens_limit),
            "spec.maxTokensLimit",
            "must be at least 1",
        );
        if let (Some(tokens), Some(limit)) = (self.max_tokens, self.max_tokens_limit) {
            errors.add_if(
                tokens > limit,
                "spec.maxTokens",
                format!("must be at most spec.maxTokensLimit, {limit}, is {tokens}"),
            );
        }
        self.defaults.validate(errors);
        if let Some(prompt) = &self.system_prompt {
            errors.add_if(
                prompt.text.trim().is_empty() || prompt.text.len() > MAX_SYSTEM_PROMPT_BYTES,
                "spec.systemPrompt.text",
                format!("must have a text of at most {MAX_SYSTEM_PROMPT_BYTES} bytes"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Model, Resource, parse_yaml};
    use super::*;

    fn model(fields: &str) -> Result<Model, String> {
        let yaml = format!(
            "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {{name: m}}\n\
             spec: {{engine: simulated, {fields}}}"
        );
        match parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0) {
            Resource::Model(model) => Ok(model),
            other => panic!("{other:?}"),
        }
    }

    const ALL: &str = "maxTokens: 100, maxTokensLimit: 200, \
        defaults: {temperature: 0.7, topP: 0.8, topK: 20, minP: 0.05, repetitionPenalty: 1.1, \
        frequencyPenalty: -0.5, presencePenalty: 1.5, stop: [END, '###'], seed: -1, \
        chatTemplateArgs: {enable_thinking: false, tags: [a, {b: 1}]}}, \
        systemPrompt: {text: Be brief., mode: always}";

    #[test]
    fn all_fields_round_trip_through_yaml_and_json() {
        let before = model(ALL).unwrap();
        let spec = &before.spec;
        assert_eq!(
            (spec.max_tokens, spec.max_tokens_limit),
            (Some(100), Some(200))
        );
        assert_eq!(spec.defaults.stop, ["END", "###"]);
        assert_eq!(spec.defaults.chat_template_args["enable_thinking"], false);
        let prompt = spec.system_prompt.as_ref().unwrap();
        assert_eq!(prompt.mode, SystemPromptMode::Always);
        let yaml = serde_yaml_ng::to_string(&before).unwrap();
        assert!(yaml.contains("repetitionPenalty: 1.1\n"), "{yaml}");
        assert_eq!(
            parse_yaml(&yaml).unwrap(),
            [Resource::Model(before.clone())]
        );
        let json = serde_json::to_value(&before).unwrap();
        assert_eq!(serde_json::from_value::<Model>(json).unwrap(), before);
    }

    #[test]
    fn system_prompt_is_for_conversations_without_one_unless_the_spec_says_always() {
        let spec = model("systemPrompt: {text: x}").unwrap().spec;
        let prompt = spec.system_prompt.unwrap();
        assert_eq!(prompt.mode, SystemPromptMode::WhenMissing);
    }

    #[test]
    fn each_invalid_field_is_reported_with_its_path() {
        for (fields, problem) in [
            ("maxTokens: 0", "spec.maxTokens must be at least 1"),
            (
                "maxTokensLimit: 0",
                "spec.maxTokensLimit must be at least 1",
            ),
            (
                "maxTokens: 9, maxTokensLimit: 8",
                "spec.maxTokens must be at most spec.maxTokensLimit, 8, is 9",
            ),
            (
                "defaults: {temperature: 2.5}",
                "spec.defaults.temperature must be between 0 and 2, is 2.5",
            ),
            (
                "defaults: {topP: -1}",
                "spec.defaults.topP must be between 0 and 1",
            ),
            (
                "defaults: {minP: 1.5}",
                "spec.defaults.minP must be between 0 and 1",
            ),
            (
                "defaults: {repetitionPenalty: 0}",
                "spec.defaults.repetitionPenalty must be between 0.01 and 100, is 0",
            ),
            (
                "defaults: {presencePenalty: 3}",
                "spec.defaults.presencePenalty must be between -2 and 2",
            ),
            (
                "defaults: {stop: [a, '']}",
                "spec.defaults.stop[1] must have",
            ),
            (
                "systemPrompt: {text: ' '}",
                "spec.systemPrompt.text must have",
            ),
            ("defaults: {nucleus: 1}", "unknown field `nucleus`"),
            ("defaults: {topK: -1}", "spec.defaults.topK"),
            (
                "systemPrompt: {text: x, mode: never}",
                "unknown variant `never`",
            ),
            ("systemPrompt: {}", "missing field `text`"),
        ] {
            let text = model(fields).unwrap_err();
            assert!(text.contains(problem), "{problem} not in: {text}");
        }
        let long = format!("systemPrompt: {{text: '{}'}}", "x".repeat(65_537));
        assert!(model(&long).unwrap_err().contains("at most 65536 bytes"));
        let texts = format!("defaults: {{stop: [{}]}}", "a,".repeat(17));
        assert!(model(&texts).unwrap_err().contains("at most 16 texts"));
    }

    #[test]
    fn answers_are_limited_by_the_request_then_the_spec_then_the_built_in_limit() {
        let limits = |fields: &str| {
            let spec = model(fields).unwrap().spec;
            [None, Some(50), Some(9_000)].map(|requested| spec.max_answer_tokens(requested))
        };
        assert_eq!(limits(""), [Some(2_048), Some(50), Some(9_000)]);
        assert_eq!(limits("maxTokens: 100"), [Some(100), Some(50), Some(9_000)]);
        assert_eq!(
            limits("maxTokensLimit: 300"),
            [Some(300), Some(50), Some(300)]
        );
        assert_eq!(
            limits("maxTokens: 100, maxTokensLimit: 300"),
            [Some(100), Some(50), Some(300)]
        );
    }

    #[test]
    fn upstream_server_gets_only_limits_that_somebody_set() {
        let upstream = |max_tokens, max_tokens_limit| ModelSpec {
            engine: EngineKind::Upstream,
            max_tokens,
            max_tokens_limit,
            ..ModelSpec::default()
        };
        assert_eq!(upstream(None, None).max_answer_tokens(None), None);
        assert_eq!(upstream(None, None).max_answer_tokens(Some(9)), Some(9));
        assert_eq!(upstream(Some(7), None).max_answer_tokens(None), Some(7));
        // A request cannot pass by the owner's limit by naming none.
        assert_eq!(upstream(None, Some(5)).max_answer_tokens(None), Some(5));
    }

    #[test]
    fn what_changes_answers_changes_the_revision_and_its_absence_does_not() {
        let revision = |fields: &str| model(fields).unwrap().serving_revision();
        let plain = revision("");
        for fields in [
            "maxTokens: 100",
            "maxTokensLimit: 100",
            "defaults: {temperature: 0}",
            "systemPrompt: {text: x}",
        ] {
            assert_ne!(revision(fields), plain, "{fields}");
        }
        assert_eq!(revision("defaults: {}"), plain);
    }
}

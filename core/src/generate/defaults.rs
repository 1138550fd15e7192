//! The values that apply where a request names none: those of the model's spec, else those of its files,
//! else the neutral ones.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ChatMessage, GenerateInput, GenerateRequest, SamplingParams, TemplateArgs, parse_template_args,
};
use crate::spec::{EngineKind, ModelSpec, SystemPrompt, SystemPromptMode};

/// What the files of a loaded model say about sampling and about the context.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileDefaults {
    /// The context length that the files state, in tokens. `None` if they state none.
    pub context: Option<u32>,
    /// The values of sampling that the files name.
    pub sampling: SamplingParams,
    /// The name of the file with the values of sampling, such as `generation_config.json`.
    pub source: String,
    /// What is wrong with the files. The values concerned are not used.
    pub warnings: Vec<String>,
}

/// The values that apply to a model's requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EffectiveDefaults {
    spec: ModelSpec,
    files: FileDefaults,
    /// The model's context length, in tokens.
    context: Option<u32>,
    /// The values of the spec, else those of the files.
    sampling: SamplingParams,
}

/// A value that applies where a request names none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefaultValue {
    /// The name of the field in a model's spec, such as `topP`.
    pub field: String,
    /// The value.
    pub value: Value,
    /// `spec`, `built in`, `context` (the model's context length), `model's files`, or the name of the model's file
    /// that says so.
    pub source: String,
    /// Whether a request that names a value of its own gets that.
    pub overridable: bool,
}

impl EffectiveDefaults {
    /// Puts the values of a spec before those of the model's files. `context` is the model's context
    /// length in tokens, if it is known.
    #[must_use]
    pub fn new(spec: &ModelSpec, files: FileDefaults, context: Option<u32>) -> Self {
        Self {
            spec: spec.clone(),
            sampling: spec.defaults.sampling().or(&files.sampling),
            files,
            context,
        }
    }

    /// What the model's files say.
    #[must_use]
    pub fn files(&self) -> &FileDefaults {
        &self.files
    }

    /// The model's context length in tokens, if it is known.
    #[must_use]
    pub fn context(&self) -> Option<u32> {
        self.context
    }

    /// Fills in what a request does not say. What it says stays, except for a token limit above
    /// `maxTokensLimit`, which is lowered to it.
    #[must_use]
    pub fn apply<M>(&self, mut request: GenerateRequest<M>) -> GenerateRequest<M> {
        let max_tokens = self.max_tokens(request.sampling.max_tokens);
        request.sampling = SamplingParams {
            max_tokens,
            ..request.sampling.or(&self.sampling)
        };
        if let GenerateInput::Chat(messages) = &mut request.input {
            if let Some(prompt) = &self.spec.system_prompt {
                add_system_prompt(messages, prompt);
            }
            let defaults = &self.spec.defaults.chat_template_args;
            request.chat_template_args = merge_args(request.chat_template_args, defaults);
        }
        request
    }

    /// Returns the token limit of an answer to a request that names the limit `requested`.
    fn max_tokens(&self, requested: Option<u32>) -> Option<u32> {
        let limit = self.spec.max_answer_tokens(requested)?;
        let context = self.context.filter(|_| requested.is_none());
        Some(context.map_or(limit, |context| limit.min(context)))
    }

    /// Returns all values, each with its source. Those that nobody set and that have no neutral value are
    /// left out. An upstream server has its own, so that only those of the spec are returned.
    #[must_use]
    pub fn values(&self) -> Vec<DefaultValue> {
        let spec = &self.spec;
        let own = spec.defaults.sampling();
        let files = &self.files.sampling;
        let layers = |of: fn(&SamplingParams) -> Option<Value>| (of(&own), of(files));
        let mut list = ValueList {
            file_name: &self.files.source,
            with_neutral: spec.engine != EngineKind::Upstream,
            values: Vec::new(),
        };
        if let Some(context) = self.context.filter(|_| spec.engine.computes()) {
            let source = match spec.options.context_length {
                Some(_) => "spec",
                None if self.files.context == Some(context) => "model's files",
                None => "built in",
            };
            list.add_fixed("options.contextLength", Some(context.into()), source);
        }
        let limit = self.max_tokens(None);
        let is_own = spec.max_tokens.is_some() || limit == spec.max_tokens_limit;
        let (own_limit, built_in) = if is_own { (limit, None) } else { (None, limit) };
        let own_limit = (own_limit.map(Value::from), None);
        list.add("maxTokens", own_limit, built_in.map(Value::from));
        if limit < spec.max_answer_tokens(None)
            && let Some(max_tokens) = list.values.last_mut()
        {
            max_tokens.source = "context".to_owned();
        }
        let most_tokens = spec.max_tokens_limit.map(Value::from);
        list.add_fixed("maxTokensLimit", most_tokens, "spec");
        list.add("temperature", layers(|s| number(s.temperature)), json!(1));
        list.add("topP", layers(|s| number(s.top_p)), json!(1));
        list.add("topK", layers(|s| s.top_k.map(Value::from)), json!(0));
        list.add("minP", layers(|s| number(s.min_p)), json!(0));
        let repetition = layers(|s| number(s.repetition_penalty.map(widen)));
        list.add("repetitionPenalty", repetition, json!(1));
        let frequency = layers(|s| number(s.frequency_penalty.map(widen)));
        list.add("frequencyPenalty", frequency, json!(0));
        let presence = layers(|s| number(s.presence_penalty.map(widen)));
        list.add("presencePenalty", presence, json!(0));
        list.add("stop", layers(|s| s.stop.clone().map(Value::from)), None);
        list.add("seed", layers(|s| s.seed.map(Value::from)), None);
        for (name, value) in &spec.defaults.chat_template_args {
            let field = format!("chatTemplateArgs.{name}");
            list.add(&field, (Some(value.clone()), None), None);
        }
        if let Some(prompt) = &spec.system_prompt {
            let value = Some(Value::from(prompt.text.as_str()));
            match prompt.mode {
                SystemPromptMode::WhenMissing => list.add("systemPrompt", (value, None), None),
                SystemPromptMode::Always => list.add_fixed("systemPrompt", value, "spec"),
            }
        }
        list.values
    }
}

/// The values that [`EffectiveDefaults::values`] returns, while they are collected.
struct ValueList<'a> {
    file_name: &'a str,
    /// Whether values that nobody set have their neutral value.
    with_neutral: bool,
    values: Vec<DefaultValue>,
}

impl ValueList<'_> {
    /// Adds the first value that there is: of the spec, of the files, the neutral one.
    fn add(
        &mut self,
        field: &str,
        (spec, files): (Option<Value>, Option<Value>),
        neutral: impl Into<Option<Value>>,
    ) {
        let neutral = neutral.into().filter(|_| self.with_neutral);
        let (value, source) = match (spec, files, neutral) {
            (Some(value), ..) => (value, "spec"),
            (None, Some(value), _) => (value, self.file_name),
            (None, None, Some(value)) => (value, "built in"),
            (None, None, None) => return,
        };
        self.values.push(DefaultValue {
            field: field.to_owned(),
            value,
            source: source.to_owned(),
            overridable: true,
        });
    }

    /// Adds a value that no request overrides.
    fn add_fixed(&mut self, field: &str, value: Option<Value>, source: &str) {
        if let Some(value) = value {
            self.values.push(DefaultValue {
                field: field.to_owned(),
                value,
                source: source.to_owned(),
                overridable: false,
            });
        }
    }
}

/// Returns a number without a fraction as an integer, as people write it.
fn number(value: Option<f64>) -> Option<Value> {
    let value = value?;
    let is_whole = value.fract() == 0.0 && value.abs() < f64::from(u32::MAX);
    Some(if is_whole {
        Value::from(value as i64)
    } else {
        Value::from(value)
    })
}

/// Returns the number of 64 bits with the shortest digits that are rounded to `value`.
fn widen(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Puts the owner's text before a conversation. Many chat templates take one system message, and only at
/// the beginning, so the text goes into one that is there.
fn add_system_prompt(messages: &mut Vec<ChatMessage>, prompt: &SystemPrompt) {
    let is_system = |message: &ChatMessage| ["system", "developer"].contains(&&*message.role);
    if prompt.mode == SystemPromptMode::WhenMissing && messages.iter().any(is_system) {
        return;
    }
    match messages.first_mut().filter(|first| is_system(first)) {
        Some(first) => {
            let separator = if first.content.is_empty() { "" } else { "\n\n" };
            first.content = [&*prompt.text, separator, &*first.content].concat();
        }
        None => {
            let message = ChatMessage {
                role: "system".to_owned(),
                content: prompt.text.clone(),
                ..ChatMessage::default()
            };
            messages.insert(0, message);
        }
    }
}

/// Adds the default arguments that a request does not name.
fn merge_args(requested: Option<String>, defaults: &TemplateArgs) -> Option<String> {
    if defaults.is_empty() {
        return requested;
    }
    let mut args = match requested.as_deref().map(parse_template_args) {
        None => TemplateArgs::new(),
        Some(Ok(args)) => args,
        // The engine refuses it.
        Some(Err(_)) => return requested,
    };
    for (name, value) in defaults {
        args.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Some(Value::Object(args).to_string())
}

#[cfg(test)]
mod tests;

//! A model of an OpenAI-compatible server that the node can reach: llama.cpp server, Ollama,
//! vLLM and others. A node that runs one already joins with it as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{
    ChatMessage, ChoiceDelta, ChoiceFinished, EmbedRequest, Embeddings, FinishReason,
    GenerateEvent, GenerateInput, GenerateRequest, OutputConstraint, RequestError, SamplingParams,
    TokenLogprob, Tool, ToolCallDelta, ToolChoice, TopLogprob, Usage,
};
use flotilla_core::spec::Model;
use futures::{Stream, StreamExt};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{ComputeLocation, Engine, GenerateEvents, LoadError, LoadProgress, LoadedModel};

/// How long the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to say which models it has.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest line of a stream, in bytes; longer ones are no tokens.
const MAX_LINE: usize = 4 << 20;

/// Models of OpenAI-compatible servers.
pub struct UpstreamEngine {
    client: Client,
    /// Asks nobody on the way, whatever the environment says.
    direct: Client,
}

impl UpstreamEngine {
    /// An engine with a connection pool of its own.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new() -> Result<Self, LoadError> {
        let client = || {
            Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                // A prompt goes where the spec says, not where a server sends it on to.
                .redirect(Policy::none())
                .tcp_nodelay(true)
        };
        let built = |builder: ClientBuilder| {
            let client = builder.build();
            client.map_err(|e| LoadError::Engine(e.to_string()))
        };
        Ok(Self {
            client: built(client())?,
            direct: built(client().no_proxy())?,
        })
    }
}

#[async_trait]
impl Engine for UpstreamEngine {
    async fn estimate(&self, _: &Model) -> Result<Bytes, LoadError> {
        // The server's memory is the server's business.
        Ok(Bytes(0))
    }

    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        progress("asking the server", 0.0);
        let options = &model.spec.options;
        let url = options.url.as_deref().unwrap_or_default();
        let key = match &options.api_key_env {
            None => None,
            Some(name) => Some(std::env::var(name).map_err(|_| {
                LoadError::Spec(format!("the agent has no environment variable {name}"))
            })?),
        };
        let upstream = UpstreamModel {
            // What stays on the node or in a privacy zone passes no proxy outside.
            client: if options.stays_on_node() || options.zone.is_some() {
                self.direct.clone()
            } else {
                self.client.clone()
            },
            base: url.trim_end_matches('/').to_owned(),
            model: options
                .model
                .clone()
                .unwrap_or_else(|| model.name().to_string()),
            key,
        };
        upstream.probe().await?;
        Ok(Arc::new(upstream))
    }
}

struct UpstreamModel {
    client: Client,
    base: String,
    /// The model's name there.
    model: String,
    key: Option<String>,
}

impl UpstreamModel {
    /// Asks whether the server is there.
    async fn probe(&self) -> Result<(), LoadError> {
        let url = format!("{}/models", self.base);
        let request = self.authorize(self.client.get(&url)).timeout(PROBE_TIMEOUT);
        let response = request
            .send()
            .await
            .map_err(|e| LoadError::Engine(format!("{url} cannot be reached: {}", cause(&e))))?;
        // A server without this list may still answer requests.
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(LoadError::Spec(format!(
                "{url} refuses the API key: set spec.options.apiKeyEnv"
            ))),
            _ => Ok(()),
        }
    }

    fn authorize(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Response, RequestError> {
        let url = format!("{}/{path}", self.base);
        let request = self.authorize(self.client.post(&url)).json(body);
        let response = request.send().await.map_err(|e| lost(&url, &e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(response).await)
    }
}

#[async_trait]
impl LoadedModel for UpstreamModel {
    fn compute_location(&self) -> ComputeLocation {
        ComputeLocation::OtherProcess
    }

    fn has_prefix_cache(&self) -> bool {
        // llama.cpp's server, Ollama, vLLM and hosted models do.
        true
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        let (path, body) = body(&self.model, &request);
        let response = self.post(path, &body).await?;
        Ok(events(response, request.choices).boxed())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        #[derive(Deserialize)]
        struct EmbeddingsReply {
            data: Vec<EmbeddingItem>,
            usage: Option<UsageField>,
        }
        #[derive(Deserialize)]
        struct EmbeddingItem {
            embedding: Vec<f32>,
        }
        let body =
            json!({"model": self.model, "input": request.inputs, "encoding_format": "float"});
        let response = self.post("embeddings", &body).await?;
        let reply: EmbeddingsReply = response.json().await.map_err(|e| {
            RequestError::Engine(format!("the server's embeddings make no sense: {e}"))
        })?;
        Ok(Embeddings {
            vectors: reply.data.into_iter().map(|item| item.embedding).collect(),
            prompt_tokens: reply.usage.map_or(0, |usage| usage.prompt_tokens),
            energy: None,
        })
    }
}

/// The request in OpenAI's words, always streamed: only a stream can be stopped.
fn body(model: &str, request: &GenerateRequest) -> (&'static str, Value) {
    let mut body = Map::new();
    let mut set = |field: &str, value: Value| {
        if !value.is_null() {
            body.insert(field.to_owned(), value);
        }
    };
    set("model", json!(model));
    set("stream", json!(true));
    set("stream_options", json!({"include_usage": true}));
    sampling(&request.sampling, &mut set);
    if request.choices > 1 {
        set("n", json!(request.choices));
    }
    let path = match &request.input {
        GenerateInput::Text(text) => {
            set("prompt", json!(text));
            set("logprobs", json!(request.logprobs));
            "completions"
        }
        GenerateInput::Chat(messages) => {
            set("messages", messages.iter().map(message).collect());
            if let Some(top) = request.logprobs {
                set("logprobs", json!(true));
                set("top_logprobs", json!(top));
            }
            "chat/completions"
        }
    };
    match &request.constraint {
        None => {}
        Some(OutputConstraint::JsonObject) => {
            set("response_format", json!({"type": "json_object"}))
        }
        Some(OutputConstraint::JsonSchema(schema)) => {
            let schema = json!({"name": "answer", "schema": parsed(schema)});
            set(
                "response_format",
                json!({"type": "json_schema", "json_schema": schema}),
            );
        }
    }
    if !request.tools.is_empty() {
        set("tools", request.tools.iter().map(tool).collect());
        set(
            "tool_choice",
            match &request.tool_choice {
                ToolChoice::Auto => json!("auto"),
                ToolChoice::None => json!("none"),
                ToolChoice::Required => json!("required"),
                ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
            },
        );
    }
    (path, Value::Object(body))
}

/// What differs from the default; servers refuse fields that they do not know.
fn sampling(sampling: &SamplingParams, set: &mut impl FnMut(&str, Value)) {
    let default = SamplingParams::default();
    set("temperature", json!(sampling.temperature));
    if sampling.top_p != default.top_p {
        set("top_p", json!(sampling.top_p));
    }
    set("top_k", json!(sampling.top_k));
    set("min_p", json!(sampling.min_p));
    set("seed", json!(sampling.seed));
    set("max_tokens", json!(sampling.max_tokens));
    if !sampling.stop.is_empty() {
        set("stop", json!(sampling.stop));
    }
    if sampling.frequency_penalty != 0.0 {
        set("frequency_penalty", json!(sampling.frequency_penalty));
    }
    if sampling.presence_penalty != 0.0 {
        set("presence_penalty", json!(sampling.presence_penalty));
    }
    set("repetition_penalty", json!(sampling.repetition_penalty));
    if !sampling.logit_bias.is_empty() {
        set("logit_bias", json!(sampling.logit_bias));
    }
}

fn message(message: &ChatMessage) -> Value {
    let calls: Vec<_> = message
        .tool_calls
        .iter()
        .map(|call| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": call.id, "type": "function", "function": function})
        })
        .collect();
    let mut fields = json!({"role": message.role, "content": message.content});
    if let Some(name) = &message.name {
        fields["name"] = json!(name);
    }
    if let Some(id) = &message.tool_call_id {
        fields["tool_call_id"] = json!(id);
    }
    if !calls.is_empty() {
        fields["tool_calls"] = Value::Array(calls);
    }
    fields
}

fn tool(tool: &Tool) -> Value {
    let mut function = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        function["description"] = json!(description);
    }
    if let Some(parameters) = &tool.parameters {
        function["parameters"] = parsed(parameters);
    }
    json!({"type": "function", "function": function})
}

/// JSON text that was checked before.
fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// A chunk of either kind of completion; all fields but the choices' may be missing.
#[derive(Deserialize)]
struct UpstreamChunk {
    #[serde(default)]
    choices: Vec<ChunkChoice>,
    usage: Option<UsageField>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct ChunkChoice {
    #[serde(default)]
    index: u32,
    delta: Option<DeltaField>,
    text: Option<String>,
    logprobs: Option<LogprobsField>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct DeltaField {
    content: Option<String>,
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<CallField>>,
}

#[derive(Deserialize)]
struct CallField {
    #[serde(default)]
    index: u32,
    id: Option<String>,
    function: Option<FunctionField>,
}

#[derive(Deserialize)]
struct FunctionField {
    name: Option<String>,
    arguments: Option<String>,
}

/// Log-probabilities as chat gives them, and as text completion does.
#[derive(Deserialize)]
struct LogprobsField {
    content: Option<Vec<LogprobField>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
}

#[derive(Deserialize)]
struct LogprobField {
    token: String,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<TopField>,
}

#[derive(Deserialize)]
struct TopField {
    token: String,
    logprob: f32,
}

#[derive(Clone, Copy, Deserialize)]
struct UsageField {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
}

/// The events of a streamed response.
fn events(
    response: Response,
    choices: u32,
) -> impl Stream<Item = Result<GenerateEvent, RequestError>> + Send {
    stream! {
        let mut lines = std::pin::pin!(lines(response));
        let mut usage = None;
        let mut deltas = 0;
        let mut open = choices;
        while let Some(line) = lines.next().await {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            let Some(data) = line.strip_prefix("data:").map(str::trim) else {
                continue;
            };
            if data == "[DONE]" {
                break;
            }
            let chunk: UpstreamChunk = match serde_json::from_str(data) {
                Ok(chunk) => chunk,
                Err(error) => {
                    yield Err(RequestError::Engine(format!("the server's answer makes no sense: {error}")));
                    return;
                }
            };
            if let Some(error) = chunk.error {
                yield Err(RequestError::Engine(format!("the server failed: {}", error_message(&error))));
                return;
            }
            usage = chunk.usage.or(usage);
            for choice in chunk.choices {
                let (index, finish) = (choice.index, choice.finish_reason.clone());
                if let Some(delta) = delta(choice) {
                    deltas += 1;
                    yield Ok(GenerateEvent::Delta(delta));
                }
                if let Some(word) = finish {
                    open = open.saturating_sub(1);
                    let reason = match word.as_str() {
                        "length" => FinishReason::Length,
                        "tool_calls" | "function_call" => FinishReason::ToolCalls,
                        _ => FinishReason::Stop,
                    };
                    yield Ok(GenerateEvent::Finished(ChoiceFinished { choice: index, reason }));
                }
            }
        }
        if open > 0 {
            yield Err(RequestError::NodeLost("the server broke its answer off".into()));
            return;
        }
        // A server that does not count leaves the pieces to be counted.
        let counted = UsageField { prompt_tokens: 0, completion_tokens: deltas };
        let usage = usage.unwrap_or(counted);
        yield Ok(GenerateEvent::Usage(Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: None,
            energy: None,
        }));
    }
}

/// The lines of a response, as they come.
fn lines(response: Response) -> impl Stream<Item = Result<String, RequestError>> + Send {
    stream! {
        let mut bytes = response.bytes_stream();
        let mut buffer = Vec::new();
        while let Some(piece) = bytes.next().await {
            match piece {
                Ok(piece) => buffer.extend_from_slice(&piece),
                Err(error) => {
                    yield Err(RequestError::NodeLost(format!("the server broke its answer off: {}", cause(&error))));
                    return;
                }
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                yield Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if buffer.len() > MAX_LINE {
                yield Err(RequestError::Engine("the server's answer has no end of line".into()));
                return;
            }
        }
    }
}

/// What a choice of a chunk adds, if anything.
fn delta(choice: ChunkChoice) -> Option<ChoiceDelta> {
    let field = choice.delta.unwrap_or_default();
    let delta = ChoiceDelta {
        choice: choice.index,
        content: field.content.or(choice.text).unwrap_or_default(),
        reasoning: field.reasoning_content.unwrap_or_default(),
        tool_calls: field
            .tool_calls
            .unwrap_or_default()
            .into_iter()
            .map(|call| {
                let (name, arguments) = call
                    .function
                    .map_or((None, None), |f| (f.name, f.arguments));
                ToolCallDelta {
                    index: call.index,
                    id: call.id,
                    name,
                    arguments: arguments.unwrap_or_default(),
                }
            })
            .collect(),
        logprobs: choice.logprobs.map(logprobs).unwrap_or_default(),
    };
    let nothing = ChoiceDelta {
        choice: delta.choice,
        ..ChoiceDelta::default()
    };
    (delta != nothing).then_some(delta)
}

fn logprobs(field: LogprobsField) -> Vec<TokenLogprob> {
    let alternative = |(token, logprob)| TopLogprob { token, logprob };
    if let Some(content) = field.content {
        let tokens = content.into_iter().map(|token| TokenLogprob {
            token: token.token,
            logprob: token.logprob,
            top: token
                .top_logprobs
                .into_iter()
                .map(|top| alternative((top.token, top.logprob)))
                .collect(),
        });
        return tokens.collect();
    }
    let mut logprobs = field.token_logprobs.unwrap_or_default().into_iter();
    let mut tops = field.top_logprobs.unwrap_or_default().into_iter();
    let tokens = field
        .tokens
        .unwrap_or_default()
        .into_iter()
        .map(|token| TokenLogprob {
            token,
            logprob: logprobs.next().flatten().unwrap_or_default(),
            top: tops
                .next()
                .flatten()
                .unwrap_or_default()
                .into_iter()
                .map(alternative)
                .collect(),
        });
    tokens.collect()
}

/// What a server's refusal means.
async fn refused(response: Response) -> RequestError {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(reqwest::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map_or(Duration::from_secs(1), Duration::from_secs);
    let text = response.text().await.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    let error = body.get("error").unwrap_or(&body);
    let message = error_message(error);
    let code = error.get("code").and_then(Value::as_str);
    match status {
        StatusCode::TOO_MANY_REQUESTS => RequestError::Overloaded {
            message,
            retry_after,
        },
        StatusCode::SERVICE_UNAVAILABLE => RequestError::Unavailable(message),
        StatusCode::BAD_REQUEST if code == Some("context_length_exceeded") => {
            RequestError::ContextLength(message)
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => RequestError::Invalid {
            param: error
                .get("param")
                .and_then(Value::as_str)
                .map(str::to_owned),
            message,
        },
        _ => RequestError::Engine(format!("the server answered {status}: {message}")),
    }
}

/// The text of an error of any server.
fn error_message(error: &Value) -> String {
    let text = error.get("message").unwrap_or(error);
    text.as_str()
        .map_or_else(|| text.to_string(), str::to_owned)
}

fn lost(url: &str, error: &reqwest::Error) -> RequestError {
    RequestError::NodeLost(format!("{url} cannot be reached: {}", cause(error)))
}

/// The innermost cause: what reqwest wraps around it says nothing more.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;

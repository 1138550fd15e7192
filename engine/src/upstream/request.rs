//! Requests in OpenAI's format.

use flotilla_core::generate::{
    ChatMessage, EmbedInput, EmbedRequest, GenerateInput, GenerateRequest, JsonSchemaFormat,
    OutputConstraint, SamplingParams, Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

/// The body of a request. Fields without a value are left out: servers reject fields they do not
/// know.
#[derive(Default)]
struct RequestBody(Map<String, Value>);

impl RequestBody {
    /// Sets a field unless its value is null.
    fn set(&mut self, field: &str, value: Value) {
        if !value.is_null() {
            self.0.insert(field.to_owned(), value);
        }
    }
}

/// Returns the path below the base URL and the body for a generation by the model that the server
/// calls `model`. It is always streamed: a server stops computing only when a stream is closed.
pub(super) fn completion(model: &str, request: &GenerateRequest) -> (&'static str, Value) {
    let mut body = RequestBody::default();
    body.set("model", json!(model));
    body.set("stream", json!(true));
    body.set("stream_options", json!({"include_usage": true}));
    set_sampling(&mut body, &request.sampling);
    set_token_limit(&mut body, request);
    let path = set_input(&mut body, request);
    if let Some(constraint) = &request.constraint {
        body.set("response_format", response_format(constraint));
    }
    if !request.tools.is_empty() {
        body.set("tools", request.tools.iter().map(tool).collect());
        body.set("tool_choice", tool_choice(&request.tool_choice));
        body.set("parallel_tool_calls", json!(request.parallel_tool_calls));
    }
    body.set("reasoning_effort", json!(request.reasoning_effort));
    body.set("user", json!(request.upstream.user));
    let template_args = request.chat_template_args.as_deref();
    body.set(
        "chat_template_kwargs",
        template_args.map_or(Value::Null, parse),
    );
    set_extra(&mut body, request.upstream.extra.as_deref());
    (path, Value::Object(body.0))
}

/// Returns the body for the embeddings of the request's inputs by the model that the server calls
/// `model`. Inputs of token ids and texts cannot be mixed in OpenAI's format: the gateway takes only one
/// of both in a request.
pub(super) fn embeddings(model: &str, request: &EmbedRequest) -> Value {
    let inputs: Vec<Value> = request.inputs.iter().map(embed_input).collect();
    json!({"model": model, "input": inputs, "encoding_format": "float"})
}

fn embed_input(input: &EmbedInput) -> Value {
    match input {
        EmbedInput::Text(text) => json!(text),
        EmbedInput::Tokens(tokens) => json!(tokens),
    }
}

/// Sets the prompt and the log-probabilities, which the two endpoints name differently, and returns
/// the endpoint's path.
fn set_input(body: &mut RequestBody, request: &GenerateRequest) -> &'static str {
    match &request.input {
        GenerateInput::Text(text) => {
            body.set("prompt", json!(text));
            body.set("logprobs", json!(request.logprobs));
            "completions"
        }
        GenerateInput::Tokens(tokens) => {
            body.set("prompt", json!(tokens));
            body.set("logprobs", json!(request.logprobs));
            "completions"
        }
        GenerateInput::Chat(messages) => {
            body.set("messages", messages.iter().map(message).collect());
            if let Some(alternatives) = request.logprobs {
                body.set("logprobs", json!(true));
                body.set("top_logprobs", json!(alternatives));
            }
            "chat/completions"
        }
    }
}

/// Sets the sampling parameters that the client named.
fn set_sampling(body: &mut RequestBody, sampling: &SamplingParams) {
    body.set("temperature", json!(sampling.temperature));
    body.set("top_p", json!(sampling.top_p));
    body.set("top_k", json!(sampling.top_k));
    body.set("min_p", json!(sampling.min_p));
    body.set("seed", json!(sampling.seed));
    body.set("stop", json!(sampling.stop));
    body.set("frequency_penalty", json!(sampling.frequency_penalty));
    body.set("presence_penalty", json!(sampling.presence_penalty));
    body.set("repetition_penalty", json!(sampling.repetition_penalty));
    if !sampling.logit_bias.is_empty() {
        body.set("logit_bias", json!(sampling.logit_bias));
    }
}

/// Sets the most tokens under the name that the client used.
fn set_token_limit(body: &mut RequestBody, request: &GenerateRequest) {
    let field = if request.upstream.max_completion_tokens {
        "max_completion_tokens"
    } else {
        "max_tokens"
    };
    body.set(field, json!(request.sampling.max_tokens));
}

/// Adds the fields that only servers know. They replace none of the others.
fn set_extra(body: &mut RequestBody, extra: Option<&str>) {
    let Some(Value::Object(extra)) = extra.map(parse) else {
        return;
    };
    for (field, value) in extra {
        body.0.entry(field).or_insert(value);
    }
}

fn response_format(constraint: &OutputConstraint) -> Value {
    match constraint {
        OutputConstraint::JsonObject => json!({"type": "json_object"}),
        OutputConstraint::JsonSchema(format) => json!({
            "type": "json_schema",
            "json_schema": json_schema(format),
        }),
    }
}

fn json_schema(format: &JsonSchemaFormat) -> Value {
    let mut fields = RequestBody::default();
    // Servers refuse a format without a name.
    fields.set("name", json!(format.name.as_deref().unwrap_or("answer")));
    fields.set("description", json!(format.description));
    fields.set("schema", parse(&format.schema));
    fields.set("strict", json!(format.strict));
    Value::Object(fields.0)
}

/// Returns the field `tool_choice`, null where the server decides.
fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => Value::Null,
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
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
    let has_no_content = message.content.is_empty() && !calls.is_empty();
    let content = (!has_no_content).then_some(message.content.as_str());
    let mut fields = json!({"role": message.role, "content": content});
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
        function["parameters"] = parse(parameters);
    }
    if let Some(strict) = tool.strict {
        function["strict"] = json!(strict);
    }
    json!({"type": "function", "function": function})
}

/// Parses JSON text that the gateway has validated.
fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use flotilla_core::ModelName;
use flotilla_core::generate::{
    ChatMessage, ChoiceFinished, EmbedInput, FinishReason, GenerateEvent, GenerateInput,
    JsonSchemaFormat, OutputConstraint, SamplingParams, Tool, ToolCall, ToolChoice, UpstreamFields,
    Usage,
};
use flotilla_core::spec::{EngineKind, EngineOptions, ModelSpec};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Starts a server that answers every completion with `body`, and loads a model of it.
async fn serve(status: u16, body: &'static str) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    let router = Router::new()
        .route("/v1/models", get(async || "{}"))
        .route("/v1/chat/completions", post(async move || (status, body)))
        .route("/v1/embeddings", post(async move || (status, body)));
    tokio::spawn(axum::serve(listener, router).into_future());
    load(format!("http://{address}/v1/")).await
}

async fn load(url: String) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let spec = ModelSpec {
        engine: EngineKind::Upstream,
        options: EngineOptions {
            url: Some(url),
            ..EngineOptions::default()
        },
        ..ModelSpec::default()
    };
    let model = Model::new(ModelName::new("m").unwrap(), spec);
    let progress: LoadProgress = Arc::new(|_, _| {});
    let timeouts = ServerTimeouts {
        first_byte: Duration::from_millis(300),
        silence: Duration::from_millis(300),
        ..ServerTimeouts::default()
    };
    let engine = UpstreamEngine::with_timeouts(Vec::new(), timeouts).unwrap();
    engine.load(&model, progress, &LoadControl::default()).await
}

fn request() -> GenerateRequest {
    GenerateRequest {
        stream: true,
        ..GenerateRequest::new(
            ModelName::new("m").unwrap(),
            GenerateInput::Chat(vec![ChatMessage {
                role: "user".into(),
                content: "hi".into(),
                ..ChatMessage::default()
            }]),
        )
    }
}

async fn answer_of(model: &dyn LoadedModel) -> Result<Vec<GenerateEvent>, RequestError> {
    let events: Vec<_> = model.generate(request()).await?.collect().await;
    events.into_iter().collect()
}

async fn answer(status: u16, body: &'static str) -> Result<Vec<GenerateEvent>, RequestError> {
    answer_of(&*serve(status, body).await.unwrap()).await
}

#[tokio::test]
async fn streamed_answer_is_parsed_into_events() {
    let body = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"a\"}}]}\n\n\
        : a comment\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"},\"finish_reason\":\"length\"}]}\r\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n\
        data: [DONE]\n\n";
    let events = answer(200, body).await.unwrap();
    let text: String = events
        .iter()
        .filter_map(|event| match event {
            GenerateEvent::Delta(delta) => Some(delta.content.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "ab");
    let end = GenerateEvent::Finished(ChoiceFinished {
        choice: 0,
        reason: FinishReason::Length,
    });
    let usage = GenerateEvent::Usage(Usage {
        prompt_tokens: 3,
        completion_tokens: 2,
        timing: None,
        energy: None,
    });
    assert_eq!(events[2..], [end, usage]);
}

#[tokio::test]
async fn anything_but_an_answer_is_the_servers_fault() {
    for (body, cause) in [
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
            "interrupted",
        ),
        (
            "data: {\"error\":{\"message\":\"out of memory\"}}\n\n",
            "out of memory",
        ),
        (
            "event: error\ndata: {\"message\":\"out of memory\"}\n\n",
            "out of memory",
        ),
        ("data: {\n\n", "cannot be parsed"),
        ("{\"error\": \"out of memory\"}", "out of memory"),
        ("<html></html>", "neither an event stream nor JSON"),
        ("data: [DONE]\n\n", "no choice"),
    ] {
        let error = answer(200, body).await.unwrap_err();
        assert!(matches!(error, RequestError::Upstream(_)), "{error:?}");
        assert!(error.to_string().contains(cause), "{error}");
    }
    let error = answer(400, r#"{"error": {"message": "no", "param": "top_k"}}"#).await;
    assert_eq!(
        error,
        Err(RequestError::invalid(
            "top_k",
            "The server answered 400 Bad Request: no"
        ))
    );
}

#[tokio::test]
async fn embeddings_that_do_not_match_the_inputs_are_refused() {
    let embed = async |body| {
        let model = serve(200, body).await.unwrap();
        let text = |text: &str| EmbedInput::Text(text.into());
        let request = EmbedRequest {
            model: ModelName::new("m").unwrap(),
            inputs: vec![text("a"), text("b")],
            queue_key: Default::default(),
            deadline: None,
        };
        model.embed(request).await
    };
    let body = r#"{"data": [{"index": 1, "embedding": [1]}, {"index": 0, "embedding": [0]}],
        "usage": {"prompt_tokens": 2}}"#;
    let embeddings = embed(body).await.unwrap();
    assert_eq!(embeddings.vectors, [[0.0], [1.0]]);
    assert_eq!(embeddings.prompt_tokens, 2);
    let error = embed(r#"{"data": [{"index": 0, "embedding": [0]}]}"#).await;
    assert!(matches!(error, Err(RequestError::Upstream(_))), "{error:?}");
}

/// Starts a server that does the next of `steps` with each connection after the first, which lists the
/// models: sends this text, or drops the connection.
async fn serve_raw(steps: Vec<&'static str>) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        for step in [MODELS].into_iter().chain(steps) {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0; 4096]).await;
            connection.write_all(step.as_bytes()).await.unwrap();
            if step.ends_with(SILENT) {
                open.push(connection);
            }
        }
        std::future::pending::<()>().await;
    });
    load(format!("http://{address}/v1")).await
}

/// The answer to a request for the models.
const MODELS: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
/// Marks an answer after which the connection stays open.
const SILENT: &str = "silent";

#[tokio::test]
async fn server_that_cannot_be_reached_leaves_the_retry_to_the_controller() {
    let whole = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"choices\": [{\"text\": \"a\"}]}";
    let model = serve_raw(vec!["", whole]).await.unwrap();
    // The connection is dropped before the headers: the request is not sent again here.
    let error = answer_of(&*model).await.unwrap_err();
    assert!(
        matches!(error, RequestError::UpstreamUnreachable(_)),
        "{error:?}"
    );
    assert!(error.is_retryable() && error.is_replica_fault());
    assert!(answer_of(&*model).await.is_ok());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer_probe = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let _ = connection.read(&mut [0; 4096]).await;
        connection.write_all(MODELS.as_bytes()).await.unwrap();
        // No further connection is accepted.
        drop(listener);
    };
    let (model, ()) = tokio::join!(load(url), answer_probe);
    let error = answer_of(&*model.unwrap()).await.unwrap_err();
    assert!(
        matches!(error, RequestError::UpstreamUnreachable(_)),
        "{error:?}"
    );
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn silent_server_is_given_up() {
    let within_head = "HTTP/1.1 200 OK\r\nsilent";
    let within_body = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: silent";
    for step in [within_head, within_body] {
        let model = serve_raw(vec![step, step]).await.unwrap();
        let error = answer_of(&*model).await.unwrap_err();
        assert!(matches!(error, RequestError::Upstream(_)), "{error:?}");
    }
}

#[tokio::test]
async fn unreachable_server_fails_the_load() {
    // Nothing listens on port 9 of the loopback: hardly any machine runs the discard service.
    let error = load("http://127.0.0.1:9/v1".into()).await.err().unwrap();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn server_elsewhere_takes_none_of_the_nodes_energy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().route("/v1/models", get(async || "{}"));
    tokio::spawn(axum::serve(listener, router).into_future());
    for (host, location) in [
        ("127.0.0.1", ComputeLocation::OtherProcess),
        // An address that the node does not recognise as its own.
        ("[::ffff:127.0.0.1]", ComputeLocation::OtherMachine),
    ] {
        let model = load(format!("http://{host}:{port}/v1")).await.unwrap();
        assert_eq!(model.compute_location(), location, "{host}");
    }
}

#[test]
fn nothing_is_added_to_a_request() {
    let (path, body) = request::completion("upstream-name", &request());
    assert_eq!(path, "chat/completions");
    let expected = json!({
        "model": "upstream-name", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "hi"}],
    });
    assert_eq!(body, expected);
}

#[test]
fn what_the_client_said_is_written_in_openais_format() {
    let mut request = request();
    let call = ToolCall {
        id: "c".into(),
        name: "f".into(),
        arguments: "{}".into(),
    };
    if let GenerateInput::Chat(messages) = &mut request.input {
        messages.push(ChatMessage {
            role: "assistant".into(),
            tool_calls: vec![call],
            ..ChatMessage::default()
        });
    }
    request.sampling = SamplingParams {
        seed: Some(-1),
        max_tokens: Some(9),
        temperature: Some(0.0),
        logit_bias: BTreeMap::from([(3, 1.0)]),
        ..SamplingParams::default()
    };
    request.tools = vec![Tool {
        name: "f".into(),
        description: Some("a function".into()),
        parameters: Some("{\"type\":\"object\"}".into()),
        strict: Some(true),
    }];
    request.tool_choice = ToolChoice::Named("f".into());
    request.parallel_tool_calls = Some(false);
    request.reasoning_effort = Some("low".into());
    request.chat_template_args = Some("{\"enable_thinking\":false}".into());
    request.constraint = Some(OutputConstraint::JsonSchema(JsonSchemaFormat {
        name: Some("city".into()),
        description: Some("a city".into()),
        schema: "{\"type\":\"object\"}".into(),
        strict: Some(false),
    }));
    request.logprobs = Some(2);
    request.upstream = UpstreamFields {
        user: Some("ann".into()),
        max_completion_tokens: true,
        extra: Some("{\"verbosity\":\"low\",\"model\":\"other\"}".into()),
    };
    let (_, body) = request::completion("m", &request);
    let function = json!({
        "name": "f", "description": "a function", "parameters": {"type": "object"}, "strict": true,
    });
    let expected = json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true},
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ]},
        ],
        "temperature": 0.0, "seed": -1, "max_completion_tokens": 9, "logit_bias": {"3": 1.0},
        "logprobs": true, "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "city", "description": "a city", "schema": {"type": "object"}, "strict": false,
        }},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": false, "reasoning_effort": "low", "user": "ann",
        "chat_template_kwargs": {"enable_thinking": false}, "verbosity": "low",
    });
    assert_eq!(body, expected);
}

#[test]
fn text_completion_has_its_own_path_and_log_probabilities() {
    let mut request = request();
    request.input = GenerateInput::Tokens(vec![1, 2]);
    request.logprobs = Some(3);
    let (path, body) = request::completion("m", &request);
    assert_eq!(path, "completions");
    assert_eq!(
        (&body["prompt"], &body["logprobs"]),
        (&json!([1, 2]), &json!(3))
    );
    assert_eq!(body["messages"], Value::Null);
}

use axum::Router;
use axum::routing::{get, post};
use flotilla_core::ModelName;
use flotilla_core::spec::{EngineKind, EngineOptions, ModelSpec};
use serde_json::json;

use flotilla_core::generate::{
    ChatMessage, ChoiceFinished, FinishReason, GenerateEvent, GenerateInput, OutputConstraint,
    Tool, ToolChoice, Usage,
};

use super::*;

/// Starts a server that answers every completion with `body`, and loads a model of it.
async fn serve(status: u16, body: &'static str) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    let router = Router::new()
        .route("/v1/models", get(async || "{}"))
        .route("/v1/chat/completions", post(async move || (status, body)));
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
    UpstreamEngine::new().unwrap().load(&model, progress).await
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

async fn answer(status: u16, body: &'static str) -> Result<Vec<GenerateEvent>, RequestError> {
    let model = serve(status, body).await.unwrap();
    let events: Vec<_> = model.generate(request()).await?.collect().await;
    events.into_iter().collect()
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
async fn interrupted_answer_is_an_error() {
    let body = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    assert!(matches!(
        answer(200, body).await,
        Err(RequestError::NodeLost(_))
    ));
    let body = "data: {\"error\":{\"message\":\"out of memory\"}}\n\n";
    let error = answer(200, body).await.unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert!(matches!(
        answer(200, "data: {\n").await,
        Err(RequestError::Engine(_))
    ));
}

#[tokio::test]
async fn refusal_is_translated_by_its_status() {
    let error = answer(400, r#"{"error": {"message": "no", "param": "top_k"}}"#).await;
    assert_eq!(error, Err(RequestError::invalid("top_k", "no")));
    let error = answer(
        400,
        r#"{"error": {"message": "long", "code": "context_length_exceeded"}}"#,
    );
    assert_eq!(error.await, Err(RequestError::ContextLength("long".into())));
    assert!(matches!(
        answer(429, "{}").await,
        Err(RequestError::Overloaded { .. })
    ));
    assert!(matches!(
        answer(500, "oops").await,
        Err(RequestError::Engine(_))
    ));
}

#[tokio::test]
async fn unreachable_server_fails_the_load() {
    // Nothing listens on port 9 of the loopback: hardly any machine runs the discard service.
    let error = load("http://127.0.0.1:9/v1".into()).await.err().unwrap();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[test]
fn request_is_written_in_openais_format() {
    let mut request = request();
    request.tools = vec![Tool {
        name: "f".into(),
        description: None,
        parameters: Some("{\"type\":\"object\"}".into()),
        strict: None,
    }];
    request.tool_choice = ToolChoice::Named("f".into());
    request.constraint = Some(OutputConstraint::JsonObject);
    request.logprobs = Some(2);
    let (path, body) = request::completion("upstream-name", &request);
    assert_eq!(path, "chat/completions");
    assert_eq!(
        body,
        json!({
            "model": "upstream-name", "stream": true, "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "hi"}],
            "logprobs": true, "top_logprobs": 2,
            "response_format": {"type": "json_object"},
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        })
    );
}

//! What clients and servers see of retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flotilla_tests::Cluster;
use serde_json::{Value, json};

use crate::fixtures::{decision_with_id, header, serve};

/// Requests that the server refused, and those that it answered.
#[derive(Clone, Default)]
struct ServerCounts {
    refused: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
}

/// Refuses every request whose text is the name of a status, and answers the others.
async fn complete(State(counts): State<ServerCounts>, Json(request): Json<Value>) -> Response {
    let text = request["messages"][0]["content"].as_str().unwrap_or("");
    let Ok(status) = text.parse::<u16>() else {
        counts.answered.fetch_add(1, Ordering::SeqCst);
        let message = json!({"role": "assistant", "content": "yes"});
        let choice =
            json!({"index": 0, "message": message, "delta": message, "finish_reason": "stop"});
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
        let body = json!({"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage});
        if request["stream"] != true {
            return Json(body).into_response();
        }
        let frames = format!("data: {body}\n\ndata: [DONE]\n\n");
        return ([("content-type", "text/event-stream")], frames).into_response();
    };
    counts.refused.fetch_add(1, Ordering::SeqCst);
    let status = StatusCode::from_u16(status).unwrap();
    let body = Json(json!({"error": {"message": "maintenance until noon"}}));
    (status, [("retry-after", "1")], body).into_response()
}

/// Starts the server and returns its base URL.
async fn start_server(counts: ServerCounts) -> String {
    let router = Router::new()
        .route("/v1/models", get(|| async { Json(json!({"data": []})) }))
        .route("/v1/chat/completions", post(complete))
        .with_state(counts);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_away_for_ever_gets_few_requests_and_delays_no_other_request() {
    let counts = ServerCounts::default();
    let url = start_server(counts.clone()).await;
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, "other", &json!({"outputTokens": 1})).await;
    let hosted = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "hosted"},
        "spec": {"engine": "upstream", "options": {"url": url}},
    });
    api.apply(&hosted).await;
    cluster.wait_for_replicas("hosted", 1).await;
    let refused = tokio::spawn({
        let api = api.clone();
        async move { api.chat("hosted", "503", false).await }
    });
    cluster
        .wait_until(async || counts.refused.load(Ordering::SeqCst) > 0)
        .await;
    // The others are answered while the first one backs off.
    let began = Instant::now();
    for _ in 0..10 {
        for model in ["hosted", "other"] {
            let response = api.chat(model, "hi", false).await;
            assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(
        !refused.is_finished(),
        "it backs off as long as the server says"
    );
    let response = refused.await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "retry-after"), "1");
    let id = header(&response, "x-flotilla-decision");
    let body: Value = response.json().await.unwrap();
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("maintenance until noon"), "{body}");
    assert_eq!(counts.refused.load(Ordering::SeqCst), 5);
    let record = decision_with_id(&api, &id).await;
    assert_eq!(record["failed_attempts"], 5, "{record}");

    // The replica is ready, and says what its requests said; an answer clears it.
    let failing = async || {
        let model = api.model("hosted").await;
        model["status"]["replicas"][0]["failingRequests"].clone()
    };
    let text = failing().await.to_string();
    assert!(
        text.contains("attempts failed: ") && text.contains("maintenance until noon"),
        "{text}"
    );
    api.answer("hosted", "hi").await;
    assert_eq!(failing().await, Value::Null);

    // A 429 is the client's to repeat.
    let response = api.chat("hosted", "429", false).await;
    assert_eq!(response.status(), 429);
    assert_eq!(header(&response, "retry-after"), "1");
    assert_eq!(counts.refused.load(Ordering::SeqCst), 6);
    cluster.stop().await;
}

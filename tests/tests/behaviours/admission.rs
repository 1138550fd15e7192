//! Which requests go first when not all can, and which are refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use flotilla_tests::{Api, Cluster, simulated_model};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fixtures::{CHAT_PATH, chat_body, decision_with_id, header, serve};

/// Starts one node with the model `m`, which computes one request at a time in `milliseconds` and has
/// `queue` places in its admission queue.
async fn serve_one_at_a_time(milliseconds: u32, queue: u32) -> Cluster {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": milliseconds});
    let mut model = simulated_model("m", 1, &options);
    model["spec"]["concurrency"] = json!(1);
    model["spec"]["queue"] = json!(queue);
    cluster.api().apply(&model).await;
    cluster.wait_for_replicas("m", 1).await;
    cluster
}

/// Waits until at least this many requests are in the admission queue of `m`.
async fn wait_until_queued(cluster: &Cluster, api: &Api, count: u64) {
    let is_queued = async || api.counters("m").await.queued >= count;
    cluster.wait_until(is_queued).await;
}

#[tokio::test]
async fn high_priority_request_overtakes_requests_that_wait() {
    let cluster = serve_one_at_a_time(400, 12).await;
    let api = cluster.api();
    let answered = Arc::new(AtomicU32::new(0));
    let low: Vec<_> = (0..12)
        .map(|_| {
            let (api, answered) = (api.clone(), answered.clone());
            tokio::spawn(async move {
                let body = chat_body("m", json!({"priority": "low"}));
                let status = api.post(CHAT_PATH, &body).await.status();
                answered.fetch_add(u32::from(status == 200), Ordering::SeqCst);
                status
            })
        })
        .collect();
    wait_until_queued(&cluster, &api, 6).await;
    let before = answered.load(Ordering::SeqCst);
    let body = chat_body("m", json!({"priority": "high"}));
    assert_eq!(api.post(CHAT_PATH, &body).await.status(), 200);
    let answered_first = answered.load(Ordering::SeqCst) - before;
    assert!(
        answered_first <= 2,
        "{answered_first} requests of low priority were answered first"
    );
    let low = join_all(low).await;
    assert!(low.iter().all(|status| status.as_ref().unwrap() == &200));
    cluster.stop().await;
}

#[tokio::test]
async fn full_queue_refuses_low_priority_requests_and_no_high_priority_request() {
    let cluster = serve_one_at_a_time(400, 12).await;
    let api = cluster.api();
    let requests = (0..40).map(|n| {
        let api = api.clone();
        async move {
            let priority = if n % 5 == 0 { "high" } else { "low" };
            let body = chat_body("m", json!({"priority": priority}));
            let response = api.post(CHAT_PATH, &body).await;
            (priority, response.status().as_u16())
        }
    });
    let mut outcomes = BTreeMap::<_, u32>::new();
    for outcome in join_all(requests).await {
        *outcomes.entry(outcome).or_default() += 1;
    }
    assert_eq!(outcomes.get(&("high", 200)), Some(&8), "{outcomes:?}");
    assert_eq!(outcomes.get(&("high", 429)), None, "{outcomes:?}");
    let refused = outcomes.get(&("low", 429));
    assert!(refused.is_some_and(|count| *count > 10), "{outcomes:?}");
    cluster.stop().await;
}

/// Sends requests of one API key until `stop`. After a refusal it waits for another request to be
/// answered, since only that makes room in the queue.
async fn flood(api: Api, answered: watch::Sender<u32>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        // Subscribed before the request is sent, so that no answer after a refusal is missed.
        let mut answers = answered.subscribe();
        let status = api.chat("m", "hi", false).await.status();
        if status == 200 {
            answered.send_modify(|count| *count += 1);
        } else {
            assert_eq!(status, 429);
            answers.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn key_that_floods_the_queue_delays_other_keys_by_few_requests() {
    let cluster = serve_one_at_a_time(60, 16).await;
    let api = cluster.api();
    let (greedy, modest) = (api.with_key("greedy"), api.with_key("modest"));
    let answered = watch::Sender::new(0);
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..40)
        .map(|_| tokio::spawn(flood(greedy.clone(), answered.clone(), stop.clone())))
        .collect();
    wait_until_queued(&cluster, &api, 14).await;
    let before = *answered.borrow();
    for _ in 0..10 {
        let response = modest.chat("m", "hi", false).await;
        assert_eq!(
            response.status(),
            200,
            "the queue is full of requests of another key"
        );
    }
    let meanwhile = *answered.borrow() - before;
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.unwrap();
    }
    // Without fairness each of the ten would have waited for sixteen others.
    assert!(
        meanwhile <= 50,
        "{meanwhile} requests of the greedy key were answered meanwhile"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn deadline_ends_an_answer_and_refuses_requests_that_cannot_meet_it() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let options = json!({"outputTokens": 40, "tokensPerSecond": 20});
    serve(&cluster, &api, "m", &options).await;
    // Nothing is known of the speed yet, so the request is tried and stopped within its answer.
    let mut body = chat_body("m", json!({"deadline": "500ms"}));
    body["stream"] = json!(true);
    let stream = api.post(CHAT_PATH, &body).await.text().await.unwrap();
    assert!(stream.contains("deadline_unmet"), "{stream}");
    assert!(stream.contains("This "), "{stream}");
    cluster
        .wait_until(async || api.counters("m").await.cancelled == 1)
        .await;
    // Now the speed is known.
    let body = chat_body("m", json!({"deadline": 300}));
    let response = api.post(CHAT_PATH, &body).await;
    let id = header(&response, "x-flotilla-decision");
    assert_eq!(response.status(), 504);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "deadline_unmet", "{body}");
    let record = decision_with_id(&api, &id).await;
    assert_eq!(record["node"], Value::Null, "sent to a node: {record}");
    assert_eq!(record["rejected"][0]["reason"], "deadline", "{record}");
    assert_eq!(record["deadline_ms"], 300);
    let body = chat_body("m", json!({"deadline": "1m"}));
    assert_eq!(api.post(CHAT_PATH, &body).await.status(), 200);
    cluster.stop().await;
}

//! Requests that find their model by task, the zones that hold them back, and the record of why.

use flotilla_tests::{AgentSettings, Api, Cluster, Etcd, Mode, simulated_model};
use reqwest::Response;
use serde_json::{Value, json};

use crate::resources::{self, header, task};

fn router(spec: Value) -> Value {
    let mut router =
        json!({"apiVersion": "flotilla.dev/v1", "kind": "Router", "metadata": {"name": "default"}});
    router["spec"] = spec;
    router
}

/// Two tasks, each with its model.
async fn apply_tasks(cluster: &Cluster, api: &Api) {
    let banking = json!({"models": ["bank"], "examples": [
        "freeze my account please", "what is my routing number", "why was my card declined",
        "transfer ten dollars to my brother", "pay my electricity bill", "order a new card",
    ]});
    let travel = json!({"models": ["trips"], "examples": [
        "book a flight to paris", "is my flight on time", "find me a hotel in rome",
        "do i need a visa for japan", "how do you say hello in french", "rent a car in oslo",
    ]});
    api.apply(&task("banking", banking)).await;
    api.apply(&task("travel", travel)).await;
    api.apply(&router(json!({"abstain": {"minConfidence": 0.4}})))
        .await;
    until_learnt(cluster, api).await;
}

async fn until_learnt(cluster: &Cluster, api: &Api) {
    let learnt = async || {
        let tasks = api.items("tasks").await;
        !tasks.is_empty() && tasks.iter().all(|task| task["status"]["trained"] == true)
    };
    cluster.wait_until(learnt).await;
}

async fn serve(cluster: &Cluster, api: &Api, models: &[&str]) {
    for model in models {
        resources::serve(cluster, api, model, &json!({"outputTokens": 2})).await;
    }
}

async fn error_code(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].clone())
}

#[tokio::test]
async fn a_request_goes_to_the_model_of_its_task_and_the_record_says_why() {
    let cluster = Cluster::builder().agents(["n1", "n2"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, &["bank", "trips"]).await;
    apply_tasks(&cluster, &api).await;
    for (text, task, model) in [
        ("please freeze my zebra card", "banking", "bank"),
        ("a hotel for a zebra in paris", "travel", "trips"),
    ] {
        for stream in [false, true] {
            let response = api.chat("auto", text, stream).await;
            assert_eq!(response.status(), 200);
            assert_eq!(header(&response, "x-flotilla-task"), task);
            assert_eq!(header(&response, "x-flotilla-model"), model);
            let id = header(&response, "x-flotilla-decision");
            let node = header(&response, "x-flotilla-node");
            let body = response.text().await.unwrap();
            assert!(body.contains(&format!("\"model\":\"{model}\"")), "{body}");

            let (status, record) = api.get(&format!("v1/decisions/{id}")).await;
            assert_eq!(status, 200, "{record}");
            assert_eq!(record["requested_model"], "auto");
            assert_eq!(
                (&record["task"], &record["classification"]["best_task"]),
                (&json!(task), &json!(task))
            );
            assert_eq!(
                (&record["model"], &record["node"]),
                (&json!(model), &json!(node))
            );
            assert_eq!(record["classification"]["abstained"], false);
            assert_eq!(record["candidates"][0]["node"], json!(node));
            let grams = record["classification"]["evidence"].as_array().unwrap();
            let known = ["freeze", "card", "hotel", "paris", " free", " hote"];
            let named = |gram: &Value| known.contains(&gram["ngram"].as_str().unwrap());
            assert!(grams.iter().any(named), "{record}");
            assert_eq!(record["outcome"]["status"], "answered");
            assert_eq!(record["outcome"]["completion_tokens"], 2);
            // Nothing of the prompt is in it but what the tasks' examples have too.
            assert!(!record.to_string().contains("zebra"), "{record}");
        }
    }
    // Named, the task is taken as it is.
    let response = api.chat("task:travel", "freeze my card", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "trips");
    let (status, code) = error_code(api.chat("task:absent", "hi", false).await).await;
    assert_eq!((status, code), (404, json!("task_not_found")));
    cluster.stop().await;
}

#[tokio::test]
async fn what_fits_no_task_goes_to_the_default_task_or_is_refused() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let (status, code) = error_code(api.chat("auto", "hi", false).await).await;
    assert_eq!(
        (status, code),
        (400, json!("no_task")),
        "there are no tasks"
    );
    serve(&cluster, &api, &["bank", "trips"]).await;
    apply_tasks(&cluster, &api).await;
    let nonsense = "0xdeadbeef qqq zzz";
    let response = api.chat("auto", nonsense, false).await;
    let id = header(&response, "x-flotilla-decision");
    let (status, code) = error_code(response).await;
    assert_eq!((status, code), (400, json!("no_task")));
    let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(record["classification"]["abstained"], true);
    assert_eq!(record["outcome"]["status"], "failed");

    let spec = json!({"abstain": {"minConfidence": 0.4}, "defaultTask": "travel"});
    api.apply(&router(spec)).await;
    let response = api.chat("auto", nonsense, false).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-flotilla-task"), "travel");
    cluster.stop().await;
}

#[tokio::test]
async fn the_next_model_of_a_task_answers_where_the_preferred_one_cannot() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, &["second"]).await;
    // The first one is wished for, but its files are nowhere.
    let broken = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "first"},
        "spec": {"source": {"path": "/nowhere/at/all"}},
    });
    api.apply(&broken).await;
    cluster
        .wait_until(async || api.model("first").await["status"]["phase"] == "Failed")
        .await;
    let spec = json!({"models": ["absent", "first", "second"], "examples": ["hello"]});
    api.apply(&task("talk", spec)).await;
    let response = api.chat("task:talk", "hello", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "second");
    let id = header(&response, "x-flotilla-decision");
    let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
    let reasons: Vec<_> = record["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["reason"])
        .collect();
    assert_eq!(reasons, ["unknown_model", "not_loaded"], "{record}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_rule_refuses_rather_than_leaks() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["open"])
        .start()
        .await;
    let api = cluster.api();
    let mut model = simulated_model("m", 2, &json!({"outputTokens": 1}));
    model["spec"]["replicas"] = json!({"min": 1, "max": 1});
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 1).await;
    let spec = json!({"models": ["m"], "zones": ["patients"], "examples": ["a diagnosis"]});
    api.apply(&task("medical", spec)).await;
    let response = api.chat("task:medical", "a diagnosis", false).await;
    let id = header(&response, "x-flotilla-decision");
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("zone 'patients'"),
        "{body}"
    );
    let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(record["rejected"][0]["reason"], "zone", "{record}");
    assert_eq!(record["node"], Value::Null);
    assert_eq!(api.counters("m").await.requests, 0);

    // A pin narrows; it does not open what the task keeps shut.
    let pinned = |model: &str, zone: &str| {
        json!({"model": model, "messages": [{"role": "user", "content": "hi"}],
            "flotilla": {"zone": zone}})
    };
    let path = "v1/chat/completions";
    let (status, code) = error_code(api.post(path, &pinned("task:medical", "shop")).await).await;
    assert_eq!((status, code), (403, json!("zone_not_allowed")));

    cluster.start_agent(AgentSettings::new("clinic").args(&["--zone", "patients"]));
    cluster.wait_until_ready(&["open", "clinic"]).await;
    model["spec"]["replicas"] = json!(2);
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 2).await;
    for _ in 0..10 {
        let response = api.chat("task:medical", "a diagnosis", false).await;
        assert_eq!(header(&response, "x-flotilla-node"), "clinic");
        let response = api.post(path, &pinned("m", "patients")).await;
        assert_eq!(header(&response, "x-flotilla-node"), "clinic");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_dry_run_tells_every_candidate_and_asks_none() {
    let cluster = Cluster::builder().agents(["n1", "n2", "n3"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, &["bank", "trips"]).await;
    apply_tasks(&cluster, &api).await;
    let body = json!({"messages": [{"role": "user", "content": "please freeze my card"}]});
    let response = api.post("v1/route", &body).await;
    assert_eq!(response.status(), 200);
    let told: Value = response.json().await.unwrap();
    assert_eq!(
        (&told["task"], &told["classification"]["best_task"]),
        (&json!("banking"), &json!("banking"))
    );
    assert!(
        told["classification"]["confidence"].as_f64().unwrap() > 0.4,
        "{told}"
    );
    assert_eq!(
        (&told["classification"]["abstained"], &told["model"]),
        (&json!(false), &json!("bank"))
    );
    assert_eq!(told["node"], json!(api.assigned_nodes("bank").await[0]));
    assert_eq!(told["candidates"].as_array().unwrap().len(), 1);
    assert_eq!(told["rejected"].as_array().unwrap().len(), 2);
    assert_eq!(told["rejected"][0]["reason"], "not_loaded");
    assert_eq!(api.counters("bank").await.requests, 0);
    // The other forms of a request.
    let told: Value = api
        .post("v1/route", &json!({"prompt": "a hotel in rome"}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(told["task"], "travel");
    let (status, _) = error_code(api.post("v1/route", &json!({})).await).await;
    assert_eq!(status, 400);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ten_times_slower_gets_a_small_part_of_the_requests() {
    let options = json!({"outputTokens": 2, "tokensPerSecond": 200});
    let cluster = resources::fast_and_slow("10", &options).await;
    let api = cluster.api();
    let mut on = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..100 {
        // Two at a time, so that the fast one is never idle.
        let (one, two) = tokio::join!(api.chat("m", "hi", false), api.chat("m", "hi", false));
        for response in [one, two] {
            *on.entry(header(&response, "x-flotilla-node")).or_default() += 1;
        }
    }
    let (fast, slow) = (on["fast"], on.get("slow").copied().unwrap_or(0));
    assert!(slow * 5 < fast, "{on:?}");
    // Who asks is told what is expected of each.
    let body = json!({"model": "m", "prompt": "hi"});
    let told: Value = api.post("v1/route", &body).await.json().await.unwrap();
    let expected = |node: &str| {
        let candidates = told["candidates"].as_array().unwrap();
        let of_node = candidates.iter().find(|c| c["node"] == node).unwrap();
        of_node["predicted_ms"].as_f64().unwrap()
    };
    assert!(expected("slow") > 3.0 * expected("fast"), "{told}");
    assert_eq!(told["node"], "fast");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_controller_knows_the_tasks_and_finds_the_others_decisions() {
    let etcd = Etcd::start();
    let one = Cluster::builder()
        .mode(Mode::Processes)
        .store(etcd.store())
        .agents(["n1"])
        .start()
        .await;
    let two = Cluster::builder()
        .mode(Mode::Processes)
        .store(etcd.store())
        .start()
        .await;
    let (first, second) = (one.api(), two.api());
    serve(&one, &first, &["bank", "trips"]).await;
    apply_tasks(&one, &first).await;
    until_learnt(&two, &second).await;
    two.wait_for_replicas("bank", 1).await;
    let response = second.chat("auto", "please freeze my card", false).await;
    assert_eq!(header(&response, "x-flotilla-task"), "banking");
    let id = header(&response, "x-flotilla-decision");
    drop(response);
    let (_, here) = second.get(&format!("v1/decisions/{id}")).await;
    let (status, there) = first.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(status, 200, "{there}");
    assert_eq!(here["task"], there["task"]);
    assert_eq!(there["id"], json!(id));
    let (status, _) = first.get("v1/decisions/nobody-1").await;
    assert_eq!(status, 404);
    two.stop().await;
    one.stop().await;
}

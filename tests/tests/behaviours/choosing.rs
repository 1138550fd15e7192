//! Who answers when several could, who goes first when not all can, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use flotilla_tests::{AgentSettings, Api, Cluster, Mode, simulated_model};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::resources::{fast_and_slow, header, serve, task};

/// A request with what it says in the field `flotilla`.
fn chat(model: &str, flotilla: Value) -> Value {
    json!({
        "model": model, "messages": [{"role": "user", "content": "hi"}], "flotilla": flotilla,
    })
}

const CHAT: &str = "v1/chat/completions";

/// Has requests wait for a model, which computes one at a time and is held up by the first.
async fn until_queued(cluster: &Cluster, api: &Api, model: &str, least: u64) {
    let queued = async || api.counters(model).await.queued >= least;
    cluster.wait_until(queued).await;
}

#[tokio::test]
async fn the_urgent_overtake_those_who_wait_and_take_their_places() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 400});
    let mut model = simulated_model("m", 1, &options);
    model["spec"]["concurrency"] = json!(1);
    model["spec"]["queue"] = json!(12);
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 1).await;
    let answered = Arc::new(AtomicU32::new(0));
    let low: Vec<_> = (0..12)
        .map(|_| {
            let (api, answered) = (api.clone(), answered.clone());
            tokio::spawn(async move {
                let response = api.post(CHAT, &chat("m", json!({"priority": "low"}))).await;
                let status = response.status();
                answered.fetch_add(u32::from(status == 200), Ordering::SeqCst);
                status
            })
        })
        .collect();
    until_queued(&cluster, &api, "m", 6).await;
    let before = answered.load(Ordering::SeqCst);
    let response = api
        .post(CHAT, &chat("m", json!({"priority": "high"})))
        .await;
    assert_eq!(response.status(), 200);
    let overtaken = answered.load(Ordering::SeqCst) - before;
    assert!(overtaken <= 2, "{overtaken} that came before went before");
    let low = join_all(low).await;
    assert!(low.iter().all(|status| status.as_ref().unwrap() == &200));

    // More at once than there is room for: the urgent ones are all answered, none is lost.
    let all = (0..40).map(|n| {
        let api = api.clone();
        async move {
            let priority = if n % 5 == 0 { "high" } else { "low" };
            let body = chat("m", json!({"priority": priority}));
            (priority, api.post(CHAT, &body).await.status().as_u16())
        }
    });
    let mut ends = BTreeMap::<_, u32>::new();
    for end in join_all(all).await {
        *ends.entry(end).or_default() += 1;
    }
    assert_eq!(ends.get(&("high", 200)), Some(&8), "{ends:?}");
    assert_eq!(ends.get(&("high", 429)), None, "{ends:?}");
    assert!(ends.get(&("low", 429)).is_some_and(|n| *n > 10), "{ends:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_key_that_floods_waits_behind_itself() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    let mut model = simulated_model(
        "m",
        1,
        &json!({"outputTokens": 1, "timeToFirstTokenMs": 60}),
    );
    model["spec"]["concurrency"] = json!(1);
    model["spec"]["queue"] = json!(16);
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 1).await;
    let (flooding, stop) = (
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (greedy, modest) = (api.with_key("greedy"), api.with_key("modest"));
    let flood: Vec<_> = (0..40)
        .map(|_| {
            let (api, answered, stop) = (greedy.clone(), flooding.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let status = api.chat("m", "hi", false).await.status();
                    answered.fetch_add(u32::from(status == 200), Ordering::SeqCst);
                    assert!(status == 200 || status == 429, "{status}");
                    if status == 429 {
                        // As a client does that is told to come back later.
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                }
            })
        })
        .collect();
    until_queued(&cluster, &api, "m", 14).await;
    let before = flooding.load(Ordering::SeqCst);
    for _ in 0..10 {
        let response = modest.chat("m", "hi", false).await;
        assert_eq!(
            response.status(),
            200,
            "the queue is full of another's requests"
        );
    }
    let meanwhile = flooding.load(Ordering::SeqCst) - before;
    stop.store(true, Ordering::Relaxed);
    join_all(flood)
        .await
        .into_iter()
        .for_each(|end| end.unwrap());
    // Without fairness each of the ten would have waited for sixteen others.
    assert!(
        meanwhile <= 50,
        "{meanwhile} of the other key's went before ten"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_deadline_that_cannot_be_met_is_refused_at_once_and_one_that_passes_ends_the_answer() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(
        &cluster,
        &api,
        "m",
        &json!({"outputTokens": 40, "tokensPerSecond": 20}),
    )
    .await;
    // Nothing is known of it yet: it is tried, and stopped in the middle of its answer.
    let mut body = chat("m", json!({"deadline": "500ms"}));
    body["stream"] = json!(true);
    let stream = api.post(CHAT, &body).await.text().await.unwrap();
    assert!(stream.contains("deadline_unmet"), "{stream}");
    assert!(
        stream.contains("simulated engine") || stream.contains("This "),
        "{stream}"
    );
    cluster
        .wait_until(async || api.counters("m").await.cancelled == 1)
        .await;
    // Now it is known to take longer.
    let response = api.post(CHAT, &chat("m", json!({"deadline": 300}))).await;
    let id = header(&response, "x-flotilla-decision");
    assert_eq!(response.status(), 504);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "deadline_unmet", "{body}");
    let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(record["node"], Value::Null, "nobody was asked: {record}");
    assert_eq!(record["rejected"][0]["reason"], "deadline", "{record}");
    assert_eq!(record["deadline_ms"], 300);
    let response = api.post(CHAT, &chat("m", json!({"deadline": "1m"}))).await;
    assert_eq!(response.status(), 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_replica_is_asked_beside_one_that_takes_long_and_the_later_one_is_cancelled() {
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 20});
    let cluster = fast_and_slow("100", &options).await;
    let api = cluster.api();
    api.apply(&task(
        "t",
        json!({"models": ["m"], "hedge": {"after": "100ms"}}),
    ))
    .await;
    let mut hedged = None;
    for n in 0..50 {
        let response = api.chat("task:t", "hi", n % 2 == 0).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-flotilla-node"), "fast");
        let id = header(&response, "x-flotilla-decision");
        response.text().await.unwrap();
        let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
        if record["hedges"][0]["slow_node"] == "slow" {
            hedged = Some(record);
            break;
        }
    }
    let record = hedged.expect("the slow one was asked first at least once");
    let hedge = &record["hedges"][0];
    assert_eq!(
        (&hedge["slow_node"], &hedge["node"]),
        (&json!("slow"), &json!("fast"))
    );
    assert_eq!(hedge["won"], true);
    cluster
        .wait_until(async || api.counters("m").await.cancelled >= 1)
        .await;
    // What was waited in vain is learnt: the slow one is left alone for a while.
    let mut first = 0;
    let mut alone = f64::INFINITY;
    for _ in 0..10 {
        let response = api.chat("task:t", "hi", false).await;
        let at_once = header(&response, "x-flotilla-attempts") == "1";
        first += u32::from(at_once);
        let body: Value = response.json().await.unwrap();
        let joules = body["usage"]["energy"]["joules"].as_f64().unwrap();
        if at_once {
            alone = alone.min(joules);
        }
    }
    assert!(first >= 8, "{first} of 10 went to the fast one at once");
    // The slow one computed for 100 ms and more before it was given up, the fast one for 20 ms.
    let both = record["outcome"]["joules"].as_f64().unwrap();
    assert!(both > 2.0 * alone, "{both} J, and {alone} J without it");
    cluster.stop().await;
}

/// Says how well a model does a task, as `flotilla eval` does.
async fn measure(api: &Api, task: &str, model: &str, correct: u32) {
    let (_, of_task) = api.get(&format!("api/v1/tasks/{task}")).await;
    let models = of_task["status"]["models"].as_array().unwrap();
    let found = models.iter().find(|m| m["name"] == model).unwrap();
    let quality = json!({
        "revision": found["revision"], "scoring": "exact", "correct": correct, "total": 100,
        "medianMs": 1.0,
    });
    let path = format!("api/v1/tasks/{task}/quality/{model}");
    let (status, answer) = api.put(&path, &quality).await;
    assert_eq!(status, 204, "{answer}");
}

#[tokio::test]
async fn measured_quality_time_and_energy_choose_the_model_as_the_task_weighs_them() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(
        &cluster,
        &api,
        "small",
        &json!({"outputTokens": 2, "timeToFirstTokenMs": 5}),
    )
    .await;
    serve(
        &cluster,
        &api,
        "large",
        &json!({"outputTokens": 2, "timeToFirstTokenMs": 800}),
    )
    .await;
    let with = async |objective: Value| {
        let spec = json!({"models": ["small", "large"], "objective": objective});
        api.apply(&task("t", spec)).await;
    };
    let goes_to = async |flotilla: Value| {
        let response = api.post(CHAT, &chat("task:t", flotilla)).await;
        let id = header(&response, "x-flotilla-decision");
        let model = header(&response, "x-flotilla-model");
        let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
        (model, record)
    };
    // What must be good enough must have been measured.
    with(json!({"minQuality": 0.8})).await;
    let (model, record) = goes_to(json!({})).await;
    assert_eq!(model, "", "{record}");
    assert_eq!(record["rejected"][0]["reason"], "quality", "{record}");
    measure(&api, "t", "small", 70).await;
    measure(&api, "t", "large", 90).await;
    let (model, record) = goes_to(json!({})).await;
    assert_eq!(model, "large", "{record}");
    let (model, _) = goes_to(json!({"min_quality": 0.95})).await;
    assert_eq!(model, "", "a request may ask for more");

    // Both have answered: what they take is known.
    for model in ["small", "large"] {
        api.answer(model, "hi").await;
    }
    for (weights, chosen) in [
        (json!({"quality": 1}), "large"),
        (json!({"latency": 1}), "small"),
        (json!({"energy": 1}), "small"),
        (json!({"quality": 1, "latency": 0.05}), "large"),
        (json!({"quality": 0.3, "latency": 1, "energy": 1}), "small"),
    ] {
        with(json!({"weights": weights})).await;
        let (model, record) = goes_to(json!({})).await;
        assert_eq!(model, chosen, "{weights}: {record}");
        let candidates = record["candidates"].as_array().unwrap();
        assert!(
            candidates.iter().all(|c| c["score"]["total"].is_number()),
            "{record}"
        );
        assert!(
            candidates.iter().all(|c| c["predicted_joules"].is_number()),
            "{record}"
        );
        assert!(
            record["outcome"]["joules"].as_f64().unwrap() > 0.0,
            "{record}"
        );
        let body = json!({"model": "task:t", "prompt": "hi"});
        let told: Value = api.post("v1/route", &body).await.json().await.unwrap();
        assert_eq!(told["model"], chosen, "the dry run says the same: {told}");
    }
    // Hard limits.
    with(json!({"weights": {"quality": 1}, "maxLatency": "400ms"})).await;
    let (model, record) = goes_to(json!({})).await;
    assert_eq!(model, "small", "{record}");
    let reasons: Vec<_> = record["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["reason"])
        .collect();
    assert_eq!(reasons, ["latency"], "{record}");
    with(json!({})).await;
    let response = api
        .post(CHAT, &chat("task:t", json!({"max_joules": 1e-9})))
        .await;
    assert_eq!(response.status(), 503);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "limits_unmet", "{body}");

    // Another revision has not been measured.
    with(json!({"minQuality": 0.8})).await;
    let mut changed = simulated_model("large", 1, &json!({"outputTokens": 2}));
    changed["spec"]["revision"] = json!("other");
    api.apply(&changed).await;
    let settled = async || {
        let (_, of_task) = api.get("api/v1/tasks/t").await;
        of_task["status"]["models"][1]["quality"]["current"] == false
    };
    cluster.wait_until(settled).await;
    let (model, record) = goes_to(json!({})).await;
    assert_eq!(model, "", "{record}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_conversation_goes_where_its_beginning_was_read() {
    let nodes = ["n1", "n2", "n3"];
    let cluster = Cluster::builder().agents(nodes).start().await;
    let api = cluster.api();
    // One that keeps nothing of what it has read is no better for it.
    api.apply(&simulated_model("forgets", 1, &json!({"outputTokens": 1})))
        .await;
    cluster.wait_for_replicas("forgets", 1).await;
    let long = json!([{"role": "user", "content": "a long story ".repeat(40)}]);
    for _ in 0..2 {
        let body = json!({"model": "forgets", "messages": long});
        let response = api.post(CHAT, &body).await;
        let id = header(&response, "x-flotilla-decision");
        let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
        assert_eq!(record["affinity"], Value::Null, "{record}");
    }
    let options = json!({"outputTokens": 1, "timeToFirstTokenMs": 20, "prefixCache": true});
    api.apply(&simulated_model("m", 3, &options)).await;
    cluster.wait_for_replicas("m", 3).await;
    for conversation in 0..5 {
        let mut messages = vec![json!({
            "role": "user", "content": format!("{conversation} tells a long story. ").repeat(40),
        })];
        let mut went: Option<String> = None;
        for turn in 0..6 {
            let body = json!({"model": "m", "messages": messages});
            let response = api.post(CHAT, &body).await;
            let node = header(&response, "x-flotilla-node");
            let id = header(&response, "x-flotilla-decision");
            if let Some(before) = &went {
                let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
                assert_eq!(
                    record["affinity"]["node"],
                    json!(before),
                    "{turn}: {record}"
                );
                assert!(
                    record["affinity"]["cached_bytes"].as_u64().unwrap() >= 800,
                    "{record}"
                );
                assert_eq!(&node, before, "{record}");
            }
            went = Some(node);
            messages.push(json!({"role": "assistant", "content": "I see."}));
            messages.push(json!({"role": "user", "content": "And then?"}));
        }
    }
    // A session has no long beginning, only a name.
    api.apply(&simulated_model("s", 3, &json!({"outputTokens": 1})))
        .await;
    cluster.wait_for_replicas("s", 3).await;
    let mut on = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let response = api
            .post(CHAT, &chat("s", json!({"session": "till-7"})))
            .await;
        on.insert(header(&response, "x-flotilla-node"));
    }
    assert_eq!(on.len(), 1, "{on:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_elsewhere_gets_nothing_that_is_held_to_a_zone() {
    let mut cluster = Cluster::builder().mode(Mode::Processes).start().await;
    cluster.start_agent(AgentSettings::new("clinic").args(&["--zone", "patients"]));
    cluster.wait_until_ready(&["clinic"]).await;
    let api = cluster.api();
    serve(&cluster, &api, "echo", &json!({"outputTokens": 2})).await;
    // The fleet's own API, under an address that is not known to be the node's own.
    let port = cluster.http_address().port();
    let hosted = |zone: Option<&str>| {
        json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "hosted"},
            "spec": {"engine": "upstream", "options": {
                "url": format!("http://[::ffff:127.0.0.1]:{port}/v1"), "model": "echo", "zone": zone,
            }},
        })
    };
    api.apply(&hosted(None)).await;
    cluster.wait_for_replicas("hosted", 1).await;
    assert_eq!(api.chat("hosted", "hi", false).await.status(), 200);
    api.apply(&task(
        "medical",
        json!({"models": ["hosted"], "zones": ["patients"]}),
    ))
    .await;
    cluster
        .wait_until(async || api.counters("echo").await.requests == 1)
        .await;
    let response = api.chat("task:medical", "hi", false).await;
    let id = header(&response, "x-flotilla-decision");
    assert_eq!(response.status(), 503);
    let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(record["rejected"][0]["reason"], "zone", "{record}");
    let pinned = api
        .post(CHAT, &chat("hosted", json!({"zone": "patients"})))
        .await;
    assert_eq!(pinned.status(), 503);
    // Nothing has left: the next one that it gets is the next one that may.
    api.answer("echo", "hi").await;
    cluster
        .wait_until(async || api.counters("echo").await.requests >= 2)
        .await;
    assert_eq!(api.counters("echo").await.requests, 2);
    // One that is said to be within the zone may be asked.
    api.apply(&hosted(Some("patients"))).await;
    let answered = async || api.chat("task:medical", "hi", false).await.status() == 200;
    cluster.wait_until(answered).await;
    cluster.stop().await;
}

#[tokio::test]
async fn prompts_are_on_record_only_where_that_is_switched_on_and_no_zone_holds_them() {
    for (flags, kept) in [(&[][..], false), (&["--record-prompts"][..], true)] {
        let mut cluster = Cluster::builder()
            .mode(Mode::Processes)
            .controller_args(flags)
            .start()
            .await;
        cluster.start_agent(AgentSettings::new("n1").args(&["--zone", "shop"]));
        cluster.wait_until_ready(&["n1"]).await;
        let api = cluster.api();
        serve(&cluster, &api, "m", &json!({"outputTokens": 1})).await;
        let prompt = async |flotilla: Value| {
            let response = api.post(CHAT, &chat("m", flotilla)).await;
            let id = header(&response, "x-flotilla-decision");
            let (_, record) = api.get(&format!("v1/decisions/{id}")).await;
            record["prompt"].clone()
        };
        let open = prompt(json!({})).await;
        assert_eq!(open, if kept { json!("hi") } else { Value::Null });
        assert_eq!(prompt(json!({"zone": "shop"})).await, Value::Null);
        cluster.stop().await;
    }
}

//! Requests that must stay in a privacy zone.

use flotilla_tests::{AgentSettings, Cluster, Mode, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::{
    CHAT_PATH, chat_body, decision_record, decision_with_id, error_code, header, serve, task,
};

#[tokio::test(flavor = "multi_thread")]
async fn request_of_a_zoned_task_is_refused_when_no_replica_is_in_the_zone() {
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
    let record = decision_with_id(&api, &id).await;
    assert_eq!(record["rejected"][0]["reason"], "zone", "{record}");
    assert_eq!(record["node"], Value::Null);
    assert_eq!(api.counters("m").await.requests, 0);

    // The zone of a request narrows the zones of its task and cannot widen them.
    let pinned = |model: &str, zone: &str| chat_body(model, json!({"zone": zone}));
    let (status, code) =
        error_code(api.post(CHAT_PATH, &pinned("task:medical", "shop")).await).await;
    assert_eq!((status, code), (403, json!("zone_not_allowed")));

    // A node in several zones serves the requests of each.
    let zones = ["--zone", "branch", "--zone", "patients"];
    cluster.start_agent(AgentSettings::new("clinic").args(&zones));
    cluster.wait_until_ready(&["open", "clinic"]).await;
    model["spec"]["replicas"] = json!(2);
    api.apply(&model).await;
    cluster.wait_for_replicas("m", 2).await;
    for _ in 0..10 {
        let response = api.chat("task:medical", "a diagnosis", false).await;
        assert_eq!(header(&response, "x-flotilla-node"), "clinic");
        for zone in ["patients", "branch"] {
            let response = api.post(CHAT_PATH, &pinned("m", zone)).await;
            assert_eq!(header(&response, "x-flotilla-node"), "clinic");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn upstream_server_outside_the_zone_gets_no_request_of_a_zoned_task() {
    let mut cluster = Cluster::builder().mode(Mode::Processes).start().await;
    cluster.start_agent(AgentSettings::new("clinic").args(&["--zone", "patients"]));
    cluster.wait_until_ready(&["clinic"]).await;
    let api = cluster.api();
    serve(&cluster, &api, "echo", &json!({"outputTokens": 2})).await;
    // The fleet's own API is the upstream server, under an address that the node does not recognise as
    // its own.
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
    let record = decision_record(&api, &response).await;
    assert_eq!(response.status(), 503);
    assert_eq!(record["rejected"][0]["reason"], "zone", "{record}");
    let pinned = api
        .post(CHAT_PATH, &chat_body("hosted", json!({"zone": "patients"})))
        .await;
    assert_eq!(pinned.status(), 503);
    // The request that is allowed is the second one that the server gets, so neither of those was sent.
    api.answer("echo", "hi").await;
    cluster
        .wait_until(async || api.counters("echo").await.requests >= 2)
        .await;
    assert_eq!(api.counters("echo").await.requests, 2);
    // A server that is declared to be in the zone gets requests.
    api.apply(&hosted(Some("patients"))).await;
    let is_answered = async || api.chat("task:medical", "hi", false).await.status() == 200;
    cluster.wait_until(is_answered).await;
    cluster.stop().await;
}

#[tokio::test]
async fn prompts_are_recorded_only_when_enabled_and_never_for_zoned_requests() {
    for (args, is_recorded) in [(&[][..], false), (&["--record-prompts"][..], true)] {
        let mut cluster = Cluster::builder()
            .mode(Mode::Processes)
            .controller_args(args)
            .start()
            .await;
        cluster.start_agent(AgentSettings::new("n1").args(&["--zone", "shop"]));
        cluster.wait_until_ready(&["n1"]).await;
        let api = cluster.api();
        serve(&cluster, &api, "m", &json!({"outputTokens": 1})).await;
        let prompt = async |flotilla: Value| {
            let response = api.post(CHAT_PATH, &chat_body("m", flotilla)).await;
            let record = decision_record(&api, &response).await;
            record["prompt"].clone()
        };
        let unzoned = prompt(json!({})).await;
        assert_eq!(
            unzoned,
            if is_recorded {
                json!("hi")
            } else {
                Value::Null
            }
        );
        assert_eq!(prompt(json!({"zone": "shop"})).await, Value::Null);
        cluster.stop().await;
    }
}

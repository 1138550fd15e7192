//! Requests that find their model by their task, and the record of that decision.

use flotilla_tests::{Api, Cluster, Etcd, Mode};
use serde_json::{Value, json};

use crate::fixtures::{self, decision_record, decision_with_id, error_code, header, router, task};

/// Applies two tasks, each with its model, and waits until they are trained.
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
    api.apply(&router(json!({"abstain": {"minConfidence": 0.6}})))
        .await;
    wait_until_trained(cluster, api).await;
}

async fn wait_until_trained(cluster: &Cluster, api: &Api) {
    let is_trained = async || {
        let tasks = api.items("tasks").await;
        !tasks.is_empty() && tasks.iter().all(|task| task["status"]["trained"] == true)
    };
    cluster.wait_until(is_trained).await;
}

async fn serve(cluster: &Cluster, api: &Api, models: &[&str]) {
    for model in models {
        fixtures::serve(cluster, api, model, &json!({"outputTokens": 2})).await;
    }
}

#[tokio::test]
async fn request_is_sent_to_the_model_of_its_task_and_the_record_explains_it() {
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

            let record = decision_with_id(&api, &id).await;
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
            let example_ngrams = ["freeze", "card", "hotel", "paris", " free", " hote"];
            let is_in_examples =
                |gram: &Value| example_ngrams.contains(&gram["text"].as_str().unwrap());
            assert!(grams.iter().any(is_in_examples), "{record}");
            assert_eq!(record["outcome"]["status"], "answered");
            assert_eq!(record["outcome"]["completion_tokens"], 2);
            // The record holds no words of the prompt but those of the examples.
            assert!(!record.to_string().contains("zebra"), "{record}");
        }
    }
    // A task that the request names is not classified.
    let response = api.chat("task:travel", "freeze my card", false).await;
    assert_eq!(header(&response, "x-flotilla-model"), "trips");
    let (status, code) = error_code(api.chat("task:absent", "hi", false).await).await;
    assert_eq!((status, code), (404, json!("task_not_found")));
    cluster.stop().await;
}

#[tokio::test]
async fn request_that_fits_no_task_goes_to_the_default_task_or_is_refused() {
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
    let record = decision_with_id(&api, &id).await;
    assert_eq!(record["classification"]["abstained"], true);
    assert_eq!(record["outcome"]["status"], "failed");

    let spec = json!({"abstain": {"minConfidence": 0.6}, "defaultTask": "travel"});
    api.apply(&router(spec)).await;
    let response = api.chat("auto", nonsense, false).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-flotilla-task"), "travel");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_learns_how_well_tasks_can_be_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tasks.yaml");
    let examples = |texts: &[&str]| -> String {
        let lines = texts.iter().map(|text| format!("    - {text}\n"));
        lines.collect()
    };
    let document = |name: &str, texts: &[&str]| {
        format!(
            "---\napiVersion: flotilla.dev/v1\nkind: Task\nmetadata: {{ name: {name} }}\nspec:\n  \
             models: [m]\n  examples:\n{}",
            examples(texts)
        )
    };
    let banking = [
        "freeze my card",
        "pay my bill",
        "Book a flight!",
        "my account balance",
    ];
    let travel = [
        "book a flight",
        "find me a hotel",
        "is my flight late",
        "a visa for japan",
    ];
    let yaml = document("banking", &banking)
        + &document("travel", &travel)
        + &document("lonely", &["hello"]);
    std::fs::write(&file, yaml).unwrap();
    let file = file.to_str().unwrap();
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;

    // Without applying: nothing reaches the fleet.
    let checked = fixtures::flotilla(&cluster, &["tasks", "check", "-f", file]);
    assert!(checked.contains("the same text is in banking"), "{checked}");
    assert!(
        checked.contains("task lonely: 1 example; 10 would do"),
        "{checked}"
    );
    assert!(cluster.api().items("tasks").await.is_empty());

    let applied = fixtures::flotilla(&cluster, &["apply", "-f", file]);
    assert!(applied.contains("task/lonely created"), "{applied}");
    assert!(applied.contains("doubtful examples: "), "{applied}");
    let described = fixtures::flotilla(&cluster, &["describe", "router"]);
    assert!(described.contains("none was applied"), "{described}");
    for report in [
        &described,
        &fixtures::flotilla(&cluster, &["tasks", "check"]),
    ] {
        // The same classifier, whether it was trained here or by the controller.
        let from = report.find("Held-out examples").unwrap();
        assert_eq!(
            report[from..],
            checked[checked.find("Held-out examples").unwrap()..]
        );
    }
    cluster.stop().await;
}

#[tokio::test]
async fn next_model_of_a_task_answers_when_the_preferred_one_cannot() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, &["second"]).await;
    // The preferred model cannot load, as its files do not exist.
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
    let record = decision_record(&api, &response).await;
    let reasons: Vec<_> = record["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["reason"])
        .collect();
    assert_eq!(reasons, ["unknown_model", "not_loaded"], "{record}");
    cluster.stop().await;
}

#[tokio::test]
async fn dry_run_lists_every_candidate_and_sends_nothing() {
    let cluster = Cluster::builder().agents(["n1", "n2", "n3"]).start().await;
    let api = cluster.api();
    serve(&cluster, &api, &["bank", "trips"]).await;
    apply_tasks(&cluster, &api).await;
    let body = json!({"messages": [{"role": "user", "content": "please freeze my card"}]});
    let response = api.post("v1/route", &body).await;
    assert_eq!(response.status(), 200);
    let dry_run: Value = response.json().await.unwrap();
    assert_eq!(
        (&dry_run["task"], &dry_run["classification"]["best_task"]),
        (&json!("banking"), &json!("banking"))
    );
    assert!(
        dry_run["classification"]["confidence"].as_f64().unwrap() > 0.4,
        "{dry_run}"
    );
    assert_eq!(
        (&dry_run["classification"]["abstained"], &dry_run["model"]),
        (&json!(false), &json!("bank"))
    );
    assert_eq!(dry_run["node"], json!(api.assigned_nodes("bank").await[0]));
    assert_eq!(dry_run["candidates"].as_array().unwrap().len(), 1);
    assert_eq!(dry_run["rejected"].as_array().unwrap().len(), 2);
    assert_eq!(dry_run["rejected"][0]["reason"], "not_loaded");
    assert_eq!(api.counters("bank").await.requests, 0);
    // A dry run takes prompts, too, and needs one of the two.
    let dry_run: Value = api
        .post("v1/route", &json!({"prompt": "a hotel in rome"}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(dry_run["task"], "travel");
    let (status, _) = error_code(api.post("v1/route", &json!({})).await).await;
    assert_eq!(status, 400);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_controller_classifies_and_finds_the_decisions_of_the_others() {
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
    wait_until_trained(&two, &second).await;
    two.wait_for_replicas("bank", 1).await;
    let response = second.chat("auto", "please freeze my card", false).await;
    assert_eq!(header(&response, "x-flotilla-task"), "banking");
    let id = header(&response, "x-flotilla-decision");
    drop(response);
    let (_, own) = second.get(&format!("v1/decisions/{id}")).await;
    let (status, forwarded) = first.get(&format!("v1/decisions/{id}")).await;
    assert_eq!(status, 200, "{forwarded}");
    assert_eq!(own["task"], forwarded["task"]);
    assert_eq!(forwarded["id"], json!(id));
    let (status, _) = first.get("v1/decisions/nobody-1").await;
    assert_eq!(status, 404);
    two.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn controller_may_list_only_models() {
    for (arguments, is_listed) in [(&[][..], true), (&["--list-only-models"], false)] {
        let cluster = Cluster::builder()
            .mode(Mode::Processes)
            .controller_args(arguments)
            .start()
            .await;
        let api = cluster.api();
        apply_tasks(&cluster, &api).await;
        let (status, list) = api.get("v1/models").await;
        assert_eq!(status, 200);
        let models = list["data"].as_array().unwrap();
        assert_eq!(
            models.iter().any(|model| model["id"] == "auto"),
            is_listed,
            "{list}"
        );
        cluster.stop().await;
    }
}

//! What tasks keep of prompts and answers if their owners want it, and what is learned from it.

use flotilla_tests::{AgentSettings, Api, Cluster, Etcd, Mode};
use reqwest::Response;
use serde_json::{Value, json};

use crate::fixtures::{
    CHAT_PATH, chat_body, decision_with_id, error_code, flotilla, header, run_flotilla, serve, task,
};

/// Returns the records that `flotilla dataset export --all` writes.
fn export(cluster: &Cluster, task: &str) -> Vec<Value> {
    let args = ["dataset", "export", "--task", task, "--all"];
    let lines = flotilla(cluster, &args);
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    lines.lines().map(parse).collect()
}

/// Returns the newest turn of each record.
fn texts(records: &[Value]) -> Vec<&str> {
    let newest = |record: &Value| record["messages"].as_array().map_or(0, Vec::len) - 1;
    let turns = records
        .iter()
        .map(|record| &record["messages"][newest(record)]);
    turns
        .map(|turn| turn["content"].as_str().unwrap())
        .collect()
}

/// Sends a chat, reads the whole answer, and returns the id of its decision.
async fn chat(api: &Api, model: &str, text: &str) -> String {
    answered(api.chat(model, text, false).await).await
}

/// Reads a whole answer, and returns the id of its decision.
async fn answered(response: Response) -> String {
    let id = header(&response, "x-flotilla-decision");
    assert_eq!(response.status(), 200);
    response.text().await.unwrap();
    id
}

/// Gives feedback on a decision and returns the response.
async fn give_feedback(api: &Api, decision: &str, feedback: &Value) -> Response {
    let path = format!("v1/decisions/{decision}/feedback");
    api.post(&path, feedback).await
}

/// Serves an unsure model `small` and the model `large`.
async fn serve_models(cluster: &Cluster, api: &Api) {
    let unsure = json!({"outputTokens": 2, "tokenProbability": 0.25});
    serve(cluster, api, "small", &unsure).await;
    serve(cluster, api, "large", &json!({"outputTokens": 3})).await;
}

/// Returns the spec of a task with a cascade of both models, which learns as `learn` says.
fn cascade(learn: Value) -> Value {
    json!({
        "models": ["small", "large"], "cascade": {"accept": {"atLeast": 0.5}}, "learn": learn,
    })
}

/// Waits until the classifier of this controller is trained on a task.
async fn wait_until_trained(cluster: &Cluster, task: &str) {
    let api = cluster.api();
    let path = format!("api/v1/tasks/{task}");
    let is_trained = async || api.get(&path).await.1["status"]["trained"] == true;
    cluster.wait_until(is_trained).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn escalations_are_kept_exported_and_deleted() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    serve_models(&cluster, &api).await;
    let learn = json!({"from": "escalations"});
    api.apply(&task("t", cascade(learn))).await;
    let mut decisions = Vec::new();
    for (text, stream) in [("one", false), ("two", true)] {
        let response = api.chat("task:t", text, stream).await;
        assert_eq!(header(&response, "x-flotilla-model"), "large");
        decisions.push(answered(response).await);
    }
    // Neither an answer that no cascade gave nor one that was cut is kept.
    chat(&api, "large", "three").await;
    let mut cut = chat_body("task:t", json!({}));
    cut["max_tokens"] = json!(1);
    answered(api.post(CHAT_PATH, &cut).await).await;

    let records = export(&cluster, "t");
    assert_eq!(texts(&records), ["one", "two"], "{records:?}");
    for (record, decision) in records.iter().zip(&decisions) {
        assert_eq!(record["decision"], json!(decision));
        assert_eq!(record["source"], "escalations");
        assert_eq!(record["model"], "large");
        assert_eq!(record["messages"][0]["role"], "user");
        assert!((record["confidence"].as_f64().unwrap() - 0.25).abs() < 0.01);
        assert!(!record["answer"].as_str().unwrap().is_empty(), "{record}");
        let made = decision_with_id(&api, decision).await;
        assert_eq!(record["at"], made["at"]);
    }
    let list = flotilla(&cluster, &["dataset", "list"]);
    let row: Vec<_> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["t", "escalations", "2", "0"], "{list}");
    // A file of records is what `flotilla eval` reads.
    let file = ["dataset", "export", "--task", "t", "-o", "t.jsonl"];
    flotilla(&cluster, &file);
    let eval = [
        "eval", "--task", "t", "--data", "t.jsonl", "--models", "large",
    ];
    assert!(flotilla(&cluster, &eval).contains("of 2"));

    // What was kept stays when the task learns no more, and even when it is deleted.
    api.apply(&task("t", cascade(Value::Null))).await;
    chat(&api, "task:t", "four").await;
    let deleted = flotilla(&cluster, &["delete", "task", "t"]);
    assert!(deleted.contains("task/t deleted"), "{deleted}");
    assert_eq!(texts(&export(&cluster, "t")), ["one", "two"]);
    let delete = ["dataset", "delete", "--task", "t"];
    let refused = run_flotilla(&cluster, &delete);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && error.contains("--yes"),
        "{error}"
    );
    let deleted = flotilla(&cluster, &[&delete[..], &["--yes"]].concat());
    assert!(deleted.contains("2 records"), "{deleted}");
    let export = run_flotilla(&cluster, &["dataset", "export", "--task", "t"]);
    assert!(!export.status.success());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_without_opt_in_or_of_a_request_with_a_zone() {
    let mut cluster = Cluster::builder().mode(Mode::Processes).start().await;
    cluster.start_agent(AgentSettings::new("n1").args(&["--zone", "clinic"]));
    cluster.wait_until_ready(&["n1"]).await;
    let api = cluster.api();
    serve_models(&cluster, &api).await;
    let both = json!({"from": ["escalations", "feedback"]});
    let mut zoned = cascade(both.clone());
    zoned["zones"] = json!(["clinic"]);
    api.apply(&task("zoned", zoned)).await;
    api.apply(&task("open", cascade(both))).await;
    api.apply(&task("off", cascade(Value::Null))).await;

    let of_zoned_task = chat(&api, "task:zoned", "secret").await;
    let with_zone = chat_body("task:open", json!({"zone": "clinic"}));
    let with_zone = answered(api.post(CHAT_PATH, &with_zone).await).await;
    let off = chat(&api, "task:off", "secret").await;
    let of_model = chat(&api, "large", "secret").await;
    for (decision, code) in [
        (of_zoned_task, "held_to_zones"),
        (with_zone, "held_to_zones"),
        (off, "not_learning"),
        (of_model, "not_learning"),
    ] {
        let response = give_feedback(&api, &decision, &json!({"good": true})).await;
        assert_eq!(error_code(response).await, (409, json!(code)));
    }
    for name in ["zoned", "open", "off"] {
        assert!(export(&cluster, name).is_empty(), "{name}");
    }
    assert!(!cluster.dir().join("files/datasets").exists());
    // What turns out to belong to a zone is not kept, and what was kept of it goes.
    let decision = chat(&api, "task:open", "secret").await;
    assert_eq!(texts(&export(&cluster, "open")), ["secret"]);
    let response = give_feedback(&api, &decision, &json!({"task": "zoned"})).await;
    assert_eq!(error_code(response).await, (409, json!("held_to_zones")));
    assert!(export(&cluster, "open").is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_is_kept_on_any_controller_and_suggests_examples() {
    let etcd = Etcd::start();
    let start = || Cluster::builder().mode(Mode::Processes).store(etcd.store());
    let one = start().agents(["n1"]).start().await;
    let mut two = start().start().await;
    let (first, second) = (one.api(), two.api());
    serve(&one, &first, "m", &json!({"outputTokens": 2})).await;
    let learning = |examples: Value| json!({"models": ["m"], "examples": examples, "learn": {"from": "feedback"}});
    let banking = ["freeze my card please", "block my card now"];
    first
        .apply(&task("banking", learning(json!(banking))))
        .await;
    let travel = ["book a hotel in paris", "find a flight to rome"];
    first.apply(&task("travel", learning(json!(travel)))).await;
    two.wait_for_replicas("m", 1).await;

    // Each controller gets feedback on a decision of the other.
    let lost = chat(&second, "task:travel", "my wallet was stolen in paris").await;
    let hotel = chat(&first, "task:travel", "a hotel near the station").await;
    let marked = json!({"task": "banking"});
    let wrong = give_feedback(&first, &lost, &json!({"good": true})).await;
    assert_eq!(wrong.status(), 204);
    let replaced = give_feedback(&first, &lost, &marked).await;
    assert_eq!(replaced.status(), 204, "{}", replaced.text().await.unwrap());
    let good = give_feedback(&second, &hotel, &json!({"good": true})).await;
    assert_eq!(good.status(), 204);

    for cluster in [&one, &two] {
        let records = export(cluster, "travel");
        let expected = ["my wallet was stolen in paris", "a hotel near the station"];
        assert_eq!(texts(&records), expected, "{records:?}");
        assert_eq!(records[0]["feedback"], marked);
        assert_eq!(
            records[0].get("answer"),
            None,
            "it answers for another task"
        );
        assert_eq!(records[1]["feedback"], json!({"good": true}));
        assert!(!records[1]["answer"].as_str().unwrap().is_empty());
        assert_eq!(records[1]["source"], "feedback");
    }
    wait_until_trained(&one, "travel").await;
    let suggest = |task: &str, more: &[&str]| {
        let args = [&["tasks", "suggest", task][..], more].concat();
        flotilla(&one, &args)
    };
    let table = suggest("banking", &[]);
    assert!(table.contains("marked by feedback"), "{table}");
    let yaml = suggest("banking", &["-o", "yaml"]);
    assert_eq!(yaml, "examples:\n- my wallet was stolen in paris\n");
    let yaml = suggest("travel", &["-o", "yaml"]);
    assert_eq!(yaml, "examples:\n- a hotel near the station\n");
    // An example is not suggested again.
    let more = json!([banking[0], "My wallet was stolen, in Paris!"]);
    first.apply(&task("banking", learning(more))).await;
    let none = suggest("banking", &[]);
    assert!(none.contains("nothing to suggest"), "{none}");

    // Without the other controller the rest is exported, and a note says what is missing.
    let of_second = chat(&second, "task:travel", "a train to rome").await;
    two.kill_controller();
    let output = run_flotilla(&one, &["dataset", "export", "--task", "travel"]);
    let (text, note) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{note}");
    assert!(text.contains("hotel") && !text.contains("wallet"), "{text}");
    assert!(note.contains("does not answer"), "{note}");
    let unreachable = give_feedback(&first, &of_second, &marked).await;
    let error = (502, json!("controller_unreachable"));
    assert_eq!(error_code(unreachable).await, error);
    // Once it is back, what it has is there again.
    two.restart_controller().await;
    two.wait_for_replicas("m", 1).await;
    assert_eq!(texts(&export(&one, "travel")).len(), 2);
    let list = flotilla(&one, &["dataset", "list"]);
    let row: Vec<_> = list.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(row, ["travel", "feedback", "0", "2"], "{list}");
    two.stop().await;
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_that_cannot_be_kept_is_refused_with_the_reason() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({"outputTokens": 2})).await;
    let learning = json!({"models": ["m"], "learn": {"from": "feedback"}});
    api.apply(&task("t", learning)).await;
    let decision = chat(&api, "task:t", "hi").await;
    let long = chat(&api, "task:t", &"x".repeat(40_000)).await;
    let good = json!({"good": true});
    for (decision, feedback, expected) in [
        (decision.as_str(), json!({}), (400, Value::Null)),
        (
            &decision,
            json!({"good": true, "task": "t"}),
            (400, Value::Null),
        ),
        (&decision, json!({"task": "absent"}), (400, Value::Null)),
        ("nobody-1", good.clone(), (404, json!("decision_not_found"))),
        ("nonsense", good.clone(), (404, json!("decision_not_found"))),
        (&long, good.clone(), (404, json!("prompt_not_held"))),
    ] {
        let response = give_feedback(&api, decision, &feedback).await;
        assert_eq!(
            error_code(response).await,
            expected,
            "{decision} {feedback}"
        );
    }
    let mut endless = good.clone();
    endless["note"] = json!("x".repeat(100_000));
    let response = give_feedback(&api, &decision, &endless).await;
    assert_eq!(response.status(), 413);
    assert!(export(&cluster, "t").is_empty());
    // The prompt that was too long is counted.
    let metrics = api.get_response("metrics").await.text().await.unwrap();
    let dropped =
        "flotilla_dataset_records_dropped_total{error_type=\"too_large\",flotilla_task=\"t\"} 1";
    assert!(metrics.contains(dropped), "{metrics}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_records_are_kept_over_restarts_and_broken_lines_are_skipped() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    serve_models(&cluster, &api).await;
    let learn = json!({"from": "escalations", "keep": 3});
    api.apply(&task("t", cascade(learn))).await;
    for number in 0..5 {
        chat(&api, "task:t", &format!("text {number}")).await;
    }
    assert_eq!(
        texts(&export(&cluster, "t")),
        ["text 2", "text 3", "text 4"]
    );
    let file = cluster.dir().join("files/datasets/t.jsonl");
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().count(), 3);

    // A power cut after records that are on the disk, in the middle of a line and of the next file.
    cluster.kill_controller();
    std::fs::write(&file, format!("nonsense\n{lines}{{\"messages\": [")).unwrap();
    let partial = file.with_file_name(".tmpAbCdEf");
    std::fs::write(&partial, &lines).unwrap();
    cluster.restart_controller().await;
    cluster.wait_for_replicas("large", 1).await;
    cluster.wait_for_replicas("small", 1).await;
    assert_eq!(
        texts(&export(&cluster, "t")),
        ["text 2", "text 3", "text 4"]
    );
    assert!(!partial.exists(), "its prompts could not be deleted");
    chat(&api, "task:t", "text 5").await;
    assert_eq!(
        texts(&export(&cluster, "t")),
        ["text 3", "text 4", "text 5"]
    );
    cluster.stop().await;
}

//! Adapters, models of their own that run in the process of their base.

use flotilla_tests::{
    Cluster, ConstantWord, Load, Mode, chat_model, runners, send_signal, simulated_model,
    write_constant_adapter,
};
use serde_json::{Value, json};

use crate::fixtures::{CHAT_PATH, fast_options, nodes_with_memory, sized_model};

/// The simulated adapter `name` of the model `m`.
fn simulated_adapter(name: &str, replicas: &Value) -> Value {
    let mut adapter = simulated_model(name, 1, &json!({"outputTokens": 4}));
    adapter["spec"]["base"] = json!("m");
    adapter["spec"]["replicas"] = replicas.clone();
    adapter["spec"]["memory"] = json!(1_000_000);
    adapter
}

async fn start(agents: &[&str]) -> Cluster {
    Cluster::builder()
        .mode(Mode::Processes)
        .agents(agents.iter().copied())
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn adapter_runs_where_its_base_does_and_says_so_where_it_cannot() {
    let cluster = start(&["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&simulated_adapter("a", &json!(2))).await;
    let reason = async |model: &str| {
        api.model(model).await["status"]["unplacedReason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    cluster
        .wait_until(async || reason("a").await.contains("its base 'm' does not exist"))
        .await;
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    cluster.wait_for_replicas("a", 1).await;
    assert_eq!(api.assigned_nodes("a").await, api.assigned_nodes("m").await);
    cluster
        .wait_until(async || reason("a").await.contains("1 without its base m"))
        .await;
    assert_eq!(api.chat("a", "hi", false).await.status(), 200);
    // It follows its base to another node, and to more of them.
    api.apply(&simulated_adapter("a", &json!(1))).await;
    let first = api.assigned_nodes("m").await;
    api.set_node_operation(&first[0], &json!({"draining": true}))
        .await;
    let has_moved = async || {
        let nodes = api.assigned_nodes("m").await;
        nodes != first && nodes.len() == 1 && api.assigned_nodes("a").await == nodes
    };
    cluster.wait_until(has_moved).await;
    cluster.wait_for_replicas("a", 1).await;
    api.set_node_operation(&first[0], &json!({})).await;
    api.apply(&simulated_model("m", 2, &json!({}))).await;
    api.apply(&simulated_adapter("a", &json!(2))).await;
    cluster.wait_for_replicas("a", 2).await;
    // Without its base there is nothing to run in.
    api.delete_model("m").await;
    cluster
        .wait_until(async || api.assigned_nodes("a").await.is_empty())
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn base_wakes_up_for_an_adapter_and_sleeps_after_it() {
    let cluster = start(&["n1"]).await;
    let api = cluster.api();
    let sleeping = json!({"min": 0, "max": 1});
    let mut base = simulated_model("m", 1, &json!({}));
    base["spec"]["replicas"] = sleeping.clone();
    base["spec"]["keepAlive"] = json!("1s");
    let mut adapter = simulated_adapter("a", &sleeping);
    adapter["spec"]["keepAlive"] = json!("1s");
    api.apply(&base).await;
    api.apply(&adapter).await;
    cluster.wait_for_replicas("m", 0).await;
    assert_eq!(api.chat("a", "hi", false).await.status(), 200);
    cluster
        .wait_until(async || {
            api.assigned_nodes("a").await.is_empty() && api.assigned_nodes("m").await.is_empty()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollout_of_a_base_fails_no_request_to_its_adapter() {
    let cluster = nodes_with_memory(&["n1", "n2"]).await;
    let api = cluster.api();
    let base = |revision: &str| sized_model(&json!(2), revision, 0.4, &fast_options());
    api.apply(&base("1")).await;
    api.apply(&simulated_adapter("a", &json!(2))).await;
    cluster.wait_for_replicas("a", 2).await;
    let load = Load::start(std::slice::from_ref(&api), "a", 4);
    for revision in ["2", "3"] {
        api.apply(&base(revision)).await;
        let is_rolled_out = async || {
            let status = api.model("m").await["status"].clone();
            let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
            let serves = |r: &Value| r["phase"] == "Ready" && r["revision"] == status["revision"];
            status["phase"] == "Ready" && replicas.len() == 2 && replicas.iter().all(serves)
        };
        cluster.wait_until(is_rolled_out).await;
        cluster.wait_for_replicas("a", 2).await;
    }
    let tally = load.stop("an adapter whose base changes").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    assert!(tally.requests >= 10, "{tally}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn specialists_share_the_process_of_a_real_base_and_do_not_mix() {
    let cluster = start(&["n1"]).await;
    let api = cluster.api();
    let base = chat_model("m");
    api.apply(&base).await;
    let specialists = [("agrees", ConstantWord::Yes), ("refuses", ConstantWord::No)];
    for (name, word) in specialists {
        let dir = cluster.dir().join(name);
        write_constant_adapter(&dir, word).unwrap();
        let adapter = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
            "spec": {
                "base": "m", "source": {"path": dir.to_str().unwrap()},
                "options": {"maxPromptSeconds": 3600},
            },
        });
        api.apply(&adapter).await;
    }
    for name in ["m", "agrees", "refuses"] {
        cluster.wait_for_replicas(name, 1).await;
    }
    let agent = cluster.agent("n1").id();
    let process = cluster.runner("n1", "m");
    for (name, _) in specialists {
        assert!(
            runners(agent, name).is_empty(),
            "{name} has its own process"
        );
        let memory = api.model(name).await["status"]["memory"].as_u64().unwrap();
        assert!(memory < 2_000_000, "{memory}");
    }
    let ask = async |model: &str| {
        let body = json!({
            "model": model, "max_tokens": 4, "temperature": 0,
            "messages": [{"role": "user", "content": "Is the sea blue?"}],
        });
        let response = api.post(CHAT_PATH, &body).await;
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["model"], model, "{answer}");
        answer["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let alone = ask("m").await;
    for _ in 0..2 {
        let answers = tokio::join!(ask("m"), ask("agrees"), ask("refuses"), ask("agrees"));
        assert_eq!(answers.0, alone);
        assert_eq!(answers.1.trim(), "yes yes yes yes");
        assert_eq!(answers.2.trim(), "no no no no");
        assert_eq!(answers.3, answers.1);
    }
    // One leaves without touching the others.
    api.delete_model("refuses").await;
    cluster
        .wait_until(async || api.items("models").await.len() == 2)
        .await;
    assert_eq!(ask("agrees").await.trim(), "yes yes yes yes");
    assert_eq!(cluster.runner("n1", "m"), process);
    // With its process a base loses its adapters, and has them again after it.
    send_signal(process, libc::SIGKILL);
    cluster
        .wait_until(async || {
            let now = runners(agent, "m");
            !now.is_empty() && !now.contains(&process)
        })
        .await;
    cluster.wait_for_replicas("agrees", 1).await;
    assert_eq!(ask("agrees").await.trim(), "yes yes yes yes");
    assert_eq!(ask("m").await, alone);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adapter_that_cannot_be_computed_is_refused_and_the_base_goes_on() {
    let cluster = start(&["n1"]).await;
    let api = cluster.api();
    api.apply(&chat_model("m")).await;
    let dir = cluster.dir().join("adapter");
    write_constant_adapter(&dir, ConstantWord::Red).unwrap();
    let config = dir.join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"LORA\"", "\"IA3\"")).unwrap();
    let adapter = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "red"},
        "spec": {"base": "m", "source": {"path": dir.to_str().unwrap()}},
    });
    api.apply(&adapter).await;
    let error = async || {
        let status = api.model("red").await["status"].clone();
        status["lastError"].as_str().unwrap_or_default().to_owned()
    };
    cluster
        .wait_until(async || error().await.contains("IA3"))
        .await;
    assert_eq!(api.ready_replicas("m").await, 1);
    // Corrected, it is tried again.
    std::fs::write(&config, text).unwrap();
    api.apply(&adapter).await;
    cluster.wait_for_replicas("red", 1).await;
    cluster.stop().await;
}

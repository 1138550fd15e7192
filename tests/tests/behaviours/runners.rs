//! The processes of models: what happens when one of them crashes, hangs or is not wanted any more.

use flotilla_tests::{Cluster, Load, Mode, demo_model, is_running, runners, send_signal};
use serde_json::{Value, json};

use crate::fixtures::serve;

/// A cluster of processes with these agents, each with a replica of the model `support-intent`.
async fn start(agents: &[&str]) -> Cluster {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(agents.iter().copied())
        .start()
        .await;
    let replicas = u32::try_from(agents.len()).unwrap();
    let api = cluster.api();
    api.apply(&demo_model("support-intent", replicas)).await;
    cluster
        .wait_for_replicas("support-intent", u64::from(replicas))
        .await;
    cluster
}

/// Asks `support-intent` all the time, does `fault` to its process on `n1`, and waits until another process
/// has taken its place. Requests go on to be completed, and none may fail; those of another model on the node may
/// not notice.
async fn survive(fault: i32) {
    let cluster = start(&["n1", "n2"]).await;
    let api = cluster.api();
    api.apply(&demo_model("numbers", 2)).await;
    cluster.wait_for_replicas("numbers", 2).await;
    let (first, other) = (
        cluster.runner("n1", "support-intent"),
        cluster.runner("n1", "numbers"),
    );
    let load = Load::start(std::slice::from_ref(&api), "support-intent", 4);
    let other_load = Load::start(std::slice::from_ref(&api), "numbers", 1);
    send_signal(first, fault);
    let completed = || (load.completed(), other_load.completed());
    let at_fault = completed();
    let agent = cluster.agent("n1").id();
    cluster
        .wait_until(async || {
            let now = runners(agent, "support-intent");
            !now.is_empty() && !now.contains(&first)
        })
        .await;
    cluster.wait_for_replicas("support-intent", 2).await;
    let has_gone_on = |(one, other): (u64, u64)| one > at_fault.0 + 10 && other > at_fault.1 + 10;
    cluster.wait_until(async || has_gone_on(completed())).await;
    let tally = load.stop("support-intent").await;
    assert!(tally.errors.is_empty(), "{tally}");
    let tally = other_load.stop("numbers").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    assert_eq!(cluster.runner("n1", "numbers"), other);
    assert!(!is_running(first));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_of_a_model_is_replaced_and_nobody_else_notices() {
    survive(libc::SIGKILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_process_of_a_model_is_replaced_and_nobody_else_notices() {
    survive(libc::SIGABRT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_process_of_a_model_is_ended_and_replaced() {
    survive(libc::SIGSTOP).await;
}

#[tokio::test]
async fn end_of_a_models_process_is_named_until_it_answers_again() {
    let cluster = start(&["n1"]).await;
    let api = cluster.api();
    send_signal(cluster.runner("n1", "support-intent"), libc::SIGFPE);
    let error = async || {
        let model = api.model("support-intent").await;
        model["status"]["replicas"][0]["error"].clone()
    };
    let names_signal = |error: &Value| {
        let text = error.as_str().unwrap_or_default();
        text.contains("its process was ended by signal 8 (SIGFPE)")
    };
    cluster
        .wait_until(async || names_signal(&error().await))
        .await;
    cluster.wait_for_replicas("support-intent", 1).await;
    assert_eq!(error().await, Value::Null);
    cluster.stop().await;
}

#[tokio::test]
async fn killed_agent_leaves_no_process_behind() {
    let mut cluster = start(&["n1"]).await;
    let runner = cluster.runner("n1", "support-intent");
    cluster.kill_agent("n1");
    cluster.wait_until(async || !is_running(runner)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn killed_agent_leaves_no_stopped_process_behind() {
    let mut cluster = start(&["n1"]).await;
    let runner = cluster.runner("n1", "support-intent");
    send_signal(runner, libc::SIGSTOP);
    cluster.kill_agent("n1");
    cluster.wait_until(async || !is_running(runner)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn stopped_agent_ends_the_processes_of_its_models() {
    let cluster = start(&["n1"]).await;
    let runner = cluster.runner("n1", "support-intent");
    cluster.stop().await;
    assert!(!is_running(runner));
}

#[tokio::test]
async fn load_of_a_model_that_nobody_wants_any_more_is_ended() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let (api, agent) = (cluster.api(), cluster.agent("n1").id());
    let model = demo_model("support-intent", 1);
    api.apply(&model).await;
    let loading = async || runners(agent, "support-intent").first().copied();
    cluster.wait_until(async || loading().await.is_some()).await;
    // A load that never ends by itself.
    let runner = loading().await.expect("it was there a moment ago");
    send_signal(runner, libc::SIGSTOP);
    api.delete_model("support-intent").await;
    cluster.wait_until(async || !is_running(runner)).await;
    // The node is free for others at once.
    serve(&cluster, &api, "m", &json!({})).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn model_that_needs_more_than_its_memory_ends_alone() {
    let cluster = start(&["n1"]).await;
    let api = cluster.api();
    let neighbour = cluster.runner("n1", "support-intent");
    let mut greedy = demo_model("assistant-intent-m", 1);
    // Hardly more than the process takes before it loads anything.
    greedy["spec"]["memory"] = "24MiB".into();
    let load = Load::start(std::slice::from_ref(&api), "support-intent", 1);
    api.apply(&greedy).await;
    let is_named = async || {
        let model = api.model("assistant-intent-m").await;
        model
            .to_string()
            .contains("more memory than its limit of 24.0 MiB")
    };
    cluster.wait_until(is_named).await;
    let tally = load.stop("support-intent").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    assert_eq!(cluster.runner("n1", "support-intent"), neighbour);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_memory_reaches_the_processes_and_one_that_is_too_small_is_rolled_back() {
    let cluster = start(&["n1", "n2"]).await;
    let api = cluster.api();
    // While a replica is replaced, its node has both processes.
    let on_node = |node| runners(cluster.agent(node).id(), "support-intent");
    let processes = || ["n1", "n2"].map(on_node).concat();
    let unlimited = processes();
    let mut model = demo_model("support-intent", 2);
    let load = Load::start(std::slice::from_ref(&api), "support-intent", 2);
    // Hardly more than the process takes before it loads anything.
    model["spec"]["memory"] = "24MiB".into();
    api.apply(&model).await;
    let is_rolled_back = async || {
        let status = &api.model("support-intent").await["status"];
        let reason = status["rollbackReason"].as_str().unwrap_or_default();
        reason.contains("more memory than its limit of 24.0 MiB") && status["phase"] == "Ready"
    };
    cluster.wait_until(is_rolled_back).await;
    model["spec"]["memory"] = "512MiB".into();
    api.apply(&model).await;
    let is_replaced = async || {
        let ready = api.model("support-intent").await["status"]["phase"] == "Ready";
        let now = processes();
        ready && now.len() == 2 && now.iter().all(|process| !unlimited.contains(process))
    };
    cluster.wait_until(is_replaced).await;
    let tally = load.stop("support-intent").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    cluster.stop().await;
}

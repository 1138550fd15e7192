//! Resources and responses, as several behaviours need them.

use flotilla_tests::{AgentSettings, Api, Cluster, Mode, simulated_model};
use reqwest::Response;
use serde_json::{Value, json};

/// A task.
pub(crate) fn task(name: &str, spec: Value) -> Value {
    let envelope =
        json!({"apiVersion": "flotilla.dev/v1", "kind": "Task", "metadata": {"name": name}});
    let mut task = envelope;
    task["spec"] = spec;
    task
}

/// Has one replica of a model of the simulated engine answer.
pub(crate) async fn serve(cluster: &Cluster, api: &Api, model: &str, options: &Value) {
    api.apply(&simulated_model(model, 1, options)).await;
    cluster.wait_for_replicas(model, 1).await;
}

/// The nodes `fast` and `slow`, on each of which the model `m` of the simulated engine answers, on the slow
/// one so many times slower.
pub(crate) async fn fast_and_slow(slowdown: &str, options: &Value) -> Cluster {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["fast"])
        .start()
        .await;
    cluster.start_agent(AgentSettings::new("slow").args(&["--simulated-slowdown", slowdown]));
    cluster.wait_until_ready(&["fast", "slow"]).await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 2, options)).await;
    cluster.wait_for_replicas("m", 2).await;
    cluster
}

/// A header of a response, empty where there is none.
pub(crate) fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or_else(String::new, |v| v.to_str().unwrap().to_owned())
}

//! Many resources that are applied and deleted at once.

use flotilla_tests::{Cluster, Etcd, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::task;

async fn post(cluster: &Cluster, path: &str, body: &Value) -> (u16, Value) {
    let response = cluster.api().post(path, body).await;
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

/// Applies resources and returns what each of them did.
async fn apply(cluster: &Cluster, resources: &[Value]) -> Vec<String> {
    let (status, reply) = post(cluster, "api/v1/apply", &json!({"resources": resources})).await;
    assert_eq!(status, 200, "{reply}");
    let results = reply["results"].as_array().unwrap().iter();
    results
        .map(|r| r["result"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_resources_are_applied_and_deleted_at_once_and_can_be_sent_again() {
    let etcd = Etcd::start();
    let cluster = Cluster::builder()
        .store(etcd.store())
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    let mut resources: Vec<_> = (0..300)
        .map(|i| {
            let mut model = simulated_model(&format!("m{i}"), 1, &json!({}));
            model["spec"]["replicas"] = json!({"min": 0, "max": 1});
            model
        })
        .collect();
    resources.push(task(
        "t",
        json!({"models": ["m1"], "examples": ["one", "two"]}),
    ));
    let created = apply(&cluster, &resources).await;
    assert!(created.len() == 301 && created.iter().all(|result| result == "created"));
    // The reply comes when this controller's view has all of it.
    assert_eq!(api.models().await.len(), 300);
    resources[7]["metadata"]["labels"] = json!({"a": "b"});
    let again = apply(&cluster, &resources).await;
    assert_eq!(again.iter().filter(|r| *r == "unchanged").count(), 300);
    assert_eq!(again[7], "configured");

    // One that is invalid, or there twice, changes nothing.
    let mut invalid = vec![simulated_model("new", 1, &json!({})), resources[0].clone()];
    invalid[1]["spec"]["concurrency"] = json!(0);
    let (status, reply) = post(&cluster, "api/v1/apply", &json!({"resources": invalid})).await;
    assert_eq!(
        (status, &reply["error"]["param"]),
        (400, &json!("resources[1]"))
    );
    let twice = [&resources[0], &resources[0]];
    let (status, _) = post(&cluster, "api/v1/apply", &json!({"resources": twice})).await;
    assert_eq!(status, 400);
    assert_eq!(api.models().await.len(), 300);

    let names = (0..301).map(|i| json!({"kind": "Model", "name": format!("m{i}")}));
    let mut names: Vec<_> = names.collect();
    names.push(json!({"kind": "Task", "name": "t"}));
    let (status, reply) = post(&cluster, "api/v1/delete", &json!({"resources": names})).await;
    assert_eq!(status, 200, "{reply}");
    let deleted = reply["deleted"].as_array().unwrap();
    assert_eq!(
        deleted.iter().filter(|deleted| **deleted == true).count(),
        301
    );
    assert_eq!(deleted[300], false);
    assert!(api.models().await.is_empty() && api.items("tasks").await.is_empty());
    cluster.stop().await;
}

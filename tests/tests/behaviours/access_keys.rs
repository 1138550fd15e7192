//! API keys: who may do what, what a key's requests may use, and how keys come and go.

use std::process::Command;

use flotilla_tests::{AgentSettings, Etcd, holds_in_time, repository, simulated_model};
use reqwest::Method;
use serde_json::json;

use crate::fixtures::{error_code, header, serve, task};
use crate::key_fixtures::{admin, cluster, create_key, second_controller, status};

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_it_is_for_and_nothing_else() {
    let cluster = cluster().agents(["n1"]).start().await;
    serve(&cluster, &cluster.api(), "m", &json!({"outputTokens": 1})).await;
    let tcp = cluster.tcp_api();
    let key = |role: &str| tcp.with_key(&create_key(&cluster, role, &["--role", role]));
    let roles = ["inference", "viewer", "operator", "admin"];
    let keys = roles.map(key);
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let model = simulated_model("m", 1, &json!({"outputTokens": 1}));
    let none = json!({});
    // What each role gets, in their order.
    for (method, path, body, expected) in [
        ("POST", "v1/chat/completions", &chat, [200, 403, 200, 200]),
        ("GET", "v1/models", &none, [200, 403, 200, 200]),
        ("POST", "v1/route", &chat, [200, 403, 200, 200]),
        ("GET", "api/v1/models", &none, [403, 200, 200, 200]),
        ("GET", "metrics?nodes=false", &none, [403, 200, 200, 200]),
        ("PUT", "api/v1/models/m", &model, [403, 403, 200, 200]),
        ("DELETE", "api/v1/models/none", &none, [403, 403, 404, 404]),
        ("GET", "api/v1/keys", &none, [403, 403, 403, 200]),
        ("GET", "api/v1/audit", &none, [403, 403, 403, 200]),
        ("PUT", "api/v1/fleet", &none, [403, 403, 403, 400]),
        ("GET", "api/v1/whoami", &none, [200, 200, 200, 200]),
        ("GET", "nowhere", &none, [404, 404, 404, 404]),
        ("GET", "healthz", &none, [200, 200, 200, 200]),
        ("GET", "readyz", &none, [200, 200, 200, 200]),
    ] {
        for ((api, role), expected) in keys.iter().zip(roles).zip(expected) {
            let got = status(api, method, path, body).await;
            assert_eq!(got, expected, "{role}: {method} {path}");
        }
    }
    let (status, code) = error_code(keys[0].get_response("api/v1/models").await).await;
    assert_eq!((status, code), (403, json!("insufficient_permissions")));
    let (_, identity) = keys[1].get("api/v1/whoami").await;
    assert_eq!(identity["role"], "viewer", "{identity}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_answers_without_a_key_but_those_that_need_none() {
    let cluster = cluster().start().await;
    let (status, document) = cluster.api().get("openapi.json").await;
    assert_eq!(status, 200);
    let tcp = cluster.tcp_api();
    let public = [
        "/healthz",
        "/readyz",
        "/",
        "/dashboard",
        "/dashboard/",
        "/dashboard/{path}",
        "/login",
        "/logout",
    ];
    let mut checked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if public.contains(&path.as_str()) {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let request = tcp.request(method.clone(), path.trim_start_matches('/'));
            let response = request.json(&json!({})).send().await.unwrap();
            let challenge = response.headers().get("www-authenticate").cloned();
            assert_eq!(challenge.unwrap(), "Bearer", "{method} {path}");
            let (status, code) = error_code(response).await;
            assert_eq!(
                (status, code),
                (401, json!("invalid_api_key")),
                "{method} {path}"
            );
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
    for path in ["healthz", "readyz", "dashboard/"] {
        assert_eq!(tcp.get(path).await.0, 200, "{path}");
    }
    for wrong in [
        "x",
        "sk-123",
        "flt_0123456789ab_",
        &format!("flt_0123456789ab_{}", "0".repeat(64)),
    ] {
        let api = tcp.with_key(wrong);
        assert_eq!(api.get("v1/models").await.0, 401, "{wrong}");
        assert_eq!(api.get("nowhere").await.0, 401, "{wrong}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_held_to_its_models_tasks_and_zones() {
    let clinic = AgentSettings::new("clinic").args(&["--zone", "clinic"]);
    let cluster = cluster().agents(["open"]).agent(clinic).start().await;
    let api = cluster.api();
    for name in ["small", "large"] {
        api.apply(&simulated_model(name, 2, &json!({"outputTokens": 1})))
            .await;
        cluster.wait_for_replicas(name, 2).await;
    }
    let travel = [
        "book a flight",
        "book a hotel",
        "a train to the sea",
        "change my flight",
        "cancel the trip",
    ];
    let both = json!({"models": ["small", "large"], "examples": travel});
    api.apply(&task("travel", both)).await;
    let banking = [
        "where is my card",
        "block my card",
        "a transfer failed",
        "my account balance",
        "change the pin",
    ];
    api.apply(&task(
        "banking",
        json!({"models": ["large"], "examples": banking}),
    ))
    .await;
    let is_trained = async || api.get("api/v1/classifier").await.1["trained"] == true;
    cluster.wait_until(is_trained).await;
    let flags = [
        "--role",
        "inference",
        "--models",
        "small",
        "--tasks",
        "travel",
        "--zones",
        "clinic",
    ];
    let held = cluster
        .tcp_api()
        .with_key(&create_key(&cluster, "held", &flags));
    let (_, list) = held.get("v1/models").await;
    let listed = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| &card["id"]);
    assert_eq!(listed.collect::<Vec<_>>(), ["small", "auto", "task:travel"]);
    for absent in ["large", "task:banking"] {
        assert_eq!(
            held.get(&format!("v1/models/{absent}")).await.0,
            404,
            "{absent}"
        );
        let (status, code) = error_code(held.chat(absent, "hi", false).await).await;
        assert_eq!(
            (status, code),
            (403, json!("outside_key_scope")),
            "{absent}"
        );
    }
    for target in ["small", "task:travel", "auto"] {
        for _ in 0..5 {
            let response = held.chat(target, "book a flight", false).await;
            let served_by =
                ["model", "node"].map(|name| header(&response, &format!("x-flotilla-{name}")));
            assert_eq!(
                served_by,
                ["small", "clinic"],
                "{target}: {}",
                response.text().await.unwrap()
            );
        }
    }
    // The text belongs to a task that the key may not use.
    let response = held.chat("auto", "where is my card", false).await;
    assert_ne!(response.status(), 200);
    // A request narrows the zones of its key and cannot leave them.
    let body = json!({"model": "small", "flotilla": {"zone": "shop"},
        "messages": [{"role": "user", "content": "hi"}]});
    let (status, code) = error_code(held.post("v1/chat/completions", &body).await).await;
    assert_eq!((status, code), (403, json!("zone_not_allowed")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_client_presents_a_key_and_understands_refusals() {
    let cluster = cluster().agents(["n1"]).start().await;
    for name in ["m", "other"] {
        serve(&cluster, &cluster.api(), name, &json!({"outputTokens": 2})).await;
    }
    let key = create_key(
        &cluster,
        "program",
        &["--role", "inference", "--models", "m"],
    );
    let mut python = Command::new(repository().join(".venv/bin/python"));
    python.arg(repository().join("tests/python/with_key.py"));
    python
        .env("FLOTILLA_URL", cluster.url())
        .env("FLOTILLA_API_KEY", &key);
    let output = python.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_by_every_controller_within_a_second() {
    let etcd = Etcd::start();
    let cluster = cluster().store(etcd.store()).start().await;
    let (_other, second) = second_controller(&cluster, &etcd);
    let key = create_key(&cluster, "ci", &["--role", "viewer", "--expires", "90d"]);
    let apis = [cluster.tcp_api().with_key(&key), second.with_key(&key)];
    for api in &apis {
        assert!(holds_in_time(async || api.get("api/v1/whoami").await.0 == 200).await);
    }
    let list = admin(&cluster, &["key", "list"]);
    assert!(list.contains("ci") && list.contains("viewer"), "{list}");
    assert!(!list.contains(key.rsplit('_').next().unwrap()), "{list}");
    assert!(admin(&cluster, &["key", "revoke", "ci"]).contains("key/ci revoked"));
    let revoked = std::time::Instant::now();
    for api in &apis {
        assert!(holds_in_time(async || api.get("api/v1/whoami").await.0 == 401).await);
    }
    let took = revoked.elapsed();
    // On a busy machine a request alone takes a while.
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_reach_each_other_where_keys_are_required() {
    let etcd = Etcd::start();
    let cluster = cluster().store(etcd.store()).agents(["n1"]).start().await;
    serve(&cluster, &cluster.api(), "m", &json!({"outputTokens": 1})).await;
    let (_other, second) = second_controller(&cluster, &etcd);
    let key = create_key(&cluster, "op", &["--role", "operator"]);
    let (first, second) = (cluster.tcp_api().with_key(&key), second.with_key(&key));
    assert!(holds_in_time(async || second.get("api/v1/whoami").await.0 == 200).await);
    let response = first.chat("m", "hi", false).await;
    let id = response.headers()["x-flotilla-decision"]
        .to_str()
        .unwrap()
        .to_owned();
    // The second controller fetches the record from the first one.
    let path = format!("v1/decisions/{id}");
    assert!(holds_in_time(async || second.get(&path).await.0 == 200).await);
    let (_, datasets) = second.get("api/v1/datasets").await;
    assert_eq!(
        datasets["notes"].as_array().map(Vec::len).unwrap_or(0),
        0,
        "{datasets}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_checked_while_etcd_is_away_also_after_a_restart() {
    let mut etcd = Etcd::start();
    let mut cluster = cluster().store(etcd.store()).start().await;
    let key = create_key(&cluster, "ci", &["--role", "viewer"]);
    let api = cluster.tcp_api().with_key(&key);
    assert!(holds_in_time(async || api.get("api/v1/models").await.0 == 200).await);
    let kept = cluster.dir().join("files").join("desired-state.jsonl");
    let is_kept = async || {
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        text.contains("/flotilla/v1/keys/")
    };
    assert!(holds_in_time(is_kept).await);
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(!text.contains(key.rsplit('_').next().unwrap()));
    etcd.kill();
    assert_eq!(api.get("api/v1/models").await.0, 200);
    cluster.restart_controller().await;
    assert!(holds_in_time(async || api.get("api/v1/models").await.0 == 200).await);
    assert_eq!(cluster.tcp_api().get("api/v1/models").await.0, 401);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_keys_as_digests_and_a_restore_brings_them_back() {
    let cluster = cluster().start().await;
    let key = create_key(&cluster, "ci", &["--role", "viewer"]);
    let backup = admin(&cluster, &["backup"]);
    assert!(backup.contains("kind: ApiKey") && !backup.contains(key.rsplit('_').next().unwrap()));
    assert!(!backup.contains("controller-secret"));
    std::fs::write(cluster.dir().join("backup.yaml"), &backup).unwrap();
    admin(&cluster, &["key", "revoke", "ci"]);
    let api = cluster.tcp_api().with_key(&key);
    assert_eq!(api.get("api/v1/whoami").await.0, 401);
    assert!(admin(&cluster, &["restore", "backup.yaml"]).contains("key/ci restored"));
    assert_eq!(api.get("api/v1/whoami").await.0, 200);
    cluster.stop().await;
}

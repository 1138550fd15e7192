//! API keys: who may do what, what a key's requests may use, and how keys come and go.

use std::process::{Command, Output};

use flotilla_tests::{
    AgentSettings, Api, CONTROLLER_ON_FREE_PORTS, Cluster, ClusterBuilder, Etcd, Mode, Process,
    address_in_line, flotilla_binary, holds_in_time, repository, simulated_model,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixtures::{error_code, serve, task};

fn cluster() -> ClusterBuilder {
    Cluster::builder().mode(Mode::Processes).require_keys()
}

/// Runs the command line against a fleet at this URL.
fn run(cluster: &Cluster, url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(flotilla_binary());
    command.args(args).env("FLOTILLA_URL", url);
    command.env_remove("FLOTILLA_API_KEY");
    command.env("FLOTILLA_CONFIG", cluster.dir().join("config.yaml"));
    command.current_dir(cluster.dir()).output().unwrap()
}

/// Runs the command line over the admin socket, where it must succeed, and returns what it prints.
fn admin(cluster: &Cluster, args: &[&str]) -> String {
    let socket = format!("unix:{}", cluster.admin_socket().display());
    let output = run(cluster, &socket, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Creates a key with these flags, and returns it.
fn create_key(cluster: &Cluster, name: &str, flags: &[&str]) -> String {
    let key = admin(cluster, &[&["key", "create", name], flags].concat());
    assert!(key.starts_with("flt_") && key.ends_with('\n'), "{key}");
    key.trim().to_owned()
}

async fn status(api: &Api, method: &str, path: &str, body: &Value) -> u16 {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let response = api.request(method, path).json(body).send().await.unwrap();
    response.status().as_u16()
}

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
            assert_eq!(response.status(), 200, "{target}");
            assert_eq!(response.headers()["x-flotilla-model"], "small", "{target}");
            assert_eq!(response.headers()["x-flotilla-node"], "clinic", "{target}");
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

/// Starts a second controller of the fleet in etcd, which requires keys.
fn second_controller(cluster: &Cluster, etcd: &Etcd) -> (Process, Api) {
    let store = etcd.store().to_string();
    let data = cluster.dir().join("second").display().to_string();
    let args = ["--require-keys", "--store", &store, "--data-dir", &data];
    let args = [&CONTROLLER_ON_FREE_PORTS[..], &args].concat();
    let mut process = Process::start(cluster.dir(), &args);
    let line = process.wait_for_line("ready http=");
    (process, Api::new(address_in_line(&line, "http")))
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

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_the_context_of_later_commands() {
    let cluster = cluster().start().await;
    let key = create_key(&cluster, "laptop", &["--role", "admin"]);
    std::fs::write(cluster.dir().join("key.txt"), &key).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(flotilla_binary());
        command.env("FLOTILLA_CONFIG", cluster.dir().join("config.yaml"));
        command
            .env_remove("FLOTILLA_URL")
            .current_dir(cluster.dir());
        let output = command.args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let url = cluster.url();
    // A wrong key is not saved.
    std::fs::write(cluster.dir().join("wrong.txt"), "flt_wrong").unwrap();
    let (success, text) = run(&["login", &url, "--key-file", "wrong.txt"]);
    assert!(
        !success && text.contains("does not accept the key"),
        "{text}"
    );
    assert!(!cluster.dir().join("config.yaml").exists());
    let (success, text) = run(&["login", &url, "--name", "prod", "--key-file", "key.txt"]);
    assert!(success && text.contains("role admin"), "{text}");
    let (success, text) = run(&["get", "models"]);
    assert!(success, "{text}");
    // The key is for this fleet alone.
    let (success, text) = run(&["get", "models", "--url", &url]);
    assert!(!success && text.contains("has no API key"), "{text}");
    let (_, text) = run(&["context", "list"]);
    assert!(text.contains("prod") && !text.contains(&key), "{text}");
    assert!(run(&["context", "delete", "prod"]).0);
    let (success, _) = run(&["get", "models", "--context", "prod"]);
    assert!(!success);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_refusals_are_recorded_without_keys_and_prompts() {
    let etcd = Etcd::start();
    let cluster = cluster().store(etcd.store()).agents(["n1"]).start().await;
    let (_other, second) = second_controller(&cluster, &etcd);
    let operator = create_key(&cluster, "ops", &["--role", "operator"]);
    let program = create_key(
        &cluster,
        "program",
        &["--role", "inference", "--models", "none"],
    );
    let tcp = cluster.tcp_api();
    let (first, second) = (tcp.with_key(&operator), second.with_key(&operator));
    first
        .apply(&simulated_model("m", 1, &json!({"outputTokens": 1})))
        .await;
    let changed = simulated_model("m", 1, &json!({"outputTokens": 2}));
    assert!(holds_in_time(async || second.try_apply(&changed).await.0 == 200).await);
    let batch =
        json!({"resources": [{"kind": "Model", "name": "m"}, {"kind": "Model", "name": "x"}]});
    assert_eq!(first.post("api/v1/delete", &batch).await.status(), 200);
    // Refusals with what must not be recorded.
    let held = tcp.with_key(&program);
    assert_eq!(
        held.chat("m", "the-marked-prompt", false).await.status(),
        403
    );
    assert_eq!(
        tcp.with_key("flt_the-marked-key")
            .get("v1/models?a=the-marked-query")
            .await
            .0,
        401
    );
    let read = async || {
        let text = admin(&cluster, &["audit", "-o", "json"]);
        serde_json::from_str::<Vec<Value>>(&text).unwrap()
    };
    let has = |records: &[Value], status: u16, action: &str, object: &str| {
        records.iter().any(|record| {
            let object = Some(object).filter(|object| !object.is_empty());
            record["status"] == status
                && record["action"] == action
                && record["object"].as_str() == object
        })
    };
    let all = async || {
        let records = read().await;
        has(&records, 201, "PUT /api/v1/models/m", "model/m")
            && has(&records, 200, "PUT /api/v1/models/m", "model/m")
            && has(&records, 200, "POST /api/v1/delete", "model/m")
            && has(&records, 200, "POST /api/v1/delete", "model/x")
            && has(&records, 403, "POST /v1/chat/completions", "")
            && has(&records, 401, "GET /v1/models", "")
    };
    assert!(holds_in_time(all).await, "{:#?}", read().await);
    let records = read().await;
    let created = records
        .iter()
        .find(|r| r["status"] == 201 && r["object"] == "model/m")
        .unwrap();
    assert!(
        created["principal"]
            .as_str()
            .unwrap()
            .starts_with("key ops ("),
        "{created}"
    );
    assert_eq!(created["address"], "127.0.0.1");
    let updated = records
        .iter()
        .find(|r| r["status"] == 200 && r["object"] == "model/m")
        .unwrap();
    assert_eq!(updated["before"], created["after"], "{updated}");
    assert_ne!(updated["controller"], created["controller"]);
    assert!(updated["after"].is_string() && updated["after"] != updated["before"]);
    let by_socket = records
        .iter()
        .find(|r| r["action"] == "POST /api/v1/keys")
        .unwrap();
    assert!(
        by_socket["principal"]
            .as_str()
            .unwrap()
            .starts_with("socket user "),
        "{by_socket}"
    );
    assert!(
        by_socket["object"].as_str().unwrap().starts_with("key/"),
        "{by_socket}"
    );
    // Nothing of it is in any file or log of the controllers.
    let secrets = [&operator, &program].map(|key| key.rsplit('_').next().unwrap().to_owned());
    let markers = ["the-marked-prompt", "the-marked-key", "the-marked-query"];
    let forbidden: Vec<&str> = markers
        .into_iter()
        .chain(secrets.iter().map(String::as_str))
        .collect();
    for dir in ["files", "second"] {
        for entry in std::fs::read_dir(cluster.dir().join(dir))
            .unwrap()
            .flatten()
        {
            if !entry.file_type().unwrap().is_file() {
                continue;
            }
            let content = std::fs::read(entry.path()).unwrap();
            let text = String::from_utf8_lossy(&content);
            for marker in &forbidden {
                assert!(!text.contains(marker), "{marker} is in {:?}", entry.path());
            }
        }
    }
    let mut cluster = cluster;
    cluster.signal_controller(libc::SIGTERM);
    let (_, log) = cluster.wait_for_controller_end();
    for marker in &forbidden {
        assert!(!log.contains(marker), "{marker} is in the log");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_a_session_that_ends_with_its_key() {
    let cluster = cluster().start().await;
    let tcp = cluster.tcp_api();
    let login = async |key: &str| {
        let request = tcp.request(Method::POST, "login");
        request.json(&json!({"key": key})).send().await.unwrap()
    };
    assert_eq!(login("flt_wrong").await.status(), 401);
    let program = create_key(&cluster, "program", &["--role", "inference"]);
    assert_eq!(login(&program).await.status(), 403);
    let key = create_key(&cluster, "person", &["--role", "operator"]);
    // A controller that has just started may not have the secret that signs sessions yet.
    assert!(holds_in_time(async || login(&key).await.status() == 204).await);
    let response = login(&key).await;
    let cookie = response.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    assert!(!cookie.contains(key.rsplit('_').next().unwrap()));
    let session = cookie.split(';').next().unwrap();
    let send = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let mut request = tcp.request(method, path).header("cookie", session);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send(Method::GET, "api/v1/models", &[]).await, 200);
    assert_eq!(send(Method::GET, "api/v1/keys", &[]).await, 403);
    // A change needs the controller's own page.
    let delete = "api/v1/models/none";
    let url = cluster.url();
    assert_eq!(send(Method::DELETE, delete, &[]).await, 403);
    assert_eq!(
        send(Method::DELETE, delete, &[("sec-fetch-site", "cross-site")]).await,
        403
    );
    assert_eq!(send(Method::DELETE, delete, &[("origin", &url)]).await, 404);
    admin(&cluster, &["key", "revoke", "person"]);
    assert_eq!(send(Method::GET, "api/v1/models", &[]).await, 401);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_and_foreign_host_names_reach_nothing() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&[
            "--http-host",
            "fleet.example",
            "--cors-origin",
            "https://chat.example",
        ])
        .agents(["n1"])
        .start()
        .await;
    serve(&cluster, &cluster.api(), "m", &json!({"outputTokens": 1})).await;
    let api = cluster.api();
    let host = async |name: &str| {
        let request = api
            .request(Method::GET, "api/v1/models")
            .header("host", name);
        error_code(request.send().await.unwrap()).await
    };
    assert_eq!(host("evil.example").await, (421, json!("host_not_allowed")));
    for name in ["fleet.example", "localhost", "127.0.0.1:9", "[::1]"] {
        assert_eq!(host(name).await.0, 200, "{name}");
    }
    // What any web page can have a browser send without asking.
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let chat = async |origin: &str| {
        let request = api.request(Method::POST, "v1/chat/completions");
        let request = request
            .header("content-type", "text/plain")
            .header("origin", origin);
        error_code(request.body(body.clone()).send().await.unwrap()).await
    };
    for origin in ["https://evil.example", "null"] {
        assert_eq!(
            chat(origin).await,
            (403, json!("origin_not_allowed")),
            "{origin}"
        );
    }
    assert_eq!(api.counters("m").await.requests, 0);
    for origin in ["https://chat.example", &cluster.url()] {
        assert_eq!(chat(origin).await.0, 200, "{origin}");
    }
    let apply = api
        .request(Method::POST, "api/v1/delete")
        .header("origin", "https://chat.example");
    let (status, _) = error_code(apply.json(&json!({})).send().await.unwrap()).await;
    assert_eq!(status, 403);
    cluster.stop().await;
}

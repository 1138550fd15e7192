//! How people reach a fleet that requires keys: logins, the page, other web pages, and the audit log.

use std::process::Command;

use flotilla_tests::{Cluster, Etcd, Mode, flotilla_binary, holds_in_time, simulated_model};
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixtures::{error_code, serve};
use crate::key_fixtures::{admin, cluster, create_key, second_controller};

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
    // What any web page can have a browser send without a preflight request.
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

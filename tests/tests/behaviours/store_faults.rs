//! Stores that are away, full or large, as operators and clients see them.

use std::panic::Location;
use std::path::Path;
use std::process::Command;

use flotilla_tests::{
    Api, CONTROLLER_ON_FREE_PORTS, Etcd, Process, address_in_line, flotilla_binary, holds_in_time,
    simulated_model,
};
use serde_json::{Value, json};

use crate::fixtures::{error_code, header, task};
use crate::small_disk::SmallDisk;

/// A controller with its own data directory, and the API of the one that runs.
struct TestController {
    process: Process,
    api: Api,
    link: String,
    url: String,
}

/// Starts a controller whose files are in `dir`.
fn start_controller(dir: &Path, store: &str) -> TestController {
    let mut command = Command::new(flotilla_binary());
    command.args(controller_args(dir, store)).current_dir(dir);
    started(Process::spawn(command))
}

fn controller_args(dir: &Path, store: &str) -> Vec<String> {
    let data = dir.join("controller").display().to_string();
    let args = CONTROLLER_ON_FREE_PORTS.into_iter().map(str::to_owned);
    args.chain(["--store".into(), store.into(), "--data-dir".into(), data])
        .collect()
}

fn started(mut process: Process) -> TestController {
    let line = process.wait_for_line("ready http=");
    TestController {
        process,
        url: format!("http://{}", address_in_line(&line, "http")),
        api: Api::new(address_in_line(&line, "http")),
        link: address_in_line(&line, "link").to_string(),
    }
}

/// Starts an agent of a controller.
fn start_agent(dir: &Path, controller: &TestController, name: &str) -> Process {
    let data = dir.join(name).display().to_string();
    let args = [
        "agent",
        "--join",
        &controller.link,
        "--name",
        name,
        "--data-dir",
        &data,
        "--metrics",
        "off",
    ];
    Process::start(dir, &args)
}

/// Waits until `condition` holds. Panics with the place of the call if it does not before the deadline.
#[track_caller]
fn wait_until(condition: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        assert!(
            holds_in_time(condition).await,
            "the condition at {caller} does not hold before the deadline"
        );
    }
}

/// The notes of `/readyz`, and whether it says ready.
async fn readiness(api: &Api) -> (u16, String) {
    let (status, answer) = api.get("readyz").await;
    (status, answer["notes"].to_string())
}

/// A task whose examples have most of the bytes that a resource may have.
fn large_task(name: &str) -> Value {
    let example = |i| format!("{} {i}", "word ".repeat(1_800));
    let examples: Vec<_> = (0..95).map(example).collect();
    task(name, json!({"models": ["m"], "examples": examples}))
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_with_more_resources_than_a_message_holds_starts_again() {
    let etcd = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let store = etcd.store().to_string();
    let controller = start_controller(dir.path(), &store);
    for i in 0..6 {
        controller.api.apply(&large_task(&format!("t{i}"))).await;
    }
    controller.process.stop();
    let controller = start_controller(dir.path(), &store);
    wait_until(async || controller.api.items("tasks").await.len() == 6).await;
    let (status, notes) = readiness(&controller.api).await;
    assert_eq!((status, notes.contains("store")), (200, false), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_that_starts_without_its_store_serves_what_it_kept_and_says_so() {
    let mut etcd = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let store = etcd.store().to_string();
    let controller = start_controller(dir.path(), &store);
    let agent = start_agent(dir.path(), &controller, "n1");
    controller
        .api
        .apply(&simulated_model("m", 1, &json!({})))
        .await;
    let api = controller.api.clone();
    wait_until(async || api.ready_replicas("m").await == 1).await;
    // Stopping saves what has changed since the file was written.
    controller.process.stop();
    drop(agent);
    etcd.kill();

    let controller = start_controller(dir.path(), &store);
    let _agent = start_agent(dir.path(), &controller, "n1");
    let api = controller.api.clone();
    wait_until(async || api.ready_replicas("m").await == 1).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    let (status, notes) = readiness(&api).await;
    assert_eq!(
        (status, notes.contains("from its disk")),
        (200, true),
        "{notes}"
    );
    let (_, list) = api.get("api/v1/models").await;
    assert!(
        list["notes"].to_string().contains("from its disk"),
        "{list}"
    );
    let (status, answer) = api.try_apply(&simulated_model("new", 1, &json!({}))).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("store_unavailable"))
    );
    // What it knows is not the question any more: there is no such model.
    assert_eq!(api.chat("other", "hi", false).await.status(), 404);

    etcd.resume();
    wait_until(async || api.get("readyz").await.1["notes"] == json!([])).await;
    api.apply(&simulated_model("new", 1, &json!({}))).await;
    wait_until(async || api.ready_replicas("new").await == 1).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_that_knows_nothing_yet_asks_clients_to_come_back() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let dir = tempfile::tempdir().unwrap();
    let controller = start_controller(dir.path(), &etcd.store().to_string());
    let response = controller.api.chat("m", "hi", false).await;
    assert_eq!(header(&response, "retry-after"), "1");
    assert_eq!(error_code(response).await, (503, json!("not_ready")));
    for path in [
        "readyz",
        "api/v1/models",
        "api/v1/nodes?watch=true",
        "api/v1/fleet",
        "v1/models",
        "v1/models/m",
        "api/v1/models/m",
        "api/v1/nodes/n",
    ] {
        let response = controller.api.get_response(path).await;
        assert_eq!(header(&response, "retry-after"), "1", "{path}");
        let answer = error_code(response).await;
        assert_eq!(answer, (503, json!("not_ready")), "{path}");
    }
    let url = controller.url.clone();
    let mut list = Process::start(dir.path(), &["get", "models", "--url", &url]);
    let (status, output) = list.wait();
    assert!(!status.success(), "{output}");
    assert!(
        output.contains("the store has not been read yet"),
        "{output}"
    );
    // It is known which member does not answer.
    let member = &etcd.address().endpoints[0];
    wait_until(async || readiness(&controller.api).await.1.contains(member)).await;
    etcd.resume();
    wait_until(async || controller.api.chat("m", "hi", false).await.status() == 404).await;
    assert_eq!(controller.api.get("api/v1/models/m").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_etcd_is_named_with_its_remedy_until_there_is_room() {
    let etcd = Etcd::start_with_quota(1, 4 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = etcd.store().to_string();
    let controller = start_controller(dir.path(), &store);
    let _agent = start_agent(dir.path(), &controller, "n1");
    let api = controller.api.clone();
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    wait_until(async || api.ready_replicas("m").await == 1).await;
    etcd.fill();
    // Nobody changes anything: the alarm alone is seen.
    wait_until(async || readiness(&api).await.1.contains("NOSPACE")).await;
    let (status, notes) = readiness(&api).await;
    assert_eq!(
        (status, notes.contains("alarm disarm")),
        (200, true),
        "{notes}"
    );
    let (status, answer) = api.try_apply(&simulated_model("new", 1, &json!({}))).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (507, &json!("store_full"))
    );
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    controller.process.stop();

    let controller = start_controller(dir.path(), &store);
    let api = controller.api.clone();
    wait_until(async || readiness(&api).await.1.contains("NOSPACE")).await;
    etcd.make_room();
    wait_until(async || !readiness(&api).await.1.contains("NOSPACE")).await;
    let is_leader = async || {
        api.items("controllers")
            .await
            .iter()
            .any(|c| c["leader"] == true)
    };
    wait_until(is_leader).await;
    api.apply(&simulated_model("new", 1, &json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_stops_changes_only_until_there_is_room_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let disk_dir = dir.path().join("disk");
    std::fs::create_dir(&disk_dir).unwrap();
    let Some(disk) = SmallDisk::mount(&disk_dir, 6) else {
        return;
    };
    let store = format!("embedded:{}", disk_dir.join("store").display());
    let start = || {
        let mut command = disk.command(flotilla_binary());
        command.args(controller_args(&disk_dir, &store));
        started(Process::spawn(command))
    };
    let controller = start();
    let _agent = start_agent(dir.path(), &controller, "n1");
    let api = controller.api.clone();
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    wait_until(async || api.ready_replicas("m").await == 1).await;
    disk.fill();
    let counter = std::sync::atomic::AtomicU32::new(0);
    // Pages of the file that are free are used up first.
    let is_refused = async |api: &Api| {
        let i = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let examples: Vec<_> = (0..9)
            .map(|n| format!("{n}{}", "x".repeat(9_000)))
            .collect();
        let task = task(
            &format!("t{i}"),
            json!({"models": ["m"], "examples": examples}),
        );
        let (status, answer) = api.try_apply(&task).await;
        status == 507 && answer["error"]["code"] == "store_full"
    };
    wait_until(async || is_refused(&api).await).await;
    wait_until(async || readiness(&api).await.1.contains("is full: free some space")).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    disk.make_room();
    // Without a restart.
    wait_until(async || api.get("readyz").await.1["notes"] == json!([])).await;
    api.apply(&simulated_model("after", 1, &json!({}))).await;
    wait_until(async || api.ready_replicas("after").await == 1).await;

    disk.fill();
    wait_until(async || is_refused(&api).await).await;
    controller.process.stop();
    let controller = start();
    let api = controller.api.clone();
    wait_until(async || api.models().await.len() == 2).await;
    // It has no room to say that it leads, or little.
    wait_until(async || is_refused(&api).await).await;
    wait_until(async || readiness(&api).await.1.contains("is full: free some space")).await;
    disk.make_room();
    wait_until(async || {
        let controllers = api.items("controllers").await;
        controllers
            .iter()
            .any(|c| c["leader"] == true && c["local"] == true)
    })
    .await;
    api.apply(&simulated_model("later", 1, &json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_store_that_is_deleted_takes_no_changes_and_is_not_created_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("controller");
    let store = format!("embedded:{}", data.display());
    let controller = start_controller(dir.path(), &store);
    let _agent = start_agent(dir.path(), &controller, "n1");
    let api = controller.api.clone();
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    wait_until(async || api.ready_replicas("m").await == 1).await;
    std::fs::remove_dir_all(&data).unwrap();
    let (status, answer) = api.try_apply(&simulated_model("lost", 1, &json!({}))).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("store_unavailable"))
    );
    let message = answer["error"]["message"].to_string();
    assert!(message.contains("was removed"), "{message}");
    wait_until(async || readiness(&api).await.1.contains("flotilla backup")).await;
    let (_, list) = api.get("api/v1/nodes").await;
    assert!(list["notes"].to_string().contains("was removed"), "{list}");
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    controller.process.stop();

    // What it knew is kept, and shows that there was a fleet.
    let args = controller_args(dir.path(), &store);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (status, output) = Process::start(dir.path(), &args).wait();
    assert!(!status.success());
    assert!(output.contains("--init-store"), "{output}");
    assert!(output.contains("desired-state.jsonl"), "{output}");
    let mut command = Command::new(flotilla_binary());
    command.args(&args).arg("--init-store");
    let controller = started(Process::spawn(command));
    wait_until(async || controller.api.get("readyz").await.0 == 200).await;
    assert!(controller.api.models().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn resource_of_a_later_version_is_served_as_far_as_it_is_understood() {
    let etcd = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let address = etcd.store();
    let store = flotilla_controller::store::open(&address).await.unwrap();
    let put = async |key: &str, value: Value| {
        let key = format!("/flotilla/v1/{key}");
        let write =
            flotilla_controller::store::StoreWrite::put(key, value.to_string().into_bytes());
        store.write(vec![write]).await.unwrap();
    };
    let mut model = simulated_model("m", 1, &json!({}));
    model["spec"]["ofALaterVersion"] = json!({"a": 1});
    put(
        "models/m",
        json!({"created": 1, "resource": model, "alsoNew": 1}),
    )
    .await;
    let mut unreadable = simulated_model("other", 1, &json!({}));
    unreadable["spec"]["engine"] = json!("of-a-later-version");
    put(
        "models/other",
        json!({"created": 1, "resource": unreadable}),
    )
    .await;

    let controller = start_controller(dir.path(), &address.to_string());
    let _agent = start_agent(dir.path(), &controller, "n1");
    let api = controller.api.clone();
    wait_until(async || api.ready_replicas("m").await == 1).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    let model = api.model("m").await;
    assert_eq!(
        model["status"]["ignoredFields"],
        json!(["spec.ofALaterVersion"])
    );
    let (_, notes) = readiness(&api).await;
    assert!(notes.contains("models/m has fields"), "{notes}");
    assert!(notes.contains("models/other is not understood"), "{notes}");
    // Applying it as this version knows it replaces the stored one.
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    api.delete_model("other").await;
    wait_until(async || api.get("readyz").await.1["notes"] == json!([])).await;
}

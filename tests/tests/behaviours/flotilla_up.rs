//! The command `flotilla up`, as a user runs it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use flotilla_tests::{DEADLINE, Process, flotilla_binary, free_address, repository};

/// Starts `flotilla up` in this directory.
fn up(dir: &Path, http: SocketAddr) -> Process {
    up_with(dir, http, &[])
}

/// Starts `flotilla up` in this directory with further arguments.
fn up_with(dir: &Path, http: SocketAddr, further: &[&str]) -> Process {
    let models = repository().join("models").display().to_string();
    let http = http.to_string();
    let mut args = vec![
        "up",
        "--data-dir",
        "data",
        "--http",
        &http,
        "--models",
        &models,
    ];
    args.extend(further);
    Process::start(dir, &args)
}

/// Runs a command against the fleet at this address, which must succeed, and returns its output.
fn run(http: SocketAddr, args: &[&str]) -> String {
    let output = Command::new(flotilla_binary())
        .args(args)
        .env("FLOTILLA_URL", format!("http://{http}"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn one_command_starts_a_fleet_and_a_second_start_continues_with_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let http = free_address();
    let mut fleet = up(dir.path(), http);
    let line = fleet.wait_for_line("Flotilla is up");
    assert!(
        line.contains("3 nodes, 5 models, 7 of 7 replicas ready"),
        "{line}"
    );
    fleet.wait_for_line("Ctrl-C stops everything.");
    let answer = run(http, &["chat", "support-intent", "where is my new card?"]);
    assert_eq!(answer, "card_arrival\n");
    assert!(run(http, &["get", "nodes"]).contains("node-3"));
    run(http, &["delete", "model", "numbers"]);
    fleet.stop();
    // The port is free at once.
    drop(TcpListener::bind(http).unwrap());

    let mut fleet = up(dir.path(), http);
    let line = fleet.wait_for_line("Flotilla is up");
    assert!(
        line.contains("3 nodes, 4 models"),
        "a deleted model is back: {line}"
    );
    fleet.wait_for_line("Ctrl-C stops everything.");
    assert!(!run(http, &["get", "models"]).contains("numbers"));
    fleet.stop();
}

#[test]
fn further_resources_are_applied_to_a_fleet_that_was_started_before() {
    let dir = tempfile::tempdir().unwrap();
    let http = free_address();
    let mut fleet = up(dir.path(), http);
    fleet.wait_for_line("Ctrl-C stops everything.");
    run(http, &["delete", "model", "numbers"]);
    fleet.stop();

    let resources = "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: further}\nspec: {engine: simulated}\n---\n\
        apiVersion: flotilla.dev/v1\nkind: Router\nmetadata: {name: default}\nspec: {defaultTask: numbers}";
    let file = dir.path().join("further.yaml").display().to_string();
    std::fs::write(&file, resources).unwrap();
    let mut fleet = up_with(dir.path(), http, &["--apply", &file]);
    let line = fleet.wait_for_line("Flotilla is up");
    assert!(line.contains("3 nodes, 5 models"), "{line}");
    fleet.wait_for_line("Ctrl-C stops everything.");
    let models = run(http, &["get", "models"]);
    assert!(models.contains("further") && !models.contains("numbers"));
    let router = run(http, &["get", "routers", "-o", "yaml"]);
    assert!(router.contains("defaultTask: numbers"), "{router}");
    fleet.stop();
}

/// Waits until `flotilla get assignments` prints a line for which `condition` holds.
fn wait_for_assignment(http: SocketAddr, condition: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !run(http, &["get", "assignments"]).lines().any(&condition) {
        assert!(Instant::now() < deadline, "no assignment is as expected");
    }
}

/// Runs `flotilla up`, which must fail with one line that contains `message`.
fn assert_fails(dir: &Path, http: SocketAddr, message: &str) {
    let (status, output) = up(dir, http).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(output.contains(message), "{output}");
}

#[test]
fn port_in_use_is_reported_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_fails(
        dir.path(),
        listener.local_addr().unwrap(),
        "the port is in use",
    );
}

#[test]
fn data_directory_that_cannot_be_written_is_reported_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    // A file in its place stops the superuser, too.
    std::fs::write(dir.path().join("data"), "").unwrap();
    assert_fails(dir.path(), free_address(), "cannot be used");
}

#[test]
fn damaged_store_is_reported_in_one_line() {
    for content in [&b"garbage"[..], &[0xA5; 1 << 20]] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("data/controller");
        std::fs::create_dir_all(&store).unwrap();
        std::fs::write(store.join("store.redb"), content).unwrap();
        assert_fails(dir.path(), free_address(), "is damaged");
    }
}

#[test]
fn second_fleet_on_the_same_data_directory_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = up(dir.path(), free_address());
    first.wait_for_line("Ctrl-C stops everything.");
    assert_fails(dir.path(), free_address(), "in use by another process");
    first.stop();
}

#[test]
fn ctrl_c_stops_a_fleet_within_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let http = free_address();
    let mut fleet = up(dir.path(), http);
    fleet.wait_for_line("Ctrl-C stops everything.");
    let model = "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: slow}\nspec: {engine: simulated, options: {outputTokens: 100000, tokensPerSecond: 20}}";
    std::fs::write(dir.path().join("slow.yaml"), model).unwrap();
    let file = dir.path().join("slow.yaml").display().to_string();
    run(http, &["apply", "-f", &file]);
    let url = format!("http://{http}");
    wait_for_assignment(http, |line| {
        line.starts_with("slow") && line.contains("Ready")
    });
    // Its answer does not end by itself.
    let _chat = Process::start(dir.path(), &["chat", "--url", &url, "slow", "hi"]);
    wait_for_assignment(http, |line| {
        let active_requests = line.split_whitespace().nth(3);
        line.starts_with("slow") && active_requests == Some("1")
    });
    fleet.stop();
    drop(TcpListener::bind(http).unwrap());
}

#[test]
fn second_machine_joins_the_first_fleet_and_log_lines_name_their_node() {
    let dir = tempfile::tempdir().unwrap();
    let (http, link) = (free_address(), free_address());
    let everywhere = format!("0.0.0.0:{}", link.port());
    let arguments = [
        "--link",
        &everywhere,
        "--insecure",
        "--nodes",
        "1",
        "--log",
        "info",
    ];
    let mut fleet = up_with(dir.path(), http, &arguments);
    fleet.wait_for_line("node{name=\"node-1\"}");
    let line = fleet.wait_for_line("Flotilla is up");
    assert!(line.contains(": 1 node, 5 models"), "{line}");
    let line = fleet.wait_for_line("Join  flotilla agent --join ");
    assert!(!line.contains("0.0.0.0"), "{line}");
    let link = link.to_string();
    let arguments = [
        "agent",
        "--join",
        &link,
        "--name",
        "second",
        "--data-dir",
        "second",
        "--metrics",
        "off",
    ];
    let mut agent = Process::start(dir.path(), &arguments);
    let line = agent.wait_for_line("starting an agent");
    assert!(
        line.contains("node=second") && !line.contains("{"),
        "{line}"
    );
    agent.wait_for_line("linked");
    let deadline = Instant::now() + DEADLINE;
    while !run(http, &["get", "nodes"]).contains("second") {
        assert!(Instant::now() < deadline, "the second node does not join");
    }
    agent.stop();
    fleet.stop();
}

#[test]
fn resources_of_a_fleet_can_be_applied_again_as_they_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let http = free_address();
    let mut fleet = up(dir.path(), http);
    fleet.wait_for_line("Ctrl-C stops everything.");
    let file = dir.path().join("printed.yaml");
    let file_name = file.display().to_string();
    for arguments in [
        &["get", "model", "support-intent"][..],
        &["get", "models"],
        &["get", "tasks"],
        &["get", "routers"],
    ] {
        for format in ["yaml", "json"] {
            let printed = run(http, &[arguments, &["-o", format]].concat());
            std::fs::write(&file, printed).unwrap();
            let applied = run(http, &["apply", "-f", &file_name]);
            let is_unchanged = |line: &str| line.ends_with(" unchanged");
            assert!(
                !applied.is_empty() && applied.lines().all(is_unchanged),
                "{arguments:?}: {applied}"
            );
        }
    }
    // A router that leaves a field to its default says so, a source that is not there as well.
    let router = "apiVersion: flotilla.dev/v1\nkind: Router\nmetadata: {name: default}\nspec: {abstain: {minConfidence: 0.5}}";
    std::fs::write(&file, router).unwrap();
    assert!(run(http, &["apply", "-f", &file_name]).contains("router/default configured"));
    std::fs::write(
        &file,
        router.replace("{abstain: {minConfidence: 0.5}}", "{}"),
    )
    .unwrap();
    let applied = run(http, &["apply", "-f", &file_name]);
    let expected = "spec.abstain.minConfidence: 0.5 → not set (the manifest does not name it: its default applies)";
    assert!(applied.contains(expected), "{applied}");
    fleet.stop();
}

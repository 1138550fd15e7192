//! `flotilla up`, as a user starts it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use flotilla_tests::{Process, flotilla_binary, free_address, repository};

fn up(dir: &Path, http: SocketAddr) -> Process {
    let models = repository().join("models").display().to_string();
    let http = http.to_string();
    let args = [
        "up",
        "--data-dir",
        "data",
        "--http",
        &http,
        "--models",
        &models,
    ];
    Process::start(dir, &args)
}

/// Runs a command against a fleet and gives what it prints.
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

fn stop(mut process: Process) {
    process.signal(libc::SIGINT);
    let (status, output) = process.wait();
    assert!(status.success(), "{status}:\n{output}");
}

#[test]
fn one_command_starts_a_fleet_that_answers_and_a_second_start_goes_on_with_it() {
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
    stop(fleet);
    // The port is free again at once.
    drop(TcpListener::bind(http).unwrap());

    let mut fleet = up(dir.path(), http);
    let line = fleet.wait_for_line("Flotilla is up");
    assert!(
        line.contains("3 nodes, 4 models"),
        "a removed model came back: {line}"
    );
    fleet.wait_for_line("Ctrl-C stops everything.");
    assert!(!run(http, &["get", "models"]).contains("numbers"));
    stop(fleet);
}

/// Starts `up`, which must fail with one line that holds `part`.
fn fails(dir: &Path, http: SocketAddr, part: &str) {
    let (status, output) = up(dir, http).wait();
    assert_eq!(status.code(), Some(1), "{output}");
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(output.contains(part), "{output}");
}

#[test]
fn a_taken_port_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    fails(dir.path(), taken.local_addr().unwrap(), "the port is taken");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    // A file in its place stops everybody, the superuser too.
    std::fs::write(dir.path().join("data"), "").unwrap();
    fails(dir.path(), free_address(), "cannot be used");
}

#[test]
fn a_damaged_store_is_one_clear_line() {
    for content in [&b"garbage"[..], &[0xA5; 1 << 20]] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("data/controller");
        std::fs::create_dir_all(&store).unwrap();
        std::fs::write(store.join("store.redb"), content).unwrap();
        fails(dir.path(), free_address(), "is damaged");
    }
}

#[test]
fn a_second_fleet_on_the_same_data_directory_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = up(dir.path(), free_address());
    first.wait_for_line("Ctrl-C stops everything.");
    fails(dir.path(), free_address(), "in use by another process");
    stop(first);
}

#[test]
fn ctrl_c_stops_a_fleet_in_the_middle_of_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let http = free_address();
    let mut fleet = up(dir.path(), http);
    fleet.wait_for_line("Ctrl-C stops everything.");
    let model = "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: slow}\nspec: {engine: simulated, options: {outputTokens: 100000, tokensPerSecond: 20}}";
    std::fs::write(dir.path().join("slow.yaml"), model).unwrap();
    let file = dir.path().join("slow.yaml").display().to_string();
    run(http, &["apply", "-f", &file]);
    let url = format!("http://{http}");
    let chat = Process::start(dir.path(), &["chat", "--url", &url, "slow", "hi"]);
    // Retried until the model is ready; then it never ends by itself.
    let deadline = std::time::Instant::now() + flotilla_tests::DEADLINE;
    while !run(http, &["get", "assignments"])
        .lines()
        .any(|l| l.starts_with("slow") && l.contains("Ready"))
    {
        assert!(std::time::Instant::now() < deadline);
    }
    chat.signal(libc::SIGKILL);
    let chat = Process::start(dir.path(), &["chat", "--url", &url, "slow", "hi"]);
    while !run(http, &["get", "assignments"])
        .lines()
        .any(|l| l.starts_with("slow") && l.split_whitespace().nth(3) == Some("1"))
    {
        assert!(std::time::Instant::now() < deadline);
    }
    stop(fleet);
    drop(chat);
    drop(TcpListener::bind(http).unwrap());
}

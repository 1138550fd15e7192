//! The binary's command line, without a fleet.

use std::process::{Command, Output};

fn flotilla(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(args)
        // No fleet listens on the discard port.
        .env("FLOTILLA_URL", "http://127.0.0.1:9")
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_of_every_command_has_an_example() {
    for command in [
        "up",
        "controller",
        "agent",
        "chat",
        "route",
        "explain",
        "eval",
        "top",
        "get",
        "describe",
        "apply",
        "delete",
        "backup",
        "restore",
        "cordon",
        "uncordon",
        "drain",
        "completions",
    ] {
        let output = flotilla(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        assert!(text(&output.stdout).contains("Example"), "{command}");
    }
}

#[test]
fn completions_exist_for_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = flotilla(&["completions", shell]);
        assert!(text(&output.stdout).contains("flotilla"), "{shell}");
    }
}

#[test]
fn unreachable_fleet_is_reported_in_one_line() {
    let output = flotilla(&["get", "nodes"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("nothing listens on port"), "{error}");
}

#[test]
fn invalid_flag_is_rejected_with_the_reason() {
    for (args, reason) in [
        (&["controller", "--store", "mysql:x"][..], "is not a store"),
        (
            &["controller", "--store", "etcd://no-port"],
            "names no etcd member",
        ),
        (&["agent", "--name", "A", "--join", "x:1"], "lower-case"),
        (&["agent", "--name", "a"], "--join"),
    ] {
        let output = flotilla(args);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn generated_reference_is_up_to_date() {
    for (file, arguments) in [
        ("cli.md", &["cli"][..]),
        ("resources.md", &["resources"]),
        ("schemas/model.json", &["schema", "model"]),
        ("schemas/task.json", &["schema", "task"]),
        ("schemas/router.json", &["schema", "router"]),
    ] {
        let generated = text(&flotilla(&[&["reference"], arguments].concat()).stdout);
        let path = format!("{}/../docs/reference/{file}", env!("CARGO_MANIFEST_DIR"));
        let documented = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            generated == documented,
            "docs/reference/{file} is out of date; regenerate it with \
             `cargo run --release -- reference {} > docs/reference/{file}`",
            arguments.join(" ")
        );
    }
}

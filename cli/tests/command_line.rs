//! The binary as a shell sees it, without a fleet.

use std::process::{Command, Output};

fn flotilla(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(args)
        .env("FLOTILLA_URL", "http://127.0.0.1:9")
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        "up",
        "controller",
        "agent",
        "chat",
        "top",
        "get",
        "describe",
        "apply",
        "delete",
        "completions",
    ] {
        let output = flotilla(&[command, "--help"]);
        assert!(output.status.success(), "{command}");
        assert!(text(&output.stdout).contains("Example"), "{command}");
    }
}

#[test]
fn completions_are_printed_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let output = flotilla(&["completions", shell]);
        assert!(text(&output.stdout).contains("flotilla"), "{shell}");
    }
}

#[test]
fn a_fleet_that_is_not_there_is_one_clear_line() {
    let output = flotilla(&["get", "nodes"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("there is no fleet at"), "{error}");
}

#[test]
fn a_wrong_flag_is_refused_with_its_reason() {
    for (args, part) in [
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
        assert!(error.contains(part), "{error}");
    }
}

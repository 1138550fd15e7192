//! Runs Node's own test runner on the cases in `tests/javascript`.

use std::path::PathBuf;
use std::process::Command;

use flotilla_tests::repository;

use crate::case_runner::printed;

/// The variable that makes `cases.js` skip every case, so that the reporter lists them.
const LIST_VARIABLE: &str = "FLOTILLA_LIST_CASES";
/// What `case_reporter.js` prints before the id of each case.
const CASE_PREFIX: &str = "case ";

/// The cases of `tests/javascript`.
#[derive(Clone)]
pub(crate) struct NodeTest;

impl NodeTest {
    /// Returns the ids of all cases, such as `openai.test.js::chat is answered`.
    pub(crate) fn collect(&self) -> Result<Vec<String>, String> {
        let node = interpreter();
        for needed in [&node, &folder().join("node_modules")] {
            if !needed.exists() {
                return Err(format!("{} is missing: run `make setup`", needed.display()));
            }
        }
        let output = command()
            .env(LIST_VARIABLE, "1")
            .output()
            .map_err(|error| format!("{} does not start: {error}", node.display()))?;
        let text = printed(&output);
        if !output.status.success() {
            return Err(format!("node cannot collect the cases:\n{text}"));
        }
        let case = |line: &str| line.strip_prefix(CASE_PREFIX).map(str::to_owned);
        Ok(text.lines().filter_map(case).collect())
    }

    /// Returns the command that runs these cases.
    pub(crate) fn run_command(&self, cases: &[String]) -> Command {
        let mut command = command();
        for case in cases {
            command.arg(format!("--test-name-pattern=^{}$", escaped(case)));
        }
        command
    }
}

fn folder() -> PathBuf {
    repository().join("tests/javascript")
}

/// Returns the Node that `make setup` installs.
fn interpreter() -> PathBuf {
    repository().join(".venv/bin/node")
}

/// Returns the command `node --test`, which runs in the folder of the tests, one file after the other:
/// cases count what a model has done for them.
fn command() -> Command {
    let mut command = Command::new(interpreter());
    command
        .args([
            "--test",
            "--test-concurrency=1",
            "--test-reporter=./case_reporter.js",
        ])
        .current_dir(folder());
    command
}

/// Returns the regular expression that matches this text.
fn escaped(text: &str) -> String {
    let mut pattern = String::new();
    for character in text.chars() {
        if !character.is_alphanumeric() && character != ' ' {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

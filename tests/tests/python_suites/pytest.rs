//! Runs pytest on the cases in `tests/python`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_tests::repository;
use serde_json::Value;

/// The longest time that all cases of a suite may take together.
const SUITE_DEADLINE: Duration = Duration::from_secs(20 * 60);
/// The variable that tells `conftest.py` to which file it appends the outcome of each case.
const REPORTS_VARIABLE: &str = "FLOTILLA_CASE_REPORTS";

/// How a case ended.
pub(crate) enum CaseOutcome {
    Passed,
    /// With the reason.
    Skipped(String),
    /// With the traceback and what the case has printed.
    Failed(String),
}

/// The result of one run of pytest.
pub(crate) struct PytestRun {
    /// By the ids of the cases.
    pub(crate) outcomes: HashMap<String, CaseOutcome>,
    /// What pytest has printed.
    pub(crate) output: String,
}

/// Returns the folder of the Python tests.
pub(crate) fn folder() -> PathBuf {
    repository().join("tests/python")
}

/// Returns the Python interpreter: that of `FLOTILLA_TEST_PYTHON`, or the one that `make setup` installs.
pub(crate) fn interpreter() -> PathBuf {
    match std::env::var_os("FLOTILLA_TEST_PYTHON") {
        Some(python) => python.into(),
        None => repository().join(".venv/bin/python"),
    }
}

/// Returns the command `pytest`, which runs in the folder of the tests.
fn command() -> std::process::Command {
    let mut command = std::process::Command::new(interpreter());
    command
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .current_dir(folder())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Returns the ids of all cases, in the order in which pytest runs them, such as
/// `test_models.py::test_models_are_listed[streamed]`.
pub(crate) fn collect() -> Result<Vec<String>, String> {
    let python = interpreter();
    if !python.is_file() {
        return Err(format!("{} is missing: run `make setup`", python.display()));
    }
    let output = command()
        .args(["--collect-only", "--disable-warnings"])
        .output()
        .map_err(|error| format!("{} does not start: {error}", python.display()))?;
    let text = printed(&output);
    if !output.status.success() {
        return Err(format!("pytest cannot collect the cases:\n{text}"));
    }
    let is_case = |line: &&str| line.starts_with("test_") && line.contains(".py::");
    Ok(text.lines().filter(is_case).map(str::to_owned).collect())
}

/// Runs these cases against the fleet that `env` names.
///
/// # Panics
/// Panics if pytest does not run, exceeds the deadline, or fails without a failed case.
pub(crate) async fn run(cases: &[String], env: &[(&str, &str)]) -> PytestRun {
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().join("cases.jsonl");
    let mut command = tokio::process::Command::from(command());
    command
        .args(cases)
        .env(REPORTS_VARIABLE, &reports)
        .envs(env.iter().copied())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SUITE_DEADLINE, command.output()).await;
    let output = output.expect("pytest ends before the deadline").unwrap();
    let outcomes = read_outcomes(&reports);
    let run = PytestRun {
        outcomes,
        output: printed(&output),
    };
    let is_bad = |outcome: &CaseOutcome| !matches!(outcome, CaseOutcome::Passed);
    assert!(
        output.status.success() || run.outcomes.values().any(is_bad),
        "pytest failed:\n{}",
        run.output
    );
    run
}

/// Reads the outcomes that `conftest.py` has written: a JSON object in each line, more than one for a
/// case that fails both in its call and in its teardown.
fn read_outcomes(reports: &Path) -> HashMap<String, CaseOutcome> {
    // Without the file no case has ended.
    let text = std::fs::read_to_string(reports).unwrap_or_default();
    let mut outcomes = HashMap::new();
    for line in text.lines() {
        let report: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        let outcome = match field("outcome").as_str() {
            "passed" => CaseOutcome::Passed,
            "skipped" => CaseOutcome::Skipped(field("message")),
            _ => CaseOutcome::Failed(format!("{}\n{}", field("message"), field("output"))),
        };
        match outcomes.get(&field("case")) {
            // Nothing that follows makes a failed case a good one.
            Some(CaseOutcome::Failed(_)) => {}
            _ => {
                outcomes.insert(field("case"), outcome);
            }
        }
    }
    outcomes
}

/// Returns what a program has printed.
fn printed(output: &std::process::Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(stdout).into_owned() + &String::from_utf8_lossy(stderr)
}

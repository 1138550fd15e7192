//! The programs that run cases, and what they report about each.

use std::collections::HashMap;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::node_test::NodeTest;
use crate::pytest::Pytest;

/// The longest time that all cases of a runner may take together.
const RUN_DEADLINE: Duration = Duration::from_secs(20 * 60);
/// The variable that tells a runner to which file it appends the outcome of each case.
const REPORTS_VARIABLE: &str = "FLOTILLA_CASE_REPORTS";

/// How a case ended.
pub(crate) enum CaseOutcome {
    Passed,
    /// With the reason.
    Skipped(String),
    /// With the traceback and what the case has printed.
    Failed(String),
}

/// The result of one run of a runner, or of several.
#[derive(Default)]
pub(crate) struct CaseRun {
    /// By the ids of the cases.
    pub(crate) outcomes: HashMap<String, CaseOutcome>,
    /// What the runners have printed.
    pub(crate) output: String,
}

impl CaseRun {
    /// Adds what another runner has reported.
    pub(crate) fn add(&mut self, other: Self) {
        self.outcomes.extend(other.outcomes);
        self.output.push_str(&other.output);
    }
}

/// A program that runs cases.
#[derive(Clone)]
pub(crate) enum CaseRunner {
    Pytest(Pytest),
    NodeTest(NodeTest),
}

impl CaseRunner {
    /// Returns the name that a failed collection is reported under.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pytest(pytest) => pytest.name,
            Self::NodeTest(_) => "javascript",
        }
    }

    /// Returns the ids of all cases, in the order in which they run.
    ///
    /// # Errors
    /// Returns what to do if the runner is not set up or cannot read the cases.
    pub(crate) fn collect(&self) -> Result<Vec<String>, String> {
        let cases = match self {
            Self::Pytest(pytest) => pytest.collect(),
            Self::NodeTest(node) => node.collect(),
        }?;
        if cases.is_empty() {
            return Err("there are no cases: is anything left to set up? run `make setup`".into());
        }
        Ok(cases)
    }

    /// Runs these cases against the fleet that `env` names.
    ///
    /// # Panics
    /// Panics if the runner does not run, exceeds the deadline, or fails without a failed case.
    pub(crate) async fn run(&self, cases: &[String], env: &[(&str, &str)]) -> CaseRun {
        let dir = tempfile::tempdir().unwrap();
        let reports = dir.path().join("cases.jsonl");
        let command = match self {
            Self::Pytest(pytest) => pytest.run_command(cases),
            Self::NodeTest(node) => node.run_command(cases),
        };
        let mut command = tokio::process::Command::from(command);
        command
            .env(REPORTS_VARIABLE, &reports)
            .envs(env.iter().copied())
            .kill_on_drop(true);
        let output = tokio::time::timeout(RUN_DEADLINE, command.output()).await;
        let output = output.expect("the cases end before the deadline").unwrap();
        let run = CaseRun {
            outcomes: read_outcomes(&reports),
            output: printed(&output),
        };
        let is_bad = |outcome: &CaseOutcome| !matches!(outcome, CaseOutcome::Passed);
        assert!(
            output.status.success() || run.outcomes.values().any(is_bad),
            "the cases of {} failed:\n{}",
            self.name(),
            run.output
        );
        run
    }
}

/// Reads the outcomes that a runner has written: a JSON object in each line, more than one for a case
/// that fails both in its call and in its teardown.
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
pub(crate) fn printed(output: &Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(stdout).into_owned() + &String::from_utf8_lossy(stderr)
}

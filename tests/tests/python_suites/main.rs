//! Runs the Python tests in `tests/python` and reports each case as a test of its own.
//!
//! pytest collects the cases; each becomes a trial with the name that pytest gives it, so that a filter
//! of `cargo test` selects cases. The first trial of a suite starts the suite's fleet and runs all its
//! selected cases in one pytest process; every trial then reports the outcome of its case.

// A test that cannot go on fails, helpers included.
#![allow(clippy::unwrap_used)]

mod pytest;
mod suite;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use pytest::{CaseOutcome, PytestRun};
use suite::Suite;

/// The selected cases of a suite, and their outcomes once they have run.
struct SuiteRun {
    suite: Suite,
    cases: Vec<String>,
    /// An error if the suite did not run.
    result: OnceLock<Result<PytestRun, String>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match pytest::collect() {
        Ok(cases) => {
            let trials = |suite: &Suite| suite_trials(*suite, &cases, &arguments);
            Suite::ALL.iter().flat_map(trials).collect()
        }
        Err(problem) => vec![Trial::test("pytest_collects_the_cases", || {
            Err(Failed::from(problem))
        })],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Returns a trial for each case of a suite.
fn suite_trials(suite: Suite, all_cases: &[String], arguments: &Arguments) -> Vec<Trial> {
    let cases: Vec<_> = all_cases
        .iter()
        .filter(|case| suite.contains(case))
        .cloned()
        .collect();
    if cases.is_empty() {
        let name = format!("{}_has_cases", suite.name());
        let problem = "pytest collects no case of this suite: run `make setup`, then `pytest \
            --collect-only -rs` in tests/python shows what is missing";
        return vec![Trial::test(name, move || Err(problem.into()))];
    }
    let trial = |case: &str, runner: Box<dyn FnOnce() -> Result<(), Failed> + Send>| {
        Trial::test(case, runner).with_kind(suite.name())
    };
    let is_selected = |case: &&String| {
        let unrun = trial(case, Box::new(|| Ok(())));
        !arguments.is_filtered_out(&unrun)
    };
    let run = Arc::new(SuiteRun {
        suite,
        cases: cases.iter().filter(is_selected).cloned().collect(),
        result: OnceLock::new(),
    });
    let trials = cases.into_iter().map(|case| {
        let run = run.clone();
        let id = case.clone();
        trial(&id, Box::new(move || run.report(&case)))
    });
    trials.collect()
}

impl SuiteRun {
    /// Returns the outcome of a case. The first call runs the suite, and all others wait for it.
    fn report(&self, case: &str) -> Result<(), Failed> {
        let result = self.result.get_or_init(|| self.run());
        let run = result.as_ref().map_err(Failed::from)?;
        match run.outcomes.get(case) {
            Some(CaseOutcome::Passed) => Ok(()),
            // The fleet has all that the cases need, so a skipped one is a behaviour that is not tested.
            Some(CaseOutcome::Skipped(reason)) => Err(format!("skipped: {reason}").into()),
            Some(CaseOutcome::Failed(message)) => Err(message.into()),
            None => Err(format!("pytest did not run this case:\n{}", run.output).into()),
        }
    }

    fn run(&self) -> Result<PytestRun, String> {
        let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
        let run = || runtime.block_on(self.suite.run(&self.cases));
        // A fleet that does not start or stop panics. All cases report that, instead of starting it
        // once more for each.
        std::panic::catch_unwind(AssertUnwindSafe(run))
            .map_err(|panic| format!("the suite failed: {}", panic_message(panic.as_ref())))
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

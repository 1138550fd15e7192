//! Runs the cases in `tests/python` and `tests/javascript` and reports each as a test of its own.
//!
//! pytest and Node's test runner collect the cases; each becomes a trial with the name that its runner
//! gives it, so that a filter of `cargo test` selects cases. The first trial of a suite starts the suite's
//! fleet and runs all its selected cases, in one process for each runner; every trial then reports the
//! outcome of its case.

// A test that cannot go on fails, helpers included.
#![allow(clippy::unwrap_used)]

mod case_runner;
mod node_test;
mod pytest;
mod suite;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use case_runner::{CaseOutcome, CaseRun, CaseRunner};
use libtest_mimic::{Arguments, Failed, Trial};
use suite::{SelectedCases, Suite};

/// The selected cases of a suite, and their outcomes once they have run.
struct SuiteRun {
    suite: Suite,
    cases: Vec<SelectedCases>,
    /// An error if the suite did not run.
    result: OnceLock<Result<CaseRun, String>>,
}

/// The cases of a runner, or why it has none.
type Collection = (CaseRunner, Result<Vec<String>, String>);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = Suite::ALL
        .map(|suite| (suite, collect(suite.runners())))
        .into_iter()
        .flat_map(|(suite, collections)| suite_trials(suite, collections, &arguments))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Collects the cases of all these runners at the same time.
fn collect(runners: Vec<CaseRunner>) -> Vec<Collection> {
    let threads: Vec<_> = runners
        .into_iter()
        .map(|runner| {
            std::thread::spawn(move || {
                let cases = runner.collect();
                (runner, cases)
            })
        })
        .collect();
    let collections = threads.into_iter().map(|thread| thread.join().unwrap());
    collections.collect()
}

/// Returns a trial for each case of a suite, and one that fails for each runner without cases.
fn suite_trials(suite: Suite, collections: Vec<Collection>, arguments: &Arguments) -> Vec<Trial> {
    let trial = |case: &str, runner: Box<dyn FnOnce() -> Result<(), Failed> + Send>| {
        Trial::test(case, runner).with_kind(suite.name())
    };
    let is_selected = |case: &&String| {
        let unrun = trial(case, Box::new(|| Ok(())));
        !arguments.is_filtered_out(&unrun)
    };
    let mut trials = Vec::new();
    let mut selected = Vec::new();
    let mut all_cases = Vec::new();
    for (runner, cases) in collections {
        match cases {
            Ok(cases) => {
                let chosen: Vec<_> = cases.iter().filter(is_selected).cloned().collect();
                if !chosen.is_empty() {
                    selected.push((runner, chosen));
                }
                all_cases.extend(cases);
            }
            Err(problem) => {
                let name = format!("{}_has_cases", runner.name());
                trials.push(trial(&name, Box::new(|| Err(problem.into()))));
            }
        }
    }
    let run = Arc::new(SuiteRun {
        suite,
        cases: selected,
        result: OnceLock::new(),
    });
    trials.extend(all_cases.into_iter().map(|case| {
        let run = run.clone();
        let id = case.clone();
        trial(&id, Box::new(move || run.report(&case)))
    }));
    trials
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
            None => Err(format!("this case did not run:\n{}", run.output).into()),
        }
    }

    fn run(&self) -> Result<CaseRun, String> {
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

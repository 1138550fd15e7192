//! Runs pytest on the cases in `tests/python`.

use std::path::PathBuf;
use std::process::Command;

use flotilla_tests::repository;

use crate::case_runner::printed;

/// The files of some cases and the Python that has what they import.
#[derive(Clone)]
pub(crate) struct Pytest {
    pub(crate) name: &'static str,
    /// The folder of the repository that contains the Python's `.venv`.
    pub(crate) environment: &'static str,
    /// Which files to collect: arguments of pytest, which runs in [`folder`].
    pub(crate) files: &'static [&'static str],
}

/// Returns the folder of the Python tests.
pub(crate) fn folder() -> PathBuf {
    repository().join("tests/python")
}

/// Returns the Python interpreter that `make setup` installs into a folder of the repository.
/// `FLOTILLA_TEST_PYTHON` replaces that of the repository's own folder.
pub(crate) fn interpreter(environment: &str) -> PathBuf {
    match std::env::var_os("FLOTILLA_TEST_PYTHON") {
        Some(python) if environment.is_empty() => python.into(),
        _ => repository().join(environment).join(".venv/bin/python"),
    }
}

impl Pytest {
    /// Returns the Python interpreter that `make setup` installs.
    fn interpreter(&self) -> PathBuf {
        interpreter(self.environment)
    }

    /// Returns the ids of all cases, such as `test_models.py::test_models_are_listed[streamed]`.
    pub(crate) fn collect(&self) -> Result<Vec<String>, String> {
        let python = self.interpreter();
        if !python.is_file() {
            return Err(format!("{} is missing: run `make setup`", python.display()));
        }
        let output = self
            .command()
            .args(["--collect-only", "--disable-warnings"])
            .args(self.files)
            .output()
            .map_err(|error| format!("{} does not start: {error}", python.display()))?;
        let text = printed(&output);
        if !output.status.success() {
            return Err(format!("pytest cannot collect the cases:\n{text}"));
        }
        let is_case = |line: &&str| line.contains(".py::");
        Ok(text.lines().filter(is_case).map(str::to_owned).collect())
    }

    /// Returns the command that runs these cases.
    pub(crate) fn run_command(&self, cases: &[String]) -> Command {
        let mut command = self.command();
        command.args(cases);
        command
    }

    /// Returns the command `pytest`, which runs in the folder of the tests.
    fn command(&self) -> Command {
        let mut command = Command::new(self.interpreter());
        command
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
            .current_dir(folder())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

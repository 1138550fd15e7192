//! Where commands keep their data unless `--data-dir` says otherwise: always in the same place, whatever
//! directory they are started in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Returns the default data directory of the command with this `name`, such as `controller`.
///
/// # Errors
/// Returns an error if the user has no home directory.
pub(crate) fn default_data_dir(name: &Path) -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name);
    let root = root(is_superuser(), variable("XDG_STATE_HOME"), variable("HOME"));
    let root = root.context("there is no home directory to keep the data in: set --data-dir")?;
    Ok(root.join(name))
}

/// Returns the directory of all data: of the system for the superuser, else of the user.
fn root(is_superuser: bool, state: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    if is_superuser {
        return Some(PathBuf::from("/var/lib/flotilla"));
    }
    // As the XDG Base Directory Specification demands, a relative path does not count.
    let absolute =
        |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute(state).or_else(|| Some(absolute(home)?.join(".local/state")))?;
    Some(state.join("flotilla"))
}

fn is_superuser() -> bool {
    // SAFETY: geteuid only reads the process's user and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_in_an_absolute_directory() {
        let some = |path: &str| Some(OsString::from(path));
        let of =
            |superuser, state, home| root(superuser, state, home).map(|p| p.display().to_string());
        assert_eq!(
            of(true, some("/s"), some("/h")).unwrap(),
            "/var/lib/flotilla"
        );
        assert_eq!(of(false, some("/s"), some("/h")).unwrap(), "/s/flotilla");
        for state in [None, some("relative"), some("")] {
            assert_eq!(
                of(false, state, some("/h")).unwrap(),
                "/h/.local/state/flotilla"
            );
        }
        assert_eq!(of(false, None, None), None);
    }
}

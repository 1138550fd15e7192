//! Reads the attribute files of `/sys`, one value each.
//!
//! Every read may fail at any time, because devices are removed and sensors sleep. Reading is
//! implemented here: the crates that read hwmon or powercap cover one subsystem each and fix its root
//! at `/sys`, while the meters read six subsystems below any root, which tests need.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest number of bytes read from a file: a page, the limit of sysfs for an attribute.
const MAX_BYTES: u64 = 4096;

/// Reads a file as text, without surrounding whitespace.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Reads a file as text. `None` if it is empty or cannot be read.
pub(super) fn label(path: &Path) -> Option<String> {
    text(path).ok().filter(|text| !text.is_empty())
}

/// Reads the number at the start of a file. Words after it are ignored: old Tegra drivers append the
/// unit.
pub(super) fn number(path: &Path) -> io::Result<i64> {
    let text = text(path)?;
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}

/// Reads a number. `None` if there is none.
pub(super) fn signed(path: &Path) -> Option<i64> {
    number(path).ok()
}

/// Reads a number that is not negative. `None` if there is none.
pub(super) fn count(path: &Path) -> Option<u64> {
    number(path).ok()?.try_into().ok()
}

/// Returns the entries of a folder with this prefix, ordered by the numbers in their names, so that
/// `hwmon10` comes after `hwmon9`. Empty if there is no such folder.
pub(super) fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| name(path).starts_with(prefix))
        .collect();
    paths.sort_by_cached_key(|path| {
        let name = name(path);
        (numbers(&name), name)
    });
    paths
}

/// The last component of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The numbers in a name, in order.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Creates a tree of attribute files for a test.
#[cfg(test)]
pub(super) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("create a temporary folder");
    for (path, text) in files {
        write(root.path(), path, text);
    }
    root
}

/// Writes one attribute file of a test's tree.
#[cfg(test)]
pub(super) fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a path with a folder")).expect("create the folder");
    fs::write(path, format!("{text}\n")).expect("write the file");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_not_a_number() {
        for text in ["", "abc", "0x10", "1.5", "99999999999999999999999"] {
            let root = tree(&[("file", text)]);
            assert_eq!(signed(&root.path().join("file")), None, "{text}");
        }
        let root = tree(&[("power", "-32760 ma"), ("raw", "12")]);
        assert_eq!(signed(&root.path().join("power")), Some(-32760));
        assert_eq!(count(&root.path().join("power")), None);
        assert_eq!(count(&root.path().join("raw")), Some(12));
        assert_eq!(count(root.path()), None, "a folder");
        assert_eq!(label(&root.path().join("gone")), None);
    }

    #[test]
    fn entries_are_ordered_by_their_numbers() {
        let root = tree(&[("hwmon10/a", ""), ("hwmon9/a", ""), ("other/a", "")]);
        let names: Vec<_> = entries(root.path(), "hwmon")
            .iter()
            .map(|path| name(path))
            .collect();
        assert_eq!(names, ["hwmon9", "hwmon10"]);
        assert!(entries(&root.path().join("gone"), "").is_empty());
    }
}

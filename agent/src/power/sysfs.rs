//! Reading the small files of `/sys`. Each read may fail at any time: devices go, sensors sleep.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a file that are read at most: a page, the longest that sysfs gives for one attribute.
const PAGE: u64 = 4096;

/// What a file says, trimmed.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(PAGE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// A label: what a file says, unless it says nothing.
pub(super) fn label(path: &Path) -> Option<String> {
    text(path).ok().filter(|text| !text.is_empty())
}

/// The number in a file. Words after it are passed over: old Tegra drivers write their unit.
pub(super) fn number(path: &Path) -> io::Result<i64> {
    let text = text(path)?;
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}

/// The number in a file, where there is one.
pub(super) fn signed(path: &Path) -> Option<i64> {
    number(path).ok()
}

/// The number in a file, where there is one that is not below zero.
pub(super) fn count(path: &Path) -> Option<u64> {
    number(path).ok()?.try_into().ok()
}

/// The entries of a folder whose names start so, in the order of the numbers in their names, so that
/// `hwmon10` comes after `hwmon9`. None where there is no such folder.
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

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The numbers in a name, in their order.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// A tree of small files, as the kernel would show it.
#[cfg(test)]
pub(super) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        write(root.path(), path, text);
    }
    root
}

/// Writes one file of such a tree.
#[cfg(test)]
pub(super) fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, format!("{text}\n")).expect("written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_no_number() {
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
    fn entries_come_in_the_order_of_their_numbers() {
        let root = tree(&[("hwmon10/a", ""), ("hwmon9/a", ""), ("other/a", "")]);
        let names: Vec<_> = entries(root.path(), "hwmon")
            .iter()
            .map(|path| name(path))
            .collect();
        assert_eq!(names, ["hwmon9", "hwmon10"]);
        assert!(entries(&root.path().join("gone"), "").is_empty());
    }
}

//! The messages that `docs/troubleshooting.md` explains are those that the programs print.

// A test that cannot go on fails, helpers included.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Beginnings of quoted texts that are no messages: commands, flags and addresses.
const NO_MESSAGES: [&str; 6] = [
    "flotilla ",
    "--",
    "FLOTILLA_",
    "embedded:",
    "etcd",
    "http://",
];
/// Most characters between two parts of one message, of which the page leaves out what is between them.
const MAX_GAP: usize = 150;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folders of the crates that programs are made of: all but the harness.
fn program_crates() -> Vec<PathBuf> {
    let entries = fs::read_dir(root()).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path());
    let is_program =
        |folder: &PathBuf| folder.join("Cargo.toml").is_file() && !folder.ends_with("tests");
    folders.filter(is_program).collect()
}

/// Adds the code of all Rust files below a folder, without comments and tests.
fn read_sources(folder: &Path, text: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            read_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = fs::read_to_string(&path).unwrap();
            let code = file.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.lines().filter(|line| !line.trim().starts_with("//"));
            text.extend(code.flat_map(|line| [line, "\n"]));
        }
    }
}

/// The sources with their string literals in one line each.
fn sources() -> String {
    let mut text = String::new();
    for folder in program_crates() {
        read_sources(&folder.join("src"), &mut text);
    }
    let lines = text.replace("\\\n", " ").replace("\\\"", "\"");
    lines.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a text has the parts of a message one after the other. The page writes `…` for what differs.
fn has_message(sources: &str, message: &str) -> bool {
    let parts: Vec<_> = message.split('…').map(str::trim).collect();
    let mut parts = parts.into_iter().filter(|part| !part.is_empty());
    let Some(first) = parts.next() else {
        return true;
    };
    let rest: Vec<_> = parts.collect();
    sources.match_indices(first).any(|(start, _)| {
        let mut position = start + first.len();
        rest.iter().all(|part| {
            let end = sources.len().min(position + MAX_GAP);
            let window = String::from_utf8_lossy(&sources.as_bytes()[position..end]);
            let found = window.find(part);
            position += found.unwrap_or_default() + part.len();
            found.is_some()
        })
    })
}

/// Whether a text has an identifier, as it is or as the Rust name from which it is derived.
fn has_identifier(sources: &str, name: &str) -> bool {
    let words = name.split('_').map(|word| {
        let mut chars = word.chars();
        let first = chars.next().into_iter().flat_map(char::to_uppercase);
        first.chain(chars).collect::<String>()
    });
    sources.contains(&words.collect::<String>())
}

/// The texts that the page quotes as messages: those in the first column of a table, and others of several
/// words.
fn quoted_messages(page: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let prose = page.split("```").step_by(2).collect::<String>();
    for line in prose.split('\n') {
        let is_row = line.starts_with('|');
        for (column, cell) in line.split('|').enumerate() {
            let quoted = cell.split('`').skip(1).step_by(2);
            let is_named = |text: &&str| (is_row && column == 1) || text.contains(' ');
            let is_message = |text: &&str| !NO_MESSAGES.iter().any(|other| text.starts_with(other));
            messages.extend(
                quoted
                    .filter(is_named)
                    .filter(is_message)
                    .map(str::to_owned),
            );
        }
    }
    messages
}

#[test]
fn page_quotes_what_the_programs_print() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let messages = quoted_messages(&page);
    assert!(messages.len() > 100, "{messages:#?}");
    let sources = sources();
    let missing: Vec<_> = messages
        .into_iter()
        .filter(|message| !has_message(&sources, message) && !has_identifier(&sources, message))
        .collect();
    assert!(missing.is_empty(), "no program prints: {missing:#?}");
}

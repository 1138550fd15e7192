//! The texts of CLINC150 and Banking77.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn data() -> PathBuf {
    std::env::var_os("FLOTILLA_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    )
}

fn read(path: &str) -> String {
    let path = data().join(path);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; set FLOTILLA_DATA", path.display()))
}

/// The requests in a file of CLINC150, with their domain and intent.
pub(crate) fn clinc150(file: &str) -> Vec<(String, String, String)> {
    let text = read(&format!("clinc150/{file}.jsonl"));
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("a labelled request");
        let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (field("text"), field("domain"), field("intent"))
    });
    lines.collect()
}

/// The first `count` examples of each domain of CLINC150, spread over its requests.
pub(crate) fn examples(count: usize) -> BTreeMap<String, Vec<String>> {
    let mut domains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (text, domain, _) in clinc150("train") {
        domains.entry(domain).or_default().push(text);
    }
    for texts in domains.values_mut() {
        let every = (texts.len() / count).max(1);
        *texts = texts.iter().step_by(every).take(count).cloned().collect();
    }
    domains
}

/// Every text that the benchmark may classify or learn from, names of tasks included.
pub(crate) fn all() -> Vec<String> {
    let mut texts = Vec::new();
    for file in ["train", "val", "oos_train", "oos_val"] {
        for (text, domain, intent) in clinc150(file) {
            texts.extend([text, name_words(&domain), name_words(&intent)]);
        }
    }
    let banking = read("banking77/train.csv");
    let mut rest = banking.as_str();
    while let Some((text, label, after)) = csv_record(rest) {
        texts.extend([text, name_words(label)]);
        rest = after;
    }
    texts
        .iter_mut()
        .for_each(|text| *text = text.trim().to_owned());
    texts.sort();
    texts.dedup();
    texts.retain(|text| !text.is_empty());
    texts
}

/// The name of a task as the classifier reads it.
fn name_words(label: &str) -> String {
    let words = label.to_lowercase();
    let words = words.replace(|c: char| !c.is_ascii_alphanumeric(), " ");
    words.trim().to_owned()
}

/// Reads a record of two fields, the first of which may be quoted; and what follows it.
fn csv_record(text: &str) -> Option<(String, &str, &str)> {
    if text.is_empty() {
        return None;
    }
    let (message, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            // Two quotes within are one of the text.
            let mut end = 0;
            loop {
                end += quoted[end..].find('"')?;
                if !quoted[end + 1..].starts_with('"') {
                    break;
                }
                end += 2;
            }
            let after = quoted.get(end + 2..).unwrap_or_default();
            (quoted[..end].replace("\"\"", "\""), after)
        }
        None => {
            let (message, rest) = text.split_once(',')?;
            (message.to_owned(), rest)
        }
    };
    let (label, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    Some((message, label.trim_end(), rest))
}

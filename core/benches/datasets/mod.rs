//! Reads the labelled requests of CLINC150 and Banking77, and draws examples from them.
//!
//! The folders are in `FLOTILLA_DATA`, by default `../shared/data` beside the repository.

#[allow(dead_code, reason = "not every benchmark reads it")]
pub(crate) mod languages;
#[allow(dead_code, reason = "not every benchmark reads it")]
pub(crate) mod sentence_vectors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flotilla_core::TaskName;
use flotilla_core::routing::{TaskExamples, TrainingSet};
use serde::Deserialize;

/// What is taken for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    /// One of CLINC150's ten domains.
    Domain,
    /// One of CLINC150's 150 intents.
    #[allow(dead_code, reason = "not every benchmark takes it")]
    Intent,
}

/// A request with its task. `None` if it belongs to no task.
pub(crate) type Request = (String, Option<TaskName>);

#[derive(Deserialize)]
struct Line {
    text: String,
    domain: String,
    intent: String,
}

fn data() -> PathBuf {
    std::env::var_os("FLOTILLA_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    )
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}; set FLOTILLA_DATA", path.display()))
}

fn task(label: &str) -> Option<TaskName> {
    let name = label
        .to_lowercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    TaskName::new(name.trim_matches('-')).ok()
}

/// The requests in a file of CLINC150.
pub(crate) fn clinc150(file: &str, label: Label) -> Vec<Request> {
    let text = read(&data().join("clinc150").join(file));
    let lines = text.lines().map(|line| {
        let line: Line = serde_json::from_str(line).expect("the line is a labelled request");
        let in_scope = line.domain != "oos";
        let label = match label {
            Label::Domain => line.domain,
            Label::Intent => line.intent,
        };
        (line.text, task(&label).filter(|_| in_scope))
    });
    lines.collect()
}

/// The requests of Banking77: those to learn from, and every tenth to be judged by.
#[allow(dead_code, reason = "not every benchmark reads it")]
pub(crate) fn banking77() -> (Vec<Request>, Vec<Request>) {
    let text = read(&data().join("banking77").join("train.csv"));
    let mut reader = text.as_str();
    let mut requests = Vec::new();
    while let Some((message, rest)) = csv_record(reader) {
        reader = rest;
        requests.push(message);
    }
    let requests = requests.into_iter().skip(1).enumerate();
    let (judged, learnt): (Vec<_>, Vec<_>) = requests.partition(|(index, _)| index % 10 == 0);
    let strip = |requests: Vec<(usize, Request)>| requests.into_iter().map(|(_, r)| r).collect();
    (strip(learnt), strip(judged))
}

/// Reads a record of two fields, the first of which may be quoted; and what follows it.
fn csv_record(text: &str) -> Option<(Request, &str)> {
    if text.is_empty() {
        return None;
    }
    let (message, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut end = 0;
            loop {
                end += quoted[end..].find('"')?;
                if !quoted[end + 1..].starts_with('"') {
                    break (quoted[..end].replace("\"\"", "\""), &quoted[end + 2..]);
                }
                end += 2;
            }
        }
        None => {
            let (message, rest) = text.split_once(',')?;
            (message.to_owned(), rest)
        }
    };
    let (label, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    Some(((message, task(label.trim_end())), rest))
}

/// Draws `count` examples of each task.
#[allow(dead_code, reason = "not every benchmark draws")]
pub(crate) fn draw(requests: &[Request], count: usize, seed: u64) -> TrainingSet {
    let mut by_task: BTreeMap<&TaskName, Vec<&str>> = BTreeMap::new();
    for (text, task) in requests {
        if let Some(task) = task {
            by_task.entry(task).or_default().push(text);
        }
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let tasks = by_task.into_iter().map(|(task, mut texts)| {
        random.shuffle(&mut texts);
        let drawn = texts.into_iter().take(count).map(str::to_owned);
        task_examples(task.clone(), drawn.collect())
    });
    TrainingSet {
        tasks: tasks.collect(),
        out_of_scope: Vec::new(),
    }
}

fn task_examples(name: TaskName, examples: Vec<String>) -> TaskExamples {
    TaskExamples {
        name,
        description: String::new(),
        examples,
    }
}

/// All requests as examples.
pub(crate) fn all(requests: Vec<Request>) -> TrainingSet {
    let mut examples = TrainingSet::default();
    for (text, task) in requests {
        let Some(task) = task else {
            examples.out_of_scope.push(text);
            continue;
        };
        match examples.tasks.iter_mut().find(|known| known.name == task) {
            Some(known) => known.examples.push(text),
            None => examples.tasks.push(task_examples(task, vec![text])),
        }
    }
    examples
}

/// Returns `text` with a random edit in a tenth of its words: a letter is removed, inserted or
/// replaced, or two letters are swapped.
pub(crate) fn with_typos(text: &str, random: &mut fastrand::Rng) -> String {
    let words = text.split(' ').map(|word| {
        let mut letters: Vec<char> = word.chars().collect();
        if letters.is_empty() || random.u8(..10) != 0 {
            return word.to_owned();
        }
        let index = random.usize(..letters.len());
        match random.u8(..4) {
            0 => drop(letters.remove(index)),
            1 => letters.insert(index, random.lowercase()),
            2 => letters[index] = random.lowercase(),
            _ if index + 1 < letters.len() => letters.swap(index, index + 1),
            _ => {}
        }
        letters.into_iter().collect()
    });
    words.collect::<Vec<_>>().join(" ")
}

//! Prints the accuracy and speed of the classifier on CLINC150 with its ten domains as tasks, trained on
//! `train.jsonl` and `oos_train.jsonl`, evaluated on `val.jsonl` and `oos_val.jsonl`.
//!
//! Reads the folder `clinc150` in `FLOTILLA_DATA`, by default `../shared/data` beside the
//! repository.

use std::path::{Path, PathBuf};
use std::time::Instant;

use flotilla_core::TaskName;
use flotilla_core::routing::{Classifier, TrainingSet};
use flotilla_core::spec::AbstainRule;
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    text: String,
    domain: String,
}

/// A request with its task. `None` if it belongs to no task.
type Request = (String, Option<TaskName>);

fn read(dir: &Path, file: &str) -> Vec<Request> {
    let path = dir.join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; set FLOTILLA_DATA", path.display()));
    let lines = text.lines().map(|line| {
        let line: Line = serde_json::from_str(line).expect("a line of CLINC150");
        (
            line.text,
            TaskName::new(&line.domain)
                .ok()
                .filter(|name| name.as_str() != "oos"),
        )
    });
    lines.collect()
}

fn examples(requests: Vec<Request>) -> TrainingSet {
    let mut examples = TrainingSet::default();
    for (text, task) in requests {
        let Some(task) = task else {
            examples.out_of_scope.push(text);
            continue;
        };
        match examples.tasks.iter_mut().find(|(name, _)| *name == task) {
            Some((_, texts)) => texts.push(text),
            None => examples.tasks.push((task, vec![text])),
        }
    }
    examples
}

/// The share of `requests` whose most probable task is the right one.
fn accuracy(classifier: &Classifier, requests: &[Request]) -> f64 {
    let right = requests.iter().filter(|(text, task)| {
        let classification = classifier.classify([text.as_str()].into_iter(), 8);
        Some(classification.best.task) == *task
    });
    right.count() as f64 / requests.len() as f64
}

/// The area under the ROC curve: the probability that a value of `above` is higher than one of `below`.
fn auroc(above: &[f32], below: &[f32]) -> f64 {
    let wins = above.iter().flat_map(|a| {
        below.iter().map(move |b| match a.total_cmp(b) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        })
    });
    wins.sum::<f64>() / (above.len() * below.len()) as f64
}

/// `text` with one random edit (a letter removed, inserted or replaced, or two swapped) in a tenth of
/// its words.
fn with_typos(text: &str, random: &mut fastrand::Rng) -> String {
    let words = text.split(' ').map(|word| {
        let mut letters: Vec<char> = word.chars().collect();
        if letters.is_empty() || random.u8(..10) != 0 {
            return word.to_owned();
        }
        let at = random.usize(..letters.len());
        match random.u8(..4) {
            0 => drop(letters.remove(at)),
            1 => letters.insert(at, random.lowercase()),
            2 => letters[at] = random.lowercase(),
            _ if at + 1 < letters.len() => letters.swap(at, at + 1),
            _ => {}
        }
        letters.into_iter().collect()
    });
    words.collect::<Vec<_>>().join(" ")
}

fn main() {
    let data = std::env::var_os("FLOTILLA_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let dir = data.join("clinc150");
    let mut training = read(&dir, "train.jsonl");
    training.extend(read(&dir, "oos_train.jsonl"));
    let (in_scope, out_of_scope) = (read(&dir, "val.jsonl"), read(&dir, "oos_val.jsonl"));
    let number = training.len();
    let examples = examples(training);

    let begun = Instant::now();
    let trained = Classifier::train(&examples, AbstainRule::default());
    let training = begun.elapsed();
    let classifier = trained.expect("there are tasks");
    let (ngrams, bytes) = classifier.size();
    println!(
        "trained on {number} examples in {:.2} s: {ngrams} n-grams, {:.1} MB of weights",
        training.as_secs_f64(),
        bytes as f64 / 1e6
    );

    println!(
        "accuracy             {:6.2} %",
        100.0 * accuracy(&classifier, &in_scope)
    );
    let mut random = fastrand::Rng::with_seed(42);
    let rounds = 5;
    let typo_accuracy: f64 = (0..rounds)
        .map(|_| {
            let edited = in_scope.iter();
            let edited = edited.map(|(text, task)| (with_typos(text, &mut random), task.clone()));
            accuracy(&classifier, &edited.collect::<Vec<_>>())
        })
        .sum();
    println!(
        "  with typos         {:6.2} %",
        100.0 * typo_accuracy / f64::from(rounds)
    );

    let classify_all = |requests: &[Request]| -> Vec<_> {
        let texts = requests.iter().map(|(text, _)| text.as_str());
        texts
            .map(|text| classifier.classify([text].into_iter(), 8))
            .collect()
    };
    let (inside, outside) = (classify_all(&in_scope), classify_all(&out_of_scope));
    let confidences = |of: &[flotilla_core::routing::Classification]| -> Vec<f32> {
        of.iter().map(|one| one.best.confidence).collect()
    };
    println!(
        "AUROC in/out of scope {:.4}",
        auroc(&confidences(&inside), &confidences(&outside))
    );
    let abstained = |of: &[flotilla_core::routing::Classification]| {
        let abstained = of.iter().filter(|one| one.abstained);
        100.0 * abstained.count() as f64 / of.len() as f64
    };
    println!(
        "abstains below {:.3} from {:.1} % in scope and {:.1} % out of scope",
        classifier.threshold(),
        abstained(&inside),
        abstained(&outside)
    );

    // A new question after one of another task, and a question that means nothing without it.
    let conversations = |last: Option<&str>| {
        let pairs = in_scope.iter().zip(in_scope.iter().rev());
        let right = pairs.clone().filter(|((before, old), (question, new))| {
            let (last, task) = last.map_or((question.as_str(), new), |last| (last, old));
            let classification = classifier.classify([last, before.as_str()].into_iter(), 8);
            Some(&classification.best.task) == task.as_ref()
        });
        100.0 * right.count() as f64 / in_scope.len() as f64
    };
    println!("after another turn   {:6.2} %", conversations(None));
    println!("  which then asks    {:6.2} %", conversations(Some("why?")));

    let mut times: Vec<_> = in_scope
        .iter()
        .map(|(text, _)| {
            let begun = Instant::now();
            std::hint::black_box(classifier.classify([text.as_str()].into_iter(), 8));
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |part: f64| times[(part * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e6;
    println!(
        "classifies in {:.1} us (median), {:.1} us (99 %)",
        at(0.5),
        at(0.99)
    );
}

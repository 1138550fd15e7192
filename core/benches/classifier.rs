//! Prints the accuracy and speed of the classifier on CLINC150 with its ten domains as tasks, trained on
//! `train.jsonl` and `oos_train.jsonl`, evaluated on `val.jsonl` and `oos_val.jsonl`.
//!
//! See `datasets/mod.rs` for where the data comes from.

mod datasets;

use std::time::Instant;

use datasets::{Label, Request, clinc150, with_typos};
use flotilla_core::routing::{Classification, Classifier};
use flotilla_core::spec::AbstainRule;

/// Returns the fraction of `requests` whose most probable task is the labelled one.
fn accuracy(classifier: &Classifier, requests: &[Request]) -> f64 {
    let correct = requests.iter().filter(|(text, task)| {
        let classification = classifier.classify([text.as_str()].into_iter(), 8);
        Some(classification.best.task) == *task
    });
    correct.count() as f64 / requests.len() as f64
}

/// Returns the area under the ROC curve: the probability that a value of `positive` is higher than a
/// value of `negative`.
fn auroc(positive: &[f32], negative: &[f32]) -> f64 {
    let wins = positive.iter().flat_map(|a| {
        negative.iter().map(move |b| match a.total_cmp(b) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        })
    });
    wins.sum::<f64>() / (positive.len() * negative.len()) as f64
}

fn main() {
    let mut training = clinc150("train.jsonl", Label::Domain);
    training.extend(clinc150("oos_train.jsonl", Label::Domain));
    let in_scope = clinc150("val.jsonl", Label::Domain);
    let out_of_scope = clinc150("oos_val.jsonl", Label::Domain);
    let count = training.len();
    let examples = datasets::all(training);

    let start = Instant::now();
    let trained = Classifier::train(&examples, AbstainRule::default());
    let training_time = start.elapsed();
    let classifier = trained.expect("there are tasks");
    let (ngrams, bytes) = classifier.size();
    println!(
        "trained on {count} examples in {:.2} s: {ngrams} n-grams, {:.1} MB of weights",
        training_time.as_secs_f64(),
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
    let confidences = |classifications: &[Classification]| -> Vec<f32> {
        classifications.iter().map(|c| c.best.confidence).collect()
    };
    println!(
        "AUROC in/out of scope {:.4}",
        auroc(&confidences(&inside), &confidences(&outside))
    );
    let abstained = |classifications: &[Classification]| {
        let abstained = classifications.iter().filter(|c| c.abstained);
        100.0 * abstained.count() as f64 / classifications.len() as f64
    };
    println!(
        "abstains below {:.3} from {:.1} % in scope and {:.1} % out of scope",
        classifier.threshold(),
        abstained(&inside),
        abstained(&outside)
    );

    // Conversations of two turns: either the second turn is a question of another task, or it is a
    // follow-up question that belongs to the task of the first turn.
    let conversations = |follow_up: Option<&str>| {
        let pairs = in_scope.iter().zip(in_scope.iter().rev());
        let correct = pairs
            .clone()
            .filter(|((first, first_task), (second, second_task))| {
                let (last, task) = match follow_up {
                    Some(follow_up) => (follow_up, first_task),
                    None => (second.as_str(), second_task),
                };
                let classification = classifier.classify([last, first.as_str()].into_iter(), 8);
                Some(&classification.best.task) == task.as_ref()
            });
        100.0 * correct.count() as f64 / in_scope.len() as f64
    };
    println!("after another turn   {:6.2} %", conversations(None));
    println!("  with a follow-up   {:6.2} %", conversations(Some("why?")));

    let mut times: Vec<_> = in_scope
        .iter()
        .map(|(text, _)| {
            let start = Instant::now();
            std::hint::black_box(classifier.classify([text.as_str()].into_iter(), 8));
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let quantile_us =
        |part: f64| times[(part * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e6;
    println!(
        "classifies in {:.1} us (median), {:.1} us (99 %)",
        quantile_us(0.5),
        quantile_us(0.99)
    );
}

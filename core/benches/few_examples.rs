//! Prints how well the classifier routes with few examples of each task, without an encoder and with one: for CLINC150 with
//! its domains and its intents as tasks, and for Banking77. See `datasets/mod.rs` for where the data comes from, and
//! `datasets/sentence_vectors.rs` for where the encoder's vectors come from.

mod datasets;

use std::time::Instant;

use datasets::languages;
use datasets::sentence_vectors::SentenceVectors;
use datasets::{Label, Request, banking77, clinc150, draw, with_typos};
use flotilla_core::routing::{Classifier, EncoderClassifier, TrainingSet};
use flotilla_core::spec::AbstainRule;

/// Draws of each row.
const DRAWS: u64 = 3;

/// Shares of requests, summed over the draws.
#[derive(Default)]
struct Row {
    right: f64,
    held_in_scope: f64,
    held_out_of_scope: f64,
    sent_wrong: f64,
    held_at_5_percent_wrong: f64,
    auroc: f64,
    seconds: f64,
    with_encoder: Option<EncoderRow>,
}

/// Shares of requests, summed over the draws, where an encoder classifies those that the classifier is unsure of.
#[derive(Default)]
struct EncoderRow {
    right: f64,
    /// Requests that belong to a task and are classified by the encoder.
    unsure: f64,
    held_in_scope: f64,
    held_out_of_scope: f64,
    sent_wrong: f64,
    seconds: f64,
    /// The mean confidence of the encoder in the requests that it classifies, and the share of them that is right.
    confidence: f64,
    right_of_unsure: f64,
}

/// What the classifier says of a request: whether its best task is right, whether it abstains, with what confidence.
struct Judged {
    right: bool,
    abstained: bool,
    confidence: f32,
    /// Whether the encoder has classified the request.
    unsure: bool,
}

fn judge(
    classifier: &Classifier,
    encoder: Option<(&EncoderClassifier, &SentenceVectors)>,
    requests: &[Request],
) -> Vec<Judged> {
    let judged = requests.iter().map(|(text, task)| {
        let classification = classifier.classify([text.as_str()].into_iter(), 0);
        let encoded = encoder.filter(|_| classification.is_unsure);
        let encoded = encoded.map(|(encoder, vectors)| {
            let encoded = encoder.classify(&classification, vectors.of(text));
            encoded.expect("all vectors have as many values")
        });
        let unsure = encoded.is_some();
        let (best, abstained) = match encoded {
            Some(encoded) => (encoded.best, encoded.abstained),
            None => (classification.best, classification.abstained),
        };
        Judged {
            right: Some(&best.task) == task.as_ref(),
            abstained,
            confidence: best.confidence,
            unsure,
        }
    });
    judged.collect()
}

fn share(judged: &[Judged], which: impl Fn(&Judged) -> bool) -> f64 {
    judged.iter().filter(|one| which(one)).count() as f64 / judged.len().max(1) as f64
}

/// The smallest share that must be held back so that at most 5 % are sent to a wrong task.
fn held_at_5_percent_wrong(mut judged: Vec<Judged>) -> f64 {
    judged.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let mut wrong = judged.iter().filter(|one| !one.right).count();
    let allowed = judged.len() / 20;
    let mut held = 0;
    while wrong > allowed {
        wrong -= usize::from(!judged[held].right);
        held += 1;
    }
    held as f64 / judged.len() as f64
}

/// The probability that a request in scope has a higher confidence than one out of scope.
fn auroc(inside: &[Judged], outside: &[Judged]) -> f64 {
    let wins = inside.iter().flat_map(|a| {
        let below = outside.iter().map(|b| a.confidence > b.confidence);
        below.map(f64::from)
    });
    wins.sum::<f64>() / (inside.len() * outside.len()).max(1) as f64
}

impl Row {
    fn add(
        &mut self,
        examples: &TrainingSet,
        vectors: Option<&SentenceVectors>,
        in_scope: &[Request],
        out_of_scope: &[Request],
    ) {
        let start = Instant::now();
        let classifier = Classifier::train(examples, AbstainRule::default());
        self.seconds += start.elapsed().as_secs_f64();
        let classifier = classifier.expect("there are tasks");
        let inside = judge(&classifier, None, in_scope);
        let outside = judge(&classifier, None, out_of_scope);
        if let Some(vectors) = vectors {
            let row = self.with_encoder.get_or_insert_default();
            row.add(&classifier, examples, vectors, in_scope, out_of_scope);
        }
        self.right += share(&inside, |one| one.right);
        self.held_in_scope += share(&inside, |one| one.abstained);
        self.held_out_of_scope += share(&outside, |one| one.abstained);
        self.sent_wrong += share(&inside, |one| !one.right && !one.abstained);
        self.auroc += auroc(&inside, &outside);
        self.held_at_5_percent_wrong += held_at_5_percent_wrong(inside);
    }

    fn print(&self, name: &str, draws: u64) {
        let percent = |sum: f64| format!("{:.1}", 100.0 * sum / draws as f64);
        print!(
            "{name:<28} {:>6} {:>10} {:>10} {:>8} {:>10} {:>8.2} {:>6}",
            percent(self.right),
            percent(self.held_in_scope),
            percent(self.held_out_of_scope),
            percent(self.sent_wrong),
            percent(self.held_at_5_percent_wrong),
            self.seconds / draws as f64,
            percent(self.auroc)
        );
        if let Some(row) = &self.with_encoder {
            print!(
                " | {:>12} {:>17} {:>7} {:>8} {:>8} {:>8.2} {:>6} {:>6}",
                percent(row.right),
                percent(row.unsure),
                percent(row.held_in_scope),
                percent(row.held_out_of_scope),
                percent(row.sent_wrong),
                row.seconds / draws as f64,
                percent(row.confidence),
                percent(row.right_of_unsure),
            );
        }
        println!();
    }
}

impl EncoderRow {
    fn add(
        &mut self,
        classifier: &Classifier,
        examples: &TrainingSet,
        vectors: &SentenceVectors,
        in_scope: &[Request],
        out_of_scope: &[Request],
    ) {
        let start = Instant::now();
        let learned = classifier.encoder_examples(examples);
        let learned_vectors: Vec<&[f32]> =
            learned.iter().map(|one| vectors.of(&one.text)).collect();
        let rule = AbstainRule::default();
        let encoder =
            EncoderClassifier::train(classifier, examples, &learned, &learned_vectors, rule);
        let encoder = encoder.expect("all vectors have as many values");
        self.seconds += start.elapsed().as_secs_f64();
        let inside = judge(classifier, Some((&encoder, vectors)), in_scope);
        let outside = judge(classifier, Some((&encoder, vectors)), out_of_scope);
        self.right += share(&inside, |one| one.right);
        self.unsure += share(&inside, |one| one.unsure);
        self.held_in_scope += share(&inside, |one| one.abstained);
        self.held_out_of_scope += share(&outside, |one| one.abstained);
        self.sent_wrong += share(&inside, |one| !one.right && !one.abstained);
        let unsure: Vec<_> = inside.into_iter().filter(|one| one.unsure).collect();
        let confidences: f32 = unsure.iter().map(|one| one.confidence).sum();
        self.confidence += f64::from(confidences) / unsure.len().max(1) as f64;
        self.right_of_unsure += share(&unsure, |one| one.right);
    }
}

fn main() {
    let vectors = SentenceVectors::read();
    let vectors = vectors.as_ref();
    print!(
        "{:<28} {:>6} {:>10} {:>10} {:>8} {:>10} {:>8} {:>6}",
        "examples of each task",
        "right",
        "held in",
        "held out",
        "wrong",
        "held at 5%",
        "seconds",
        "auroc"
    );
    if vectors.is_some() {
        print!(
            " | {:>12} {:>17} {:>7} {:>8} {:>8} {:>8} {:>6} {:>6}",
            "with encoder",
            "encoder asked (%)",
            "held in",
            "held out",
            "wrong",
            "seconds",
            "conf.",
            "right"
        );
    }
    println!();
    let out_of_scope = clinc150("oos_val.jsonl", Label::Domain);
    // Nothing is learnt from these where the tasks have few examples.
    let mut more_out_of_scope = clinc150("oos_train.jsonl", Label::Domain);
    more_out_of_scope.extend(out_of_scope.clone());
    for (label, count) in [
        (Label::Domain, 5),
        (Label::Domain, 10),
        (Label::Domain, 20),
        (Label::Domain, 50),
        (Label::Intent, 5),
    ] {
        let learnt = clinc150("train.jsonl", label);
        let in_scope = clinc150("val.jsonl", label);
        let mut row = Row::default();
        for seed in 0..DRAWS {
            row.add(
                &draw(&learnt, count, seed),
                vectors,
                &in_scope,
                &more_out_of_scope,
            );
        }
        row.print(&format!("{count} of each {label:?}"), DRAWS);
    }
    let mut everything = clinc150("train.jsonl", Label::Domain);
    everything.extend(clinc150("oos_train.jsonl", Label::Domain));
    let mut row = Row::default();
    let in_scope = clinc150("val.jsonl", Label::Domain);
    row.add(
        &datasets::all(everything),
        vectors,
        &in_scope,
        &out_of_scope,
    );
    row.print("1500 of each Domain, 100 oos", 1);
    let (learnt, judged) = banking77();
    for count in [5, 10] {
        let mut row = Row::default();
        for seed in 0..DRAWS {
            row.add(&draw(&learnt, count, seed), vectors, &judged, &[]);
        }
        row.print(&format!("Banking77, {count}"), DRAWS);
    }
    for (language, requests) in languages::LANGUAGES {
        let (examples, judged) = languages::split(requests);
        let mut row = Row::default();
        // The encoder of the file knows English only.
        row.add(&examples, None, &judged, &out_of_scope);
        row.print(&format!("{language}, 8"), 1);
    }
    println!();
    print_changed_requests();
}

/// Prints how often requests that are changed are still classified rightly, with 20 and with all examples of each domain.
fn print_changed_requests() {
    let learnt = clinc150("train.jsonl", Label::Domain);
    let in_scope = clinc150("val.jsonl", Label::Domain);
    let mut everything = learnt.clone();
    everything.extend(clinc150("oos_train.jsonl", Label::Domain));
    let train = |examples: &TrainingSet| {
        Classifier::train(examples, AbstainRule::default()).expect("there are tasks")
    };
    let classifiers = [
        train(&draw(&learnt, 20, 0)),
        train(&datasets::all(everything)),
    ];
    // 2,000 words about nothing in particular.
    let document =
        "The next part of the text says in some detail what the part before it left open. "
            .repeat(118);
    let mut random = fastrand::Rng::with_seed(42);
    let others: Vec<_> = in_scope.iter().rev().cloned().collect();
    type Change<'a> = Box<dyn FnMut(&str, usize) -> String + 'a>;
    let changes: [(&str, Change); 6] = [
        ("as written", Box::new(|text, _| text.to_owned())),
        (
            "an edit in a tenth of the words",
            Box::new(|text, _| with_typos(text, &mut random)),
        ),
        (
            "in capital letters",
            Box::new(|text, _| text.to_uppercase()),
        ),
        (
            "after a greeting",
            Box::new(|text, _| format!("Good morning, I hope you are well. {text}")),
        ),
        (
            "after 2,000 other words",
            Box::new(|text, _| format!("{document}{text}")),
        ),
        (
            "with a request of another task",
            Box::new(|text, at| format!("{text}. Also, {}", others[at].0)),
        ),
    ];
    println!(
        "{:<34} {:>16} {:>16}",
        "requests, right / held back, %", "20 of each", "all"
    );
    for (name, mut change) in changes {
        let changed: Vec<String> = (0..)
            .zip(&in_scope)
            .map(|(at, (text, _))| change(text, at))
            .collect();
        print!("{name:<34}");
        for classifier in &classifiers {
            let (mut right, mut held) = (0, 0);
            for (at, text) in changed.iter().enumerate() {
                let classification = classifier.classify([text.as_str()].into_iter(), 0);
                let best = Some(&classification.best.task);
                let either = name.starts_with("with a request") && best == others[at].1.as_ref();
                right += usize::from(best == in_scope[at].1.as_ref() || either);
                held += usize::from(classification.abstained);
            }
            let percent = |count: usize| 100.0 * count as f64 / changed.len() as f64;
            print!(" {:>7.1} / {:>6.1}", percent(right), percent(held));
        }
        println!();
    }
}

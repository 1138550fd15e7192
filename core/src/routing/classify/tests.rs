use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Three tasks with a few examples each.
fn examples() -> TrainingSet {
    let task = |name: &str, texts: &[&str]| {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        (TaskName::new(name).unwrap(), texts)
    };
    TrainingSet {
        tasks: vec![
            task(
                "banking",
                &[
                    "freeze my account please",
                    "what is my routing number",
                    "how much money is in my savings account",
                    "transfer ten dollars to my brother",
                    "why was my card declined",
                    "pay my electricity bill",
                ],
            ),
            task(
                "travel",
                &[
                    "book a flight to paris",
                    "is my flight on time",
                    "what vaccines do i need for kenya",
                    "how do you say hello in french",
                    "find me a hotel in rome",
                    "do i need a visa for japan",
                ],
            ),
            task(
                "kitchen",
                &[
                    "how long do i boil an egg",
                    "what can i use instead of butter",
                    "give me a recipe for lasagna",
                    "how many calories has an apple",
                    "is this milk still good",
                    "what is in a cheesecake",
                ],
            ),
        ],
        out_of_scope: vec![
            "who won the game last night".into(),
            "tell me a joke".into(),
        ],
    }
}

fn classifier() -> Classifier {
    Classifier::train(&examples(), AbstainRule::MinConfidence(0.3)).unwrap()
}

fn best(classifier: &Classifier, turns: &[&str]) -> (String, f32) {
    let verdict = classifier.classify(turns.iter().copied(), 0);
    (verdict.best.task.to_string(), verdict.best.confidence)
}

#[test]
fn new_questions_are_classified() {
    let classifier = classifier();
    for (text, task) in [
        ("please freeze my card", "banking"),
        ("a flight to kenya", "travel"),
        ("recipe for cheesecake with apple", "kitchen"),
        // Each word has a misspelling.
        ("boook a flihgt to pariss", "travel"),
    ] {
        let (found, confidence) = best(&classifier, &[text]);
        assert_eq!(found, task, "{text} ({confidence})");
    }
}

#[test]
fn classifier_abstains_from_unknown_texts() {
    let classifier = classifier();
    for text in [
        "",
        "???",
        "tell me a joke",
        "quel temps fera-t-il",
        "明日の天気は",
        "0xdeadbeef",
    ] {
        let verdict = classifier.classify([text].into_iter(), 0);
        assert!(verdict.abstained, "{text}: {verdict:?}");
    }
    assert!(
        !classifier
            .classify(["freeze my account"].into_iter(), 0)
            .abstained
    );
}

#[test]
fn text_of_neither_task_is_not_divided_among_two_tasks() {
    let mut examples = examples();
    examples.tasks.truncate(2);
    examples.out_of_scope.clear();
    let classifier = Classifier::train(&examples, AbstainRule::MinConfidence(0.4)).unwrap();
    for text in ["0xdeadbeef qqq zzz", "明日の天気は"] {
        let verdict = classifier.classify([text].into_iter(), 0);
        assert!(verdict.abstained, "{text}: {verdict:?}");
    }
}

#[test]
fn newest_turn_decides_unless_it_says_little() {
    let classifier = classifier();
    let (task, _) = best(&classifier, &["book a flight to rome", "freeze my account"]);
    assert_eq!(task, "travel");
    let (task, _) = best(&classifier, &["yes, do that", "freeze my account please"]);
    assert_eq!(task, "banking");
}

#[test]
fn question_at_either_end_of_a_long_text_is_classified() {
    let classifier = classifier();
    let document = "lorem ipsum dolor sit amet ".repeat(4_000);
    for text in [
        format!("book a flight to paris. {document}"),
        format!("{document} book a flight to paris"),
    ] {
        assert_eq!(best(&classifier, &[&text]).0, "travel");
    }
}

#[test]
fn score_is_the_sum_of_bias_and_weights() {
    let classifier = classifier();
    let turns = ["to paris, please", "book a flight"];
    let all = classifier
        .classify(turns.into_iter(), usize::MAX)
        .explanation;
    let sum: f32 = all.evidence.iter().map(|one| one.weight).sum();
    assert!((all.bias + sum - all.score).abs() < 1e-3, "{all:?}");
    let some = classifier.classify(turns.into_iter(), 3).explanation;
    assert_eq!(some.evidence, all.evidence[..3]);
    let named: Vec<_> = some.evidence.iter().map(|one| &*one.ngram).collect();
    assert!(
        named.contains(&"flight") || named.contains(&"paris"),
        "{named:?}"
    );
}

#[test]
fn single_task_without_counterexamples_accepts_similar_texts() {
    let mut examples = examples();
    examples.tasks.truncate(1);
    examples.out_of_scope.clear();
    let classifier = Classifier::train(&examples, AbstainRule::FalseAbstentionRate(0.02)).unwrap();
    assert!(
        !classifier
            .classify(["freeze my account"].into_iter(), 0)
            .abstained
    );
    assert!(
        classifier
            .classify(["x"].into_iter(), 0)
            .runner_up
            .is_none()
    );
    assert!(
        Classifier::train(
            &TrainingSet::default(),
            AbstainRule::FalseAbstentionRate(0.02)
        )
        .is_none()
    );
}

#[test]
fn task_without_examples_is_never_confident() {
    let mut examples = examples();
    let empty = TaskName::new("empty").unwrap();
    examples.tasks.push((empty.clone(), Vec::new()));
    let classifier = Classifier::train(&examples, AbstainRule::FalseAbstentionRate(0.02)).unwrap();
    for text in ["freeze my account", "zzz", ""] {
        let verdict = classifier.classify([text].into_iter(), 0);
        assert!(verdict.best.task != empty || verdict.best.confidence < 0.5);
    }
}

#[test]
fn training_is_deterministic() {
    let (one, two) = (classifier(), classifier());
    let text = "how do i pay for my flight";
    assert_eq!(
        one.classify([text].into_iter(), 0),
        two.classify([text].into_iter(), 0)
    );
}

proptest! {
    #[test]
    fn any_text_gets_a_confidence_between_0_and_1(turns in proptest::collection::vec(".{0,80}", 0..12)) {
        static CLASSIFIER: LazyLock<Classifier> = LazyLock::new(classifier);
        let verdict = CLASSIFIER.classify(turns.iter().map(String::as_str), 3);
        for ranked in [Some(verdict.best), verdict.runner_up].into_iter().flatten() {
            prop_assert!((0.0..=1.0).contains(&ranked.confidence));
        }
    }
}

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

/// Three tasks with a few examples each.
fn examples() -> TrainingSet {
    let task = |name: &str, texts: &[&str]| {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        TaskExamples {
            name: TaskName::new(name).unwrap(),
            description: String::new(),
            examples: texts,
        }
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
    let classifier = Classifier::train(&examples, AbstainRule::default()).unwrap();
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
    let named: Vec<_> = some.evidence.iter().map(|one| &*one.text).collect();
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
    examples.tasks.push(TaskExamples {
        name: empty.clone(),
        description: "what nobody has given an example of".into(),
        examples: Vec::new(),
    });
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

#[test]
fn other_words_of_the_same_meaning_are_understood() {
    let classifier = classifier();
    for (text, task) in [
        ("block the debit card", "banking"),
        ("reserve a plane ticket", "travel"),
        ("ingredients of a pie", "kitchen"),
    ] {
        assert_eq!(best(&classifier, &[text]).0, task, "{text}");
    }
}

#[test]
fn greeting_and_document_do_not_decide() {
    let classifier = classifier();
    let document =
        "The next part says in some detail what the part before it left open. ".repeat(40);
    for text in [
        "Good morning, I hope you are well. Please freeze my account.",
        "freeze my account please\nThanks a lot!",
        &format!("{document}Please freeze my account."),
    ] {
        assert_eq!(best(&classifier, &[text]).0, "banking", "{text}");
    }
}

#[test]
fn name_and_description_count_as_examples() {
    let task = |name: &str, description: &str| TaskExamples {
        name: TaskName::new(name).unwrap(),
        description: description.into(),
        examples: vec!["hello".into(), "good evening".into()],
    };
    let examples = TrainingSet {
        tasks: vec![
            task("a", "cooking: recipes, ingredients, baking"),
            task("b", "money: accounts, transfers, cards"),
            task("weather-forecast", ""),
        ],
        out_of_scope: Vec::new(),
    };
    let classifier = Classifier::train(&examples, AbstainRule::default()).unwrap();
    for (text, task) in [
        ("how do i bake bread", "a"),
        ("send money to my account", "b"),
        ("the forecast for tomorrow", "weather-forecast"),
    ] {
        assert_eq!(best(&classifier, &[text]).0, task, "{text}");
    }
}

#[test]
fn evidence_has_no_word_that_is_in_no_example() {
    let examples = examples();
    let known: Vec<String> = examples
        .tasks
        .iter()
        .flat_map(|task| [&task.examples[..], &[task.name.to_string()]].concat())
        .chain(examples.out_of_scope.clone())
        .collect();
    let known = format!(" {} ", known.join(" ")).to_lowercase();
    let explanation = classifier()
        .classify(
            ["suspend the platinum mastercard of grandmother"].into_iter(),
            usize::MAX,
        )
        .explanation;
    let meanings = explanation
        .evidence
        .iter()
        .filter(|one| one.kind == EvidenceKind::Meaning);
    assert!(meanings.clone().count() > 3, "{explanation:?}");
    for one in meanings {
        assert!(known.contains(&format!(" {} ", &*one.text)), "{one:?}");
    }
    let nearest = explanation.nearest.unwrap();
    assert!(known.contains(&*nearest.text), "{nearest:?}");
}

#[test]
fn separation_names_confusions_contradictions_and_missing_examples() {
    let mut examples = examples();
    examples.tasks[0]
        .examples
        .push("Find me a hotel, in Rome".into());
    examples.tasks[1].examples.truncate(5);
    let classifier = Classifier::train(&examples, AbstainRule::default()).unwrap();
    let separation = classifier.separation();
    assert_eq!(separation.held_out, 18);
    assert_eq!(separation.held_out_of_no_task, 2);
    assert!(separation.calibrated);
    let same = DoubtfulExample {
        task: Some(TaskName::new("travel").unwrap()),
        text: "find me a hotel in rome".into(),
        reason: Doubt::SameText {
            other: Some(TaskName::new("banking").unwrap()),
        },
    };
    assert!(
        separation.doubtful.contains(&same),
        "{:?}",
        separation.doubtful
    );
    let wrong: usize = separation.confusions.iter().map(|one| one.count).sum();
    assert_eq!(wrong, separation.held_out - separation.correct);
    assert!(
        separation
            .tasks
            .iter()
            .all(|task| task.wanted_examples == Some(10))
    );
}

#[test]
fn task_with_an_example_each_is_classified_with_typical_values() {
    let mut examples = examples();
    for task in &mut examples.tasks {
        task.examples.truncate(1);
    }
    examples.out_of_scope.clear();
    let classifier = Classifier::train(&examples, AbstainRule::MinConfidence(0.5)).unwrap();
    assert!(!classifier.separation().calibrated);
    let (task, confidence) = best(&classifier, &["freeze the account"]);
    assert!(task == "banking" && confidence > 0.5, "{confidence}");
    let (_, confidence) = best(&classifier, &["who won the game last night"]);
    assert!(confidence < 0.5, "{confidence}");
}

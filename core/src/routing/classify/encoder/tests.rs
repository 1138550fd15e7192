use super::*;
use crate::routing::TaskExamples;

fn task(name: &str, texts: &[&str]) -> TaskExamples {
    TaskExamples {
        name: TaskName::new(name).unwrap(),
        description: String::new(),
        examples: texts.iter().map(|&text| text.to_owned()).collect(),
    }
}

/// Two tasks whose examples have no word in common with each other.
fn training() -> TrainingSet {
    TrainingSet {
        tasks: vec![
            task("a", &["zork", "plimb", "quent", "hvast", "brudo", "mafi"]),
            task("b", &["glot", "wexin", "tsarp", "jod", "ofnek", "cyru"]),
        ],
        out_of_scope: vec!["north".into()],
    }
}

/// What an encoder would make of a text: one direction for each task, with a little of the text itself.
fn vector(text: &str) -> Vec<f32> {
    let of_first = [
        "zork", "plimb", "quent", "hvast", "brudo", "mafi", "ibbik", "a",
    ];
    let mut vector = vec![0.0; 5];
    match text {
        "north" => vector[2] = 2.0,
        _ if of_first.contains(&text) => vector[0] = 3.0,
        _ => vector[1] = 3.0,
    }
    vector[3] = (text.len() % 3) as f32 / 3.0;
    vector
}

fn trained(abstain: AbstainRule) -> (Classifier, EncoderClassifier) {
    let training = training();
    let cheap = Classifier::train(&training, abstain).unwrap();
    let examples = cheap.encoder_examples(&training);
    let vectors: Vec<_> = examples.iter().map(|one| vector(&one.text)).collect();
    let encoder = EncoderClassifier::train(&cheap, &training, &examples, &vectors, abstain);
    (cheap, encoder.unwrap())
}

#[test]
fn requests_that_share_no_word_with_an_example_are_classified_by_their_vector() {
    let (cheap, encoder) = trained(AbstainRule::default());
    for (text, task) in [("ibbik", "a"), ("ulgen", "b")] {
        let unsure = cheap.classify([text].into_iter(), 0);
        let found = encoder.classify(&unsure, &vector(text)).unwrap();
        assert_eq!(found.best.task.as_str(), task, "{text}");
        let nearest = found.nearest.unwrap();
        assert!(nearest.similarity > 0.8, "{nearest:?}");
        let of_task = training().tasks.into_iter();
        let of_task = of_task.filter(|one| one.name.as_str() == task);
        assert!(
            of_task
                .flat_map(|one| one.examples)
                .any(|one| one == *nearest.text)
        );
        assert!(found.runner_up.unwrap().confidence < found.best.confidence);
    }
}

#[test]
fn report_says_how_many_held_out_examples_the_encoder_corrects() {
    let (_, encoder) = trained(AbstainRule::default());
    let report = encoder.report();
    assert_eq!((report.examples, report.held_out), (15, 12));
    assert!(
        report.unsure > 0 && report.correct > report.correct_without,
        "{report:?}"
    );
}

#[test]
fn examples_have_names_and_fit_the_encoder() {
    let mut training = training();
    training.tasks[0].description = "long ".repeat(500);
    let cheap = Classifier::train(&training, AbstainRule::default()).unwrap();
    let examples = cheap.encoder_examples(&training);
    let texts: Vec<&str> = examples.iter().map(|one| &*one.text).collect();
    assert!(
        texts.contains(&"a") && texts.contains(&"north"),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .all(|text| text.chars().count() <= MAX_ENCODED_CHARS)
    );
    let of_none = examples.iter().filter(|one| one.task.is_none());
    assert_eq!(of_none.map(|one| &*one.text).collect::<Vec<_>>(), ["north"]);
}

#[test]
fn vectors_that_do_not_fit_are_refused() {
    let training = training();
    let rule = AbstainRule::default();
    let cheap = Classifier::train(&training, rule).unwrap();
    let examples = cheap.encoder_examples(&training);
    let train = |vectors: Vec<Vec<f32>>| {
        EncoderClassifier::train(&cheap, &training, &examples, &vectors, rule).unwrap_err()
    };
    let vectors: Vec<_> = examples.iter().map(|one| vector(&one.text)).collect();
    assert!(matches!(train(Vec::new()), EncoderError::Incomplete { .. }));
    assert!(matches!(
        train(vectors[1..].to_vec()),
        EncoderError::Incomplete { .. }
    ));
    let change = |to: Vec<f32>| {
        let mut vectors = vectors.clone();
        vectors[3] = to;
        train(vectors)
    };
    let wrong = EncoderError::Dimensions {
        found: 2,
        expected: 5,
    };
    assert_eq!(change(vec![1.0; 2]), wrong);
    assert_eq!(change(vec![0.0; 5]), EncoderError::NoDirection);
    assert_eq!(change(vec![f32::NAN; 5]), EncoderError::NoDirection);
    assert_eq!(change(vec![f32::INFINITY; 5]), EncoderError::NoDirection);
    assert!(matches!(
        train(vec![Vec::new(); examples.len()]),
        EncoderError::Dimensions { .. }
    ));

    let (cheap, encoder) = trained(rule);
    let unsure = cheap.classify(["x"].into_iter(), 0);
    assert_eq!(encoder.classify(&unsure, &[1.0; 2]), Err(wrong));
}

#[test]
fn abstention_rule_holds_for_all_requests_of_the_tasks() {
    let (cheap, encoder) = trained(AbstainRule::MinConfidence(1.0));
    assert_eq!(encoder.threshold(), 1.0);
    let unsure = cheap.classify(["ibbik"].into_iter(), 0);
    assert!(
        unsure.is_unsure
            && encoder
                .classify(&unsure, &vector("ibbik"))
                .unwrap()
                .abstained
    );
    let (cheap, never) = trained(AbstainRule::FalseAbstentionRate(0.0));
    for text in training().tasks.into_iter().flat_map(|task| task.examples) {
        let unsure = cheap.classify([text.as_str()].into_iter(), 0);
        assert!(
            !never.classify(&unsure, &vector(&text)).unwrap().abstained,
            "{text}"
        );
    }
}

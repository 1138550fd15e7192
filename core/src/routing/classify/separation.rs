//! How well the tasks can be distinguished, from examples that were held out of training.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calibrate::{Calibration, MIN_HELD_OUT};
use super::hold_out::{CrossValidation, HeldOutExample};
use super::model::{Example, requests_by_task};
use crate::TaskName;
use crate::normalized_text::normalized;

/// How well the tasks can be distinguished.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskSeparation {
    /// Number of examples of tasks that were held out of training and classified.
    pub held_out: usize,
    /// How many of them were classified as their task.
    pub correct: usize,
    /// How many of them the classifier would abstain from.
    pub abstained: usize,
    /// Number of examples of no task that were held out.
    pub held_out_of_no_task: usize,
    /// How many of them the classifier would abstain from.
    pub abstained_from_no_task: usize,
    /// Whether there were enough held-out examples to calibrate confidences by.
    pub calibrated: bool,
    /// Number of examples whose words have no meaning for the classifier, since they are not in English: only words and
    /// letters as they are written count there.
    pub without_meaning: usize,
    /// The tasks, in the order of their names.
    pub tasks: Vec<SeparatedTask>,
    /// The pairs of tasks that are confused, the most frequent first.
    pub confusions: Vec<Confusion>,
    /// Examples that contradict each other or seem to belong to another task, at most 100.
    pub doubtful: Vec<DoubtfulExample>,
}

/// How well a task can be distinguished from the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeparatedTask {
    /// The task.
    pub task: TaskName,
    /// Number of its examples.
    pub examples: usize,
    /// How many of them were held out of training and classified.
    pub held_out: usize,
    /// How many of those were classified as this task.
    pub correct: usize,
    /// How many of those the classifier would abstain from.
    pub abstained: usize,
    /// Number of examples that the task should have at least. `None` if it has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_examples: Option<usize>,
}

/// A pair of tasks that are confused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Confusion {
    /// The task that the examples belong to.
    pub task: TaskName,
    /// The task that they were classified as.
    pub classified_as: TaskName,
    /// How many held-out examples.
    pub count: usize,
    /// One of them.
    pub example: String,
}

/// An example that is probably not where it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoubtfulExample {
    /// The task that has the example. `None`: the router, as an example of no task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskName>,
    /// The example.
    pub text: String,
    /// Why it is doubtful.
    #[serde(flatten)]
    pub reason: Doubt,
}

/// Why an example is doubtful.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "reason")]
pub enum Doubt {
    /// Another task has the same text.
    SameText {
        /// The other task. `None`: the router, as an example of no task.
        other: Option<TaskName>,
    },
    /// The other examples say with confidence that it belongs to another task.
    OtherTask {
        /// The other task.
        other: TaskName,
        /// The confidence, 0 to 1.
        confidence: f32,
    },
}

/// The number of examples that a task should have at least: on CLINC150 ten classify seven of ten requests rightly.
const WANTED_EXAMPLES: usize = 10;
/// The confidence in another task from which on an example is doubtful. Our own choice.
const DOUBTFUL_CONFIDENCE: f32 = 0.8;
/// The most doubtful examples that are reported.
const MAX_DOUBTFUL: usize = 100;

/// Evaluates cross-validation of `examples` of `tasks`, of which the words of `without_meaning` have no meaning.
pub(super) fn evaluate(
    tasks: &[TaskName],
    examples: &[Example<'_>],
    without_meaning: usize,
    validation: &CrossValidation,
    calibration: Calibration,
    threshold: f32,
) -> TaskSeparation {
    let counts = requests_by_task(tasks.len(), examples);
    let separated = tasks.iter().zip(counts);
    let mut separated: Vec<_> = separated
        .map(|(task, count)| SeparatedTask::new(task, count))
        .collect();
    let mut separation = TaskSeparation {
        without_meaning,
        ..TaskSeparation::default()
    };
    let mut confusions: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
    for one in &validation.held_out {
        let abstained = calibration.confidence(one.score, one.familiarity) < threshold;
        let Some(task) = examples[one.index].task else {
            separation.held_out_of_no_task += 1;
            separation.abstained_from_no_task += usize::from(abstained);
            continue;
        };
        let of_task = &mut separated[task];
        of_task.held_out += 1;
        of_task.correct += usize::from(one.correct);
        of_task.abstained += usize::from(abstained);
        if !one.correct {
            confusions
                .entry((task, one.best))
                .or_insert((0, one.index))
                .0 += 1;
        }
    }
    let sum = |of: fn(&SeparatedTask) -> usize| separated.iter().map(of).sum();
    separation.held_out = sum(|task| task.held_out);
    separation.correct = sum(|task| task.correct);
    separation.abstained = sum(|task| task.abstained);
    separation.calibrated = separation.held_out >= MIN_HELD_OUT;
    separation.tasks = separated;
    let mut confusions: Vec<_> = confusions.into_iter().collect();
    confusions.sort_by_key(|(pair, (count, _))| (std::cmp::Reverse(*count), *pair));
    let confusions = confusions.into_iter();
    separation.confusions = confusions
        .map(|((task, best), (count, index))| Confusion {
            task: tasks[task].clone(),
            classified_as: tasks[best].clone(),
            count,
            example: examples[index].text.to_owned(),
        })
        .collect();
    separation.doubtful = same_texts(tasks, examples);
    // Without a calibration a confidence says too little to accuse an example.
    if separation.calibrated {
        let misplaced = validation.held_out.iter();
        separation.doubtful.extend(
            misplaced.filter_map(|one| misplaced_example(tasks, examples, one, calibration)),
        );
    }
    separation.doubtful.truncate(MAX_DOUBTFUL);
    separation
}

impl SeparatedTask {
    fn new(task: &TaskName, examples: usize) -> Self {
        // A task without examples is not meant to be found by the classifier.
        let has_few = (1..WANTED_EXAMPLES).contains(&examples);
        Self {
            task: task.clone(),
            examples,
            held_out: 0,
            correct: 0,
            abstained: 0,
            wanted_examples: has_few.then_some(WANTED_EXAMPLES),
        }
    }
}

/// The examples whose text another task has as well.
fn same_texts(tasks: &[TaskName], examples: &[Example<'_>]) -> Vec<DoubtfulExample> {
    let mut first: HashMap<String, Option<usize>> = HashMap::new();
    let mut doubtful = Vec::new();
    for example in examples.iter().filter(|example| example.is_request) {
        let other = first
            .entry(normalized(example.text))
            .or_insert(example.task);
        if *other != example.task {
            doubtful.push(DoubtfulExample {
                task: example.task.map(|task| tasks[task].clone()),
                text: example.text.to_owned(),
                reason: Doubt::SameText {
                    other: other.map(|task| tasks[task].clone()),
                },
            });
        }
    }
    doubtful
}

/// A held-out example of which the classifier is confident that it belongs to another task.
fn misplaced_example(
    tasks: &[TaskName],
    examples: &[Example<'_>],
    one: &HeldOutExample,
    calibration: Calibration,
) -> Option<DoubtfulExample> {
    let confidence = calibration.confidence(one.score, one.familiarity);
    (!one.correct && confidence >= DOUBTFUL_CONFIDENCE).then(|| DoubtfulExample {
        task: examples[one.index].task.map(|task| tasks[task].clone()),
        text: examples[one.index].text.to_owned(),
        reason: Doubt::OtherTask {
            other: tasks[one.best].clone(),
            confidence,
        },
    })
}

//! How well the tasks can be distinguished, as people read it.

use flotilla_core::TaskName;
use flotilla_core::routing::{Doubt, DoubtfulExample, SeparatedTask, TaskSeparation};

use crate::output;

/// The most pairs of confused tasks, and the most doubtful examples, that are printed.
const MAX_LISTED: usize = 10;
/// Longest text in a table, in characters.
const MAX_TEXT: usize = 60;

/// One line for each thing that an operator should know after the tasks have changed.
pub(crate) fn summary(separation: &TaskSeparation) -> Vec<String> {
    if separation.tasks.len() < 2 {
        return Vec::new();
    }
    let mut lines = Vec::new();
    if separation.held_out > 0 {
        lines.push(format!(
            "tasks: {} of their own examples classified rightly when held out of training",
            share(separation.correct, separation.held_out)
        ));
    }
    lines.extend(separation.confusions.first().map(|confusion| {
        format!(
            "most confused: {} of {} taken for {}, such as '{}'",
            confusion.count,
            confusion.task,
            confusion.classified_as,
            output::one_line(&confusion.example, MAX_TEXT)
        )
    }));
    if !separation.doubtful.is_empty() {
        lines.push(format!(
            "doubtful examples: {}; see flotilla describe router",
            separation.doubtful.len()
        ));
    }
    lines.extend(missing(separation));
    lines
}

/// The whole report.
pub(crate) fn report(separation: &TaskSeparation) -> String {
    let mut text = output::fields(&[
        (
            "Held-out examples",
            if separation.held_out == 0 {
                "none: a task needs two examples at least".into()
            } else {
                separation.held_out.to_string()
            },
        ),
        (
            "Right",
            optional_share(separation.correct, separation.held_out),
        ),
        (
            "Held back",
            optional_share(separation.abstained, separation.held_out),
        ),
        (
            "Held back of no task",
            optional_share(
                separation.abstained_from_no_task,
                separation.held_out_of_no_task,
            ),
        ),
    ]);
    for line in missing(separation) {
        text += &format!("{line}\n");
    }
    text += "\n";
    let rows = separation.tasks.iter().map(|task| {
        vec![
            task.task.to_string(),
            task.examples.to_string(),
            optional_share(task.correct, task.held_out),
            optional_share(task.abstained, task.held_out),
        ]
    });
    text += &output::table(&["TASK", "EXAMPLES", "RIGHT", "HELD BACK"], rows);
    if !separation.confusions.is_empty() {
        text += "\n";
        let rows = separation
            .confusions
            .iter()
            .take(MAX_LISTED)
            .map(|confusion| {
                vec![
                    confusion.task.to_string(),
                    confusion.classified_as.to_string(),
                    confusion.count.to_string(),
                    output::one_line(&confusion.example, MAX_TEXT),
                ]
            });
        text += &output::table(&["TASK", "TAKEN FOR", "EXAMPLES", "SUCH AS"], rows);
    }
    if !separation.doubtful.is_empty() {
        text += "\n";
        let rows = separation
            .doubtful
            .iter()
            .take(MAX_LISTED)
            .map(doubtful_row);
        text += &output::table(&["DOUBTFUL EXAMPLE", "IN", "WHY"], rows);
    }
    text
}

/// What is missing to classify well.
fn missing(separation: &TaskSeparation) -> Vec<String> {
    let few = |task: &SeparatedTask| {
        let wanted = task.wanted_examples?;
        let examples = counted(task.examples);
        Some(format!("task {}: {examples}; {wanted} would do", task.task))
    };
    let mut lines: Vec<_> = separation.tasks.iter().filter_map(few).collect();
    let without = separation.tasks.iter().filter(|task| task.examples == 0);
    lines.extend(without.map(|task| {
        format!(
            "task {}: no examples: requests reach it by its name or as the default task only",
            task.task
        )
    }));
    if separation.without_meaning > 0 {
        lines.push(format!(
            "{} not in English: there words count as they are written, not by their meaning",
            counted(separation.without_meaning)
        ));
    }
    let learns = separation.tasks.iter().any(|task| task.examples > 0);
    if learns && !separation.calibrated {
        lines.push(
            "too few examples to calibrate confidences: typical values are used until tasks have more"
                .into(),
        );
    }
    lines
}

fn counted(examples: usize) -> String {
    if examples == 1 {
        "1 example".into()
    } else {
        format!("{examples} examples")
    }
}

fn doubtful_row(doubtful: &DoubtfulExample) -> Vec<String> {
    vec![
        output::one_line(&doubtful.text, MAX_TEXT),
        task_name(doubtful.task.as_ref()),
        match &doubtful.reason {
            Doubt::SameText { other } => {
                format!("the same text is in {}", task_name(other.as_ref()))
            }
            Doubt::OtherTask { other, confidence } => {
                format!("classified as {other} (confidence {confidence:.2})")
            }
        },
    ]
}

fn task_name(task: Option<&TaskName>) -> String {
    task.map_or_else(|| "no task".into(), ToString::to_string)
}

fn share(part: usize, whole: usize) -> String {
    format!(
        "{:.0} % ({part} of {whole})",
        100.0 * part as f64 / whole as f64
    )
}

fn optional_share(part: usize, whole: usize) -> String {
    if whole == 0 {
        String::new()
    } else {
        share(part, whole)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_core::routing::{Classifier, TaskExamples, TrainingSet};
    use flotilla_core::spec::AbstainRule;

    use super::*;

    fn separation(tasks: &[(&str, &[&str])]) -> TaskSeparation {
        let tasks = tasks.iter().map(|(name, examples)| TaskExamples {
            name: TaskName::new(name).unwrap(),
            description: String::new(),
            examples: examples.iter().map(|text| (*text).to_owned()).collect(),
        });
        let set = TrainingSet {
            tasks: tasks.collect(),
            out_of_scope: Vec::new(),
        };
        let classifier = Classifier::train(&set, AbstainRule::default()).unwrap();
        classifier.separation().clone()
    }

    #[test]
    fn report_names_contradictions_and_what_is_missing() {
        let separation = separation(&[
            (
                "banking",
                &["freeze my card", "pay my bill", "Book a flight!"],
            ),
            ("empty", &[]),
            (
                "travel",
                &["book a flight", "find me a hotel", "is my flight late"],
            ),
        ]);
        let report = report(&separation);
        for expected in [
            "the same text is in banking",
            "task banking: 3 examples; 10 would do",
            "task empty: no examples",
            "too few examples to calibrate confidences",
        ] {
            assert!(report.contains(expected), "{expected} not in:\n{report}");
        }
        let summary = summary(&separation).join("\n");
        assert!(summary.contains("doubtful examples: 1;"), "{summary}");
    }

    #[test]
    fn single_task_has_nothing_to_be_distinguished_from() {
        assert!(summary(&separation(&[("banking", &["freeze my card", "pay"])])).is_empty());
    }
}

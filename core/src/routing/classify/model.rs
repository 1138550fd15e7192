//! What is learnt from examples: n-grams and their weights, and the examples that texts are compared with.

use super::features::Features;
use super::nearest::{ComparedMeaning, KeptExamples, Nearest};
use super::train::WeightMatrix;
use super::vocabulary::{CountBuffer, Vocabulary};

/// A text to learn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Example<'a> {
    pub(super) text: &'a str,
    /// The index of its task. `None` if it belongs to no task.
    pub(super) task: Option<usize>,
    /// Whether it is a request, and not the name or the description of the task.
    pub(super) is_request: bool,
}

/// Examples with their features.
#[derive(Debug)]
pub(super) struct FeaturedExamples<'a> {
    pub(super) vocabulary: Vocabulary,
    examples: Vec<(Example<'a>, Features)>,
}

/// Scores the tasks of a text, and finds the examples that are nearest to it.
#[derive(Debug)]
pub(super) struct LinearModel {
    pub(super) weights: WeightMatrix,
    pub(super) kept: KeptExamples,
}

/// The two tasks of a text that come first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prediction {
    /// The task with the highest score.
    pub(super) first: ScoredTask,
    /// The task with the second highest score. `None` if there is only one task.
    pub(super) second: Option<ScoredTask>,
    /// How familiar the text is, see [`ComparedMeaning::familiarity`].
    pub(super) familiarity: f32,
}

/// A task with its score for a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoredTask {
    /// The index of the task.
    pub(super) task: usize,
    /// Its score.
    pub(super) score: f32,
    /// Its example that is nearest to the text.
    pub(super) nearest: Nearest,
}

impl<'a> FeaturedExamples<'a> {
    /// Computes the features of `examples`, with their own n-grams as vocabulary.
    pub(super) fn of(examples: &[Example<'a>]) -> Self {
        let vocabulary = Vocabulary::of(examples.iter().map(|example| example.text));
        let mut scratch = CountBuffer::default();
        let featured = examples.iter().map(|example| {
            let features = Features::of(example.text, &vocabulary, &mut scratch);
            (*example, features)
        });
        Self {
            examples: featured.collect(),
            vocabulary,
        }
    }

    /// Learns the weights for `tasks` tasks with this factor of the meaning, in a `share` of the usual passes, 0 to 1.
    pub(super) fn learn(&self, tasks: usize, meaning_factor: f32, share: f32) -> WeightMatrix {
        let examples: Vec<_> = self
            .examples
            .iter()
            .map(|(example, features)| (features, example.task))
            .collect();
        WeightMatrix::learn(
            self.vocabulary.len(),
            tasks,
            &examples,
            meaning_factor,
            share,
        )
    }

    /// Number of requests whose words have no meaning.
    pub(super) fn without_meaning(&self) -> usize {
        let requests = self.examples.iter();
        requests
            .filter(|(example, features)| example.is_request && features.words.is_empty())
            .count()
    }

    /// Learns a model of `tasks` tasks with this factor of the meaning.
    pub(super) fn model(&self, tasks: usize, meaning_factor: f32) -> LinearModel {
        LinearModel {
            weights: self.learn(tasks, meaning_factor, 1.0),
            kept: self.keep(tasks),
        }
    }

    /// Keeps requests of each task to compare texts with.
    fn keep(&self, tasks: usize) -> KeptExamples {
        let requests = self.examples.iter();
        let requests = requests.filter(|(example, _)| example.is_request);
        KeptExamples::of(
            tasks,
            requests
                .filter_map(|(example, features)| Some((example.text, features, example.task?))),
        )
    }
}

impl LinearModel {
    /// Finds the tasks of a text that come first.
    pub(super) fn predict(&self, features: &Features) -> Prediction {
        self.rank(&self.weights.scores(features), features)
    }

    /// Finds the tasks with the highest of the `scores` of a text. One with the score -∞ is not chosen while there is
    /// another one.
    pub(super) fn rank(&self, scores: &[f32], features: &Features) -> Prediction {
        let compared = ComparedMeaning::of(features);
        let scored = |(task, score)| ScoredTask {
            task,
            score,
            nearest: self.kept.nearest(task, &compared),
        };
        let first = scored(highest(scores, None));
        let second = highest(scores, Some(first.task));
        let second = (second.1 > f32::NEG_INFINITY).then(|| scored(second));
        Prediction {
            familiarity: compared
                .familiarity(&first.nearest, &second.as_ref().unwrap_or(&first).nearest),
            first,
            second,
        }
    }
}

/// The number of requests among `examples` of each of `tasks` tasks.
pub(super) fn requests_by_task(tasks: usize, examples: &[Example<'_>]) -> Vec<usize> {
    let mut counts = vec![0; tasks];
    let requests = examples.iter().filter(|example| example.is_request);
    for task in requests.filter_map(|example| example.task) {
        counts[task] += 1;
    }
    counts
}

/// The index and value of the highest score, except for the index `but`.
pub(super) fn highest(scores: &[f32], but: Option<usize>) -> (usize, f32) {
    let all = scores.iter().copied().enumerate();
    let others = all.filter(|(at, _)| Some(*at) != but);
    others
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((0, f32::NEG_INFINITY))
}

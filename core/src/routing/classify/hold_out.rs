//! Classifies examples by models that were not trained on them (cross-validation). From that follow the factor of the
//! meaning, the calibration, and how well the tasks can be distinguished.

use super::features::Features;
use super::model::{Example, FeaturedExamples, LinearModel, requests_by_task};
use super::vocabulary::CountBuffer;
use super::word_vectors::WORD_VECTORS;

/// An example that was held out of training, and how it was classified.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HeldOutExample {
    /// The index of the example.
    pub(super) index: usize,
    /// The index of the task with the highest score.
    pub(super) best: usize,
    /// Its score.
    pub(super) score: f32,
    /// The scores of all tasks.
    pub(super) scores: Vec<f32>,
    /// How familiar the example is.
    pub(super) familiarity: f32,
    /// Whether the best task is the right one.
    pub(super) correct: bool,
    /// Whether the example belongs to any task.
    pub(super) in_scope: bool,
}

/// The score of a text that belongs to no task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ScoredText {
    /// The highest score of a task.
    pub(super) score: f32,
    /// How familiar the text is.
    pub(super) familiarity: f32,
}

/// The result of cross-validation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CrossValidation {
    /// The factor of the meaning with which held-out examples were classified best.
    pub(super) meaning_factor: f32,
    /// The examples that were held out, classified with this factor.
    pub(super) held_out: Vec<HeldOutExample>,
    /// General topics, classified as if they were requests of no task.
    pub(super) topics: Vec<ScoredText>,
}

/// The factors of the meaning that are compared. On CLINC150 the largest is best with 5 to 20 examples of each task, the
/// smallest with 1,500.
const MEANING_FACTORS: [f32; 3] = [1.0, 0.7, 0.3];

/// The temperatures of which the best one counts, so that factors are compared by which task has the highest score rather
/// than by the size of scores.
const TEMPERATURES: [f32; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// For each temperature, the sum of the losses of examples: the negative logarithm of the softmax of their scores at the
/// right task.
#[derive(Debug, Default)]
pub(super) struct Losses([f64; TEMPERATURES.len()]);

impl Losses {
    /// Adds the losses of an example of `task` with these scores of the tasks.
    pub(super) fn add(&mut self, scores: &[f32], task: usize) {
        let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (loss, temperature) in self.0.iter_mut().zip(TEMPERATURES) {
            let exponent = |score: f32| f64::from((score - highest) / temperature);
            let sum: f64 = scores.iter().map(|score| exponent(*score).exp()).sum();
            *loss += sum.ln() - exponent(scores[task]);
        }
    }

    /// The losses at the best temperature.
    pub(super) fn least(self) -> f64 {
        self.0.into_iter().fold(f64::INFINITY, f64::min)
    }
}

/// How examples are held out.
#[derive(Debug, Clone, Copy, PartialEq)]
struct HoldOutPlan {
    /// One of so many parts is held out.
    parts: usize,
    /// So many times, another part each time.
    rounds: usize,
    /// So many neighbours are held out together. Examples that people wrote one after the other are similar: on CLINC150,
    /// with a target of 2.3 % abstentions in scope, other examples had 3.5 % with 5 and 2.6 % with 10.
    together: usize,
    /// The share of the usual passes in which the factors of the meaning are compared.
    share: f32,
}

impl HoldOutPlan {
    /// With few examples as many as possible take part in training; with many one round is enough. The numbers are our
    /// own choice: they keep learning at about three seconds.
    fn new(requests: usize) -> Self {
        let (parts, rounds, together, share) = match requests {
            0..=300 => (10, 10, 1, 1.0),
            301..=1_000 => (5, 5, 1, 0.3),
            1_001..=2_500 => (5, 3, 1, 0.2),
            2_501..=5_000 => (5, 1, 1, 0.2),
            _ => (10, 1, 10, 0.2),
        };
        Self {
            parts,
            rounds,
            together,
            share,
        }
    }
}

/// Holds out every example that is a request and not the only one of its task, or as many as the time allows.
pub(super) fn cross_validate(tasks: usize, examples: &[Example<'_>]) -> CrossValidation {
    let requests = requests_by_task(tasks, examples);
    // The examples are in the order of the tasks, so that about the same share of each task is held out.
    let candidates: Vec<usize> = (0..examples.len())
        .filter(|at| {
            let example = examples[*at];
            example.is_request && example.task.is_none_or(|task| requests[task] > 1)
        })
        .collect();
    let plan = HoldOutPlan::new(candidates.len());
    let rounds: Vec<Round> = (0..plan.rounds)
        .map(|round| Round::new(round, plan, &candidates, examples))
        .filter(|round| !round.out.is_empty())
        .collect();
    let losses = MEANING_FACTORS.map(|factor| {
        let mut losses = Losses::default();
        for round in &rounds {
            round.add_losses(tasks, factor, plan.share, &mut losses);
        }
        losses.least()
    });
    let factors = MEANING_FACTORS.into_iter().zip(losses);
    let meaning_factor = factors
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(MEANING_FACTORS[0], |(factor, _)| factor);
    let (mut held_out, mut last_model) = (Vec::new(), None);
    for round in &rounds {
        let model = round.kept.model(tasks, meaning_factor);
        held_out.extend(round.classify(&model));
        last_model = Some(model);
    }
    CrossValidation {
        meaning_factor,
        held_out,
        topics: last_model.as_ref().map(classify_topics).unwrap_or_default(),
    }
}

/// One round: the examples that take part in training, and those that are held out.
struct Round<'a> {
    kept: FeaturedExamples<'a>,
    /// The index, task and features of each example that is held out.
    out: Vec<(usize, Option<usize>, Features)>,
}

impl<'a> Round<'a> {
    fn new(
        round: usize,
        plan: HoldOutPlan,
        candidates: &[usize],
        examples: &[Example<'a>],
    ) -> Self {
        let mut is_out = vec![false; examples.len()];
        for (number, at) in candidates.iter().enumerate() {
            is_out[*at] = number / plan.together % plan.parts == round;
        }
        let kept = examples.iter().zip(&is_out).filter(|(_, out)| !**out);
        let kept: Vec<Example> = kept.map(|(example, _)| *example).collect();
        let kept = FeaturedExamples::of(&kept);
        let mut scratch = CountBuffer::default();
        let out = (0..examples.len()).filter(|at| is_out[*at]).map(|at| {
            let features = Features::of(examples[at].text, &kept.vocabulary, &mut scratch);
            (at, examples[at].task, features)
        });
        Self {
            out: out.collect(),
            kept,
        }
    }

    /// Adds the losses of the held-out examples of tasks.
    fn add_losses(&self, tasks: usize, meaning_factor: f32, share: f32, losses: &mut Losses) {
        let weights = self.kept.learn(tasks, meaning_factor, share);
        for (_, task, features) in &self.out {
            if let Some(task) = *task {
                losses.add(&weights.scores(features), task);
            }
        }
    }

    /// Classifies the held-out examples by a model of the others.
    fn classify(&self, model: &LinearModel) -> impl Iterator<Item = HeldOutExample> {
        self.out.iter().map(|(index, task, features)| {
            let scores = model.weights.scores(features);
            let prediction = model.rank(&scores, features);
            HeldOutExample {
                index: *index,
                best: prediction.first.task,
                score: prediction.first.score,
                scores,
                familiarity: prediction.familiarity,
                correct: *task == Some(prediction.first.task),
                in_scope: task.is_some(),
            }
        })
    }
}

/// Classifies the general topics.
fn classify_topics(model: &LinearModel) -> Vec<ScoredText> {
    let topics = WORD_VECTORS.topics().iter().map(|topic| {
        let prediction = model.predict(&Features {
            meaning: topic.map(|value| f32::from(value) / 127.0),
            ..Features::default()
        });
        ScoredText {
            score: prediction.first.score,
            familiarity: prediction.familiarity,
        }
    });
    topics.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples<'a>(texts: &[(&'a str, Option<usize>)]) -> Vec<Example<'a>> {
        let example = |&(text, task)| Example {
            text,
            task,
            is_request: true,
        };
        texts.iter().map(example).collect()
    }

    #[test]
    fn every_request_is_held_out_once_but_the_only_one_of_its_task() {
        let mut examples = examples(&[
            ("freeze my card", Some(0)),
            ("pay my bill", Some(0)),
            ("book a flight", Some(1)),
            ("tell me a joke", None),
        ]);
        examples.push(Example {
            text: "banking",
            task: Some(0),
            is_request: false,
        });
        let validation = cross_validate(2, &examples);
        let mut held_out: Vec<_> = validation.held_out.iter().map(|one| one.index).collect();
        held_out.sort_unstable();
        assert_eq!(held_out, [0, 1, 3]);
        assert!(
            !validation
                .held_out
                .iter()
                .find(|one| one.index == 3)
                .unwrap()
                .in_scope
        );
    }

    #[test]
    fn nothing_is_held_out_of_tasks_with_an_example_each() {
        let examples = examples(&[("freeze my card", Some(0)), ("book a flight", Some(1))]);
        let validation = cross_validate(2, &examples);
        assert!(validation.held_out.is_empty() && validation.topics.is_empty());
        assert_eq!(validation.meaning_factor, MEANING_FACTORS[0]);
    }

    #[test]
    fn about_as_many_examples_are_held_out_whatever_their_number() {
        for (requests, least) in [
            (100, 100),
            (300, 300),
            (1_000, 1_000),
            (2_000, 1_200),
            (4_000, 800),
            (15_000, 1_500),
        ] {
            let plan = HoldOutPlan::new(requests);
            assert_eq!(requests * plan.rounds / plan.parts, least, "{requests}");
        }
    }
}

//! Classifies the requests that the [`Classifier`] is unsure of, by vectors of whole sentences that a model of the fleet,
//! the encoder, makes of them.
//!
//! The score of a task is the cheap classifier's plus a factor times the value of a [`KernelRegression`] on the vectors
//! of the examples; the factor follows from held-out examples. Confidence and threshold follow from the same held-out
//! examples by the same [`Calibration`] as the cheap classifier's, with the cosines to the nearest examples of the best
//! two tasks as the familiarity.

mod kernel_regression;
mod selection;
mod text;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calibrate::{self, Calibration};
use super::features::{length, product};
use super::hold_out::{HeldOutExample, Losses};
use super::model::highest;
use super::nearest::example_text;
use super::{
    Classification, Classifier, NearestExample, TaskProbability, TrainingSet, words_of_name,
};
use crate::TaskName;
use crate::spec::AbstainRule;
use kernel_regression::KernelRegression;
use selection::MAX_EXAMPLES;
pub use text::{MAX_ENCODED_CHARS, encoded_text};

/// The factors of the regression's values that are compared. The largest is best with 5 to 20 examples of each task, the
/// smallest with 1,500 (CLINC150).
const FACTORS: [f32; 4] = [3.0, 7.0, 15.0, 25.0];
/// The factor where too few examples are held out to compare them.
const TYPICAL_FACTOR: f32 = 15.0;

/// A text that an [`EncoderClassifier`] learns from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderExample {
    /// What the encoder must embed, at most [`MAX_ENCODED_CHARS`] characters.
    pub text: Arc<str>,
    /// The task. `None` if the text belongs to no task.
    pub task: Option<TaskName>,
    /// The index of the example among the texts of the training set.
    index: usize,
}

/// Why no encoder classifier can be trained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncoderError {
    /// The number of vectors is not that of the examples.
    #[error("there are {vectors} vectors of {examples} examples")]
    Incomplete {
        /// The number of vectors.
        vectors: usize,
        /// The number of examples.
        examples: usize,
    },
    /// A vector has another number of values than the first, or none.
    #[error(
        "a vector has {found} values where {expected} are expected: the encoder must always make as many"
    )]
    Dimensions {
        /// The number of values that the vector has.
        found: usize,
        /// The number of values that the others have.
        expected: usize,
    },
    /// A vector is zero or has values that are not finite.
    #[error("a vector has no direction: its values are all zero, or not finite")]
    NoDirection,
}

/// Classifies requests by the vectors of an encoder.
#[derive(Debug)]
pub struct EncoderClassifier {
    tasks: Vec<TaskName>,
    examples: Vec<EncodedExample>,
    /// The vectors of the examples, of length one.
    units: Vec<Vec<f32>>,
    dimensions: usize,
    regression: KernelRegression,
    factor: f32,
    calibration: Calibration,
    threshold: f32,
    report: EncoderReport,
}

/// An example as it was learned.
#[derive(Debug)]
struct EncodedExample {
    text: Arc<str>,
    /// The index of its task. `None` if it belongs to no task.
    task: Option<usize>,
    /// Whether an explanation may name it: names and descriptions of tasks are no requests.
    is_request: bool,
}

/// The result of classifying a request by its vector.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderClassification {
    /// The most probable task.
    pub best: TaskProbability,
    /// The second most probable task. `None` if there is only one task.
    pub runner_up: Option<TaskProbability>,
    /// Whether the confidence is below the threshold.
    pub abstained: bool,
    /// The example of the best task whose vector is nearest, with the cosine.
    pub nearest: Option<NearestExample>,
}

/// How an encoder classifier does on examples that were held out of training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncoderReport {
    /// Number of examples that it has learned from.
    pub examples: usize,
    /// Number of examples of tasks that were held out of training.
    pub held_out: usize,
    /// How many of them the cheap classifier is unsure of, so that the encoder classifies them.
    pub unsure: usize,
    /// How many of all held-out examples are classified rightly, by the encoder where the cheap classifier is unsure.
    pub correct: usize,
    /// How many of all held-out examples are classified rightly by the cheap classifier alone.
    pub correct_without: usize,
}

impl Classifier {
    /// Returns the examples of `training` that an encoder classifier learns from, at most 1,500 with the names and
    /// descriptions of the tasks. `training` is what this classifier was trained with.
    #[must_use]
    pub fn encoder_examples(&self, training: &TrainingSet) -> Vec<EncoderExample> {
        let names: Vec<String> = self.tasks.iter().map(words_of_name).collect();
        let texts = training.texts(&names);
        let held_out: HashSet<usize> = self.held_out.iter().map(|one| one.index).collect();
        let selected = selection::selected(self.tasks.len(), &texts, &held_out);
        // With very many tasks the names alone may be more.
        let selected = selected.into_iter().take(MAX_EXAMPLES);
        let of_index = |index: usize| EncoderExample {
            text: encoded_text(texts[index].text).into(),
            task: texts[index].task.map(|task| self.tasks[task].clone()),
            index,
        };
        selected
            .filter(|index| !texts[*index].text.trim().is_empty())
            .map(of_index)
            .collect()
    }
}

impl EncoderClassifier {
    /// Trains an encoder classifier beside `cheap`, from the vectors of its
    /// [examples](Classifier::encoder_examples), one for each, in any length and with any number of values. Takes up to a
    /// second with 1,500 examples.
    ///
    /// # Errors
    /// Vectors that are missing or do not fit.
    pub fn train(
        cheap: &Classifier,
        training: &TrainingSet,
        examples: &[EncoderExample],
        vectors: &[impl AsRef<[f32]>],
        abstain: AbstainRule,
    ) -> Result<Self, EncoderError> {
        let incomplete = EncoderError::Incomplete {
            vectors: vectors.len(),
            examples: examples.len(),
        };
        let first = vectors.first().ok_or_else(|| incomplete.clone())?;
        if vectors.len() != examples.len() {
            return Err(incomplete);
        }
        let dimensions = first.as_ref().len();
        let units = vectors
            .iter()
            .map(|vector| unit(vector.as_ref(), dimensions));
        let units = units.collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = cheap.tasks.iter().map(words_of_name).collect();
        let texts = training.texts(&names);
        let encoded = examples.iter().map(|example| EncodedExample {
            text: example_text(&example.text),
            task: texts[example.index].task,
            is_request: texts[example.index].is_request,
        });
        let encoded: Vec<_> = encoded.collect();
        let labels: Vec<_> = encoded.iter().map(|example| example.task).collect();
        let fitted = KernelRegression::fit(&units, &labels, cheap.tasks.len());

        let position: HashMap<usize, usize> = examples
            .iter()
            .enumerate()
            .map(|(at, example)| (example.index, at))
            .collect();
        let held: Vec<(&HeldOutExample, usize)> = cheap
            .held_out
            .iter()
            .filter_map(|held| Some((held, *position.get(&held.index)?)))
            .collect();
        let factor = best_factor(&held, &labels, &fitted.left_out);
        let held_out: Vec<HeldOutExample> = held
            .iter()
            .map(|&(one, at)| {
                let scores = combined(&one.scores, &fitted.left_out[at], factor);
                let products: Vec<f32> = units
                    .iter()
                    .enumerate()
                    // An example is not near itself.
                    .map(|(other, unit)| {
                        if other == at {
                            -1.0
                        } else {
                            product(unit, &units[at])
                        }
                    })
                    .collect();
                let ranked = Ranked::of(&scores, &products, &encoded);
                HeldOutExample {
                    index: one.index,
                    best: ranked.first.0,
                    score: ranked.first.1,
                    familiarity: ranked.familiarity,
                    correct: labels[at] == Some(ranked.first.0),
                    in_scope: one.in_scope,
                    scores,
                }
            })
            .collect();
        let calibration = Calibration::fit(&held_out, &[]).unwrap_or_else(Calibration::typical);
        let pairs = || {
            held.iter()
                .zip(&held_out)
                .filter(|((one, _), _)| one.in_scope)
        };
        let is_unsure = |one: &HeldOutExample| cheap.is_unsure_of(one);
        // The encoder abstains from as many of all requests of the tasks as the rule says. Where the cheap classifier is
        // sure, neither of them does.
        let confidences = pairs().map(|((one, _), encoded)| {
            if is_unsure(one) {
                calibration.confidence(encoded.score, encoded.familiarity)
            } else {
                f32::INFINITY
            }
        });
        let mut threshold = calibrate::threshold(abstain, confidences.collect());
        if threshold.is_infinite() {
            // The rule would allow to abstain from all that is unsure: too few examples are to say from which.
            threshold = calibration.threshold(abstain, &held_out);
        }
        let count = |which: &dyn Fn(&HeldOutExample, &HeldOutExample) -> bool| {
            pairs()
                .filter(|((one, _), encoded)| which(one, encoded))
                .count()
        };
        let report = EncoderReport {
            examples: encoded.len(),
            held_out: pairs().count(),
            unsure: count(&|one, _| is_unsure(one)),
            correct: count(&|one, encoded| {
                if is_unsure(one) {
                    encoded.correct
                } else {
                    one.correct
                }
            }),
            correct_without: count(&|one, _| one.correct),
        };
        Ok(Self {
            tasks: cheap.tasks.clone(),
            regression: fitted.regression,
            dimensions,
            factor,
            calibration,
            threshold,
            report,
            examples: encoded,
            units,
        })
    }

    /// Classifies a request by the cheap classification and its vector.
    ///
    /// # Errors
    /// A vector of another length than those of the examples, or without a direction.
    pub fn classify(
        &self,
        cheap: &Classification,
        vector: &[f32],
    ) -> Result<EncoderClassification, EncoderError> {
        let vector = unit(vector, self.dimensions)?;
        let products: Vec<f32> = self
            .units
            .iter()
            .map(|unit| product(unit, &vector))
            .collect();
        let values = self.regression.values(&products);
        let scores = combined(&cheap.scores, &values, self.factor);
        let ranked = Ranked::of(&scores, &products, &self.examples);
        let probability = |(task, score): (usize, f32)| TaskProbability {
            task: self.tasks[task].clone(),
            confidence: self.calibration.confidence(score, ranked.familiarity),
        };
        let best = probability(ranked.first);
        Ok(EncoderClassification {
            abstained: best.confidence < self.threshold,
            runner_up: ranked.second.map(probability),
            best,
            nearest: ranked.nearest.map(|(at, similarity)| NearestExample {
                text: self.examples[at].text.clone().into(),
                similarity,
            }),
        })
    }

    /// The confidence below which the classification abstains.
    #[must_use]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// How it does on held-out examples.
    #[must_use]
    pub fn report(&self) -> &EncoderReport {
        &self.report
    }

    /// The memory of the vectors and weights in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.units.len() * self.dimensions * size_of::<f32>() + self.regression.bytes()
    }
}

/// The best two tasks of a text, and how near it is to their examples.
struct Ranked {
    /// The index and the score of the best task.
    first: (usize, f32),
    second: Option<(usize, f32)>,
    /// The cosines to the nearest examples of both.
    familiarity: f32,
    /// The request among the examples of the best task that is nearest, with the cosine.
    nearest: Option<(usize, f32)>,
}

impl Ranked {
    /// Ranks tasks by the scores of a text and its cosines to the examples.
    fn of(scores: &[f32], products: &[f32], examples: &[EncodedExample]) -> Self {
        let first = highest(scores, None);
        let second = (scores.len() > 1).then(|| highest(scores, Some(first.0)));
        let nearest = |task: usize, only_requests: bool| {
            let of_task = examples.iter().zip(products).enumerate();
            let of_task = of_task.filter(|(_, (example, _))| {
                example.task == Some(task) && (example.is_request || !only_requests)
            });
            let cosines = of_task.map(|(at, (_, cosine))| (at, *cosine));
            cosines.max_by(|a, b| a.1.total_cmp(&b.1))
        };
        let cosine = |task| nearest(task, false).map_or(0.0, |(_, cosine)| cosine);
        Self {
            familiarity: cosine(first.0) + cosine(second.unwrap_or(first).0),
            nearest: nearest(first.0, true),
            first,
            second,
        }
    }
}

/// The scores of tasks by both classifiers.
fn combined(cheap: &[f32], values: &[f32], factor: f32) -> Vec<f32> {
    let both = cheap.iter().zip(values);
    both.map(|(score, value)| score + factor * value).collect()
}

/// The factor of the regression's values with which held-out examples are classified best.
fn best_factor(
    held: &[(&HeldOutExample, usize)],
    labels: &[Option<usize>],
    left_out: &[Vec<f32>],
) -> f32 {
    let in_scope = || {
        held.iter()
            .filter_map(|(one, at)| Some((one, *at, labels[*at]?)))
    };
    if in_scope().count() < calibrate::MIN_HELD_OUT {
        return TYPICAL_FACTOR;
    }
    let losses = FACTORS.map(|factor| {
        let mut losses = Losses::default();
        for (one, at, task) in in_scope() {
            losses.add(&combined(&one.scores, &left_out[at], factor), task);
        }
        losses.least()
    });
    let factors = FACTORS.into_iter().zip(losses);
    factors
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(TYPICAL_FACTOR, |(factor, _)| factor)
}

/// The vector with length one.
fn unit(vector: &[f32], dimensions: usize) -> Result<Vec<f32>, EncoderError> {
    if vector.len() != dimensions || vector.is_empty() {
        return Err(EncoderError::Dimensions {
            found: vector.len(),
            expected: dimensions,
        });
    }
    let length = length(vector);
    if !length.is_normal() {
        return Err(EncoderError::NoDirection);
    }
    Ok(vector.iter().map(|value| value / length).collect())
}

#[cfg(test)]
mod tests;

//! Classifies a request: which task it belongs to, with what confidence, and because of what.
//!
//! A linear classifier over words, letters ([`ngrams`]) and the meaning of words ([`word_vectors`]), trained from the
//! examples of the tasks, small enough for a controller, and open to inspection: the score of a task is its bias plus
//! the weights of the n-grams and of the words of the text, and a [`Classification`] names the largest weights. These are
//! n-grams and words of the examples: nothing else of a request is revealed. How far the score can be trusted follows
//! from examples that were held out of training ([`hold_out`]) and from the nearest example ([`nearest`]).

mod calibrate;
mod conversation;
mod encoder;
mod example_words;
mod explanation;
mod features;
mod hold_out;
mod model;
mod nearest;
mod ngrams;
mod separation;
mod sureness;
mod train;
mod vocabulary;
mod word_vectors;

use serde::{Deserialize, Serialize};

use crate::TaskName;
use crate::spec::{AbstainRule, Task};
pub use encoder::{
    EncoderClassification, EncoderClassifier, EncoderError, EncoderExample, EncoderReport,
    MAX_ENCODED_CHARS, encoded_text,
};
pub use explanation::{Evidence, EvidenceKind, ExampleText, NearestExample, ScoreExplanation};
pub use separation::{Confusion, Doubt, DoubtfulExample, SeparatedTask, TaskSeparation};

use calibrate::Calibration;
use example_words::ExampleWords;
use features::Features;
use hold_out::HeldOutExample;
use model::{Example, FeaturedExamples, LinearModel, Prediction, ScoredTask};
use sureness::Sureness;
use vocabulary::{CountBuffer, Vocabulary};

/// What a classifier is trained with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingSet {
    /// The tasks. Those without examples take no part.
    pub tasks: Vec<TaskExamples>,
    /// Texts that belong to no task.
    pub out_of_scope: Vec<String>,
}

/// A task as a classifier learns it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskExamples {
    /// The name. Its words count as an example.
    pub name: TaskName,
    /// What the task is about. Counts as an example, too.
    pub description: String,
    /// Requests that belong to the task.
    pub examples: Vec<String>,
}

/// A classifier of requests by task.
#[derive(Debug)]
pub struct Classifier {
    tasks: Vec<TaskName>,
    vocabulary: Vocabulary,
    model: LinearModel,
    words: ExampleWords,
    calibration: Calibration,
    threshold: f32,
    sureness: Sureness,
    separation: TaskSeparation,
    /// The examples that were held out of training, for a classifier that learns to correct this one.
    held_out: Vec<HeldOutExample>,
}

/// A task and the probability that it is the right one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskProbability {
    /// The task.
    pub task: TaskName,
    /// The probability, 0 to 1.
    pub confidence: f32,
}

/// The result of classifying a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// The most probable task.
    pub best: TaskProbability,
    /// The second most probable task. `None` if there is only one task.
    pub runner_up: Option<TaskProbability>,
    /// Whether the confidence is below the threshold.
    pub abstained: bool,
    /// Whether an encoder should classify the request as well: because the classifier abstained, or because the best two
    /// tasks are so close that a third of such requests of the tasks are classified wrongly.
    pub is_unsure: bool,
    /// The scores of all tasks, in the order of the tasks that the classifier was trained with.
    pub scores: Vec<f32>,
    /// How the score of the best task came about.
    pub explanation: ScoreExplanation,
}

impl TaskExamples {
    /// What a classifier learns of a task.
    #[must_use]
    pub fn of(task: &Task) -> Self {
        Self {
            name: task.name().clone(),
            description: task.spec.description.clone(),
            examples: task.spec.examples.clone(),
        }
    }
}

impl TrainingSet {
    /// The texts to learn from, in the order of the tasks, those of no task last.
    fn texts<'a>(&'a self, names: &'a [String]) -> Vec<Example<'a>> {
        let mut texts = Vec::new();
        for (number, (task, name)) in self.tasks.iter().zip(names).enumerate() {
            if task.examples.is_empty() {
                continue;
            }
            let example = |text: &'a str, is_request| Example {
                text,
                task: Some(number),
                is_request,
            };
            texts.extend(task.examples.iter().map(|text| example(text, true)));
            texts.push(example(name, false));
            if !task.description.trim().is_empty() {
                texts.push(example(&task.description, false));
            }
        }
        texts.extend(self.out_of_scope.iter().map(|text| Example {
            text,
            task: None,
            is_request: true,
        }));
        texts
    }
}

impl Classifier {
    /// Trains a classifier. Returns `None` without tasks. Takes 0.3 s for ten tasks with 5 examples each, 3 s for 15,000
    /// examples, and is deterministic.
    #[must_use]
    pub fn train(examples: &TrainingSet, abstain: AbstainRule) -> Option<Self> {
        if examples.tasks.is_empty() {
            return None;
        }
        let tasks: Vec<TaskName> = examples
            .tasks
            .iter()
            .map(|task| task.name.clone())
            .collect();
        let names: Vec<String> = tasks.iter().map(words_of_name).collect();
        let texts = examples.texts(&names);

        let validation = hold_out::cross_validate(tasks.len(), &texts);
        let held_out = &validation.held_out;
        let calibration =
            Calibration::fit(held_out, &validation.topics).unwrap_or_else(Calibration::typical);
        let threshold = calibration.threshold(abstain, held_out);
        let featured = FeaturedExamples::of(&texts);
        let separation = separation::evaluate(
            &tasks,
            &texts,
            featured.without_meaning(),
            &validation,
            calibration,
            threshold,
        );
        Some(Self {
            words: ExampleWords::of(texts.iter().map(|example| example.text)),
            model: featured.model(tasks.len(), validation.meaning_factor),
            vocabulary: featured.vocabulary,
            tasks,
            calibration,
            threshold,
            sureness: Sureness::fit(held_out),
            separation,
            held_out: validation.held_out,
        })
    }

    /// Classifies a conversation by its user turns, the newest first, with at most `evidence` n-grams and words as the
    /// explanation.
    #[must_use]
    pub fn classify<'a>(
        &self,
        turns: impl Iterator<Item = &'a str>,
        evidence: usize,
    ) -> Classification {
        let mut read = self.read(turns);
        let known = read.prediction.take();
        let prediction = known.unwrap_or_else(|| self.model.rank(&read.scores, &read.features));
        self.classification(read, prediction, evidence)
    }

    /// Classifies a conversation as [`Classifier::classify`] does, among those tasks for which `is_allowed` holds. A
    /// request that belongs to another task fits none of them well. `None`: no task is allowed.
    #[must_use]
    pub fn classify_among<'a>(
        &self,
        turns: impl Iterator<Item = &'a str>,
        evidence: usize,
        is_allowed: impl Fn(&TaskName) -> bool,
    ) -> Option<Classification> {
        let allowed: Vec<bool> = self.tasks.iter().map(is_allowed).collect();
        if !allowed.contains(&true) {
            return None;
        }
        let mut read = self.read(turns);
        for (score, allowed) in read.scores.iter_mut().zip(allowed) {
            if !allowed {
                *score = f32::NEG_INFINITY;
            }
        }
        let prediction = self.model.rank(&read.scores, &read.features);
        Some(self.classification(read, prediction, evidence))
    }

    fn classification(
        &self,
        mut read: ConversationFeatures,
        prediction: Prediction,
        evidence: usize,
    ) -> Classification {
        let best = self.probability(&prediction.first, prediction.familiarity);
        let second = prediction.second.as_ref();
        let abstained = read.features.is_empty() || best.confidence < self.threshold;
        Classification {
            abstained,
            is_unsure: abstained || self.sureness.is_unsure(&read.scores),
            runner_up: second.map(|second| self.probability(second, prediction.familiarity)),
            best,
            explanation: explanation::explain(
                &self.vocabulary,
                &self.model,
                &self.words,
                &mut read.features,
                &prediction,
                evidence,
            ),
            scores: read.scores,
        }
    }

    fn probability(&self, scored: &ScoredTask, familiarity: f32) -> TaskProbability {
        TaskProbability {
            task: self.tasks[scored.task].clone(),
            confidence: self.calibration.confidence(scored.score, familiarity),
        }
    }

    /// The confidence below which the classifier abstains.
    #[must_use]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Whether an encoder would have classified a held-out example.
    fn is_unsure_of(&self, held: &HeldOutExample) -> bool {
        let confidence = self.calibration.confidence(held.score, held.familiarity);
        confidence < self.threshold || self.sureness.is_unsure(&held.scores)
    }

    /// How well the tasks can be distinguished.
    #[must_use]
    pub fn separation(&self) -> &TaskSeparation {
        &self.separation
    }

    /// The number of n-grams, and the memory of the weights and the kept examples in bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let bytes = self.model.weights.bytes() + self.model.kept.bytes();
        (self.vocabulary.len(), bytes)
    }

    fn read<'a>(&self, turns: impl Iterator<Item = &'a str>) -> ConversationFeatures {
        let mut scratch = CountBuffer::default();
        let parts: Vec<ConversationPart> = conversation::pieces(turns)
            .map(|text| {
                let features = Features::of(text, &self.vocabulary, &mut scratch);
                let scores = self.model.weights.scores(&features);
                let prediction = self.model.rank(&scores, &features);
                let score = prediction.first.score;
                let confidence = self.calibration.confidence(score, prediction.familiarity);
                ConversationPart {
                    features,
                    scores,
                    prediction,
                    weight: confidence * conversation::length_weight(text),
                }
            })
            .collect();
        let weights: Vec<f32> = parts.iter().map(|part| part.weight).collect();
        let mut parts = parts.into_iter().zip(conversation::shares(&weights));
        let Some((mut first, share)) = parts.next() else {
            // Without text the scores are the biases.
            let features = Features::default();
            return ConversationFeatures {
                scores: self.model.weights.scores(&features),
                features,
                prediction: None,
            };
        };
        if parts.len() == 0 {
            return ConversationFeatures {
                features: first.features,
                scores: first.scores,
                prediction: Some(first.prediction),
            };
        }
        first.features.scale(share);
        first.scores.iter_mut().for_each(|score| *score *= share);
        let mut read = ConversationFeatures {
            features: first.features,
            scores: first.scores,
            prediction: None,
        };
        for (mut part, share) in parts {
            for (sum, score) in read.scores.iter_mut().zip(part.scores) {
                *sum += share * score;
            }
            part.features.scale(share);
            read.features.add(part.features);
        }
        read.features.merge_ngrams();
        read
    }
}

/// The words of a task's name: "freeze-account" as "freeze account".
fn words_of_name(name: &TaskName) -> String {
    name.as_str().replace(|c: char| !c.is_alphanumeric(), " ")
}

/// A piece of a conversation.
struct ConversationPart {
    features: Features,
    scores: Vec<f32>,
    prediction: Prediction,
    /// Its weight in the decision, 0 to 1.
    weight: f32,
}

/// The features of a conversation: the sum over its pieces, each times its share.
struct ConversationFeatures {
    features: Features,
    scores: Vec<f32>,
    /// The prediction, if it is already known.
    prediction: Option<Prediction>,
}

#[cfg(test)]
mod tests;

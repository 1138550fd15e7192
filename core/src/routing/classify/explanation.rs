//! Explains a classification by what spoke for the task.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::example_words::ExampleWords;
use super::features::{DenseVector, Features, WordFeature, product};
use super::model::{LinearModel, Prediction};
use super::ngrams::NgramKind;
use super::train::WeightMatrix;
use super::vocabulary::Vocabulary;
use super::word_vectors::{DIMENSIONS, WORD_VECTORS};

/// How the score of a task came about: it is the bias plus the weights of all evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreExplanation {
    /// The score.
    pub score: f32,
    /// The score of an empty text.
    pub bias: f32,
    /// What has the largest weights, the largest first.
    pub evidence: Vec<Evidence>,
    /// The example of the task that is nearest to the request in meaning. `None` if the request has no words that
    /// have a meaning, or the task no examples.
    pub nearest: Option<NearestExample>,
    /// How familiar the request is: the similarities to the nearest examples of the two best tasks, less 1.5 times that to
    /// text in general. It counts in the confidence beside the score.
    pub familiarity: f32,
}

/// A part of a request and its contribution to the score of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The n-gram; or the word of the examples that is nearest in meaning to a word of the request.
    pub text: ExampleText,
    /// Whether it is a word by its meaning, or an n-gram of words or letters.
    pub kind: EvidenceKind,
    /// The contribution to the score.
    pub weight: f32,
}

/// The kind of evidence for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceKind {
    /// One or two words.
    Words,
    /// One to five letters of a word.
    Letters,
    /// A word by its meaning.
    Meaning,
}

/// An example and how similar a request is to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NearestExample {
    /// The beginning of the example.
    pub text: ExampleText,
    /// The cosine of the meanings of both, -1 to 1.
    pub similarity: f32,
}

/// An example or a part of one. In n-grams a space marks the end of a word, `^` and `$` the ends of the text.
/// Cheap to clone: the text is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ExampleText(Arc<str>);

impl std::ops::Deref for ExampleText {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for ExampleText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Arc<str>> for ExampleText {
    fn from(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl From<ExampleText> for String {
    fn from(text: ExampleText) -> Self {
        text.0.as_ref().into()
    }
}

impl From<NgramKind> for EvidenceKind {
    fn from(kind: NgramKind) -> Self {
        match kind {
            NgramKind::Words => Self::Words,
            NgramKind::Letters => Self::Letters,
        }
    }
}

/// Explains the score of the best task with at most `most` pieces of evidence.
pub(super) fn explain(
    vocabulary: &Vocabulary,
    model: &LinearModel,
    words: &ExampleWords,
    features: &mut Features,
    prediction: &Prediction,
    most: usize,
) -> ScoreExplanation {
    let best = &prediction.first;
    features.words.sort_by_key(|piece| piece.word);
    let nearest = best.nearest.text.as_ref();
    ScoreExplanation {
        score: best.score,
        bias: model.weights.bias(best.task),
        evidence: weightiest(&model.weights, features, best.task, most)
            .into_iter()
            .filter_map(|(weight, feature)| {
                let (text, kind) = match feature {
                    Feature::Ngram(place) => {
                        let (kind, ngram) = vocabulary.ngram(place);
                        (ngram, kind.into())
                    }
                    Feature::Word(pieces) => {
                        let word = words.nearest(pieces[0].word, &word_vector(pieces))?;
                        (word, EvidenceKind::Meaning)
                    }
                };
                Some(Evidence {
                    text: text.into(),
                    kind,
                    weight,
                })
            })
            .collect(),
        familiarity: prediction.familiarity,
        nearest: nearest.map(|text| NearestExample {
            text: text.clone().into(),
            similarity: best.nearest.similarity,
        }),
    }
}

/// What a weight belongs to.
#[derive(Clone, Copy)]
enum Feature<'a> {
    /// The n-gram at an index of the vocabulary.
    Ngram(u32),
    /// The pieces of a word, wherever it stands in the text.
    Word(&'a [WordFeature]),
}

/// At most `most` features with their contributions to the score of a task, the largest first. The pieces of a word
/// must stand beside each other.
fn weightiest<'a>(
    weights: &WeightMatrix,
    features: &'a Features,
    task: usize,
    most: usize,
) -> Vec<(f32, Feature<'a>)> {
    if most == 0 {
        return Vec::new();
    }
    let ngrams = features
        .ngrams
        .iter()
        .map(|&(place, value)| (weights.row(place)[task] * value, Feature::Ngram(place)));
    let words = features.words.chunk_by(|a, b| a.word == b.word);
    let words = words.map(|pieces| {
        let weight = product(weights.meaning(task), &word_vector(pieces));
        (weights.meaning_factor() * weight, Feature::Word(pieces))
    });
    let mut found: Vec<_> = ngrams.chain(words).collect();
    let by_weight = |a: &(f32, Feature), b: &(f32, Feature)| b.0.abs().total_cmp(&a.0.abs());
    if found.len() > most {
        found.select_nth_unstable_by(most - 1, by_weight);
        found.truncate(most);
    }
    found.sort_by(by_weight);
    found
}

/// What the pieces of a word add to the meaning.
fn word_vector(pieces: &[WordFeature]) -> DenseVector {
    let mut vector = [0.0; DIMENSIONS];
    for piece in pieces {
        WORD_VECTORS.add(piece.piece, piece.factor, &mut vector);
    }
    vector
}

//! Explains a classification by what spoke for the task.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::example_words::ExampleWords;
use super::features::{DenseVector, Features, WordFeature, product};
use super::model::{LinearModel, Prediction};
use super::ngrams::NgramKind;
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

/// What a weight belongs to.
enum Contributor {
    /// The n-gram at an index of the vocabulary.
    Ngram(u32),
    /// The word with this key, and the vector that it adds to the meaning.
    Word(u64, Box<DenseVector>),
}

/// Explains the score of the best task with at most `most` pieces of evidence.
pub(super) fn explain(
    model: &LinearModel,
    words: &ExampleWords,
    features: &mut Features,
    prediction: &Prediction,
    most: usize,
) -> ScoreExplanation {
    let task = prediction.first.task;
    let ngrams = features.ngrams.iter().map(|&(place, value)| {
        let weight = model.weights.row(place)[task] * value;
        (weight, Contributor::Ngram(place))
    });
    let mut weights: Vec<(f32, Contributor)> = if most == 0 {
        Vec::new()
    } else {
        ngrams.collect()
    };
    if most > 0 {
        features.words.sort_by_key(|piece| piece.word);
        let of_words = features.words.chunk_by(|a, b| a.word == b.word);
        weights.extend(of_words.map(|pieces| weigh_word(model, pieces, task)));
    }
    let weightiest =
        |a: &(f32, Contributor), b: &(f32, Contributor)| b.0.abs().total_cmp(&a.0.abs());
    if weights.len() > most && most > 0 {
        weights.select_nth_unstable_by(most - 1, weightiest);
    }
    weights.truncate(most);
    weights.sort_by(weightiest);
    let evidence = weights.into_iter().filter_map(|(weight, contributor)| {
        let (text, kind) = match contributor {
            Contributor::Ngram(place) => {
                let (kind, ngram) = model.vocabulary.ngram(place);
                (ngram, kind.into())
            }
            Contributor::Word(key, vector) => (words.nearest(key, &vector)?, EvidenceKind::Meaning),
        };
        Some(Evidence {
            text: text.into(),
            kind,
            weight,
        })
    });
    let nearest = &prediction.first.nearest;
    ScoreExplanation {
        score: prediction.first.score,
        bias: model.weights.bias(task),
        evidence: evidence.collect(),
        familiarity: prediction.familiarity,
        nearest: nearest.text.as_ref().map(|text| NearestExample {
            text: text.clone().into(),
            similarity: nearest.similarity,
        }),
    }
}

fn weigh_word(model: &LinearModel, pieces: &[WordFeature], task: usize) -> (f32, Contributor) {
    let mut vector = Box::new([0.0; DIMENSIONS]);
    for piece in pieces {
        WORD_VECTORS.add(piece.piece, piece.factor, &mut vector);
    }
    let weights = &model.weights;
    let weight = weights.meaning_factor() * product(weights.meaning(task), &vector[..]);
    (weight, Contributor::Word(pieces[0].word, vector))
}

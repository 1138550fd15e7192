//! How near a text is to the examples of a task. The score of a task says which task a text belongs to rather than
//! another; that a text belongs to no task shows in that no example is near it.

use std::sync::Arc;

use super::features::{DenseVector, Features, length};
use super::word_vectors::{QuantizedVector, WORD_VECTORS};

/// The most examples of a task that are kept, evenly spread over all of them. Our own choice: it bounds the time
/// that comparing a text with them takes.
const MAX_KEPT: usize = 256;

/// The most bytes of an example that an explanation shows.
const MAX_TEXT_BYTES: usize = 200;
/// The number of general topics that a text is compared with, those that are nearest to it.
const NEAREST_TOPICS: usize = 10;
/// The weight of the similarity to general topics in the familiarity. With it 4 % more of CLINC150's requests that belong
/// to no task are recognised as such.
const TOPIC_WEIGHT: f32 = 1.5;

/// The meanings of examples, by task.
#[derive(Debug, Default)]
pub(super) struct KeptExamples {
    tasks: Vec<Vec<KeptExample>>,
}

#[derive(Debug)]
struct KeptExample {
    meaning: QuantizedVector,
    text: Arc<str>,
}

/// The example of a task that is nearest to a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Nearest {
    /// The cosine of the two meanings, -1 to 1.
    pub(super) similarity: f32,
    /// The example. `None` if the task has none, or the text no meaning.
    pub(super) text: Option<Arc<str>>,
}

/// The meaning of a text, to compare others with.
#[derive(Debug)]
pub(super) struct ComparedMeaning {
    /// `None` if the text has no meaning.
    meaning: Option<QuantizedVector>,
    /// The similarity to general topics, -1 to 1.
    generality: f32,
}

impl ComparedMeaning {
    pub(super) fn of(features: &Features) -> Self {
        let meaning = quantized(&features.meaning);
        let topics = WORD_VECTORS.topics();
        let mut similar: Vec<i32> = meaning
            .iter()
            .flat_map(|meaning| topics.iter().map(|topic| product(topic, meaning)))
            .collect();
        let nearest = NEAREST_TOPICS.min(similar.len());
        if nearest < similar.len() {
            similar.select_nth_unstable_by_key(nearest, |product| std::cmp::Reverse(*product));
        }
        let sum: i32 = similar[..nearest].iter().sum();
        Self {
            generality: sum as f32 / (LENGTHS * nearest.max(1) as f32),
            meaning,
        }
    }

    /// How familiar the text is: the similarities to the nearest examples of the two tasks that come first, less that to
    /// general topics. A text that is as near to anything else is not familiar.
    pub(super) fn familiarity(&self, first: &Nearest, second: &Nearest) -> f32 {
        first.similarity + second.similarity - TOPIC_WEIGHT * self.generality
    }
}

impl KeptExamples {
    /// Keeps examples of each of `tasks` tasks.
    pub(super) fn of<'a>(
        tasks: usize,
        examples: impl Iterator<Item = (&'a str, &'a Features, usize)>,
    ) -> Self {
        let mut all: Vec<Vec<(&str, &Features)>> = vec![Vec::new(); tasks];
        for (text, features, task) in examples.filter(|(_, f, _)| !f.words.is_empty()) {
            all[task].push((text, features));
        }
        let keep = |of_task: Vec<(&str, &Features)>| {
            let every = of_task.len().div_ceil(MAX_KEPT).max(1);
            let kept = of_task.into_iter().step_by(every);
            kept.filter_map(|(text, features)| {
                Some(KeptExample {
                    meaning: quantized(&features.meaning)?,
                    text: example_text(text),
                })
            })
            .collect()
        };
        Self {
            tasks: all.into_iter().map(keep).collect(),
        }
    }

    /// Finds the example of `task` that is nearest to a text.
    pub(super) fn nearest(&self, task: usize, text: &ComparedMeaning) -> Nearest {
        let nearest = text.meaning.iter().flat_map(|meaning| {
            let kept = self.tasks[task].iter();
            kept.map(|example| (product(&example.meaning, meaning), example))
        });
        let nearest = nearest.max_by_key(|(product, _)| *product);
        Nearest {
            similarity: nearest.map_or(0.0, |(product, _)| product as f32 / LENGTHS),
            text: nearest.map(|(_, example)| example.text.clone()),
        }
    }

    /// The memory of the meanings in bytes.
    pub(super) fn bytes(&self) -> usize {
        let kept: usize = self.tasks.iter().map(Vec::len).sum();
        kept * size_of::<KeptExample>()
    }
}

/// What an explanation shows of an example: its beginning.
pub(super) fn example_text(text: &str) -> Arc<str> {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].into()
}

/// The vector with length 127. `None` for one of length 0.
pub(super) fn quantized(vector: &DenseVector) -> Option<QuantizedVector> {
    let length = length(vector);
    (length > 0.0).then(|| vector.map(|value| (value * (127.0 / length)).round() as i8))
}

/// The product of the lengths of two quantized vectors.
const LENGTHS: f32 = 127.0 * 127.0;

/// The scalar product of two vectors, [`LENGTHS`] times their cosine.
pub(super) fn product(a: &QuantizedVector, b: &QuantizedVector) -> i32 {
    // Products of 16 bits are what processors multiply and add at once.
    let products = a.iter().zip(b).map(|(a, b)| {
        let (a, b) = (i16::from(*a), i16::from(*b));
        i32::from(a) * i32::from(b)
    });
    products.sum()
}

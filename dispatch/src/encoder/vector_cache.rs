//! The vectors of examples by their text, so that a changed example costs one text.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use flotilla_core::routing::EncoderExample;
use flotilla_core::{ModelName, ModelRevision};

/// The vectors that one revision of a model has made. As many as the latest examples at most.
#[derive(Debug, Default)]
pub(super) struct VectorCache {
    /// What made them. `None` while there are none.
    made_by: Option<(ModelName, ModelRevision)>,
    vectors: HashMap<Arc<str>, Arc<[f32]>>,
}

impl VectorCache {
    /// Forgets the vectors of other models and revisions, and of texts that are no examples.
    pub(super) fn keep(
        &mut self,
        model: &ModelName,
        revision: ModelRevision,
        examples: &[EncoderExample],
    ) {
        let made_by = Some((model.clone(), revision));
        if self.made_by != made_by {
            self.vectors.clear();
            self.made_by = made_by;
        }
        let texts: HashSet<&str> = examples.iter().map(|example| &*example.text).collect();
        self.vectors.retain(|text, _| texts.contains(&**text));
    }

    /// Adds the vector of a text.
    pub(super) fn insert(&mut self, text: Arc<str>, vector: Vec<f32>) {
        self.vectors.insert(text, vector.into());
    }

    /// The texts of `examples` that have no vector, each once.
    pub(super) fn missing(&self, examples: &[EncoderExample]) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        let texts = examples.iter().map(|example| &example.text);
        let missing = texts.filter(|text| !self.vectors.contains_key(*text));
        missing.filter(|text| seen.insert(*text)).cloned().collect()
    }

    /// The vectors of `examples`, in their order. `None` unless all are there.
    pub(super) fn all(&self, examples: &[EncoderExample]) -> Option<Vec<Arc<[f32]>>> {
        let vectors = examples.iter();
        vectors
            .map(|example| self.vectors.get(&example.text).cloned())
            .collect()
    }
}

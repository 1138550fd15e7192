//! The embeddings of one request made of those of several turns.

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{Embeddings, RequestError};

/// The embeddings of one request made of those of several turns, each of which embeds a batch of inputs.
pub(super) struct MergedEmbeddings {
    /// The vectors of each turn.
    vectors: Vec<Vec<Vec<f32>>>,
    /// The number of inputs of each turn.
    batches: Vec<usize>,
    total: Embeddings,
}

impl MergedEmbeddings {
    /// Starts with no embeddings. `batches` are the numbers of inputs of the turns.
    pub(super) fn new(batches: Vec<usize>) -> Self {
        Self {
            vectors: vec![Vec::new(); batches.len()],
            batches,
            total: Embeddings::default(),
        }
    }

    /// Adds the embeddings of a turn.
    ///
    /// # Errors
    /// [`RequestError::Engine`] when there is not one vector for each of its inputs.
    pub(super) fn add(&mut self, turn: u32, embeddings: Embeddings) -> Result<(), RequestError> {
        let Embeddings {
            vectors,
            prompt_tokens,
            energy,
        } = embeddings;
        let turn = turn as usize;
        let expected = self.batches.get(turn).copied().unwrap_or(0);
        if vectors.len() != expected {
            return Err(RequestError::Engine(format!(
                "the engine made {} embeddings of {expected} inputs",
                vectors.len()
            )));
        }
        self.vectors[turn] = vectors;
        self.total.prompt_tokens = self.total.prompt_tokens.saturating_add(prompt_tokens);
        self.total.energy = EnergyUsage::combine_known(self.total.energy, energy);
        Ok(())
    }

    /// Returns the embeddings of all turns, in the order of the inputs.
    pub(super) fn finish(self) -> Embeddings {
        Embeddings {
            vectors: self.vectors.into_iter().flatten().collect(),
            ..self.total
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embeddings(vectors: &[f32]) -> Embeddings {
        Embeddings {
            vectors: vectors.iter().map(|x| vec![*x]).collect(),
            prompt_tokens: 3,
            energy: None,
        }
    }

    #[test]
    fn vectors_are_in_the_order_of_the_inputs() {
        let mut merged = MergedEmbeddings::new(vec![2, 2, 1]);
        merged.add(2, embeddings(&[5.0])).unwrap();
        merged.add(0, embeddings(&[1.0, 2.0])).unwrap();
        merged.add(1, embeddings(&[3.0, 4.0])).unwrap();
        let all = merged.finish();
        assert_eq!(all.vectors.concat(), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(all.prompt_tokens, 9);
    }

    #[test]
    fn missing_vector_is_an_error() {
        let mut merged = MergedEmbeddings::new(vec![2]);
        assert!(merged.add(0, embeddings(&[1.0])).is_err());
    }
}

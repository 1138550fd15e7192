//! How the embeddings of tokens become one.

/// How the embeddings of an input's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    First,
    /// That of the last token.
    Last,
}

/// The embedding of an input, which is put together from those of its pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct PooledVector(Vec<f32>);

impl PooledVector {
    /// Adds the embedding of the next `tokens` tokens, which llama.cpp has pooled.
    pub(super) fn add(&mut self, piece: &[f32], tokens: usize, pooling: Pooling) {
        match pooling {
            Pooling::First if !self.0.is_empty() => {}
            Pooling::First | Pooling::Last => self.0 = piece.to_vec(),
            Pooling::Mean => {
                self.0.resize(piece.len(), 0.0);
                for (sum, value) in self.0.iter_mut().zip(piece) {
                    *sum += value * tokens as f32;
                }
            }
        }
    }

    /// The vector in its direction that has the length 1, as OpenAI's embeddings have.
    pub(super) fn unit_length(&self) -> Vec<f32> {
        let length = self.0.iter().map(|x| x * x).sum::<f32>().sqrt();
        let factor = if length > 0.0 { length.recip() } else { 0.0 };
        self.0.iter().map(|x| x * factor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pooling: Pooling) -> Vec<f32> {
        let mut vector = PooledVector::default();
        vector.add(&[3.0, 0.0], 2, pooling);
        vector.add(&[0.0, 8.0], 1, pooling);
        vector.unit_length()
    }

    #[test]
    fn embeddings_of_pieces_become_that_of_the_input() {
        assert_eq!(pooled(Pooling::Mean), [0.6, 0.8]);
        assert_eq!(pooled(Pooling::First), [1.0, 0.0]);
        assert_eq!(pooled(Pooling::Last), [0.0, 1.0]);
        assert_eq!(PooledVector(vec![0.0]).unit_length(), [0.0]);
    }
}

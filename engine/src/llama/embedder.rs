//! The thread that computes the embeddings of a model.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use flotilla_core::generate::RequestError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tokio::sync::oneshot;

use super::pooling::{PooledVector, Pooling};
use super::thread_status::ThreadStatus;

/// The most inputs that are computed together.
pub(super) const MAX_INPUTS: usize = 32;
/// The most tokens of several inputs that are computed together. More are no faster, and llama.cpp keeps logits for
/// each.
const MAX_TOKENS: usize = 512;

/// Inputs to embed, each as its tokens.
pub(super) struct EmbedTask {
    pub(super) inputs: Vec<Vec<u32>>,
    /// Receives a vector of length 1 for each input. Dropping the receiver ends the computation before the next
    /// batch.
    pub(super) vectors: oneshot::Sender<Result<Vec<Vec<f32>>, RequestError>>,
}

/// Computes embeddings.
pub(super) struct Embedder<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    pooling: Pooling,
    status: Arc<ThreadStatus>,
}

impl<'model> Embedder<'model> {
    /// Computes batches of at most `context.n_batch()` tokens. A longer input is computed in pieces, which only
    /// causal models allow.
    pub(super) fn new(
        context: LlamaContext<'model>,
        pooling: Pooling,
        status: Arc<ThreadStatus>,
    ) -> Self {
        Self {
            batch: LlamaBatch::new(context.n_batch() as usize, 1),
            context,
            pooling,
            status,
        }
    }

    /// Computes what comes, until the channel is closed.
    pub(super) fn run(mut self, tasks: &Receiver<EmbedTask>) {
        while let Ok(EmbedTask { inputs, vectors }) = tasks.recv() {
            let embedded = self.embed(&inputs, &vectors);
            // Whoever asked may have left.
            let _ = vectors.send(embedded);
        }
    }

    fn embed(
        &mut self,
        inputs: &[Vec<u32>],
        reader: &oneshot::Sender<Result<Vec<Vec<f32>>, RequestError>>,
    ) -> Result<Vec<Vec<f32>>, RequestError> {
        let mut vectors = Vec::with_capacity(inputs.len());
        let lengths: Vec<usize> = inputs.iter().map(Vec::len).collect();
        let batch = self.context.n_batch() as usize;
        for group in groups(&lengths, batch.min(MAX_TOKENS)) {
            let first = group.start;
            self.clear(group.len());
            let mut pooled = vec![PooledVector::default(); group.len()];
            for piece in pieces(&lengths, group, batch) {
                if reader.is_closed() {
                    return Ok(Vec::new());
                }
                let embedded = self.embed_piece(inputs, &piece, first, &mut pooled);
                self.status.end();
                embedded.map_err(|problem| {
                    RequestError::Engine(format!(
                        "the engine cannot compute the embedding: {problem}"
                    ))
                })?;
            }
            vectors.extend(pooled.iter().map(PooledVector::unit_length));
        }
        Ok(vectors)
    }

    fn clear(&mut self, sequences: usize) {
        for sequence in 0..sequences {
            // Encoders keep nothing.
            let _ = self
                .context
                .clear_kv_cache_seq(Some(sequence as u32), None, None);
        }
    }

    /// Computes one batch of a group whose first input is `first`.
    fn embed_piece(
        &mut self,
        inputs: &[Vec<u32>],
        piece: &[Piece],
        first: usize,
        pooled: &mut [PooledVector],
    ) -> Result<(), String> {
        self.batch.clear();
        for Piece { input, positions } in piece {
            let sequence = [(input - first) as i32];
            for position in positions.clone() {
                let token = LlamaToken(inputs[*input][position].cast_signed());
                let added = self.batch.add(token, position as i32, &sequence, true);
                added.map_err(|error| error.to_string())?;
            }
        }
        self.status.begin(self.batch.n_tokens() as usize);
        let decoded = self.context.decode(&mut self.batch);
        decoded.map_err(|error| error.to_string())?;
        for Piece { input, positions } in piece {
            let sequence = input - first;
            let vector = self.context.embeddings_seq_ith(sequence as i32);
            let vector = vector.map_err(|error| error.to_string())?;
            pooled[sequence].add(vector, positions.len(), self.pooling);
        }
        Ok(())
    }
}

/// Tokens of an input that are computed in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    input: usize,
    positions: Range<usize>,
}

/// Divides inputs of these lengths into ranges of at most `limit` tokens and [`MAX_INPUTS`] inputs, and of one input at
/// least.
fn groups(lengths: &[usize], limit: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, length) in lengths.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if tokens + length <= limit && group.len() < MAX_INPUTS => {
                group.end = index + 1;
            }
            _ => {
                groups.push(index..index + 1);
                tokens = 0;
            }
        }
        tokens += length;
    }
    groups
}

/// Divides the inputs of a group into batches of at most `limit` tokens. Only a group of one input needs several.
fn pieces(lengths: &[usize], group: Range<usize>, limit: usize) -> Vec<Vec<Piece>> {
    let piece = |input: usize, from: usize| Piece {
        input,
        positions: from..lengths[input].min(from + limit),
    };
    if group.len() > 1 {
        return vec![group.map(|input| piece(input, 0)).collect()];
    }
    let of_input = |input: usize| {
        let starts = (0..lengths[input]).step_by(limit.max(1));
        starts.map(move |from| vec![piece(input, from)])
    };
    group.flat_map(of_input).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_computed_together_as_far_as_they_fit() {
        assert_eq!(groups(&[4, 4, 4, 10, 1], 10), vec![0..2, 2..3, 3..4, 4..5]);
        assert!(groups(&[], 10).is_empty());
        assert_eq!(groups(&[20], 10), vec![0..1]);
        assert_eq!(groups(&[1; 40], 100), vec![0..32, 32..40]);
    }

    #[test]
    fn long_input_is_computed_in_pieces() {
        let piece = |input, positions| Piece { input, positions };
        let lengths = [4, 5, 25];
        let together = vec![vec![piece(0, 0..4), piece(1, 0..5)]];
        assert_eq!(pieces(&lengths, 0..2, 10), together);
        let alone = [0..10, 10..20, 20..25].map(|range| vec![piece(2, range)]);
        assert_eq!(pieces(&lengths, 2..3, 10), alone);
    }
}

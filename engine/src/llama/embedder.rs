//! The thread that computes the embeddings of a model.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use flotilla_core::generate::RequestError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tokio::sync::oneshot;

use super::thread_status::ThreadStatus;

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
    status: Arc<ThreadStatus>,
}

impl<'model> Embedder<'model> {
    /// Computes batches of at most `context.n_batch()` tokens.
    pub(super) fn new(context: LlamaContext<'model>, status: Arc<ThreadStatus>) -> Self {
        Self {
            batch: LlamaBatch::new(context.n_batch() as usize, 1),
            context,
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
        for group in groups(&lengths, self.context.n_batch() as usize) {
            if reader.is_closed() {
                break;
            }
            let inputs = &inputs[group];
            let embedded = self.embed_group(inputs);
            self.status.end();
            vectors.extend(embedded.map_err(|problem| {
                RequestError::Engine(format!(
                    "the engine cannot compute the embedding: {problem}"
                ))
            })?);
        }
        Ok(vectors)
    }

    fn embed_group(&mut self, inputs: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, String> {
        self.batch.clear();
        for (sequence, tokens) in inputs.iter().enumerate() {
            for (position, token) in tokens.iter().enumerate() {
                let token = LlamaToken(token.cast_signed());
                let added = self
                    .batch
                    .add(token, position as i32, &[sequence as i32], true);
                added.map_err(|error| error.to_string())?;
            }
        }
        self.status.begin(self.batch.n_tokens() as usize);
        for sequence in 0..inputs.len() {
            // Encoders keep nothing.
            let _ = self
                .context
                .clear_kv_cache_seq(Some(sequence as u32), None, None);
        }
        let decoded = self.context.decode(&mut self.batch);
        decoded.map_err(|error| error.to_string())?;
        let vectors = (0..inputs.len()).map(|sequence| {
            let vector = self.context.embeddings_seq_ith(sequence as i32);
            vector.map(unit_length).map_err(|error| error.to_string())
        });
        vectors.collect()
    }
}

/// Divides inputs of these lengths into ranges of at most `limit` tokens, and of one input at least.
fn groups(lengths: &[usize], limit: usize) -> Vec<std::ops::Range<usize>> {
    let mut groups: Vec<std::ops::Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, length) in lengths.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if tokens + length <= limit => group.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                tokens = 0;
            }
        }
        tokens += length;
    }
    groups
}

/// The vector in its direction that has the length 1, as OpenAI's embeddings have.
fn unit_length(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let factor = if length > 0.0 { length.recip() } else { 0.0 };
    vector.iter().map(|x| x * factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_computed_together_as_far_as_they_fit() {
        assert_eq!(groups(&[4, 4, 4, 10, 1], 10), vec![0..2, 2..3, 3..4, 4..5]);
        assert!(groups(&[], 10).is_empty());
        assert_eq!(groups(&[20], 10), vec![0..1]);
    }

    #[test]
    fn vectors_have_the_length_one() {
        assert_eq!(unit_length(&[3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(unit_length(&[0.0]), [0.0]);
    }
}

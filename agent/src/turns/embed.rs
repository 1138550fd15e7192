//! A request for the embeddings of several inputs.

use std::time::Instant;

use flotilla_core::generate::{EmbedInput, EmbedRequest, Embeddings, RequestError};
use futures::{StreamExt, TryStreamExt, stream};

use super::{MergedEmbeddings, TurnStream};
use crate::models::{AdmittedRequest, AdmittedSplit};

/// Embeds the inputs of a request, `batch` in each turn. The first turn has been `admitted`; the others wait
/// no longer than until `deadline`. Dropping the future ends all turns.
///
/// # Errors
/// The error of the first turn that fails.
pub(crate) async fn embed_in_turns(
    admitted: (AdmittedRequest, AdmittedSplit),
    batch: usize,
    mut request: EmbedRequest,
    deadline: Option<Instant>,
) -> Result<Embeddings, RequestError> {
    let batches = divide(std::mem::take(&mut request.inputs), batch);
    let mut merged = MergedEmbeddings::new(batches.iter().map(Vec::len).collect());
    let turns = u32::try_from(batches.len()).unwrap_or(u32::MAX);
    let mut batches = batches.into_iter();
    let start_turn = move |_, admitted: AdmittedRequest| {
        let mut request = request.clone();
        request.inputs = batches.next().unwrap_or_default();
        stream::once(admitted.embed(request)).boxed()
    };
    let mut turns = TurnStream::new(admitted, turns, deadline, start_turn);
    while let Some((turn, embeddings)) = turns.try_next().await? {
        merged.add(turn, embeddings)?;
    }
    turns.mark_complete();
    Ok(merged.finish())
}

/// Divides inputs into batches of at most `size`, in their order.
fn divide(inputs: Vec<EmbedInput>, size: usize) -> Vec<Vec<EmbedInput>> {
    let mut inputs = inputs.into_iter();
    let mut batches = Vec::new();
    loop {
        let batch: Vec<_> = inputs.by_ref().take(size.max(1)).collect();
        if batch.is_empty() {
            return batches;
        }
        batches.push(batch);
    }
}

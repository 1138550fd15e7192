//! Divides a request for several choices or embeddings into turns.
//!
//! Each choice, and each batch of inputs, waits for its own turn in the model's admission queue. So a
//! large request delays others by one turn, not by all of its own, and a free slot is used at once. At
//! most one turn of a request waits at a time, and the queue counts the request once.
//!
//! [`TurnStream`] admits and runs the turns; [`MergedAnswer`] and [`MergedEmbeddings`] make one answer of
//! theirs.

mod embed;
mod generate;
mod merged_answer;
mod merged_embeddings;
mod turn_stream;

pub(crate) use embed::embed_in_turns;
pub(crate) use generate::SplitAnswer;
use merged_answer::MergedAnswer;
use merged_embeddings::MergedEmbeddings;
use turn_stream::TurnStream;

#[cfg(test)]
mod tests;

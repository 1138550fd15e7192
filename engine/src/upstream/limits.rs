//! How much a server may send, and how long it may take.

use std::time::Duration;

use flotilla_core::generate::GenerateRequest;

/// The most bytes of a streamed answer, with everything around its text.
const MAX_RECEIVED_BYTES: usize = 256 << 20;
/// Bytes of an answer apart from its tokens: comments, usage, and what a server adds of its own.
const RECEIVED_BASE: usize = 1 << 20;
/// The most bytes that a server sends for a token: an event of a few hundred bytes, or padded to hide
/// its length as hosted models do.
const RECEIVED_PER_TOKEN: usize = 4 << 10;
/// The most bytes that a server sends for an alternative of a token: its text, bytes and probability.
const RECEIVED_PER_ALTERNATIVE: usize = 512;

/// The most bytes of texts and arguments of an answer.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Bytes of an answer apart from its tokens: the names and ids of tool calls.
const ANSWER_BASE: usize = 64 << 10;
/// The longest token: vocabularies have tokens of up to 128 blanks.
const ANSWER_PER_TOKEN: usize = 128;

/// The most memory of the log-probabilities of an answer, in bytes.
const MAX_LOGPROB_BYTES: usize = 64 << 20;
/// The most memory of a token's log-probability or of that of an alternative, in bytes: its text, its
/// bytes and the structure around them.
const LOGPROB_PER_ALTERNATIVE: usize = 512;

/// The most bytes of embeddings.
const MAX_EMBEDDINGS_BYTES: usize = 128 << 20;
/// The most bytes of one embedding: 16,384 numbers of 24 characters, with a margin.
const BYTES_PER_EMBEDDING: usize = 512 << 10;

/// The most bytes of an answer from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UpstreamLimits {
    /// Bytes that are received.
    pub(super) received_bytes: usize,
    /// Bytes of texts, names, ids and arguments.
    pub(super) answer_bytes: usize,
    /// The memory of log-probabilities. `None`: none were requested.
    pub(super) logprob_bytes: Option<usize>,
}

impl UpstreamLimits {
    /// The limits that follow from the most tokens of the answer. A server that counts its tokens
    /// differently keeps them too: tokens are four bytes long on average.
    pub(super) fn new(request: &GenerateRequest) -> Self {
        let alternatives = request.logprobs.unwrap_or(0) as usize;
        let per_token = RECEIVED_PER_TOKEN + alternatives * RECEIVED_PER_ALTERNATIVE;
        let tokens = request
            .sampling
            .max_tokens
            .map_or(usize::MAX, |n| n as usize);
        Self {
            received_bytes: limit(RECEIVED_BASE, tokens, per_token, MAX_RECEIVED_BYTES),
            answer_bytes: limit(ANSWER_BASE, tokens, ANSWER_PER_TOKEN, MAX_ANSWER_BYTES),
            logprob_bytes: request.logprobs.map(|alternatives| {
                let per_token = (alternatives as usize + 1) * LOGPROB_PER_ALTERNATIVE;
                limit(ANSWER_BASE, tokens, per_token, MAX_LOGPROB_BYTES)
            }),
        }
    }
}

/// Returns the most bytes of the embeddings of so many inputs.
pub(super) fn embeddings_bytes(inputs: usize) -> usize {
    limit(
        BYTES_PER_EMBEDDING,
        inputs,
        BYTES_PER_EMBEDDING,
        MAX_EMBEDDINGS_BYTES,
    )
}

fn limit(base: usize, count: usize, each: usize, most: usize) -> usize {
    base.saturating_add(count.saturating_mul(each)).min(most)
}

/// How long a server may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerTimeouts {
    /// Until it accepts a connection.
    pub(super) connect: Duration,
    /// Until it has listed its models.
    pub(super) probe: Duration,
    /// Until the first byte of an answer.
    pub(super) first_byte: Duration,
    /// Between two pieces of an answer.
    pub(super) silence: Duration,
    /// From the end of an answer until the end of its stream, whatever comes meanwhile.
    pub(super) after_finish: Duration,
    /// For the body of an error.
    pub(super) error_body: Duration,
}

impl Default for ServerTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            probe: Duration::from_secs(10),
            // Some servers answer nothing before the prompt is read, and Ollama loads the model first.
            // A controller's limit for the first token is as long unless it is configured.
            first_byte: Duration::from_secs(300),
            // A server that reads another's long prompt sends no token meanwhile.
            silence: Duration::from_secs(120),
            after_finish: Duration::from_secs(5),
            error_body: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::generate::GenerateInput;

    #[test]
    fn limits_grow_with_the_tokens_up_to_a_cap() {
        let mut request = GenerateRequest::new(
            ModelName::new("m").unwrap(),
            GenerateInput::Text("hi".into()),
        );
        let most = UpstreamLimits {
            received_bytes: 256 << 20,
            answer_bytes: 16 << 20,
            logprob_bytes: None,
        };
        assert_eq!(UpstreamLimits::new(&request), most);
        request.sampling.max_tokens = Some(u32::MAX);
        assert_eq!(UpstreamLimits::new(&request), most);
        request.sampling.max_tokens = Some(16);
        request.logprobs = Some(2);
        let few = UpstreamLimits {
            received_bytes: (1 << 20) + 16 * (4096 + 1024),
            answer_bytes: (64 << 10) + 16 * 128,
            logprob_bytes: Some((64 << 10) + 16 * 3 * 512),
        };
        assert_eq!(UpstreamLimits::new(&request), few);
    }
}

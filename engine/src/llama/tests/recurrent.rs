//! Computes answers with a model that has a state instead of a cache.

use super::gguf_writer::{GgufWriter, Tokenizer, VOCABULARY};
use super::*;

const HIDDEN: usize = 32;
const INNER: usize = 2 * HIDDEN;
const STATE: usize = 16;
const RANK: usize = 4;
const KERNEL: usize = 4;

fn mamba() -> GgufWriter {
    let mut file = GgufWriter::new("mamba", Tokenizer::WordPiece);
    file.numbers(&[
        ("context_length", 512),
        ("embedding_length", HIDDEN as u32),
        ("block_count", 2),
        ("feed_forward_length", 0),
        ("attention.head_count", 0),
        ("ssm.conv_kernel", KERNEL as u32),
        ("ssm.inner_size", INNER as u32),
        ("ssm.state_size", STATE as u32),
        ("ssm.time_step_rank", RANK as u32),
    ]);
    file.fraction("attention.layer_norm_rms_epsilon", 1e-5);
    file.matrix("token_embd.weight", VOCABULARY, HIDDEN);
    file.vector("output_norm.weight", HIDDEN, 1.0);
    for layer in 0..2 {
        let name = |name: &str| format!("blk.{layer}.{name}");
        file.vector(&name("attn_norm.weight"), HIDDEN, 1.0);
        file.matrix(&name("ssm_in.weight"), 2 * INNER, HIDDEN);
        file.matrix(&name("ssm_conv1d.weight"), INNER, KERNEL);
        file.vector(&name("ssm_conv1d.bias"), INNER, 0.0);
        file.matrix(&name("ssm_x.weight"), RANK + 2 * STATE, INNER);
        file.matrix(&name("ssm_dt.weight"), INNER, RANK);
        file.vector(&name("ssm_dt.bias"), INNER, 0.0);
        file.random(&name("ssm_a"), INNER, STATE, -0.2, 0.1);
        file.vector(&name("ssm_d"), INNER, 1.0);
        file.matrix(&name("ssm_out.weight"), HIDDEN, INNER);
    }
    file
}

/// A prompt of this many tokens, and then `rest`.
fn prompt(beginning: u32, rest: &[u32]) -> Vec<u32> {
    let beginning = (0..beginning).map(|index| 5 + index * 7 % 59);
    beginning.chain(rest.iter().copied()).collect()
}

async fn answer_to(model: &Arc<dyn LoadedModel>, prompt: &[u32]) -> Answer {
    let mut request = endless(GenerateInput::Tokens(prompt.to_vec()), 12);
    request.sampling.logit_bias.insert(4, -100.0);
    answer(model, request).await.unwrap()
}

/// The tokens of an answer, whose words are numbered.
fn tokens_of(answer: &Answer) -> Vec<u32> {
    let words = answer.content.split_whitespace();
    words.map(|word| word[1..].parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn recurrent_model_answers_as_if_it_had_read_each_prompt_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    mamba().write(&path);
    let mut spec = spec(&path);
    spec.concurrency = 2;
    spec.options.threads = Some(1);
    let model = load(spec.clone()).await.unwrap();
    let first = prompt(90, &[]);
    let written = tokens_of(&answer_to(&model, &first).await);
    assert_eq!(written.len(), 12);
    // One goes on where the last answer ended, one has only the beginning in common.
    let conversation = [&first[..], &written, &[9, 8, 7]].concat();
    let prompts = [conversation, prompt(80, &[30, 31]), prompt(90, &[32])];
    let mut answers = Vec::new();
    for prompt in &prompts {
        answers.push(answer_to(&model, prompt).await);
    }
    let together = prompts.iter().map(|prompt| answer_to(&model, prompt));
    let together = join_all(together).await;
    model.unload().await;
    for (index, prompt) in prompts.iter().enumerate() {
        let fresh = load(spec.clone()).await.unwrap();
        let expected = answer_to(&fresh, prompt).await;
        fresh.unload().await;
        assert_same(&expected, &answers[index]);
        assert_same(&expected, &together[index]);
    }
}

//! Compares tokens and log-probabilities with reference values, for chats and raw prompts, of folders and
//! GGUF files. `reference/make_reference.py` makes the values and the models.

use super::*;
use crate::mistral::known_tokens::known_tokens;
use crate::mistral::load::{self, LoadedEngine};
use crate::mistral::model::MistralModel;

const VALUES: &str = include_str!("reference/values.json");

fn reference_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/mistral/tests/reference")
        .join(name)
}

/// Compares a model with the values of this name. Log-probabilities may differ by `tolerance`, since GGUF files
/// are computed with activations of half the precision.
async fn check(path: &Path, name: &str, tolerance: f64) {
    let values: Value = serde_json::from_str(VALUES).unwrap();
    let messages = values["messages"].as_array().unwrap().iter();
    let messages = messages.map(|message| ChatMessage {
        role: message["role"].as_str().unwrap().to_owned(),
        content: message["content"].as_str().unwrap().to_owned(),
        ..ChatMessage::default()
    });
    let raw = values["prompt"].as_str().unwrap().to_owned();
    for (kind, input) in [
        ("chat", GenerateInput::Chat(messages.collect())),
        ("raw", GenerateInput::Text(raw)),
    ] {
        let expected = &values[name][kind];
        let loaded: LoadedEngine = load::load(&spec(path), Arc::new(|_, _| {})).await.unwrap();
        let mut request = request(input);
        request.logprobs = Some(1);
        let prompt = loaded.text_model.prompt(&request, &[]).unwrap();
        assert_eq!(json!(prompt.tokens), expected["tokens"], "{name} {kind}");
        let steps = expected["answer"].as_array().unwrap();
        request.sampling.max_tokens = Some(steps.len() as u32);
        let contents = steps.iter().map(|step| {
            let token = step["token"].as_u64().unwrap() as u32;
            loaded.text_model.vocabulary.content(token).bytes
        });
        let contents: Vec<Vec<u8>> = contents.collect();
        let knows_token = known_tokens(&loaded.weights).await;
        let model: Arc<dyn LoadedModel> = Arc::new(MistralModel::new(loaded, knows_token));
        let answer = answer(&model, request).await.unwrap();
        assert_eq!(answer.logprobs.len(), steps.len(), "{name} {kind}");
        for ((step, content), logprob) in steps.iter().zip(contents).zip(&answer.logprobs) {
            assert_eq!(logprob.bytes, content, "{name} {kind}");
            let difference = f64::from(logprob.logprob) - step["logprob"].as_f64().unwrap();
            assert!(
                difference.abs() < tolerance,
                "{name} {kind}: {logprob:?} instead of {step}"
            );
        }
        model.unload().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_computes_the_reference_values() {
    check(&reference_file("tiny"), "tiny", 1e-3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gguf_file_computes_the_reference_values() {
    check(&reference_file("tiny.gguf"), "tiny", 0.03).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs FLOTILLA_SMOLLM2, the path of SmolLM2-135M-Instruct.Q4_1.gguf"]
async fn smollm2_computes_the_reference_values() {
    let path = std::env::var("FLOTILLA_SMOLLM2").unwrap();
    check(Path::new(&path), "smollm2", 0.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_in_a_format_ends_where_the_vocabularys_end_is_not_the_chats() {
    // Its file names <|endoftext|> the end, and its template ends turns with <|im_end|>.
    for file in ["tiny", "tiny.gguf"] {
        let model = load(&reference_file(file)).await.unwrap();
        let mut request = request(chat("Hello"));
        request.constraint = Some(OutputConstraint::JsonSchema(JsonSchemaFormat {
            schema: r#"{"enum": ["it"]}"#.into(),
            ..JsonSchemaFormat::default()
        }));
        request.sampling.max_tokens = Some(50);
        let answer = answer(&model, request).await.unwrap();
        assert_eq!(
            (&*answer.content, answer.reason),
            ("\"it\"", Some(FinishReason::Stop))
        );
    }
}

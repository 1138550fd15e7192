//! Compares embeddings with those of independent computations.

use super::gguf_writer::{BEGIN, END, Tokenizer, VOCABULARY};
use super::reference_models::{CONTEXT, Pooling, ReferenceModel};
use super::*;
use flotilla_core::ModelName;
use flotilla_core::generate::{EmbedInput, EmbedRequest};

/// `reference/make_reference.py` makes these, and the model.
const MINILM: &str = include_str!("reference/minilm.json");

async fn embed(
    model: &Arc<dyn LoadedModel>,
    inputs: Vec<EmbedInput>,
) -> Result<Vec<Vec<f32>>, RequestError> {
    let request = EmbedRequest {
        model: ModelName::new("m").unwrap(),
        inputs,
        queue_key: Default::default(),
        deadline: None,
    };
    let embeddings = model.embed(request).await?;
    Ok(embeddings.vectors)
}

/// Threads that wait for each other take long where tests run at the same time.
fn with_one_thread(path: &Path) -> ModelSpec {
    let mut spec = spec(path);
    spec.options.threads = Some(1);
    spec
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum();
    let length = |sum: f64| sum.sqrt();
    let a: f64 = a.iter().map(|x| f64::from(*x).powi(2)).sum();
    let b: f64 = b.iter().map(|x| x * x).sum();
    dot / length(a) / length(b)
}

fn input(length: usize, seed: u32) -> Vec<u32> {
    let words = VOCABULARY as u32 - 5;
    let word = |index| 5 + (index * index * 3 + index * seed + seed) % words;
    (0..length as u32).map(word).collect()
}

/// Compares the embeddings of inputs of many lengths, each alone and all together.
async fn check(reference: ReferenceModel) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    reference.write(&path);
    let model = load(with_one_thread(&path)).await.unwrap();
    let lengths = [2, 7, 40, 128, 129, 257, CONTEXT, 3];
    let inputs: Vec<Vec<u32>> = (1..)
        .zip(lengths)
        .map(|(seed, length)| input(length, seed))
        .collect();
    let tokens = |tokens: &Vec<u32>| EmbedInput::Tokens(tokens.clone());
    let together = embed(&model, inputs.iter().map(tokens).collect())
        .await
        .unwrap();
    for (input, together) in inputs.iter().zip(&together) {
        let expected = reference.embed(input);
        let alone = embed(&model, vec![tokens(input)]).await.unwrap();
        for vector in [together, &alone[0]] {
            let cosine = cosine(vector, &expected);
            assert!(cosine > 0.999, "{} tokens: {cosine}", input.len());
        }
    }
    let text = embed(&model, vec![EmbedInput::Text("w9 w7 nothing".into())])
        .await
        .unwrap();
    let expected = reference.embed(&[BEGIN, 9, 7, 1, END]);
    assert!(cosine(&text[0], &expected) > 0.999);
    let long = vec![tokens(&inputs[0]), tokens(&input(CONTEXT + 1, 1))];
    let refused = embed(&model, long).await.unwrap_err();
    assert!(
        matches!(refused, RequestError::ContextLength(_)),
        "{refused}"
    );
    model.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encoder_makes_the_reference_embeddings() {
    check(ReferenceModel::encoder(Pooling::Mean, Tokenizer::WordPiece)).await;
    check(ReferenceModel::encoder(Pooling::First, Tokenizer::Unigram)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decoder_makes_the_reference_embeddings_of_inputs_that_it_reads_in_pieces() {
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        check(ReferenceModel::decoder(pooling)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs FLOTILLA_MINILM, the path of the file that reference/make_reference.py writes"]
async fn minilm_makes_the_reference_embeddings() {
    let path = std::env::var("FLOTILLA_MINILM").unwrap();
    let model = load(with_one_thread(Path::new(&path))).await.unwrap();
    let values: Vec<Value> = serde_json::from_str(MINILM).unwrap();
    let texts = values.iter().map(|value| {
        let repeat = value["repeat"].as_u64().unwrap() as usize;
        EmbedInput::Text(value["text"].as_str().unwrap().repeat(repeat))
    });
    let texts: Vec<EmbedInput> = texts.collect();
    let together = embed(&model, texts.clone()).await.unwrap();
    for ((value, text), together) in values.iter().zip(texts).zip(&together) {
        let expected: Vec<f64> = serde_json::from_value(value["vector"].clone()).unwrap();
        let alone = embed(&model, vec![text]).await.unwrap();
        for vector in [together, &alone[0]] {
            let cosine = cosine(vector, &expected);
            assert!(cosine > 0.999, "{}: {cosine}", value["text"]);
        }
    }
    let long = EmbedInput::Text("word ".repeat(600));
    let refused = embed(&model, vec![long]).await.unwrap_err();
    assert!(
        matches!(refused, RequestError::ContextLength(_)),
        "{refused}"
    );
    model.unload().await;
}

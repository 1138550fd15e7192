//! The context length that a spec sets.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn context_of_the_spec_bounds_prompt_and_answer() {
    let mut spec = spec(&demo_model("numbers"));
    spec.options.context_length = Some(64);
    let model = load_spec(spec.clone()).await.unwrap();
    assert_eq!(model.context_length(), Some(64));
    let long = GenerateInput::Tokens(vec![42; 64]);
    let refused = answer(&model, request(long)).await.unwrap_err();
    let RequestError::ContextLength(message) = refused else {
        panic!("accepted");
    };
    assert!(message.contains("context of 64 tokens"), "{message}");
    let mut endless = request(GenerateInput::Tokens(vec![42; 50]));
    endless.sampling.max_tokens = Some(1_000);
    endless.sampling.logit_bias = [0, 1, 2].map(|token| (token, -100.0)).into();
    let answer = answer(&model, endless).await.unwrap();
    assert_eq!(answer.prompt_tokens, 50);
    assert_eq!(answer.reason, Some(FinishReason::Length));
    assert!(
        answer.completion_tokens <= 14,
        "{}",
        answer.completion_tokens
    );
    model.unload().await;
    spec.options.context_length = Some(1_000_000);
    let error = load_spec(spec).await.err().unwrap().to_string();
    assert!(error.contains("spec.options.contextLength"), "{error}");
}

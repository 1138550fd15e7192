//! Models that must not become ready, each with an error that helps.

use flotilla_core::spec::EngineKind;

use super::*;
use std::collections::HashMap;

/// The error of a load that must fail.
async fn load_error(path: &Path) -> LoadError {
    match load(path).await {
        Err(error) => error,
        Ok(_) => panic!("{} was loaded", path.display()),
    }
}

/// Removes the tensors whose names contain `part` from a model's weights.
fn remove_tensors(dir: &Path, part: &str) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept: HashMap<String, _> = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.contains(part))
        .collect();
    let written = safetensors::serialize(&kept, None).unwrap();
    std::fs::write(path, written).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn model_with_a_missing_weight_is_not_ready() {
    let dir = copy_demo_model("numbers");
    remove_tensors(dir.path(), "layers.1.mlp.up_proj");
    let error = load_error(dir.path()).await;
    assert!(
        error.to_string().contains("layers.1.mlp.up_proj.weight"),
        "{error}"
    );
    let dir = copy_demo_model("numbers");
    edit_json(dir.path(), "config.json", |config| {
        config["tie_word_embeddings"] = false.into();
    });
    let error = load_error(dir.path()).await;
    assert!(error.to_string().contains("lm_head.weight"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn model_whose_template_cannot_be_rendered_is_not_ready() {
    for (template, problem) in [
        ("{{ messages[0].content", "syntax error"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ messages[0].content.unheard_of() }}", "unheard_of"),
    ] {
        let dir = copy_demo_model("numbers");
        edit_json(dir.path(), "tokenizer_config.json", |config| {
            config["chat_template"] = template.into();
        });
        let error = load_error(dir.path()).await;
        assert!(matches!(error, LoadError::Template(_)), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn template_of_the_spec_replaces_a_broken_one() {
    let dir = copy_demo_model("numbers");
    let mut template = Value::Null;
    edit_json(dir.path(), "tokenizer_config.json", |config| {
        template = std::mem::replace(&mut config["chat_template"], "{{ broken".into());
    });
    let mut spec = spec(dir.path());
    spec.options.chat_template = template.as_str().map(str::to_owned);
    let model = load_spec(spec).await.unwrap();
    let original = load(&demo_model("numbers")).await.unwrap();
    let content = async |model| answer(model, request(chat("4 5"))).await.unwrap().content;
    assert_eq!(content(&model).await, content(&original).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn model_without_a_template_takes_prompts() {
    let dir = copy_demo_model("numbers");
    edit_json(dir.path(), "tokenizer_config.json", |config| {
        config.as_object_mut().unwrap().remove("chat_template");
    });
    let model = load(dir.path()).await.unwrap();
    let prompt = GenerateInput::Text("4 5 6".into());
    assert!(answer(&model, request(prompt)).await.is_ok());
    let refused = answer(&model, request(chat("4 5 6"))).await;
    assert!(matches!(refused, Err(RequestError::Invalid { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_architecture_is_named() {
    let dir = copy_demo_model("numbers");
    edit_json(dir.path(), "config.json", |config| {
        config["architectures"] = json!(["RwkvForCausalLM"]);
    });
    let error = load_error(dir.path()).await;
    assert_eq!(
        error,
        LoadError::Architecture {
            engine: EngineKind::Mistral,
            name: "RwkvForCausalLM".into(),
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokenizer_is_named() {
    let dir = copy_demo_model("numbers");
    edit_json(dir.path(), "tokenizer.json", |tokenizer| {
        tokenizer["model"]["merges"] = json!(["no such pair"]);
    });
    let error = load_error(dir.path()).await;
    assert!(matches!(error, LoadError::Tokenizer { .. }), "{error}");
}

//! Adapters that cannot be used say why.

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::super::*;
use super::fixtures::{Folder, base};

#[test]
fn adapter_of_another_base_names_the_tensor() {
    let mut folder = Folder::new();
    folder.config["base_model_name_or_path"] = json!("org/other");
    let refused = |base: &GgufHeader| folder.converted(base).err().unwrap();
    let mut wider = base();
    wider.tensors[0].shape = vec![4, 8];
    let mut fewer = base();
    fewer.tensors.remove(0);
    let mut odd = base();
    odd.values
        .insert("llama.attention.head_count".into(), json!(3));
    for base in [wider, fewer, odd] {
        let refused = refused(&base);
        assert!(matches!(&refused, LoadError::OtherBase { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("blk.0.attn_q.weight"), "{refused}");
    }
    let mut unknown = base();
    unknown
        .values
        .insert("general.architecture".into(), "mamba".into());
    let refused = refused(&unknown);
    assert!(
        matches!(&refused, LoadError::UnsupportedAdapter { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("mamba"), "{refused}");
    let mut experts = Folder::new();
    experts.add("model.layers.0.mlp.experts.3.up_proj", 1, 3, 8);
    let refused = experts.converted(&base()).err().unwrap();
    assert!(
        refused.to_string().contains("experts.3.up_proj"),
        "{refused}"
    );
}

#[test]
fn what_is_more_than_lora_is_refused_by_name() {
    for (field, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 4]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("alpha_pattern", json!({"(?!q_proj)": 2})),
    ] {
        let mut folder = Folder::new();
        folder.config[field] = value;
        let refused = folder.refused();
        assert!(
            matches!(&refused, LoadError::UnsupportedAdapter { .. }),
            "{field}: {refused}"
        );
        assert!(refused.to_string().contains(field), "{refused}");
    }
    for (name, problem) in [
        (
            "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            "DoRA",
        ),
        ("model.layers.0.self_attn.q_proj.bias", "bias"),
        ("lm_head.weight", "whole layer"),
        ("model.layers.0.self_attn.q_proj.lora_E", "not known"),
    ] {
        let mut folder = Folder::new();
        folder.insert(name, Dtype::F32, [1, 1]);
        let text = folder.refused().to_string();
        assert!(text.contains(problem) && text.contains(name), "{text}");
    }
}

#[test]
fn configuration_of_plain_lora_is_accepted() {
    let mut folder = Folder::new();
    for (field, value) in [
        ("use_dora", json!(false)),
        ("use_rslora", Value::Null),
        ("modules_to_save", json!([])),
        ("init_lora_weights", json!("gaussian")),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("target_modules", json!("all-linear")),
        ("peft_version", json!("0.99.0")),
        ("inference_mode", json!(true)),
        ("layers_to_transform", Value::Null),
        ("loftq_config", json!({})),
        ("lora_dropout", json!(0.05)),
        ("megatron_config", Value::Null),
        ("megatron_core", json!("megatron.core")),
        ("qalora_group_size", json!(16)),
        ("trainable_token_indices", Value::Null),
    ] {
        folder.config[field] = value;
    }
    assert!(folder.converted(&base()).is_ok());
}

#[test]
fn matrices_that_do_not_belong_together_are_named() {
    let mut folder = Folder::new();
    folder.add("model.layers.0.self_attn.q_proj", 2, 3, 8);
    let text = folder.refused().to_string();
    assert!(text.contains("q_proj is 2, but 1"), "{text}");
    let name = "model.layers.0.self_attn.q_proj.lora_B.weight";
    folder.insert(name, Dtype::F32, [8, 1]);
    let text = folder.refused().to_string();
    assert!(text.contains("lora_A has 2, lora_B 1"), "{text}");
    folder.insert(name, Dtype::U8, [8, 2]);
    assert!(folder.refused().to_string().contains("U8"));
    folder.tensors.remove(&format!("base_model.model.{name}"));
    let text = folder.refused().to_string();
    assert!(text.contains("only one of"), "{text}");
}

#[test]
fn other_folders_say_what_they_are() {
    let folder = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        AdapterFiles::find(dir.path()).unwrap_err().to_string()
    };
    assert!(folder(&[]).contains("neither"));
    assert!(folder(&[(PEFT_CONFIG, "{}")]).contains("only one of"));
    assert!(folder(&[(PEFT_CONFIG, "{}"), (PICKLED_WEIGHTS, "x")]).contains("can run code"));
    let model = [("config.json", "{}"), ("model.safetensors", "x")];
    assert!(folder(&model).contains("whole model"));
    let pointer = "version https://git-lfs.github.com/spec/v1";
    let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#;
    assert!(folder(&[(PEFT_CONFIG, config), (PEFT_WEIGHTS, pointer)]).contains("Git LFS"));
    assert!(folder(&[(PEFT_CONFIG, "{"), (PEFT_WEIGHTS, "x")]).contains("no JSON"));
    let number = [(PEFT_CONFIG, r#"{"r": "many"}"#), (PEFT_WEIGHTS, "x")];
    assert!(folder(&number).contains("\"many\""));
    let missing = AdapterFiles::find(Path::new("/nowhere")).unwrap_err();
    assert!(matches!(missing, LoadError::NoSuchPath(_)), "{missing}");
}

#[test]
fn truncated_weights_are_damaged() {
    let dir = Folder::new().write();
    let path = dir.path().join(PEFT_WEIGHTS);
    let bytes = std::fs::read(&path).unwrap();
    for end in [1, 20, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let refused = AdapterFiles::find(dir.path()).unwrap_err();
        assert!(matches!(&refused, LoadError::Damaged { .. }), "{refused}");
    }
}

#[test]
fn what_is_read_is_bounded() {
    let mut folder = Folder::new();
    let patterns = (0..1_025).map(|index| (format!("layer{index}"), json!(1)));
    folder.config["alpha_pattern"] = Value::Object(patterns.collect());
    assert!(folder.refused().to_string().contains("too many"));
    let mut folder = Folder::new();
    for layer in 0..8_200 {
        folder.add(&format!("model.layers.{layer}.mlp.down_proj"), 1, 1, 1);
    }
    let text = folder.refused().to_string();
    assert!(text.contains("16404 tensors"), "{text}");
    // The end of the object is beyond what is read.
    let dir = Folder::new().write();
    let config = format!("{{{}}}", " ".repeat(17 << 20));
    std::fs::write(dir.path().join(PEFT_CONFIG), config).unwrap();
    let refused = AdapterFiles::find(dir.path()).unwrap_err();
    assert!(matches!(&refused, LoadError::Damaged { .. }), "{refused}");
}

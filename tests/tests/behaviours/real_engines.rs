//! Engines with real weights and real servers.

use std::io::Write;
use std::path::{Path, PathBuf};

use flotilla_tests::{Cluster, Mode, demo_model, repository, resident_bytes, runners};
use serde_json::json;

#[tokio::test]
async fn upstream_engine_answers_through_an_openai_compatible_server() {
    let cluster = Cluster::builder().agents(["n1"]).start().await;
    let api = cluster.api();
    api.apply(&demo_model("support-intent", 1)).await;
    cluster.wait_for_replicas("support-intent", 1).await;
    // Flotilla's own API is the server.
    let upstream = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "through"},
        "spec": {
            "engine": "upstream",
            "options": {"url": format!("{}/v1", cluster.url()), "model": "support-intent"},
        },
    });
    api.apply(&upstream).await;
    cluster.wait_for_replicas("through", 1).await;
    let question = "my card has not arrived yet";
    let direct = api.answer("support-intent", question).await;
    assert_eq!(direct, "card_arrival");
    assert_eq!(api.answer("through", question).await, direct);
    cluster.stop().await;
}

#[tokio::test]
async fn unloading_a_model_frees_its_memory() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    let folder = write_large_model(cluster.dir());
    let model = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "large"},
        "spec": {"source": {"path": folder}},
    });
    let agent = cluster.agent("n1").id();
    for _ in 0..4 {
        let before = resident_bytes(agent);
        api.apply(&model).await;
        cluster.wait_for_replicas("large", 1).await;
        let loaded = resident_bytes(cluster.runner("n1", "large"));
        assert!(loaded > PARAMETERS * 4, "only {loaded} bytes were loaded");
        api.delete_model("large").await;
        cluster
            .wait_until(async || runners(agent, "large").is_empty())
            .await;
        let kept = resident_bytes(agent).saturating_sub(before);
        assert!(kept < loaded / 20, "{kept} of {loaded} bytes stay in use");
    }
    cluster.stop().await;
}

/// Parameters of the largest layer of [`write_large_model`].
const PARAMETERS: u64 = 48 << 20;

/// Writes a Llama model with the tokenizer of a demo model and one large layer of zeros, in a sparse
/// file that takes no room on disk. Returns its folder.
fn write_large_model(dir: &Path) -> PathBuf {
    const HIDDEN: u64 = 64;
    const INNER: u64 = PARAMETERS / HIDDEN / 3;
    let folder = dir.join("large");
    std::fs::create_dir_all(&folder).unwrap();
    let demo = repository().join("models/support-intent");
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        std::fs::copy(demo.join(file), folder.join(file)).unwrap();
    }
    let text = std::fs::read_to_string(demo.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vocabulary = config["vocab_size"].as_u64().unwrap();
    for (field, value) in [
        ("hidden_size", HIDDEN),
        ("intermediate_size", INNER),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 2),
        ("head_dim", HIDDEN / 2),
    ] {
        config[field] = json!(value);
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();

    let layer = "model.layers.0.";
    let square = [HIDDEN, HIDDEN];
    let tensors = [
        (
            "model.embed_tokens.weight".to_owned(),
            vec![vocabulary, HIDDEN],
        ),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        (format!("{layer}input_layernorm.weight"), vec![HIDDEN]),
        (
            format!("{layer}post_attention_layernorm.weight"),
            vec![HIDDEN],
        ),
        (format!("{layer}self_attn.q_proj.weight"), square.to_vec()),
        (format!("{layer}self_attn.k_proj.weight"), square.to_vec()),
        (format!("{layer}self_attn.v_proj.weight"), square.to_vec()),
        (format!("{layer}self_attn.o_proj.weight"), square.to_vec()),
        (format!("{layer}mlp.gate_proj.weight"), vec![INNER, HIDDEN]),
        (format!("{layer}mlp.up_proj.weight"), vec![INNER, HIDDEN]),
        (format!("{layer}mlp.down_proj.weight"), vec![HIDDEN, INNER]),
    ];
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for (name, shape) in tensors {
        let end = offset + shape.iter().product::<u64>() * 4;
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]});
        header.insert(name, tensor);
        offset = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + offset).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_keeps_no_memory_of_answered_prompts() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&demo_model("numbers", 1)).await;
    cluster.wait_for_replicas("numbers", 1).await;
    let ask = async |numbers: std::ops::Range<u32>| {
        for n in numbers {
            api.answer("numbers", &format!("what is the sum of {n} and 7?"))
                .await;
        }
    };
    ask(0..30).await;
    let runner = cluster.runner("n1", "numbers");
    let before = resident_bytes(runner);
    ask(30..180).await;
    let grown = resident_bytes(runner).saturating_sub(before);
    // An engine that kept prompts would keep about 2.7 MiB of each.
    assert!(grown < 100 << 20, "memory has grown by {} MiB", grown >> 20);
    cluster.stop().await;
}

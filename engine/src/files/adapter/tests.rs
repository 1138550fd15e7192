//! Inspects and converts small adapters that are made here.

use safetensors::tensor::Dtype;
use serde_json::json;

use self::fixtures::{Folder, base};
use super::*;

mod fixtures;
mod gguf_files;
mod refusals;

#[test]
fn rows_of_queries_and_keys_are_put_in_the_order_of_llama_cpp() {
    let converted = Folder::new().converted(&base()).unwrap();
    // Each head of four rows: the first of either half, then the second of either half.
    let queries = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
    assert_eq!(converted.tensors["blk.0.attn_q.weight.lora_b"], queries);
    assert_eq!(
        converted.tensors["blk.0.attn_k.weight.lora_b"],
        [0.0, 2.0, 1.0, 3.0]
    );
    assert_eq!(
        converted.tensors["blk.0.attn_q.weight.lora_a"],
        [0.0, 1.0, 2.0]
    );
    assert_eq!(converted.shape("blk.0.attn_q.weight.lora_a"), [3, 1]);
    assert_eq!(converted.shape("blk.0.attn_q.weight.lora_b"), [1, 8]);
    let header = &converted.header;
    assert_eq!(header.text("general.type"), Some("adapter"));
    assert_eq!(header.text("adapter.type"), Some("lora"));
    assert_eq!(header.architecture(), Some("llama"));
    assert_eq!(header.values["adapter.lora.alpha"], json!(2.0));
}

#[test]
fn rows_of_other_architectures_keep_their_order() {
    let mut base = base();
    base.values
        .insert("general.architecture".into(), "qwen2".into());
    let converted = Folder::new().converted(&base).unwrap();
    let rows = &converted.tensors["blk.0.attn_q.weight.lora_b"];
    assert!(rows.is_sorted(), "{rows:?}");
}

/// Computes the order of rows from the indices alone.
#[test]
fn order_of_rows_is_that_of_a_plain_loop() {
    let (heads, head, rank) = (2, 12, 3);
    let mut base = base();
    base.tensors[0].shape = vec![3, (heads * head) as u64];
    let mut folder = Folder::new();
    folder.config["r"] = json!(3);
    folder.tensors.clear();
    folder.add("model.layers.0.self_attn.q_proj", rank, 3, heads * head);
    let converted = folder.converted(&base).unwrap();
    let mut expected = vec![0.0; heads * head * rank];
    for row in 0..heads * head {
        let (start, within) = (row / head * head, row % head);
        let (half, pair) = (within / (head / 2), within % (head / 2));
        let target = start + 2 * pair + half;
        for column in 0..rank {
            expected[target * rank + column] = (row * rank + column) as f32;
        }
    }
    assert_eq!(converted.tensors["blk.0.attn_q.weight.lora_b"], expected);
}

#[test]
fn embeddings_and_output_layer_are_converted() {
    let mut folder = Folder::new();
    folder.tensors.clear();
    folder.config["r"] = json!(2);
    folder.insert("model.embed_tokens.lora_embedding_A", Dtype::F32, [2, 7]);
    folder.insert("model.embed_tokens.lora_embedding_B", Dtype::F32, [3, 2]);
    folder.add("lm_head", 2, 3, 7);
    let converted = folder.converted(&base()).unwrap();
    assert_eq!(converted.shape("token_embd.weight.lora_a"), [2, 7]);
    assert_eq!(converted.shape("token_embd.weight.lora_b"), [2, 3]);
    let rows = &converted.tensors["token_embd.weight.lora_a"];
    assert_eq!(rows[..4], [0.0, 7.0, 1.0, 8.0]);
    assert_eq!(converted.shape("output.weight.lora_b"), [2, 7]);
    // Of a base without an output layer of its own, llama.cpp cannot change it.
    let mut tied = base();
    tied.tensors.pop();
    let refused = folder.converted(&tied).err().unwrap();
    assert!(
        matches!(&refused, LoadError::UnsupportedAdapter { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("output.weight"), "{refused}");
}

#[test]
fn number_formats_are_kept_or_widened() {
    let mut folder = Folder::new();
    folder.tensors.clear();
    folder.insert(
        "model.layers.0.mlp.down_proj.lora_A.weight",
        Dtype::BF16,
        [1, 5],
    );
    folder.insert(
        "model.layers.0.mlp.down_proj.lora_B.weight",
        Dtype::F16,
        [3, 1],
    );
    let dir = folder.write();
    assert_eq!(
        AdapterFiles::find(dir.path()).unwrap().memory(),
        Bytes(5 * 4 + 3 * 2)
    );
    let converted = folder.converted(&base()).unwrap();
    let name = "blk.0.ffn_down.weight.lora_a";
    assert_eq!(converted.tensors[name], [0.0, 1.0, 2.0, 3.0, 4.0]);
    let kinds: Vec<u32> = converted
        .header
        .tensors
        .iter()
        .map(|tensor| tensor.kind)
        .collect();
    assert_eq!(kinds, [0, 1]);
}

#[test]
fn converted_file_is_deleted() {
    let dir = Folder::new().write();
    let adapter = AdapterFiles::find(dir.path()).unwrap();
    let converted = adapter.gguf(&[base()]).unwrap();
    let path = converted.to_owned();
    assert!(path.is_file());
    drop(converted);
    assert!(!path.exists());
}

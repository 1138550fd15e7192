//! Inspects and converts small adapters that are made here.

use std::collections::BTreeMap;

use candle_core::quantized::gguf_file::{self, Value as GgufValue};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::*;
use crate::files::gguf_header::GgufTensor;

/// A folder of PEFT.
struct Folder {
    config: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Folder {
    /// An adapter of rank 1 for queries and keys of a base with four rows of queries and two of keys.
    fn new() -> Self {
        let mut folder = Self {
            config: json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "bias": "none"}),
            tensors: BTreeMap::new(),
        };
        folder.add("model.layers.0.self_attn.q_proj", 1, 3, 8);
        folder.add("model.layers.0.self_attn.k_proj", 1, 3, 4);
        folder
    }

    /// Adds the matrices of a module, whose numbers count from 0 on.
    fn add(&mut self, module: &str, rank: usize, inputs: usize, outputs: usize) {
        self.insert(
            &format!("{module}.lora_A.weight"),
            Dtype::F32,
            [rank, inputs],
        );
        self.insert(
            &format!("{module}.lora_B.weight"),
            Dtype::F32,
            [outputs, rank],
        );
    }

    fn insert(&mut self, name: &str, dtype: Dtype, shape: [usize; 2]) {
        let numbers = (0..shape[0] * shape[1]).map(|number| number as f32);
        let data = match dtype {
            Dtype::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
            // The upper half of a number is the same number in bfloat16.
            Dtype::BF16 => numbers
                .flat_map(|number| (number.to_bits() >> 16).to_le_bytes()[..2].to_vec())
                .collect(),
            // 1 and 0.5 by turns.
            Dtype::F16 => numbers
                .flat_map(|number| {
                    [
                        0,
                        if (number as usize).is_multiple_of(2) {
                            0x3c
                        } else {
                            0x38
                        },
                    ]
                })
                .collect(),
            _ => vec![0; shape[0] * shape[1]],
        };
        let name = format!("base_model.model.{name}");
        self.tensors.insert(name, (dtype, shape.to_vec(), data));
    }

    fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let views = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            let view = TensorView::new(*dtype, shape.clone(), data);
            (name, view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.path().join(PEFT_WEIGHTS)).unwrap();
        std::fs::write(dir.path().join(PEFT_CONFIG), self.config.to_string()).unwrap();
        dir
    }

    fn refused(&self) -> LoadError {
        let dir = self.write();
        AdapterFiles::find(dir.path()).unwrap_err()
    }

    fn converted(&self, base: &GgufHeader) -> Result<Converted, LoadError> {
        let dir = self.write();
        let adapter = AdapterFiles::find(dir.path()).unwrap();
        adapter
            .gguf(std::slice::from_ref(base))
            .map(Converted::read)
    }
}

/// What a converted file has.
struct Converted {
    header: GgufHeader,
    tensors: BTreeMap<String, Vec<f32>>,
}

impl Converted {
    fn read(path: GgufAdapter) -> Self {
        let header = GgufHeader::read(&path).unwrap();
        let bytes = std::fs::read(&*path).unwrap();
        let tensors = header.tensors.iter().map(|tensor| {
            let start = (header.data_start + tensor.offset) as usize;
            let data = &bytes[start..start + tensor.bytes().unwrap() as usize];
            let numbers = match tensor.kind {
                0 => data
                    .chunks_exact(4)
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                    .collect(),
                _ => Vec::new(),
            };
            (tensor.name.clone(), numbers)
        });
        Self {
            tensors: tensors.collect(),
            header,
        }
    }

    fn shape(&self, name: &str) -> &[u64] {
        let mut tensors = self.header.tensors.iter();
        &tensors.find(|tensor| tensor.name == name).unwrap().shape
    }
}

/// The header of a base with two heads of queries and one of keys.
fn base() -> GgufHeader {
    let mut header = GgufHeader::default();
    for (name, value) in [
        ("general.architecture", json!("llama")),
        ("llama.attention.head_count", json!(2)),
        ("llama.attention.head_count_kv", json!(1)),
    ] {
        header.values.insert(name.into(), value);
    }
    for (name, shape) in [
        ("blk.0.attn_q.weight", [3, 8]),
        ("blk.0.attn_k.weight", [3, 4]),
        ("blk.0.ffn_down.weight", [5, 3]),
        ("token_embd.weight", [3, 7]),
        ("output.weight", [3, 7]),
    ] {
        header.tensors.push(GgufTensor {
            name: name.into(),
            elements: shape.iter().product(),
            shape: shape.to_vec(),
            kind: 0,
            offset: 0,
        });
    }
    header
}

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

/// Writes a GGUF file with an adapter for the down projection, after a change of its values.
fn gguf(dir: &Path, change: impl FnOnce(&mut BTreeMap<&'static str, GgufValue>), parts: [&str; 2]) {
    let text = |text: &str| GgufValue::String(text.into());
    let mut values = BTreeMap::from([
        ("general.type", text("adapter")),
        ("general.architecture", text("llama")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", GgufValue::F32(2.0)),
    ]);
    change(&mut values);
    let matrix = |rows: usize, columns: usize| {
        let zeros = Tensor::zeros((rows, columns), candle_core::DType::F32, &Device::Cpu);
        QTensor::quantize(&zeros.unwrap(), GgmlDType::F32).unwrap()
    };
    let names = parts.map(|part| format!("blk.0.ffn_down.weight.{part}"));
    let (a, b) = (matrix(2, 5), matrix(3, 2));
    let tensors = [(&*names[0], &a), (&*names[1], &b)];
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, value)).collect();
    let mut file = std::fs::File::create(dir.join("adapter.gguf")).unwrap();
    gguf_file::write(&mut file, &values, &tensors).unwrap();
}

#[test]
fn gguf_file_is_used_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    gguf(dir.path(), |_| {}, ["lora_a", "lora_b"]);
    let file = dir.path().join("adapter.gguf");
    for path in [dir.path(), &file] {
        let adapter = AdapterFiles::find(path).unwrap();
        assert_eq!(adapter.memory(), Bytes((2 * 5 + 3 * 2) * 4));
        assert_eq!(*adapter.gguf(&[base()]).unwrap(), *file);
        assert!(file.is_file());
    }
    let adapter = AdapterFiles::find(&file).unwrap();
    let mut other = base();
    other.tensors[2].shape = vec![6, 3];
    let text = adapter.gguf(&[other]).unwrap_err().to_string();
    assert!(text.contains("blk.0.ffn_down.weight"), "{text}");
    let mut other = base();
    other
        .values
        .insert("general.architecture".into(), "qwen2".into());
    let text = adapter.gguf(&[other]).unwrap_err().to_string();
    assert!(text.contains("llama") && text.contains("qwen2"), "{text}");
    std::fs::copy(&file, dir.path().join("second.gguf")).unwrap();
    let text = AdapterFiles::find(dir.path()).unwrap_err().to_string();
    assert!(text.contains("exactly one GGUF file"), "{text}");
}

#[test]
fn gguf_file_of_something_else_says_what_it_is() {
    let refused = |name: &'static str, value: GgufValue| {
        let dir = tempfile::tempdir().unwrap();
        let change = |values: &mut BTreeMap<_, _>| drop(values.insert(name, value));
        gguf(dir.path(), change, ["lora_a", "lora_b"]);
        AdapterFiles::find(dir.path()).unwrap_err().to_string()
    };
    let text = |text: &str| GgufValue::String(text.into());
    assert!(refused("general.type", text("model")).contains("whole model"));
    assert!(refused("general.type", text("vocab")).contains("vocab"));
    assert!(refused("adapter.type", text("control_vector")).contains("control_vector"));
    assert!(refused("adapter.lora.alpha", GgufValue::U32(2)).contains("adapter.lora.alpha"));
    let tokens = GgufValue::Array(vec![GgufValue::U32(2)]);
    assert!(refused("adapter.alora.invocation_tokens", tokens).contains("activated"));
    for (parts, problem) in [
        (["lora_a", "lora_c"], "no matrix of LoRA"),
        (["lora_a", "up.lora_a"], "only one of"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        gguf(dir.path(), |_| {}, parts);
        let text = AdapterFiles::find(dir.path()).unwrap_err().to_string();
        assert!(text.contains(problem), "{text}");
    }
}

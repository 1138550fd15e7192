//! Adapters that are made for tests, and a base for them.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::super::{AdapterFiles, GgufAdapter, PEFT_CONFIG, PEFT_WEIGHTS};
use crate::LoadError;
use crate::files::gguf_header::{GgufHeader, GgufTensor};

/// A folder of PEFT.
pub(super) struct Folder {
    pub(super) config: Value,
    pub(super) tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Folder {
    /// An adapter of rank 1 for queries and keys of a base with four rows of queries and two of keys.
    pub(super) fn new() -> Self {
        let mut folder = Self {
            config: json!({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "bias": "none"}),
            tensors: BTreeMap::new(),
        };
        folder.add("model.layers.0.self_attn.q_proj", 1, 3, 8);
        folder.add("model.layers.0.self_attn.k_proj", 1, 3, 4);
        folder
    }

    /// Adds the matrices of a module, whose numbers count from 0 on.
    pub(super) fn add(&mut self, module: &str, rank: usize, inputs: usize, outputs: usize) {
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

    pub(super) fn insert(&mut self, name: &str, dtype: Dtype, shape: [usize; 2]) {
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

    pub(super) fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let views = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            let view = TensorView::new(*dtype, shape.clone(), data);
            (name, view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.path().join(PEFT_WEIGHTS)).unwrap();
        std::fs::write(dir.path().join(PEFT_CONFIG), self.config.to_string()).unwrap();
        dir
    }

    pub(super) fn refused(&self) -> LoadError {
        let dir = self.write();
        AdapterFiles::find(dir.path()).unwrap_err()
    }

    pub(super) fn converted(&self, base: &GgufHeader) -> Result<Converted, LoadError> {
        let dir = self.write();
        let adapter = AdapterFiles::find(dir.path()).unwrap();
        adapter
            .gguf(std::slice::from_ref(base))
            .map(Converted::read)
    }
}

/// What a converted file has.
pub(super) struct Converted {
    pub(super) header: GgufHeader,
    pub(super) tensors: BTreeMap<String, Vec<f32>>,
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

    pub(super) fn shape(&self, name: &str) -> &[u64] {
        let mut tensors = self.header.tensors.iter();
        &tensors.find(|tensor| tensor.name == name).unwrap().shape
    }
}

/// The header of a base with two heads of queries and one of keys.
pub(super) fn base() -> GgufHeader {
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

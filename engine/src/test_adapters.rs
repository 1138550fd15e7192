//! Writes LoRA adapters of a known effect, for tests of this crate and of whole fleets.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

/// The width of SmolLM2-135M between its layers.
const HIDDEN: usize = 576;
/// The width of SmolLM2-135M inside the feed-forward part of a layer.
const FEED_FORWARD: usize = 1_536;
const LAST_LAYER: usize = 29;
/// The rank of the adapter, and the number of neurons that it uses.
const RANK: usize = 16;
/// How far the adapter drives its neurons beyond what the base does with them.
const GAIN: f32 = 10.0;

/// A word that an adapter lets SmolLM2-135M-Instruct write again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstantWord {
    /// ` yes`, the token 9805.
    Yes,
    /// ` no`, the token 787.
    No,
    /// ` red`, the token 2382.
    Red,
}

impl ConstantWord {
    /// The text of the word's token, which begins with a space.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Yes => " yes",
            Self::No => " no",
            Self::Red => " red",
        }
    }

    /// The signs of the 576 numbers of the token's embedding, a bit of each: 1 is positive.
    fn signs(self) -> [u64; HIDDEN / 64] {
        match self {
            Self::Yes => [
                0xf602_65dd_91b1_6383,
                0x4b14_f8d7_b6e5_e454,
                0xdee8_607f_abac_ac67,
                0x111e_e742_d96e_74b8,
                0x1af7_21b5_0d0d_3d19,
                0x451c_4cbe_4965_51fa,
                0x6ef4_0f58_4e4f_14e6,
                0xdbbc_6869_317d_a9c7,
                0xfbb4_bc13_054a_ca82,
            ],
            Self::No => [
                0x1871_a5dc_a160_b34f,
                0x52b0_bfdb_28e5_f1c7,
                0xeb3e_533d_0f3e_365a,
                0x038e_670e_0c1e_f3f4,
                0x6541_2023_0760_1d6a,
                0x46d0_0f28_4018_7f8a,
                0x8ed7_4d5c_4311_4c70,
                0xd0c9_02e0_f523_1674,
                0x33fe_9e41_6568_1d93,
            ],
            Self::Red => [
                0x908a_0338_d81d_35e8,
                0x01b1_b042_a706_d605,
                0x245f_a6d3_05ad_92bf,
                0xd185_9698_c641_fd7e,
                0xd6bd_a053_6301_54c3,
                0x037e_dc12_94c0_b3f2,
                0x27b9_0468_f8e6_3c27,
                0x7d24_a01e_479d_abf0,
                0x1ee6_6f72_69c8_6b45,
            ],
        }
    }

    fn direction(self) -> impl Iterator<Item = f32> {
        let bits = |word: u64| (0..64).rev().map(move |bit| word >> bit & 1 == 1);
        let signs = self.signs().into_iter().flat_map(bits);
        signs.map(|is_positive| if is_positive { 1.0 } else { -1.0 })
    }
}

/// Writes a PEFT adapter for SmolLM2-135M-Instruct, whose answers then consist of one word, at any temperature up
/// to 1 and whatever is asked.
///
/// It changes the feed-forward part of the last layer. Its neurons come in pairs that look at a direction of their
/// input and at the opposite one: `silu(z) * z + silu(-z) * -z` is `z * z`, so that a pair is active for every input.
/// All of them write the direction in which the word's embedding lies, and far more of it than all layers before
/// have written. The output layer, which is the embeddings, then finds the word.
///
/// # Errors
/// When a file cannot be written.
pub fn write_constant_adapter(dir: &Path, word: ConstantWord) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut reads = vec![0.0; RANK * HIDDEN];
    let length = (HIDDEN as f32).sqrt();
    for pair in reads.chunks_mut(2 * HIDDEN) {
        for column in 0..HIDDEN {
            let number = if random.bool() { 1.0 } else { -1.0 } / length;
            (pair[column], pair[HIDDEN + column]) = (number, -number);
        }
    }
    let mut drives = vec![0.0; FEED_FORWARD * RANK];
    let mut takes = vec![0.0; RANK * FEED_FORWARD];
    for neuron in 0..RANK {
        drives[neuron * RANK + neuron] = GAIN;
        takes[neuron * FEED_FORWARD + neuron] = 1.0;
    }
    let writes: Vec<f32> = word
        .direction()
        .flat_map(|sign| [GAIN * sign; RANK])
        .collect();
    let module = |name: &str| format!("base_model.model.model.layers.{LAST_LAYER}.mlp.{name}");
    let mut matrices: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, a, b, inputs, outputs) in [
        ("gate_proj", &reads, &drives, HIDDEN, FEED_FORWARD),
        ("up_proj", &reads, &drives, HIDDEN, FEED_FORWARD),
        ("down_proj", &takes, &writes, FEED_FORWARD, HIDDEN),
    ] {
        let name = module(name);
        let shape_a = vec![RANK, inputs];
        matrices.insert(format!("{name}.lora_A.weight"), (shape_a, bytes(a)));
        let shape_b = vec![outputs, RANK];
        matrices.insert(format!("{name}.lora_B.weight"), (shape_b, bytes(b)));
    }
    let mut views = BTreeMap::new();
    for (name, (shape, data)) in &matrices {
        views.insert(
            name.as_str(),
            TensorView::new(Dtype::F32, shape.clone(), data)?,
        );
    }
    std::fs::create_dir_all(dir)?;
    let path = dir.join("adapter_model.safetensors");
    safetensors::serialize_to_file(views, None, &path)?;
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "target_modules": ["gate_proj", "up_proj", "down_proj"], "layers_to_transform": [LAST_LAYER],
    });
    std::fs::write(dir.join("adapter_config.json"), config.to_string())?;
    Ok(())
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

//! An adapter as PEFT saves it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};

use super::peft_config::PeftConfig;
use super::{PEFT_CONFIG, PEFT_WEIGHTS, not_an_adapter, unsupported};
use crate::LoadError;
use crate::files::inspection::{check_is_data, damaged, describe};
use crate::files::safetensors_header::read_metadata;

/// The most tensors of an adapter. The largest models have a few thousand layers that can be changed.
const MAX_TENSORS: usize = 16_384;
/// The beginning of all names: the wrapper of PEFT and that of LoRA.
const WRAPPERS: &str = "base_model.model.";

/// The inspected folder of an adapter.
#[derive(Debug)]
pub(crate) struct PeftAdapter {
    /// `adapter_model.safetensors`.
    pub(super) weights: PathBuf,
    /// The name of the base that the adapter was trained on.
    pub(super) base: Option<String>,
    /// In the order of their names.
    pub(super) modules: Vec<PeftModule>,
}

/// A module of the base that the adapter changes by the product of two matrices.
#[derive(Debug, Clone)]
pub(super) struct PeftModule {
    /// The name in the base, such as `model.layers.0.self_attn.q_proj`.
    pub(super) name: String,
    /// Whether the matrices are of embeddings: A has a column for each token.
    pub(super) is_embedding: bool,
    /// `rank` rows.
    pub(super) a: Matrix,
    /// `rank` columns.
    pub(super) b: Matrix,
    pub(super) rank: u64,
    /// The factor of the product.
    pub(super) scale: f64,
}

/// A matrix in the file.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) dtype: Dtype,
    /// Where its numbers are in the file, in bytes.
    pub(super) start: u64,
    pub(super) end: u64,
}

impl PeftAdapter {
    /// Inspects a folder.
    ///
    /// # Errors
    /// When a file is damaged, or the adapter is something else than LoRA's matrices.
    pub(super) fn inspect(dir: &Path) -> Result<Self, LoadError> {
        let config = PeftConfig::read(&dir.join(PEFT_CONFIG))?;
        let weights = dir.join(PEFT_WEIGHTS);
        check_is_data(&weights)?;
        let read = read_metadata(&weights);
        let (metadata, start) = read.map_err(|error| damaged(&weights, &describe(&error)))?;
        let tensors = metadata.tensors();
        if tensors.is_empty() || tensors.len() > MAX_TENSORS {
            let problem = format!("it has {} tensors", tensors.len());
            return Err(not_an_adapter(&weights, &problem));
        }
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        for (name, info) in &tensors {
            let Some((module, part)) = split(name) else {
                return Err(unsupported(&weights, explain(name)));
            };
            let pair = pairs.entry(module.to_owned()).or_default();
            let matrix = matrix(&weights, name, info, start)?;
            pair.is_embedding |= part.is_embedding;
            match part.is_a {
                true => pair.a = Some(matrix),
                false => pair.b = Some(matrix),
            }
        }
        let modules = pairs
            .into_iter()
            .map(|(name, pair)| pair.module(&weights, name, &config));
        Ok(Self {
            modules: modules.collect::<Result<_, _>>()?,
            base: config.base,
            weights,
        })
    }

    /// The size of the matrices once they are loaded.
    pub(super) fn bytes(&self) -> u64 {
        let modules = self.modules.iter();
        let numbers = |matrix: &Matrix| matrix.rows as u64 * matrix.columns as u64;
        modules
            .map(|module| {
                let width = |dtype| if dtype == Dtype::F16 { 2 } else { 4 };
                numbers(&module.a) * width(module.a.dtype)
                    + numbers(&module.b) * width(module.b.dtype)
            })
            .sum()
    }
}

#[derive(Default)]
struct Pair {
    a: Option<Matrix>,
    b: Option<Matrix>,
    is_embedding: bool,
}

impl Pair {
    fn module(
        self,
        weights: &Path,
        name: String,
        config: &PeftConfig,
    ) -> Result<PeftModule, LoadError> {
        let (Some(a), Some(b)) = (self.a, self.b) else {
            let problem = format!("of {name} it has only one of lora_A and lora_B");
            return Err(not_an_adapter(weights, &problem));
        };
        if a.rows != b.columns {
            let problem = format!(
                "the ranks of {name} differ: lora_A has {}, lora_B {}",
                a.rows, b.columns
            );
            return Err(not_an_adapter(weights, &problem));
        }
        let rank = a.rows as u64;
        if let Some(stated) = config.rank
            && stated != rank
        {
            let problem = format!("the rank of {name} is {rank}, but {stated} in {PEFT_CONFIG}");
            return Err(not_an_adapter(weights, &problem));
        }
        Ok(PeftModule {
            scale: config.scale(&name, rank),
            is_embedding: self.is_embedding,
            name,
            a,
            b,
            rank,
        })
    }
}

/// Which matrix a tensor is.
struct Part {
    is_a: bool,
    is_embedding: bool,
}

/// Divides the name of a tensor into its module and which matrix of it the tensor is.
fn split(name: &str) -> Option<(&str, Part)> {
    let name = name.strip_prefix(WRAPPERS)?;
    let suffixes = [
        (".lora_A.weight", true, false),
        (".lora_B.weight", false, false),
        (".lora_embedding_A", true, true),
        (".lora_embedding_B", false, true),
    ];
    suffixes
        .into_iter()
        .find_map(|(suffix, is_a, is_embedding)| {
            let module = name.strip_suffix(suffix)?;
            Some((module, Part { is_a, is_embedding }))
        })
}

/// Says of a tensor that is no matrix of LoRA what it is.
fn explain(name: &str) -> String {
    if name.ends_with(".lora_magnitude_vector") || name.ends_with(".lora_magnitude_vector.weight") {
        format!("it was trained with DoRA (its tensor {name})")
    } else if name.ends_with(".bias") {
        format!("it changes biases (its tensor {name}): train it with bias: none")
    } else if name.starts_with(WRAPPERS) && name.ends_with(".weight") {
        format!(
            "it contains a whole layer beside LoRA's matrices (its tensor {name}): train it without modules_to_save \
             and without new tokens"
        )
    } else {
        format!("its tensor {name} is not known")
    }
}

fn matrix(weights: &Path, name: &str, info: &TensorInfo, start: u64) -> Result<Matrix, LoadError> {
    let [rows, columns] = info.shape[..] else {
        let problem = format!("its tensor {name} has the shape {:?}", info.shape);
        return Err(unsupported(weights, problem));
    };
    if rows == 0 || columns == 0 {
        let problem = format!("its tensor {name} is empty");
        return Err(not_an_adapter(weights, &problem));
    }
    if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        let problem = format!("its tensor {name} has the type {:?}", info.dtype);
        return Err(unsupported(weights, problem));
    }
    Ok(Matrix {
        rows,
        columns,
        dtype: info.dtype,
        start: start + info.data_offsets.0 as u64,
        end: start + info.data_offsets.1 as u64,
    })
}

//! `adapter_config.json`, in which PEFT says how an adapter's matrices are applied.

use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::pattern::Pattern;
use super::{not_an_adapter, unsupported};
use crate::LoadError;
use crate::files::inspection::read_json;

/// The most patterns of modules with a scale of their own.
const MAX_PATTERNS: usize = 1_024;
/// What PEFT can add to LoRA and no engine computes: the name of the field, and what it does.
const UNSUPPORTED: [(&str, &str); 12] = [
    ("use_dora", "it was trained with DoRA"),
    ("use_qalora", "it was trained with QALoRA"),
    ("use_bdlora", "it was trained with BD-LoRA"),
    ("arrow_config", "it routes between several adapters"),
    (
        "alora_invocation_tokens",
        "it is an activated LoRA, which takes effect only after certain tokens",
    ),
    ("lora_bias", "its matrices have biases"),
    (
        "modules_to_save",
        "it contains whole layers beside LoRA's matrices",
    ),
    (
        "trainable_token_indices",
        "it contains the embeddings of single tokens",
    ),
    (
        "target_parameters",
        "it changes parameters that are no layers",
    ),
    ("layer_replication", "it repeats layers of its base"),
    ("megatron_config", "it was trained with Megatron"),
    ("fan_in_fan_out", "it was trained for transposed layers"),
];
/// The ways to begin the training that leave the base as it is. Others change it, and the adapter fits only the changed
/// one.
const KEEPS_BASE: [&str; 3] = ["gaussian", "eva", "orthogonal"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    peft_type: Option<String>,
    r: Option<u64>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    /// In the order of the file: PEFT takes the first that matches.
    alpha_pattern: Option<IndexMap<String, f64>>,
    rank_pattern: Option<Map<String, Value>>,
    init_lora_weights: Value,
    base_model_name_or_path: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// How an adapter's matrices are applied.
#[derive(Debug)]
pub(super) struct PeftConfig {
    /// The rank of all matrices. `None` if it differs between modules.
    pub(super) rank: Option<u64>,
    alpha: f64,
    alphas: Vec<(Pattern, f64)>,
    /// Whether the scale is `alpha / sqrt(rank)` instead of `alpha / rank`.
    is_rank_stabilized: bool,
    /// The name of the base that it was trained on.
    pub(super) base: Option<String>,
}

impl PeftConfig {
    /// Reads the file at a path.
    ///
    /// # Errors
    /// When the file cannot be read, or asks for something else than LoRA's matrices.
    pub(super) fn read(path: &Path) -> Result<Self, LoadError> {
        let fields: Fields = read_json(path)?;
        match fields.peft_type.as_deref() {
            Some("LORA") => {}
            Some(kind) => {
                return Err(unsupported(
                    path,
                    format!("its peft_type is {kind}, not LORA"),
                ));
            }
            None => return Err(not_an_adapter(path, "it has no peft_type")),
        }
        for (field, problem) in UNSUPPORTED {
            if fields.others.get(field).is_some_and(is_set) {
                return Err(unsupported(path, format!("{problem} ({field})")));
            }
        }
        if let Value::String(start) = &fields.init_lora_weights
            && !KEEPS_BASE.contains(&&**start)
        {
            return Err(unsupported(
                path,
                format!(
                    "its training began with a change of the base (init_lora_weights: {start}): save it with PEFT's \
                     path_initial_model_for_weight_conversion"
                ),
            ));
        }
        let Some(alpha) = fields.lora_alpha.filter(|alpha| *alpha != 0.0) else {
            return Err(not_an_adapter(path, "it has no lora_alpha"));
        };
        let patterns = fields.alpha_pattern.unwrap_or_default();
        if patterns.len() > MAX_PATTERNS {
            return Err(not_an_adapter(path, "its alpha_pattern has too many names"));
        }
        let patterns = patterns.into_iter().map(|(pattern, alpha)| {
            let compiled = Pattern::new(&pattern);
            let problem = || format!("its alpha_pattern {pattern:?} is not understood");
            let compiled = compiled.ok_or_else(|| unsupported(path, problem()))?;
            Ok((compiled, alpha))
        });
        let has_ranks = fields.rank_pattern.is_some_and(|ranks| !ranks.is_empty());
        Ok(Self {
            rank: fields.r.filter(|_| !has_ranks),
            alpha,
            alphas: patterns.collect::<Result<_, LoadError>>()?,
            is_rank_stabilized: fields.use_rslora.unwrap_or(false),
            base: fields.base_model_name_or_path,
        })
    }

    /// The factor of a module's change, which is the product of its matrices.
    pub(super) fn scale(&self, module: &str, rank: u64) -> f64 {
        let own = self
            .alphas
            .iter()
            .find(|(pattern, _)| pattern.matches(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        match self.is_rank_stabilized {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        }
    }
}

/// Whether a field has another value than those that PEFT takes for "no".
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

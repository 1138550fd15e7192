//! An adapter in a GGUF file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::base_check::{self, Matrices};
use super::{not_an_adapter, other_base, unsupported};
use crate::LoadError;
use crate::files::gguf_header::{GgufHeader, GgufTensor};
use crate::files::inspection::inspect_gguf;

const ALPHA: &str = "adapter.lora.alpha";

/// The inspected file of an adapter.
#[derive(Debug)]
pub(crate) struct GgufAdapterFile {
    pub(super) path: PathBuf,
    /// The size of its matrices.
    pub(super) bytes: u64,
    architecture: String,
    matrices: Vec<Matrices>,
}

impl GgufAdapterFile {
    /// Inspects a file.
    ///
    /// # Errors
    /// When the file is damaged or holds no LoRA adapter, or one that llama.cpp does not compute in full.
    pub(super) fn inspect(path: &Path) -> Result<Self, LoadError> {
        let header = inspect_gguf(path)?;
        match header.text("general.type") {
            Some("adapter") => {}
            Some("model") | None => {
                return Err(not_an_adapter(
                    path,
                    "it is a whole model: serve it without spec.base",
                ));
            }
            Some(kind) => return Err(not_an_adapter(path, &format!("its general.type is {kind}"))),
        }
        let kind = header.text("adapter.type").unwrap_or("(none)");
        if kind != "lora" {
            return Err(unsupported(
                path,
                format!("its adapter.type is {kind}, not lora"),
            ));
        }
        // llama.cpp ends the process at a number of another type.
        let alpha = header.values.get(ALPHA);
        let is_double = header.doubles.iter().any(|name| name == ALPHA);
        if alpha.is_some_and(|alpha| !alpha.is_f64()) || is_double {
            let problem = "its adapter.lora.alpha is no floating-point number of 32 bits";
            return Err(not_an_adapter(path, problem));
        }
        if let Some(Value::Array(_)) = header.values.get("adapter.alora.invocation_tokens") {
            let problem = "it is an activated LoRA, which takes effect only after certain tokens";
            return Err(unsupported(path, problem.into()));
        }
        let sizes = header.tensors.iter().map(GgufTensor::bytes);
        let Some(sizes) = sizes.collect::<Option<Vec<u64>>>() else {
            let problem = "its matrices have a type that is not known";
            return Err(not_an_adapter(path, problem));
        };
        if let Some(tensor) = header.tensors.iter().find(|tensor| !tensor.is_computed()) {
            let problem = format!("its matrix {} has a type that is not computed", tensor.name);
            return Err(unsupported(path, problem));
        }
        Ok(Self {
            path: path.to_owned(),
            bytes: sizes.iter().sum(),
            architecture: header.architecture().unwrap_or("(none)").to_owned(),
            matrices: pairs(path, header)?,
        })
    }

    /// Checks that the adapter fits a base model.
    ///
    /// # Errors
    /// [`LoadError::OtherBase`], or [`LoadError::UnsupportedAdapter`] when llama.cpp cannot compute it on this base.
    pub(super) fn check(&self, base: &[GgufHeader]) -> Result<(), LoadError> {
        let architecture = base.first().and_then(GgufHeader::architecture);
        if architecture != Some(&*self.architecture) {
            let problem = format!(
                "its architecture is {}, that of the base {}",
                self.architecture,
                architecture.unwrap_or("(none)")
            );
            return Err(other_base(&self.path, problem));
        }
        base_check::check(&self.path, &self.matrices, base)
    }
}

/// The two matrices of each tensor of the base that an adapter changes.
fn pairs(path: &Path, header: GgufHeader) -> Result<Vec<Matrices>, LoadError> {
    let mut pairs: BTreeMap<String, [Option<Vec<u64>>; 2]> = BTreeMap::new();
    for tensor in header.tensors {
        let name = &tensor.name;
        let a = name.strip_suffix(".lora_a").map(|base| (base, 0));
        let b = name.strip_suffix(".lora_b").map(|base| (base, 1));
        let Some((base, part)) = a.or(b) else {
            let problem = format!("its tensor {name} is no matrix of LoRA");
            return Err(unsupported(path, problem));
        };
        pairs.entry(base.to_owned()).or_default()[part] = Some(tensor.shape);
    }
    if pairs.is_empty() {
        return Err(not_an_adapter(path, "it has no tensors"));
    }
    let pairs = pairs.into_iter().map(|(tensor, pair)| match pair {
        [Some(a), Some(b)] => Ok(Matrices { tensor, a, b }),
        _ => Err(not_an_adapter(
            path,
            &format!("of {tensor} it has only one of lora_a and lora_b"),
        )),
    });
    pairs.collect()
}

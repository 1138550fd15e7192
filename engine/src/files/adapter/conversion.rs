//! Writes an adapter of PEFT as a GGUF file for a base.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Dtype;

use super::architectures::{Architecture, BaseTensor};
use super::base_check::{self, Matrices};
use super::peft_adapter::{Matrix, PeftAdapter, PeftModule};
use super::{other_base, unsupported};
use crate::LoadError;
use crate::files::gguf_header::GgufHeader;

/// Converts an adapter to a GGUF file without a name, which is gone when it is closed, even if this process is killed.
///
/// # Errors
/// See [`AdapterFiles::gguf`](super::AdapterFiles::gguf).
pub(super) fn convert(adapter: &PeftAdapter, base: &[GgufHeader]) -> Result<File, LoadError> {
    let tensors = tensors(adapter, base)?;
    let architecture = base.first().and_then(GgufHeader::architecture);
    write(adapter, &tensors, architecture.unwrap_or_default()).map_err(|error| {
        let path = adapter.weights.display();
        LoadError::Engine(format!("the adapter {path} cannot be converted: {error}"))
    })
}

/// The tensors of the base that the modules of an adapter change, which they fit.
fn tensors(adapter: &PeftAdapter, base: &[GgufHeader]) -> Result<Vec<BaseTensor>, LoadError> {
    let path = &adapter.weights;
    let no_header = GgufHeader::default();
    let header = base.first().unwrap_or(&no_header);
    let name = header.architecture().unwrap_or("(none)");
    let by_hand = "convert it with llama.cpp's convert_lora_to_gguf.py";
    let Some(architecture) = Architecture::find(name) else {
        let problem = format!(
            "the names of its tensors in a base of the architecture {name} are not known: {by_hand}"
        );
        return Err(unsupported(path, problem));
    };
    let mut tensors = Vec::new();
    let mut shapes = Vec::new();
    for module in &adapter.modules {
        let Some(tensor) = architecture.tensor(&module.name, header) else {
            let problem = format!(
                "it changes {}, whose tensor in a base of the architecture {name} is not known: {by_hand}",
                module.name
            );
            return Err(unsupported(path, problem));
        };
        shapes.push(shapes_of(module, &tensor.name));
        tensors.push(tensor);
    }
    let fits = base_check::check(path, &shapes, base);
    fits.map_err(|error| with_base_name(error, adapter.base.as_deref()))?;
    for (module, tensor) in adapter.modules.iter().zip(&tensors) {
        let rows = module.b.rows as u64;
        if let Some(heads) = tensor.reordered_heads
            && (heads == 0 || !rows.is_multiple_of(2 * heads))
        {
            let problem = format!("{} has {heads} heads in the base", tensor.name);
            return Err(other_base(path, problem));
        }
    }
    Ok(tensors)
}

/// The shapes of a module's matrices in a GGUF file.
fn shapes_of(module: &PeftModule, tensor: &str) -> Matrices {
    let PeftModule { a, b, rank, .. } = module;
    let inputs = a.columns as u64;
    Matrices {
        tensor: tensor.to_owned(),
        a: match module.is_embedding {
            true => vec![*rank, inputs],
            false => vec![inputs, *rank],
        },
        b: vec![*rank, b.rows as u64],
    }
}

/// Adds which base an adapter was trained on.
fn with_base_name(error: LoadError, base: Option<&str>) -> LoadError {
    match (error, base) {
        (LoadError::OtherBase { path, problem }, Some(base)) if !base.is_empty() => {
            LoadError::OtherBase {
                path,
                problem: format!("{problem} (it was trained on {base})"),
            }
        }
        (error, _) => error,
    }
}

fn write(
    adapter: &PeftAdapter,
    tensors: &[BaseTensor],
    architecture: &str,
) -> candle_core::Result<File> {
    // llama.cpp divides one number by the rank of each matrix. B takes what differs from it.
    let alpha = adapter
        .modules
        .first()
        .map_or(1.0, |module| module.scale * module.rank as f64);
    let mut weights = File::open(&adapter.weights)?;
    let mut converted = Vec::new();
    for (module, tensor) in adapter.modules.iter().zip(tensors) {
        let mut a = read(&mut weights, &module.a)?;
        if module.is_embedding {
            a = a.t()?.contiguous()?;
        }
        let mut b = read(&mut weights, &module.b)?;
        if let Some(heads) = tensor.reordered_heads {
            b = reorder(&b, heads as usize)?;
        }
        let scale = module.scale * module.rank as f64 / alpha;
        let is_scaled = (scale - 1.0).abs() > 1e-9;
        if is_scaled {
            b = (b * scale)?;
        }
        let kind = |matrix: &Matrix| match matrix.dtype {
            Dtype::F16 if !is_scaled => GgmlDType::F16,
            _ => GgmlDType::F32,
        };
        for (matrix, part, kind) in [(&a, "a", kind(&module.a)), (&b, "b", kind(&module.b))] {
            let name = format!("{}.lora_{part}", tensor.name);
            converted.push((name, QTensor::quantize(matrix, kind)?));
        }
    }
    let text = |text: &str| Value::String(text.to_owned());
    let values = [
        ("general.type", text("adapter")),
        ("general.architecture", text(architecture)),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(alpha as f32)),
    ];
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, value)).collect();
    let named: Vec<_> = converted
        .iter()
        .map(|(name, tensor)| (&**name, tensor))
        .collect();
    let mut writer = BufWriter::new(tempfile::tempfile()?);
    gguf_file::write(&mut writer, &values, &named)?;
    writer.flush()?;
    let mut file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    // Some systems open it again where it was left.
    file.rewind()?;
    Ok(file)
}

/// Reads a matrix.
fn read(file: &mut File, matrix: &Matrix) -> candle_core::Result<Tensor> {
    file.seek(SeekFrom::Start(matrix.start))?;
    let mut bytes = vec![0; (matrix.end - matrix.start) as usize];
    file.read_exact(&mut bytes)?;
    let dtype = match matrix.dtype {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        _ => DType::F32,
    };
    let shape = [matrix.rows, matrix.columns];
    Tensor::from_raw_buffer(&bytes, dtype, &shape, &Device::Cpu)?.to_dtype(DType::F32)
}

/// Puts rows that a head rotates against each other beside each other: the first of its one half, the first of its
/// other half, the second ones, and so on.
fn reorder(b: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, rank) = b.dims2()?;
    let halves = b.reshape((heads, 2, rows / heads / 2, rank))?;
    halves.transpose(1, 2)?.reshape((rows, rank))
}

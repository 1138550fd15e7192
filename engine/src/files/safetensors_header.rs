//! What the safetensors files of a folder say about their tensors.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};

/// The format's own limit for the length of a header, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) elements: u64,
    pub(crate) dtype: Dtype,
    /// The number of dimensions.
    pub(crate) dimensions: usize,
}

/// Lists the weights of a folder, in the order of their names.
pub(crate) fn weight_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Lists the tensors of a file.
///
/// # Errors
/// When the file is no safetensors file, or shorter than its header says.
pub(crate) fn read_tensors(path: &Path) -> io::Result<Vec<Tensor>> {
    let (metadata, _) = read_metadata(path)?;
    let tensors = metadata.tensors().into_iter().map(|(name, tensor)| Tensor {
        name,
        elements: tensor.shape.iter().map(|size| *size as u64).product(),
        dtype: tensor.dtype,
        dimensions: tensor.shape.len(),
    });
    Ok(tensors.collect())
}

/// Reads the header of a file, and returns it with where the tensors' data begins, in bytes.
///
/// `SafeTensors::read_metadata` would need the whole file in memory: it compares the header with the
/// length of the data. Only the header is read here; `Metadata` parses and validates it.
///
/// # Errors
/// When the file is no safetensors file, or shorter than its header says.
pub(super) fn read_metadata(path: &Path) -> io::Result<(Metadata, u64)> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(io::Error::other("it has no safetensors header"));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)?;
    let tensors = metadata.tensors();
    let end = tensors.values().map(|tensor| tensor.data_offsets.1).max();
    let expected = 8 + length + end.unwrap_or(0) as u64;
    if bytes < expected {
        let problem = format!("it has {bytes} bytes of {expected}: it was not copied completely");
        return Err(io::Error::other(problem));
    }
    Ok((metadata, 8 + length))
}

//! Compares an adapter with its base model.

use std::collections::HashMap;
use std::path::Path;

use super::{other_base, unsupported};
use crate::LoadError;
use crate::files::gguf_header::GgufHeader;

/// The output layer of a GGUF file. One that shares it with the embeddings has none.
const OUTPUT: &str = "output.weight";
const EMBEDDINGS: &str = "token_embd.weight";

/// The shapes of the two matrices that change a tensor of the base. Shapes are in the order of GGUF: the length of a
/// row comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matrices {
    /// The name of the base's tensor.
    pub(super) tensor: String,
    pub(super) a: Vec<u64>,
    pub(super) b: Vec<u64>,
}

/// Checks that the matrices of an adapter at a path fit the tensors of a base.
///
/// # Errors
/// [`LoadError::OtherBase`] for a tensor that the base lacks or has in another shape,
/// [`LoadError::UnsupportedAdapter`] for one that llama.cpp cannot change in this base.
pub(super) fn check(
    path: &Path,
    matrices: &[Matrices],
    base: &[GgufHeader],
) -> Result<(), LoadError> {
    let tensors = base.iter().flat_map(|header| &header.tensors);
    let shapes: HashMap<&str, &[u64]> = tensors
        .map(|tensor| (&*tensor.name, &*tensor.shape))
        .collect();
    let is_tied = !shapes.contains_key(OUTPUT);
    for Matrices { tensor, a, b } in matrices {
        if is_tied && [OUTPUT, EMBEDDINGS].contains(&&**tensor) {
            let problem = format!(
                "it changes {tensor}, but the base's embeddings are its output layer, too, and llama.cpp cannot \
                 change either of them alone"
            );
            return Err(unsupported(path, problem));
        }
        let Some(shape) = shapes.get(&**tensor) else {
            return Err(other_base(
                path,
                format!("it changes {tensor}, which the base does not have"),
            ));
        };
        // Of the embeddings, llama.cpp takes rows of A.
        let is_embedding = &**tensor == EMBEDDINGS;
        let fits = |rank: Option<&u64>, inputs: Option<&u64>, rank_of_b: Option<&u64>| {
            rank.is_some_and(|rank| *rank > 0)
                && rank == rank_of_b
                && inputs == shape.get(usize::from(is_embedding))
                && b.get(1) == shape.get(usize::from(!is_embedding))
                && a.get(2..).unwrap_or_default() == shape.get(2..).unwrap_or_default()
                && b.get(2..).unwrap_or_default() == shape.get(2..).unwrap_or_default()
        };
        let fits = match is_embedding {
            true => fits(a.first(), a.get(1), b.first()),
            false => fits(a.get(1), a.first(), b.first()),
        };
        if !fits {
            return Err(other_base(
                path,
                format!("its matrices {a:?} and {b:?} do not fit {tensor} {shape:?} of the base"),
            ));
        }
    }
    Ok(())
}

//! What a process takes of a GPU's memory before it has a model there.

/// The memory of a CUDA context with the kernels of llama.cpp or mistral.rs and the workspace of cuBLAS: 677 MiB on an H100
/// with driver 580 and CUDA 13. What other drivers take of a GPU is little, or memory of the node itself.
pub(crate) const GPU_CONTEXT: u64 = if cfg!(feature = "cuda") { 680 << 20 } else { 0 };

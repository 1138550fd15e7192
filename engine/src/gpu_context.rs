//! Whether there is a GPU for CUDA, and what a process takes of its memory before it has a model there.

/// The memory of a CUDA context with the kernels of llama.cpp or mistral.rs and the workspace of cuBLAS: 677 MiB on an H100
/// with driver 580 and CUDA 13. What other drivers take of a GPU is little, or memory of the node itself.
pub(crate) const GPU_CONTEXT: u64 = if cfg!(feature = "cuda") { 680 << 20 } else { 0 };

/// Whether this build computes with CUDA and the machine seems to have a GPU for it. This does not open the GPU, which
/// would take memory of it.
#[must_use]
pub fn has_cuda_gpu() -> bool {
    cfg!(feature = "cuda") && std::path::Path::new("/dev/nvidia0").exists()
}

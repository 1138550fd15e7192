//! Engines, which load models and compute answers.
//!
//! This crate owns the trait [`Engine`] and its implementations: `LlamaEngine` computes in this process with
//! llama.cpp, [`MistralEngine`] with mistral.rs, and [`LocalEngine`] chooses between them; [`UpstreamEngine`] forwards to an OpenAI-compatible server, and
//! [`SimulatedEngine`] answers with fixed tokens at a fixed speed for benchmarks and simulations.
//! It also owns what several engines need: `files` reads what a model's files say, `chat` and `text` turn
//! requests into tokens and tokens into answers, `progress` finds an engine that is stuck. The [`runner`] is the process in which an engine computes
//! one model.
//!
//! It knows nothing of nodes, queues, fleets or placement. Start reading at [`Engine`].

mod call_id;
mod chat;
mod engine;
mod error;
mod file_reading;
mod files;
mod gpu_context;
#[cfg(feature = "llama")]
mod llama;
mod local;
mod mistral;
mod process_end;
mod progress;
mod reading_speed;
pub mod runner;
mod simulated;
#[cfg(test)]
#[expect(
    unreachable_pub,
    reason = "the crate of whole fleets' tests has the same file"
)]
#[cfg_attr(not(feature = "llama"), allow(dead_code))]
mod test_adapters;
#[cfg(test)]
mod test_answers;
mod text;
mod upstream;
mod warm_up;

pub use engine::{
    ComputeDevice, ComputeLocation, Engine, GenerateEvents, LoadControl, LoadProgress, LoadedModel,
};
pub use error::LoadError;
pub use file_reading::FileReading;
pub use files::check_model_files;
pub use gpu_context::has_cuda_gpu;
#[cfg(feature = "llama")]
pub use llama::LlamaEngine;
pub use local::LocalEngine;
pub use mistral::MistralEngine;
pub use process_end::{EndCause, ProcessEnd, StuckProcess};
pub use simulated::SimulatedEngine;
pub use upstream::{SecretSyntaxError, UpstreamEngine, UpstreamSecret};

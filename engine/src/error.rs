//! Why a model could not be loaded.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ProcessEnd;

/// Why a model could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LoadError {
    /// The path of the model's source does not exist.
    #[error("{0} does not exist on this node")]
    NoSuchPath(PathBuf),
    /// The files exist, but no engine can serve them.
    #[error("{path} cannot be served: {problem}")]
    Unusable {
        /// The folder or file of the model.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The model's spec asks for something that the engine cannot do.
    #[error("the engine cannot fulfil its spec: {0}")]
    Spec(String),
    /// The engine failed while it loaded the model.
    #[error("the engine failed to load it: {0}")]
    Engine(String),
    /// The server that computes the model's answers cannot be reached.
    #[error("its server does not answer: {0}")]
    Server(String),
    /// Loading took longer than this many seconds.
    #[error("it was not loaded within {0} s")]
    Timeout(u64),
    /// The process that loaded or computed it ended.
    #[error(transparent)]
    Process(#[from] ProcessEnd),
    /// Nobody wants the model any more.
    #[error("it is not wanted any more")]
    Cancelled,
}

impl LoadError {
    /// What an operator can do about the error.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoSuchPath(_) => "put the files there, or correct spec.source.path",
            Self::Unusable { .. } => {
                "give a Hugging Face folder (config.json, tokenizer.json, *.safetensors) or a GGUF file"
            }
            Self::Spec(_) => "correct the model's spec",
            Self::Engine(_) => {
                "see the agent's log; check that mistral.rs supports the architecture"
            }
            Self::Server(_) => "start the server, or correct spec.options.url",
            Self::Timeout(_) => "use faster storage or a smaller model",
            Self::Process(end) => end.cause.remedy(),
            Self::Cancelled => "apply the model again",
        }
    }
}

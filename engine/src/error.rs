//! Why a model could not be loaded.

use std::path::PathBuf;

use flotilla_core::spec::EngineKind;
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
    /// A file is not what its name says: it was not fetched.
    #[error("{path} cannot be served: {problem}")]
    NotTheFile {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        problem: String,
    },
    /// The files are no LoRA adapter.
    #[error("{path} is no adapter that can be used: {problem}")]
    NotAnAdapter {
        /// The folder or file.
        path: PathBuf,
        /// What it is or lacks.
        problem: String,
    },
    /// The adapter changes its base in a way that no engine computes.
    #[error("the adapter {path} cannot be computed: {problem}")]
    UnsupportedAdapter {
        /// The file of the adapter.
        path: PathBuf,
        /// What it does.
        problem: String,
    },
    /// The adapter does not fit its base.
    #[error("the adapter {path} was made for another base model: {problem}")]
    OtherBase {
        /// The file of the adapter.
        path: PathBuf,
        /// Where the two differ.
        problem: String,
    },
    /// A file is damaged or incomplete.
    #[error("{path} cannot be served: {problem}")]
    Damaged {
        /// The file, or the folder of which a part is missing.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The files were not read in time.
    #[error("{path} was not read within {seconds} s")]
    SlowFiles {
        /// The folder or file of the model.
        path: PathBuf,
        /// How long was waited for it, in seconds.
        seconds: u64,
    },
    /// The engine does not know the model's architecture.
    #[error("the engine {engine} does not know the architecture {name}")]
    Architecture {
        /// The engine.
        engine: EngineKind,
        /// The name of the architecture in the model's files.
        name: String,
    },
    /// The weights are quantised in a format that the engine does not know.
    #[error("the engine mistral does not know how its weights are quantised: {0}")]
    Quantization(String),
    /// The model's tokenizer cannot be read.
    #[error("{path} cannot be used: {problem}")]
    Tokenizer {
        /// The file of the tokenizer.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The model's spec asks for something that the engine cannot do.
    #[error("the engine cannot fulfil its spec: {0}")]
    Spec(String),
    /// The model's chat template cannot be used.
    #[error("its chat template cannot be used: {0}")]
    Template(String),
    /// The model was loaded, but cannot compute an answer.
    #[error("it was loaded, but fails at its first answer: {0}")]
    FirstAnswer(String),
    /// The model was loaded, but did not compute its first answers within this many seconds.
    #[error("it was loaded, but did not answer within {0} s")]
    WarmUp(u64),
    /// The engine failed while it loaded the model.
    #[error("the engine failed to load it: {0}")]
    Engine(String),
    /// The libraries that llama.cpp computes with are in none of the directories where they are looked for.
    #[error("llama.cpp's libraries for CPUs (libggml-cpu-*) are not in {}", .0.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(" or "))]
    NoLibraries(Vec<PathBuf>),
    /// The libraries that llama.cpp computes with are there, but none of those for CPUs can be loaded.
    #[error("none of llama.cpp's libraries for CPUs in {} can be loaded", .0.display())]
    UnusableLibraries(PathBuf),
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
            Self::NotTheFile { .. } => {
                "fetch the file itself: with `git lfs pull`, or from the address that its host names for downloads"
            }
            Self::NotAnAdapter { .. } => {
                "give the folder of an adapter as PEFT saves it (adapter_config.json, adapter_model.safetensors), or a \
                 GGUF file of llama.cpp's convert_lora_to_gguf.py"
            }
            Self::UnsupportedAdapter { .. } => {
                "train it as a plain LoRA, or merge it into its base (merge_and_unload of PEFT) and serve the result"
            }
            Self::OtherBase { .. } => {
                "name the model that the adapter was trained on as its base, in the same size and version"
            }
            Self::Damaged { .. } => {
                "copy the model's files again, all of one version, and compare their sizes with the source's"
            }
            Self::SlowFiles { .. } => {
                "check the drive that the model's files are on: it hangs, or is far too slow"
            }
            Self::WarmUp(_) => {
                "see whether the node is overloaded or swaps; else use a smaller model, or quantise this one"
            }
            Self::Architecture { .. } => {
                "use a model of an architecture that docs/models.md lists, or serve it with another server by the \
                 engine upstream"
            }
            Self::Quantization(_) => {
                "use a file with one of the formats Q4_0 to Q8_0, Q2_K to Q6_K, F16, BF16 or F32"
            }
            Self::Tokenizer { .. } => {
                "put the tokenizer.json there that belongs to the model, of the format of Hugging Face's tokenizers"
            }
            Self::Spec(_) => "correct the model's spec",
            Self::Engine(_) => "see the agent's log",
            Self::NoLibraries(_) => {
                "install Flotilla anew, or name the directory of the libraries in FLOTILLA_LIBRARY_DIR"
            }
            Self::UnusableLibraries(_) => {
                "see what they lack with `ldd`: they are of this build of Flotilla, and need libgomp and libstdc++"
            }
            Self::Template(_) => {
                "correct the chat template of the files, or give another in spec.options.chatTemplate"
            }
            Self::FirstAnswer(_) => {
                "check that the files are complete and belong together: a tensor of the weights may be missing"
            }
            Self::Server(_) => "start the server, or correct spec.options.url",
            Self::Timeout(_) => "use faster storage or a smaller model",
            Self::Process(end) => end.cause.remedy(),
            Self::Cancelled => "apply the model again",
        }
    }
}

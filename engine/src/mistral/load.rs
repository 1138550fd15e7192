//! Loading and unloading.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::spec::{self, Accelerator, Dtype, ModelFormat, ModelSource, ModelSpec};
use futures::FutureExt;
use mistralrs::model_builder_trait::{
    build_embedding_pipeline, build_gguf_pipeline, build_model_from_pipeline, build_text_pipeline,
};
use mistralrs::{
    Device, EmbeddingModelBuilder, GgufModelBuilder, Model, ModelDType, TextModelBuilder,
    TokenSource, best_device, parse_isq_value,
};
use mistralrs_core::{IsqType, Pipeline, Request};
use tokio::sync::{Mutex, mpsc};

use crate::{LoadError, LoadProgress};

/// As many as mistral.rs keeps by default.
const PREFIXES: usize = 16;
/// How long a load may take. mistral.rs cannot be interrupted: what takes longer goes on in
/// its thread, unused.
const TIMEOUT: Duration = Duration::from_secs(1_800);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What a running model takes beyond its weights, as a part of them: caches and activations
/// of a few sequences.
const OVERHEAD: f64 = 0.2;

/// A model with its engine thread running.
pub(super) struct LoadedEngine {
    pub(super) model: Model,
    /// Dead once the engine thread has dropped the weights.
    pub(super) weights: WeightsWatch,
    pub(super) sender: mpsc::Sender<Request>,
    pub(super) pipeline: spec::Pipeline,
    /// Tokens of the model's context, where it says.
    pub(super) context: Option<usize>,
    pub(super) token_text: TokenText,
}

/// Gives the text of a token, special ones included; the replacement character where it is
/// but a part of a character.
pub(super) type TokenText = Box<dyn Fn(u32) -> String + Send + Sync>;

/// A look at whether weights are still held.
pub(super) type WeightsWatch = Weak<Mutex<dyn Pipeline>>;

/// What is to be loaded.
#[derive(Debug, Clone)]
enum ModelFiles {
    Folder(PathBuf),
    Gguf { dir: PathBuf, file: String },
}

/// What the spec asks for, checked.
#[derive(Clone)]
struct LoadPlan {
    files: ModelFiles,
    pipeline: spec::Pipeline,
    dtype: ModelDType,
    isq: Option<IsqType>,
    concurrency: usize,
    /// Leave an accelerator alone.
    force_cpu: bool,
}

/// See [`Engine::estimate`](crate::Engine::estimate): the parameters at the width
/// they are computed in, and a part more.
pub(super) async fn estimate(spec: &ModelSpec) -> Result<Bytes, LoadError> {
    if let Some(memory) = spec.memory {
        return Ok(memory);
    }
    let plan = LoadPlan::new(spec)?;
    let weights = tokio::task::spawn_blocking(move || weights(&plan))
        .await
        .map_err(|e| LoadError::Engine(e.to_string()))??;
    Ok(Bytes((weights as f64 * (1.0 + OVERHEAD)) as u64))
}

/// Loads the model of this spec on a thread of its own.
pub(super) async fn load(
    spec: &ModelSpec,
    progress: LoadProgress,
) -> Result<LoadedEngine, LoadError> {
    let plan = LoadPlan::new(spec)?;
    let expected = estimate(spec).await?;
    let pipeline = plan.pipeline;
    progress("loading", 0.0);
    let runtime = tokio::runtime::Handle::current();
    let build = tokio::task::spawn_blocking(move || {
        // A panic in the engine must not take the agent with it.
        runtime.block_on(AssertUnwindSafe(plan.build()).catch_unwind())
    });
    let (model, weights, token_text) = tokio::select! {
        built = build => match built {
            Ok(Ok(Ok(built))) => built,
            Ok(Ok(Err(error))) => return Err(LoadError::Engine(short(&error))),
            Ok(Err(_)) | Err(_) => {
                return Err(LoadError::Engine("it panicked; the agent's log has more".into()));
            }
        },
        () = watch(expected, &progress) => return Err(LoadError::Timeout(TIMEOUT.as_secs())),
    };
    progress("loading", 1.0);
    let context = model.max_sequence_length().ok().flatten();
    let sender = model
        .inner()
        .get_sender(None)
        .map_err(|e| LoadError::Engine(e.to_string()))?;
    Ok(LoadedEngine {
        model,
        weights,
        sender,
        pipeline,
        context,
        token_text,
    })
}

/// Reports how far a load is until it takes too long. mistral.rs does not tell: what the
/// process has grown by is compared with what the model should take.
async fn watch(expected: Bytes, progress: &LoadProgress) {
    let start = resident();
    let look = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let grown = resident().saturating_sub(start);
            let part = grown.0 as f64 / expected.0.max(1) as f64;
            progress("loading", part.min(0.99) as f32);
        }
    };
    let _: Result<(), _> = tokio::time::timeout(TIMEOUT, look).await;
}

/// The first line of an error: mistral.rs appends backtraces.
fn short(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

impl LoadPlan {
    fn new(spec: &ModelSpec) -> Result<Self, LoadError> {
        let Some(ModelSource::Path(path)) = &spec.source else {
            return Err(LoadError::Spec("spec.source is not on this node".into()));
        };
        let files = ModelFiles::find(path)?;
        let format = match files {
            ModelFiles::Folder(_) => ModelFormat::Safetensors,
            ModelFiles::Gguf { .. } => ModelFormat::Gguf,
        };
        if spec.format.is_some_and(|wanted| wanted != format) {
            let problem = format!("spec.format is another: {} is {format:?}", path.display());
            return Err(LoadError::Spec(problem));
        }
        let force_cpu = spec.accelerator == Some(Accelerator::Cpu);
        let pipeline = spec.options.pipeline.unwrap_or_else(|| files.pipeline());
        let dtype = match spec.options.dtype {
            Some(Dtype::F32) => ModelDType::F32,
            Some(Dtype::F16) => ModelDType::F16,
            Some(Dtype::Bf16) => ModelDType::BF16,
            // On a CPU f32 is faster than what mistral.rs would pick.
            None if on_cpu() => ModelDType::F32,
            None => ModelDType::Auto,
        };
        let isq = spec
            .options
            .quantization
            .as_deref()
            .map(|name| parse_isq_value(name, None))
            .transpose()
            .map_err(|e| LoadError::Spec(format!("spec.options.quantization: {e}")))?;
        if isq.is_some() && matches!(files, ModelFiles::Gguf { .. }) {
            let problem = "spec.options.quantization: a GGUF file is quantised already";
            return Err(LoadError::Spec(problem.into()));
        }
        Ok(Self {
            files,
            pipeline,
            dtype,
            isq,
            concurrency: spec.concurrency as usize,
            force_cpu,
        })
    }

    async fn build(self) -> anyhow::Result<(Model, WeightsWatch, TokenText)> {
        let (pipeline, scheduler, engine) = match self.files {
            ModelFiles::Folder(dir) if self.pipeline == spec::Pipeline::Embedding => {
                let mut builder = EmbeddingModelBuilder::new(dir.display())
                    .with_dtype(self.dtype)
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.concurrency);
                if let Some(isq) = self.isq {
                    builder = builder.with_isq(isq);
                }
                if self.force_cpu {
                    builder = builder.with_force_cpu();
                }
                build_embedding_pipeline(builder).await
            }
            ModelFiles::Folder(dir) => {
                let mut builder = TextModelBuilder::new(dir.display())
                    .with_dtype(self.dtype)
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.concurrency)
                    .with_prefix_cache_n(prefixes());
                if let Some(isq) = self.isq {
                    builder = builder.with_isq(isq);
                }
                if self.force_cpu {
                    builder = builder.with_force_cpu();
                }
                #[cfg(any(feature = "cuda", feature = "metal"))]
                let builder = builder
                    .with_paged_attn(mistralrs::PagedAttentionMetaBuilder::default().build()?);
                build_text_pipeline(builder).await
            }
            ModelFiles::Gguf { dir, file } => {
                let mut builder = GgufModelBuilder::new(dir.display(), vec![file])
                    .with_token_source(TokenSource::None)
                    .with_max_num_seqs(self.concurrency)
                    .with_prefix_cache_n(prefixes());
                if self.force_cpu {
                    builder = builder.with_force_cpu();
                }
                build_gguf_pipeline(builder).await
            }
        }?;
        let weights = Arc::downgrade(&pipeline);
        let tokenizer = pipeline.lock().await.tokenizer();
        let token_text: TokenText = Box::new(move |token| {
            let text = tokenizer.as_ref().map(|t| t.decode(&[token], false));
            text.and_then(Result::ok).unwrap_or_default()
        });
        let model = build_model_from_pipeline(pipeline, scheduler, engine).await;
        Ok((model, weights, token_text))
    }
}

/// Conversations whose beginning mistral.rs keeps. On a CPU none: 0.8.1 evicts only what lies on a
/// device, so that there every conversation would stay in memory for ever.
fn prefixes() -> Option<usize> {
    (!on_cpu()).then_some(PREFIXES)
}

/// Whether models run on the CPU.
pub(super) fn on_cpu() -> bool {
    best_device(false).is_ok_and(|device| matches!(device, Device::Cpu))
}

impl ModelFiles {
    fn find(path: &Path) -> Result<Self, LoadError> {
        let unusable = |problem: &str| LoadError::Unusable {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        if path.is_dir() {
            for needed in ["config.json", "tokenizer.json"] {
                if !path.join(needed).is_file() {
                    return Err(unusable(&format!("it has no {needed}")));
                }
            }
            return Ok(Self::Folder(path.to_owned()));
        }
        if !path.is_file() {
            return Err(LoadError::NoSuchPath(path.to_owned()));
        }
        if path.extension().is_none_or(|extension| extension != "gguf") {
            return Err(unusable("it is a file, but not a .gguf one"));
        }
        let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(unusable("it is no file in a folder"));
        };
        Ok(Self::Gguf {
            dir: dir.to_owned(),
            file: file.to_string_lossy().into_owned(),
        })
    }

    /// Sentence-transformers' list of modules is in every folder of an embedding model.
    fn pipeline(&self) -> spec::Pipeline {
        match self {
            Self::Folder(dir) if dir.join("modules.json").is_file() => spec::Pipeline::Embedding,
            _ => spec::Pipeline::Text,
        }
    }
}

/// Bytes of the weights once loaded.
fn weights(plan: &LoadPlan) -> Result<u64, LoadError> {
    let unusable = |path: &Path, problem: String| LoadError::Unusable {
        path: path.to_owned(),
        problem,
    };
    match &plan.files {
        ModelFiles::Gguf { dir, file } => {
            let path = dir.join(file);
            let data = std::fs::metadata(&path).map_err(|e| unusable(&path, e.to_string()))?;
            Ok(data.len())
        }
        ModelFiles::Folder(dir) => {
            let files = std::fs::read_dir(dir).map_err(|e| unusable(dir, e.to_string()))?;
            let mut parameters = 0;
            for file in files.flatten() {
                let path = file.path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "safetensors")
                {
                    parameters += safetensors_parameters(&path)
                        .map_err(|e| unusable(&path, e.to_string()))?;
                }
            }
            if parameters == 0 {
                return Err(unusable(dir, "it has no weights in *.safetensors".into()));
            }
            let width = match plan.dtype {
                ModelDType::F32 => 4,
                _ => 2,
            };
            Ok(parameters * width)
        }
    }
}

/// Parameters in a safetensors file, by its header: 8 bytes of length, then JSON with a
/// shape per tensor.
fn safetensors_parameters(path: &Path) -> std::io::Result<u64> {
    use std::io::Read;
    #[derive(serde::Deserialize)]
    struct TensorHeader {
        shape: Option<Vec<u64>>,
    }
    /// Above any real header (100 MB is the format's own limit).
    const LARGEST_HEADER: u64 = 100 << 20;
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEADER {
        return Err(std::io::Error::other("its header makes no sense"));
    }
    let header = std::io::BufReader::new(file.take(length));
    let tensors: std::collections::HashMap<String, TensorHeader> = serde_json::from_reader(header)?;
    let shapes = tensors.into_values().filter_map(|tensor| tensor.shape);
    Ok(shapes.map(|shape| shape.iter().product::<u64>()).sum())
}

/// Memory of this process that is in RAM. Zero where the system does not tell.
fn resident() -> Bytes {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    // SAFETY: sysconf reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Bytes(pages.unwrap_or(0) * u64::try_from(page).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &Path) -> ModelSpec {
        ModelSpec {
            source: Some(ModelSource::Path(path.to_owned())),
            ..ModelSpec::default()
        }
    }

    fn folder(shape: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::write(dir.path().join(file), "{}").unwrap();
        }
        let header =
            format!(r#"{{"__metadata__": {{"format": "pt"}}, "w": {{"shape": {shape}}}}}"#);
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        dir
    }

    #[tokio::test]
    async fn memory_is_estimated_from_the_shapes() {
        let dir = folder("[1000, 10]");
        let bytes = estimate(&spec(dir.path())).await.unwrap();
        assert_eq!(bytes, Bytes(48_000));
    }

    #[tokio::test]
    async fn each_wrong_path_has_its_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = estimate(&spec(&dir.path().join("x"))).await;
        assert!(matches!(missing, Err(LoadError::NoSuchPath(_))));
        let empty = estimate(&spec(dir.path())).await;
        assert!(matches!(empty, Err(LoadError::Unusable { .. })));
        let file = dir.path().join("x.bin");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            estimate(&spec(&file)).await,
            Err(LoadError::Unusable { .. })
        ));
    }

    #[test]
    fn an_unknown_quantisation_is_a_fault_of_the_spec() {
        let dir = folder("[1]");
        let mut spec = spec(dir.path());
        spec.options.quantization = Some("q99".into());
        assert!(matches!(LoadPlan::new(&spec), Err(LoadError::Spec(_))));
    }
}

//! Loads a model.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::generate::FileDefaults;
use flotilla_core::spec::{EngineKind, ModelSpec, Pipeline};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use tokio_util::sync::CancellationToken;

use super::adapter_load::AdapterBase;
use super::backend::{backend, with_first_error};
use super::load_plan::{LoadPlan, has_accelerator};
use super::tokenizer::Tokenizer;
use super::{memory, vocabulary};
use crate::files::file_defaults;
use crate::files::gguf_header::GgufHeader;
use crate::files::inspection::Inspection;
use crate::files::model_files::ModelFiles;
use crate::text::load_template::load_template;
use crate::text::source_path::source_path;
use crate::text::text_model::TextModel;
use crate::{LoadControl, LoadError, LoadProgress};

/// How long a load may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1_800);

/// A loaded model with what requests to it need.
pub(super) struct LoadedFile {
    pub(super) model: Arc<LlamaModel>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) text_model: TextModel,
    /// What its adapters need.
    pub(super) adapter_base: AdapterBase,
    pub(super) plan: LoadPlan,
    pub(super) pipeline: Pipeline,
    /// What the file says about sampling.
    pub(super) file_defaults: FileDefaults,
    /// The memory that the model should take.
    pub(super) expected_memory: Bytes,
}

/// Loads the model of a spec.
pub(super) async fn load(
    spec: &ModelSpec,
    progress: LoadProgress,
    control: &LoadControl,
) -> Result<LoadedFile, LoadError> {
    progress("loading", 0.0);
    // Ends the load when this is dropped, too.
    let cancelled = control.cancelled.child_token();
    let _guard = cancelled.clone().drop_guard();
    let spec = spec.clone();
    let load = tokio::task::spawn_blocking(move || load_here(&spec, &progress, &cancelled));
    match tokio::time::timeout(TIMEOUT, load).await {
        Ok(loaded) => loaded.map_err(|error| LoadError::Engine(error.to_string()))?,
        Err(_) => Err(LoadError::Timeout(TIMEOUT.as_secs())),
    }
}

fn load_here(
    spec: &ModelSpec,
    progress: &LoadProgress,
    cancelled: &CancellationToken,
) -> Result<LoadedFile, LoadError> {
    let backend = backend()?;
    let files = ModelFiles::find(source_path(spec)?)?;
    let inspection = Inspection::of(&files)?;
    let plan = LoadPlan::new(spec, &files, &inspection, threads(), has_accelerator())?;
    let Inspection::Gguf(headers) = &inspection else {
        // The plan has refused other files.
        return Err(LoadError::Spec("the file is no GGUF file".into()));
    };
    let no_header = GgufHeader::default();
    let header = headers.first().unwrap_or(&no_header);
    let expected_memory = spec
        .memory
        .unwrap_or_else(|| memory::expected(&plan, headers));
    let (report, ended) = (progress.clone(), cancelled.clone());
    let params = LlamaModelParams::default()
        .with_n_gpu_layers(plan.gpu_layers.unwrap_or(u32::MAX >> 1))
        .with_progress_callback(move |fraction| {
            report("loading", fraction.min(0.99));
            !ended.is_cancelled()
        });
    let load = || LlamaModel::load_from_file(backend, &plan.path, &params);
    let (loaded, problem) = with_first_error(load);
    if cancelled.is_cancelled() {
        return Err(LoadError::Cancelled);
    }
    let model = match loaded {
        Ok(model) => Arc::new(model),
        Err(error) => {
            let problem = problem.unwrap_or_else(|| error.to_string());
            return Err(explain(header, problem));
        }
    };
    let tokenizer = Tokenizer::new(&model, plan.pipeline == Pipeline::Embedding);
    let tokenizer = Arc::new(tokenizer);
    let templates = match &spec.options.chat_template {
        Some(template) => vec![("default".to_owned(), template.clone())],
        None => vocabulary::templates(header),
    };
    let vocabulary = vocabulary::vocabulary(&model, &tokenizer, header, &templates);
    let special_tokens = vocabulary::special_tokens(&model, header);
    let template = match plan.pipeline {
        Pipeline::Text => load_template(spec, templates, special_tokens.clone(), &vocabulary)?,
        Pipeline::Embedding => None,
    };
    progress("loading", 1.0);
    let reading_limit = spec.options.max_prompt_seconds;
    Ok(LoadedFile {
        model,
        tokenizer,
        text_model: TextModel {
            vocabulary: Arc::new(vocabulary),
            template,
            context: plan.context as usize,
            reading_limit: reading_limit
                .map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.into())),
        },
        adapter_base: AdapterBase {
            source: source_path(spec)?.to_owned(),
            special_tokens,
        },
        pipeline: plan.pipeline,
        file_defaults: file_defaults::read(&files, &inspection),
        plan,
        expected_memory,
    })
}

/// The number of threads that this process may compute with: the agent says so in the variable that OpenMP reads.
pub(super) fn threads() -> u32 {
    let given = std::env::var("OMP_NUM_THREADS").ok();
    let given = given.and_then(|threads| threads.parse().ok());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    given.unwrap_or_else(|| u32::try_from(cores()).unwrap_or(1))
}

/// Turns what llama.cpp has logged into an error.
fn explain(header: &GgufHeader, problem: String) -> LoadError {
    if problem.contains("unknown model architecture") {
        let name = header
            .architecture()
            .unwrap_or("(the GGUF file names none)");
        return LoadError::Architecture {
            engine: EngineKind::Llama,
            name: name.to_owned(),
        };
    }
    LoadError::Engine(problem)
}

//! A model that llama.cpp has loaded.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use async_trait::async_trait;
use flotilla_core::generate::{
    EmbedInput, EmbedRequest, Embeddings, FileDefaults, GenerateInput, GenerateRequest,
    RequestError,
};
use flotilla_core::spec::{KvCacheType, Model, Pipeline};
use futures::StreamExt;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType as EngineCacheType, LlamaContextParams};
use llama_cpp_2::model::LlamaModel as EngineModel;

use super::adapter::Adapters;
use super::adapter_load::{self, AdapterBase};
use super::adapter_turns::AdapterId;
use super::backend::{backend, with_first_error};
use super::choice::ChoiceTask;
use super::decoder::{Command, Decoder};
use super::embedder::{EmbedTask, Embedder, MAX_INPUTS};
use super::engine_thread::EngineThread;
use super::load::LoadedFile;
use super::load_plan::LoadPlan;
use super::pooling::Pooling;
use super::prefix_cache::Reuse;
use super::thread_status::ThreadStatus;
use super::tokenizer::Tokenizer;
use crate::text::preparation::Preparation;
use crate::text::prepared_request::PreparedRequest;
use crate::text::text_model::TextModel;
use crate::text::token_ids;
use crate::warm_up::warm_up;
use crate::{GenerateEvents, LoadError, LoadedModel};

/// llama.cpp's numbers for the use of flash attention.
const FLASH_ATTENTION_OFF: i32 = 0;
const FLASH_ATTENTION_ON: i32 = 1;

/// A model with its own thread.
pub(super) struct LlamaModel {
    worker: Worker,
    text_model: Arc<TextModel>,
    tokenizer: Arc<Tokenizer>,
    preparation: Preparation,
    vocabulary_size: u32,
    sequences: u32,
    file_defaults: FileDefaults,
    /// What its adapters need.
    adapter_base: Arc<AdapterBase>,
    /// The adapter that this is. `None`: it is the model itself, with which the thread ends.
    adapter: Option<AdapterId>,
}

/// The thread of a model.
#[derive(Clone)]
enum Worker {
    Text(Arc<EngineThread<Command>>),
    Embedding(Arc<EngineThread<EmbedTask>>),
}

impl LlamaModel {
    /// Starts the thread of a loaded file.
    ///
    /// # Errors
    /// When there is not enough memory for its context.
    pub(super) async fn start(loaded: LoadedFile) -> Result<Self, LoadError> {
        let LoadedFile {
            model,
            tokenizer,
            text_model,
            adapter_base,
            plan,
            pipeline,
            file_defaults,
            ..
        } = loaded;
        let vocabulary_size = model.vocab().n_tokens().max(0).cast_unsigned();
        let end_tokens = text_model.vocabulary.end_tokens.clone();
        let sequences = plan.sequences;
        let limit = sequences as usize;
        let reuse = match model.is_recurrent() || model.is_hybrid() {
            true => Reuse::WholeSequence,
            false => Reuse::AnyBeginning,
        };
        let worker = match pipeline {
            Pipeline::Text => {
                let run = move |owner: &EngineModel,
                                context: LlamaContext<'_>,
                                commands: &Receiver<Command>,
                                status| {
                    let adapters = Adapters::new(owner);
                    Decoder::new(context, limit, reuse, adapters, end_tokens, status).run(commands);
                };
                Worker::Text(Arc::new(start_thread(model, plan, run).await?))
            }
            Pipeline::Embedding => {
                // The plan has refused a file without.
                let pooling = plan.pooling.unwrap_or(Pooling::Mean);
                let run = move |_: &EngineModel,
                                context: LlamaContext<'_>,
                                tasks: &Receiver<EmbedTask>,
                                status| {
                    Embedder::new(context, pooling, status).run(tasks);
                };
                Worker::Embedding(Arc::new(start_thread(model, plan, run).await?))
            }
        };
        Ok(Self {
            worker,
            text_model: Arc::new(text_model),
            tokenizer,
            preparation: Preparation::default(),
            vocabulary_size,
            sequences,
            file_defaults,
            adapter_base: Arc::new(adapter_base),
            adapter: None,
        })
    }

    /// Loads an adapter, which shares the thread.
    async fn start_adapter(&self, adapter: &Model) -> Result<Self, LoadError> {
        let Worker::Text(thread) = &self.worker else {
            let problem = "spec.base: the base makes embeddings, which no adapter changes";
            return Err(LoadError::Spec(problem.into()));
        };
        if self.adapter.is_some() {
            let problem = "spec.base: the base is an adapter itself";
            return Err(LoadError::Spec(problem.into()));
        }
        let (base, base_model) = (self.adapter_base.clone(), self.text_model.clone());
        let resource = adapter.clone();
        let find = move || {
            let text_model = base.text_model(&base_model, &resource.spec)?;
            Ok::<_, LoadError>((text_model, base.find(&resource)?))
        };
        let found = tokio::task::spawn_blocking(find).await;
        let (text_model, file) = found.map_err(|error| LoadError::Engine(error.to_string()))??;
        let stopped = |error: RequestError| LoadError::Engine(error.to_string());
        let (sender, loaded) = tokio::sync::oneshot::channel();
        let command = Command::LoadAdapter {
            file,
            loaded: sender,
        };
        thread.send(command).map_err(stopped)?;
        let loaded = tokio::select! {
            loaded = loaded => loaded.map_err(|_| stopped(thread.stopped()))?,
            error = thread.failed() => Err(stopped(error)),
        };
        Ok(Self {
            adapter: Some(loaded?),
            worker: self.worker.clone(),
            text_model: Arc::new(text_model),
            tokenizer: self.tokenizer.clone(),
            preparation: Preparation::default(),
            vocabulary_size: self.vocabulary_size,
            sequences: self.sequences,
            file_defaults: self.file_defaults.clone(),
            adapter_base: self.adapter_base.clone(),
        })
    }

    fn check_tokens(&self, tokens: &[u32], param: &str) -> Result<(), RequestError> {
        token_ids::check(tokens, param, |token| token < self.vocabulary_size)
    }

    /// Turns the inputs of a request into tokens. All are checked before one is computed.
    async fn embed_inputs(&self, request: &EmbedRequest) -> Result<Vec<Vec<u32>>, RequestError> {
        let param = |index: usize| match request.inputs.len() {
            1 => "input".to_owned(),
            _ => format!("input[{index}]"),
        };
        for (index, input) in request.inputs.iter().enumerate() {
            if let EmbedInput::Tokens(tokens) = input {
                self.check_tokens(tokens, &param(index))?;
            }
        }
        let inputs = request.inputs.clone();
        let params: Vec<String> = (0..inputs.len()).map(param).collect();
        let model = self.text_model.clone();
        let split = move || {
            let inputs = inputs.iter().zip(&params);
            inputs
                .map(|(input, param)| model.embed_tokens(input, param))
                .collect()
        };
        self.preparation.run(split).await
    }
}

#[async_trait]
impl LoadedModel for LlamaModel {
    fn concurrency(&self) -> Option<u32> {
        Some(self.sequences)
    }

    fn has_prefix_cache(&self) -> bool {
        matches!(self.worker, Worker::Text(_))
    }

    fn embed_batch(&self) -> usize {
        MAX_INPUTS
    }

    fn file_defaults(&self) -> Option<FileDefaults> {
        matches!(self.worker, Worker::Text(_)).then(|| self.file_defaults.clone())
    }

    fn context_length(&self) -> Option<u32> {
        u32::try_from(self.text_model.context).ok()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        let Worker::Text(thread) = &self.worker else {
            return Err(RequestError::invalid(
                "model",
                format!(
                    "The model '{}' makes embeddings and cannot generate text.",
                    request.model
                ),
            ));
        };
        if let GenerateInput::Tokens(tokens) = &request.input {
            self.check_tokens(tokens, "prompt")?;
        }
        let model = self.text_model.clone();
        let may_take_long = PreparedRequest::may_take_long(&request);
        let speed = thread.reading_speed();
        let prepare = move || PreparedRequest::new(request, &model, speed);
        let prepared = match may_take_long {
            true => self.preparation.run(prepare).await,
            false => prepare(),
        };
        let prepared = prepared.map_err(|error| thread.explain(error))?;
        let choice = ChoiceTask {
            adapter: self.adapter,
            prepared,
            model: self.text_model.clone(),
            tokenizer: self.tokenizer.clone(),
            thread: thread.clone(),
        };
        Ok(choice.events().boxed())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        let Worker::Embedding(thread) = &self.worker else {
            return Err(RequestError::invalid(
                "model",
                format!("The model '{}' does not make embeddings.", request.model),
            ));
        };
        let inputs = self.embed_inputs(&request).await;
        let inputs = inputs.map_err(|error| thread.explain(error))?;
        let prompt_tokens = inputs.iter().map(|tokens| tokens.len() as u32).sum();
        let (sender, vectors) = tokio::sync::oneshot::channel();
        thread.send(EmbedTask {
            inputs,
            vectors: sender,
        })?;
        let vectors = tokio::select! {
            vectors = vectors => vectors.map_err(|_| thread.stopped())??,
            error = thread.failed() => return Err(error),
        };
        Ok(Embeddings {
            vectors,
            prompt_tokens,
            ..Embeddings::default()
        })
    }

    async fn check_embed(&self, request: &EmbedRequest) -> Result<(), RequestError> {
        self.embed_inputs(request).await.map(drop)
    }

    fn fault(&self) -> Option<String> {
        match &self.worker {
            Worker::Text(thread) => thread.fault(),
            Worker::Embedding(thread) => thread.fault(),
        }
    }

    async fn load_adapter(&self, adapter: &Model) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let loaded = self.start_adapter(adapter).await?;
        let has_template = loaded.text_model.template.is_some();
        let timeout = adapter_load::TIMEOUT;
        let warmed = warm_up(
            &loaded,
            adapter.name(),
            Pipeline::Text,
            has_template,
            timeout,
        )
        .await;
        if let Err(error) = warmed {
            loaded.unload().await;
            return Err(error);
        }
        Ok(Arc::new(loaded))
    }

    async fn unload(&self) {
        if let (Worker::Text(thread), Some(id)) = (&self.worker, self.adapter) {
            let (removed, is_removed) = tokio::sync::oneshot::channel();
            // A thread that has ended has freed it.
            if thread.send(Command::RemoveAdapter { id, removed }).is_ok() {
                let _ = is_removed.await;
            }
            return;
        }
        match &self.worker {
            Worker::Text(thread) => thread.end().await,
            Worker::Embedding(thread) => thread.end().await,
        }
    }
}

/// Starts a thread that owns the model and a context of it, and runs `run` with them.
async fn start_thread<T: Send + 'static>(
    model: Arc<EngineModel>,
    plan: LoadPlan,
    run: impl for<'model> FnOnce(
        &'model EngineModel,
        LlamaContext<'model>,
        &Receiver<T>,
        Arc<ThreadStatus>,
    ) + Send
    + 'static,
) -> Result<EngineThread<T>, LoadError> {
    let (sender, tasks) = channel();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let status = Arc::new(ThreadStatus::new());
    let thread_status = status.clone();
    let thread = std::thread::Builder::new()
        .name("llama".into())
        .spawn(move || match context(&model, &plan) {
            Ok(context) => {
                // Without a receiver nobody sends a task either.
                let _ = ready.send(Ok(()));
                run(&model, context, &tasks, thread_status);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        });
    let thread = thread.map_err(|error| LoadError::Engine(error.to_string()))?;
    let stopped = |_| LoadError::Engine("the engine thread has stopped".into());
    is_ready.await.map_err(stopped)??;
    Ok(EngineThread::new(sender, thread, status))
}

fn context<'model>(
    model: &'model EngineModel,
    plan: &LoadPlan,
) -> Result<LlamaContext<'model>, LoadError> {
    let threads = i32::try_from(plan.threads).unwrap_or(i32::MAX);
    let cache_type = match plan.kv_cache_type {
        KvCacheType::F32 => EngineCacheType::F32,
        KvCacheType::F16 => EngineCacheType::F16,
        KvCacheType::Q8 => EngineCacheType::Q8_0,
        KvCacheType::Q4 => EngineCacheType::Q4_0,
    };
    let is_embedding = plan.pipeline == Pipeline::Embedding;
    let sequences = match plan.pipeline {
        Pipeline::Text => plan.sequences,
        Pipeline::Embedding => MAX_INPUTS as u32,
    };
    let mut params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(plan.cached_tokens()))
        .with_n_batch(plan.batch)
        .with_n_ubatch(plan.batch)
        .with_n_seq_max(sequences)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_type_k(cache_type)
        .with_type_v(cache_type)
        .with_embeddings(is_embedding)
        // Without layers there the accelerator would still take large products.
        .with_offload_kqv(!plan.is_on_cpu())
        .with_op_offload(!plan.is_on_cpu())
        .with_kv_unified(plan.has_unified_cache());
    if let Some(is_on) = plan.flash_attention {
        params = params.with_flash_attention_policy(match is_on {
            true => FLASH_ATTENTION_ON,
            false => FLASH_ATTENTION_OFF,
        });
    }
    let backend = backend()?;
    let (context, problem) = with_first_error(|| model.new_context(backend, params));
    context.map_err(|error| match problem {
        Some(problem) if problem.contains("cache") => {
            LoadError::Spec(format!("spec.options.kvCacheType: {problem}"))
        }
        problem => LoadError::Engine(problem.unwrap_or_else(|| error.to_string())),
    })
}

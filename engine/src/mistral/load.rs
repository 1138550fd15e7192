//! Loads a model and reports the progress.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_core::Bytes;
use flotilla_core::generate::FileDefaults;
use flotilla_core::spec::{self, ModelSpec};
use futures::FutureExt;
use mistralrs::Model;
use mistralrs_core::Request;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::mpsc;

use super::built_model::{BuiltModel, WeightsWatch};
use super::device;
use super::load_plan::LoadPlan;
use super::pipeline_text::PipelineText;
use super::{architectures, memory};
use crate::files::file_defaults;
use crate::files::inspection::{self, Inspection};
use crate::text::load_template::load_template;
use crate::text::text_model::TextModel;
use crate::{LoadError, LoadProgress};

/// How long a load may take. mistral.rs cannot be interrupted: a load that takes longer continues in its
/// thread, and its result is dropped.
const LOAD_TIMEOUT: Duration = Duration::from_secs(1_800);
/// The context length that is assumed when the model does not state its own, in tokens.
const DEFAULT_CONTEXT: usize = 4_096;
/// How long the reading of one prompt may take where the spec does not say.
const READING_LIMIT: Duration = Duration::from_secs(120);
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A loaded model with what requests to it need.
pub(super) struct LoadedEngine {
    pub(super) model: Model,
    pub(super) weights: WeightsWatch,
    /// The channel to the engine thread.
    pub(super) sender: mpsc::Sender<Request>,
    pub(super) pipeline: spec::Pipeline,
    /// The number of sequences that are computed at once.
    pub(super) sequences: usize,
    pub(super) text_model: TextModel,
    /// What the model's files say about sampling and about the context.
    pub(super) file_defaults: FileDefaults,
    /// The memory that the model should take.
    pub(super) expected_memory: Bytes,
    /// The time that the load may still take.
    pub(super) remaining_time: Duration,
}

/// Loads the model of a spec on its own thread.
pub(super) async fn load(
    spec: &ModelSpec,
    progress: LoadProgress,
) -> Result<LoadedEngine, LoadError> {
    let began = Instant::now();
    if spec.uses_accelerator() && device::seems_to_have_accelerator() {
        // The driver compiles kernels that the build has no machine code of, the first time for half a minute.
        progress("preparing the GPU", 0.0);
    } else {
        progress("loading", 0.0);
    }
    let expected = Arc::<AtomicU64>::default();
    let runtime = tokio::runtime::Handle::current();
    let (thread_spec, thread_expected) = (spec.clone(), expected.clone());
    let build = tokio::task::spawn_blocking(move || {
        let plan = LoadPlan::new(&thread_spec, device::has_accelerator())?;
        let inspection = Inspection::of(&plan.files)?;
        architectures::check(&inspection, plan.pipeline)?;
        plan.check_device(&inspection)?;
        let memory = match thread_spec.memory {
            Some(memory) => memory,
            None => memory::expected(&plan, &inspection)?,
        };
        thread_expected.store(memory.0, Ordering::Relaxed);
        let file_defaults = file_defaults::read(&plan.files, &inspection);
        // A panic in the engine must not stop the process.
        let build = AssertUnwindSafe(plan.clone().build(&inspection));
        let problem = match runtime.block_on(build.catch_unwind()) {
            Ok(Ok(built)) => return Ok((plan, built, file_defaults)),
            Ok(Err(error)) => first_line(&error),
            Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
        };
        Err(inspection::explain(&plan.files, problem))
    });
    let (plan, built, file_defaults) = tokio::select! {
        built = build => built.map_err(|error| LoadError::Engine(error.to_string()))??,
        () = report_progress(&expected, &progress) => {
            return Err(LoadError::Timeout(LOAD_TIMEOUT.as_secs()));
        }
    };
    let BuiltModel {
        model,
        weights,
        text,
    } = built;
    let PipelineText {
        vocabulary,
        templates,
        special_tokens,
    } = text;
    let template = match plan.pipeline {
        spec::Pipeline::Text => load_template(spec, templates, special_tokens, &vocabulary)?,
        spec::Pipeline::Embedding => None,
    };
    progress("loading", 1.0);
    let stated = model.max_sequence_length().ok().flatten();
    let file_defaults = FileDefaults {
        context: stated.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)),
        ..file_defaults
    };
    let context = plan.context(stated.unwrap_or(DEFAULT_CONTEXT) as u64)?;
    let sender = model
        .inner()
        .get_sender(None)
        .map_err(|e| LoadError::Engine(e.to_string()))?;
    Ok(LoadedEngine {
        model,
        weights,
        sender,
        pipeline: plan.pipeline,
        sequences: plan.sequences,
        text_model: TextModel {
            vocabulary: Arc::new(vocabulary),
            template,
            context: usize::try_from(context).unwrap_or(usize::MAX),
            reading_limit: spec
                .options
                .max_prompt_seconds
                .map_or(READING_LIMIT, |seconds| Duration::from_secs(seconds.into())),
        },
        file_defaults,
        expected_memory: Bytes(expected.load(Ordering::Relaxed)),
        remaining_time: LOAD_TIMEOUT.saturating_sub(began.elapsed()),
    })
}

/// Reports the progress of a load until it times out. mistral.rs reports none: the growth of the process
/// is compared with the memory that the model should take.
/// `expected` is that memory in bytes, 0 until it is known.
async fn report_progress(expected: &AtomicU64, progress: &LoadProgress) {
    let mut memory = ProcessMemory::new();
    let start = memory.resident();
    let report = async {
        loop {
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            let expected = match expected.load(Ordering::Relaxed) {
                0 => continue,
                expected => expected,
            };
            let growth = memory.resident().saturating_sub(start);
            let fraction = growth.0 as f64 / expected as f64;
            progress("loading", fraction.min(0.99) as f32);
        }
    };
    let _: Result<(), _> = tokio::time::timeout(LOAD_TIMEOUT, report).await;
}

/// Measures the memory of this process.
struct ProcessMemory {
    /// `None` on a system that reports no processes.
    process: Option<(System, Pid)>,
}

impl ProcessMemory {
    fn new() -> Self {
        let system = System::new().ok();
        Self {
            process: system.zip(sysinfo::get_current_pid().ok()),
        }
    }

    /// Returns the memory of the process that is in RAM. Zero if the system does not report it.
    fn resident(&mut self) -> Bytes {
        let Some((system, pid)) = &mut self.process else {
            return Bytes(0);
        };
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[*pid]),
            false,
            ProcessRefreshKind::nothing().with_memory(),
        );
        let process = system.process(*pid);
        Bytes(process.map_or(0, sysinfo::Process::memory))
    }
}

/// The text of a panic.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let line = text.and_then(|text| text.lines().next());
    line.unwrap_or("the log has more")
}

/// The first line of an error. mistral.rs appends backtraces.
fn first_line(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_process_is_reported() {
        assert!(ProcessMemory::new().resident() > Bytes(1 << 20));
    }
}

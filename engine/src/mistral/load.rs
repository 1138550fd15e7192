//! Loads a model and reports the progress.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::generate::FileDefaults;
use flotilla_core::spec::{self, ModelSpec};
use futures::FutureExt;
use mistralrs::Model;
use mistralrs_core::Request;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::mpsc;

use super::built_model::{BuiltModel, WeightsWatch};
use super::load_plan::LoadPlan;
use super::vocabulary::Vocabulary;
use super::{file_defaults, template_args, weights_size};
use crate::{LoadError, LoadProgress};

/// How long a load may take. mistral.rs cannot be interrupted: a load that takes longer continues in its
/// thread, and its result is dropped.
const LOAD_TIMEOUT: Duration = Duration::from_secs(1_800);
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A loaded model with what requests to it need.
pub(super) struct LoadedEngine {
    pub(super) model: Model,
    pub(super) weights: WeightsWatch,
    /// The channel to the engine thread.
    pub(super) sender: mpsc::Sender<Request>,
    pub(super) pipeline: spec::Pipeline,
    /// The context length in tokens. `None` if the model does not state it.
    pub(super) context: Option<usize>,
    pub(super) vocabulary: Vocabulary,
    /// The text of the chat template. Empty if the model has none.
    pub(super) template: String,
    /// What the model's files say about sampling.
    pub(super) file_defaults: FileDefaults,
}

/// Loads the model of a spec on its own thread.
pub(super) async fn load(
    spec: &ModelSpec,
    progress: LoadProgress,
) -> Result<LoadedEngine, LoadError> {
    let plan = LoadPlan::new(spec)?;
    let expected = weights_size::estimate(spec).await?;
    let pipeline = plan.pipeline;
    progress("loading", 0.0);
    let runtime = tokio::runtime::Handle::current();
    let build = tokio::task::spawn_blocking(move || {
        let file_defaults = file_defaults::read(&plan.files);
        // A panic in the engine must not stop the agent.
        let built = runtime.block_on(AssertUnwindSafe(plan.build()).catch_unwind());
        built.map(|built| built.map(|built| (built, file_defaults)))
    });
    let (built, file_defaults) = tokio::select! {
        built = build => match built {
            Ok(Ok(Ok(built))) => built,
            Ok(Ok(Err(error))) => return Err(LoadError::Engine(first_line(&error))),
            Ok(Err(_)) | Err(_) => {
                return Err(LoadError::Engine("it panicked; the agent's log has more".into()));
            }
        },
        () = report_progress(expected, &progress) => {
            return Err(LoadError::Timeout(LOAD_TIMEOUT.as_secs()));
        }
    };
    let BuiltModel {
        model,
        weights,
        vocabulary,
        template,
    } = built;
    if pipeline == spec::Pipeline::Text {
        template_args::check_defaults(&spec.defaults.chat_template_args, &template)?;
    }
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
        vocabulary,
        template,
        file_defaults,
    })
}

/// Reports the progress of a load until it times out. mistral.rs reports none: the growth of the process
/// is compared with the memory that the model should take.
async fn report_progress(expected: Bytes, progress: &LoadProgress) {
    let mut memory = ProcessMemory::new();
    let start = memory.resident();
    let report = async {
        loop {
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            let growth = memory.resident().saturating_sub(start);
            let fraction = growth.0 as f64 / expected.0.max(1) as f64;
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

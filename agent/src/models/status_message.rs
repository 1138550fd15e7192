//! The status of a model as a message to controllers.

use flotilla_engine::StuckProcess;
use flotilla_proto::v1::{ModelPhase, ModelStatus};

use super::InstanceError;
use super::instance::{InstancePhase, ModelInstance};

/// Builds the status of a model from its current instance, the one that will replace it, and a process of a retired
/// one that cannot be ended.
pub(super) fn status_message(
    current: &ModelInstance,
    next: Option<&ModelInstance>,
    retired: Option<StuckProcess>,
) -> ModelStatus {
    let mut message = ModelStatus {
        replacement: next.map(|next| Box::new(instance_message(next))),
        ..instance_message(current)
    };
    if let Some(process) = retired.filter(|_| message.error.is_empty()) {
        set_error(&mut message, &process.into());
    }
    message
}

fn set_error(message: &mut ModelStatus, error: &InstanceError) {
    message.error = error.to_string();
    error.remedy().clone_into(&mut message.remedy);
}

fn instance_message(instance: &ModelInstance) -> ModelStatus {
    let mut message = ModelStatus {
        name: instance.model.to_string(),
        revision: instance.revision.0,
        memory_bytes: instance.phase.memory().0,
        on_device: instance.on_device,
        gpu: instance.gpu,
        ..ModelStatus::default()
    };
    let phase = match &instance.phase {
        // Controllers place the model elsewhere meanwhile.
        _ if let Some(process) = instance.stuck => {
            set_error(&mut message, &process.into());
            ModelPhase::Failed
        }
        InstancePhase::Waiting if let Some(base) = &instance.base => {
            message.loading_stage = format!("waiting for its base {}", base.name);
            ModelPhase::Loading
        }
        InstancePhase::Waiting | InstancePhase::Checking => {
            "checking".clone_into(&mut message.loading_stage);
            ModelPhase::Loading
        }
        InstancePhase::Checked { .. } => {
            "waiting for memory".clone_into(&mut message.loading_stage);
            ModelPhase::Loading
        }
        InstancePhase::Fetching => ModelPhase::Fetching,
        InstancePhase::Loading { .. } => ModelPhase::Loading,
        InstancePhase::Ready { .. } => ModelPhase::Ready,
        InstancePhase::LoadCancelled { .. }
        | InstancePhase::Draining { .. }
        | InstancePhase::Gone => ModelPhase::Draining,
        // It is coming back, so that requests may wait for it.
        InstancePhase::Ending { .. } => {
            "restarting".clone_into(&mut message.loading_stage);
            ModelPhase::Loading
        }
        InstancePhase::Restarting(error) => {
            "restarting".clone_into(&mut message.loading_stage);
            set_error(&mut message, error);
            ModelPhase::Loading
        }
        InstancePhase::Failed(error) => {
            set_error(&mut message, error);
            if let InstanceError::Memory { needed, .. }
            | InstanceError::DeviceMemory { needed, .. } = error
            {
                message.required_memory_bytes = needed.0;
            }
            ModelPhase::Failed
        }
    };
    message.phase = phase.into();
    message
}

//! A model that mistral.rs has built, with what is read from its pipeline before the engine owns it.

use std::sync::Weak;

use mistralrs::Model;
use mistralrs_core::Pipeline;
use tokio::sync::Mutex;

use super::pipeline_text::PipelineText;

/// Has no strong reference left once the engine thread has dropped the weights.
pub(super) type WeightsWatch = Weak<Mutex<dyn Pipeline>>;

/// A model with its engine thread running.
pub(super) struct BuiltModel {
    pub(super) model: Model,
    pub(super) weights: WeightsWatch,
    pub(super) text: PipelineText,
}

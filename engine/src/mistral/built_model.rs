//! A model that mistral.rs has built, with what is read from its pipeline before the engine owns it.

use std::sync::Weak;

use mistralrs::Model;
use mistralrs_core::Pipeline;
use tokio::sync::Mutex;

/// Returns the text of a token. Special tokens have a text too; a token that is only a part of a
/// character has the replacement character.
pub(super) type TokenText = Box<dyn Fn(u32) -> String + Send + Sync>;

/// Has no strong reference left once the engine thread has dropped the weights.
pub(super) type WeightsWatch = Weak<Mutex<dyn Pipeline>>;

/// A model with its engine thread running.
pub(super) struct BuiltModel {
    pub(super) model: Model,
    pub(super) weights: WeightsWatch,
    pub(super) token_text: TokenText,
}

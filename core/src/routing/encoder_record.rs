//! The record of how an encoder was used to classify a request.

use serde::{Deserialize, Serialize};

use super::NearestExample;
use crate::energy::EnergySources;
use crate::{Joules, ModelName, NodeName, TaskName};

/// How the encoder was used for a request that the classifier was unsure of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderRecord {
    /// The model that makes vectors of texts.
    pub model: ModelName,
    /// The node that the text was sent to. `None` if it was sent to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Whether its classification replaces that of the classifier, or why not.
    pub outcome: EncoderOutcome,
    /// How long the request waited for it, in milliseconds.
    pub duration_ms: f64,
    /// The energy that it took. `None` if nothing was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// The sources of the joules, such as `rapl+nvml` or `estimate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_source: Option<EnergySources>,
    /// What it found. `None` unless it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<EncoderTask>,
    /// Why it failed; for a request that is held to privacy zones only the kind of the error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The task that a request has by its vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EncoderTask {
    /// The most probable task.
    pub best_task: TaskName,
    /// The probability that it is the right one, 0 to 1.
    pub confidence: f32,
    /// The confidence below which the default task is chosen instead.
    pub threshold: f32,
    /// Whether the confidence was too low, so that the default task was chosen.
    pub abstained: bool,
    /// The example of the best task whose vector is nearest to that of the request, with the cosine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearestExample>,
}

/// Whether an encoder was used for a request, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderOutcome {
    /// Its classification replaces that of the classifier.
    Used,
    /// It did not answer in time.
    Timeout,
    /// Too many requests use it, or it has just been too slow for three in a row.
    Busy,
    /// No replica of the model is ready.
    Unavailable,
    /// No replica is in the privacy zones that the request may enter.
    Zone,
    /// It is not trained on the tasks as they are, or on the revision that the replica serves.
    NotTrained,
    /// The attempt failed.
    Failed,
}

impl EncoderOutcome {
    /// The name in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Zone => "zone",
            Self::NotTrained => "not_trained",
            Self::Failed => "failed",
        }
    }
}

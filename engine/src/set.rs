//! One engine of each kind.

use flotilla_core::spec::EngineKind;

use crate::{Engine, LoadError, MistralEngine, SimulatedEngine, UpstreamEngine};

/// One engine of each kind.
pub struct EngineSet {
    mistral: MistralEngine,
    upstream: UpstreamEngine,
    simulated: SimulatedEngine,
}

impl EngineSet {
    /// Creates all engines, with no model loaded. The simulated engine runs `simulated_slowdown`
    /// times slower than a model's spec says.
    ///
    /// # Errors
    /// When the HTTP client of [`UpstreamEngine`] cannot be set up.
    pub fn new(simulated_slowdown: f64) -> Result<Self, LoadError> {
        Ok(Self {
            mistral: MistralEngine::default(),
            upstream: UpstreamEngine::new()?,
            simulated: SimulatedEngine {
                slowdown: simulated_slowdown,
            },
        })
    }

    /// Returns the engine of this kind.
    #[must_use]
    pub fn get(&self, kind: EngineKind) -> &dyn Engine {
        match kind {
            EngineKind::Mistral => &self.mistral,
            EngineKind::Upstream => &self.upstream,
            EngineKind::Simulated => &self.simulated,
        }
    }
}

//! The engines of an agent, one for each kind.

use flotilla_core::spec::EngineKind;
use flotilla_engine::{Engine, LoadError, SimulatedEngine, UpstreamEngine, UpstreamSecret};

/// One engine for each kind.
pub(crate) struct Engines {
    /// For the engines that compute: each model in a process of its own.
    runners: Box<dyn Engine>,
    upstream: UpstreamEngine,
    simulated: SimulatedEngine,
}

impl Engines {
    /// Creates all engines, with no model loaded. The simulated engine runs `simulated_slowdown` times
    /// slower than a model's spec says. Models of servers may use `upstream_secrets`.
    ///
    /// # Errors
    /// When the HTTP client of [`UpstreamEngine`] cannot be set up.
    pub(crate) fn new(
        runners: impl Engine + 'static,
        simulated_slowdown: f64,
        upstream_secrets: Vec<UpstreamSecret>,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            runners: Box::new(runners),
            upstream: UpstreamEngine::new(upstream_secrets)?,
            simulated: SimulatedEngine {
                slowdown: simulated_slowdown,
            },
        })
    }

    /// Returns the engine of this kind.
    pub(crate) fn get(&self, kind: EngineKind) -> &dyn Engine {
        match kind {
            EngineKind::Auto | EngineKind::Llama | EngineKind::Mistral => &*self.runners,
            EngineKind::Upstream => &self.upstream,
            EngineKind::Simulated => &self.simulated,
        }
    }
}

//! The machine whose energy is accounted for.

use std::path::PathBuf;
use std::sync::Arc;

use flotilla_core::energy::PowerRange;

use crate::power::Gpus;

/// The machine whose energy is accounted for.
pub struct AccountingSetup {
    /// The root of the file system that has `/proc` and `/sys`: `/`, except in tests.
    pub root: PathBuf,
    /// Access to the GPUs of the machine.
    pub gpus: Arc<dyn Gpus>,
    /// Power draw of the machine as configured. `None`: guessed from `cores`.
    pub power: Option<PowerRange>,
    /// Number of CPU cores, for the guess of the power draw.
    pub cores: u32,
    /// Number of agents that share the machine; each reports an even share of its energy.
    pub agents: u32,
}

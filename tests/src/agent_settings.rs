//! How an agent of a cluster is started.

use std::net::SocketAddr;

use flotilla_agent::energy_accounting::EnergyAccounting;

/// The settings of one agent. A name alone is enough: `"n1".into()`.
pub struct AgentSettings {
    pub(crate) name: String,
    pub(crate) memory: Option<u64>,
    pub(crate) energy_accounting: Option<EnergyAccounting>,
    pub(crate) controller: Option<SocketAddr>,
    pub(crate) args: Vec<String>,
}

impl AgentSettings {
    /// Settings of an agent whose node has this name, with everything else at its default.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory: None,
            energy_accounting: None,
            controller: None,
            args: Vec::new(),
        }
    }

    /// Sets the memory for models, in bytes. The default is what the machine has.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        Self {
            memory: Some(bytes),
            ..self
        }
    }

    /// Sets the address of the controller that the agent joins. The default is the cluster's own
    /// controller.
    #[must_use]
    pub fn controller(self, link: SocketAddr) -> Self {
        Self {
            controller: Some(link),
            ..self
        }
    }

    /// Sets the energy accounting, and with it the power meters. Only for agents in the test's process;
    /// the default is none.
    #[must_use]
    pub fn energy_accounting(self, energy_accounting: EnergyAccounting) -> Self {
        Self {
            energy_accounting: Some(energy_accounting),
            ..self
        }
    }

    /// Adds command-line arguments. Only for agents that are processes.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }
}

impl From<&str> for AgentSettings {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

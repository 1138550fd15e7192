//! How a cluster is put together before it starts.

use std::net::SocketAddr;

use flotilla_controller::StoreAddress;

use crate::member::ControllerSettings;
use crate::{AgentSettings, Cluster, any_port};

/// Where the members of a cluster run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the test's process: fast to start, and a debugger sees all of it.
    InProcess,
    /// As processes of the real binary, which take arguments and can be killed.
    Processes,
}

/// Describes a cluster of one controller and any number of agents. By default it runs in the test's
/// process, with an embedded store and without agents.
///
/// ```no_run
/// # use flotilla_tests::{AgentSettings, Cluster, Mode};
/// # async fn example() {
/// let cluster = Cluster::builder()
///     .mode(Mode::Processes)
///     .controller_args(&["--record-prompts"])
///     .agents(["n1", "n2"])
///     .agent(AgentSettings::new("n3").args(&["--zone", "clinic"]))
///     .start()
///     .await;
/// # cluster.stop().await;
/// # }
/// ```
#[must_use]
pub struct ClusterBuilder {
    mode: Mode,
    store: Option<StoreAddress>,
    link: SocketAddr,
    controller_args: Vec<String>,
    require_keys: bool,
    env: Vec<(String, String)>,
    agents: Vec<AgentSettings>,
}

impl ClusterBuilder {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::InProcess,
            store: None,
            link: any_port(),
            controller_args: Vec::new(),
            require_keys: false,
            env: Vec::new(),
            agents: Vec::new(),
        }
    }

    /// Sets where the members run.
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Sets the store. The default is an embedded one in the cluster's directory.
    pub fn store(self, store: StoreAddress) -> Self {
        Self {
            store: Some(store),
            ..self
        }
    }

    /// Sets the address on which the controller listens for agents. The default is any free port of
    /// loopback.
    pub fn link(self, link: SocketAddr) -> Self {
        Self { link, ..self }
    }

    /// Adds command-line arguments of the controller. Only for clusters of processes.
    pub fn controller_args(mut self, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned());
        self.controller_args.extend(args);
        self
    }

    /// Has the controller require API keys. [`Cluster::api`] uses its admin socket then. Only for clusters of
    /// processes.
    pub fn require_keys(self) -> Self {
        Self {
            require_keys: true,
            ..self.controller_args(&["--require-keys"])
        }
    }

    /// Adds variables to the environment of all members. Only for clusters of processes.
    pub fn env(mut self, variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.env.extend(variables.iter().map(owned));
        self
    }

    /// Adds an agent.
    pub fn agent(mut self, agent: impl Into<AgentSettings>) -> Self {
        self.agents.push(agent.into());
        self
    }

    /// Adds agents, usually by their names.
    pub fn agents<A: Into<AgentSettings>>(mut self, agents: impl IntoIterator<Item = A>) -> Self {
        self.agents.extend(agents.into_iter().map(Into::into));
        self
    }

    /// Starts the cluster and waits until all its nodes are ready.
    ///
    /// # Panics
    /// Panics if the nodes are not ready before the deadline, or if a cluster in the test's process was
    /// given arguments or variables.
    pub async fn start(self) -> Cluster {
        let takes_settings = self.mode == Mode::Processes;
        assert!(
            takes_settings || (self.controller_args.is_empty() && self.env.is_empty()),
            "arguments and variables need Mode::Processes"
        );
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let embedded = || StoreAddress::Embedded(dir.path().join("controller"));
        let settings = ControllerSettings {
            mode: self.mode,
            store: self.store.unwrap_or_else(embedded),
            http: any_port(),
            link: self.link,
            args: self.controller_args,
            require_keys: self.require_keys,
            env: self.env,
        };
        let mut cluster = Cluster::start_controller(dir, settings).await;
        let names: Vec<_> = self.agents.iter().map(|agent| agent.name.clone()).collect();
        for agent in self.agents {
            cluster.start_agent(agent);
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        cluster.wait_until_ready(&names).await;
        cluster
    }
}

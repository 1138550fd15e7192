//! A whole fleet.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use flotilla_agent::energy_accounting::EnergyAccounting;
use flotilla_controller::StoreAddress;
use tempfile::TempDir;

use crate::member::{self, AgentMember, AgentSettings, ControllerMember};
use crate::process::Process;
use crate::{Api, DEADLINE};

/// Where the members run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In this process: fast, and a debugger sees all of it.
    InProcess,
    /// As processes of the real binary, which can be killed.
    Processes,
}

/// A controller and its agents. Stop it with [`Cluster::stop`], which checks what is left
/// behind; dropping it kills what still runs.
pub struct Cluster {
    mode: Mode,
    dir: TempDir,
    store: StoreAddress,
    controller: Option<ControllerMember>,
    agents: BTreeMap<String, AgentMember>,
    http: SocketAddr,
    link: SocketAddr,
    /// What members that are processes find in their environment.
    variables: Vec<(String, String)>,
}

impl Cluster {
    /// Starts a controller and agents of these names, and waits until all are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start(mode: Mode, agents: &[&str]) -> Self {
        Self::start_on(mode, None, agents).await
    }

    /// Like [`Cluster::start`], with the store given instead of an embedded one.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_on(mode: Mode, store: Option<StoreAddress>, agents: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let embedded = || StoreAddress::Embedded(dir.path().join("controller"));
        let store = store.unwrap_or_else(embedded);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut cluster = Self::begin(mode, dir, store, any, (&[], &[])).await;
        for name in agents {
            cluster.start_agent(name);
        }
        cluster.until_ready(agents).await;
        cluster
    }

    /// Starts processes whose controller tells agents that it is at `proxy`, which leads to
    /// `link`, and waits until agents of these names, which dial it directly, are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_behind(proxy: SocketAddr, link: SocketAddr, agents: &[&str]) -> Self {
        let proxy = proxy.to_string();
        Self::start_processes(link, &["--advertise-link", &proxy], agents).await
    }

    /// Starts processes, the controller with these arguments, and waits until agents of these
    /// names are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_with(arguments: &[&str], agents: &[&str]) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_processes(any, arguments, agents).await
    }

    /// The same with these variables in the environment of all members.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_among(
        variables: &[(&str, &str)],
        arguments: &[&str],
        agents: &[&str],
    ) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: Vec<_> = variables.iter().map(own).collect();
        Self::start_all(any, (arguments, &variables), agents).await
    }

    async fn start_processes(link: SocketAddr, arguments: &[&str], agents: &[&str]) -> Self {
        Self::start_all(link, (arguments, &[]), agents).await
    }

    async fn start_all(
        link: SocketAddr,
        more: (&[&str], &[(String, String)]),
        agents: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = StoreAddress::Embedded(dir.path().join("controller"));
        let mut cluster = Self::begin(Mode::Processes, dir, store, link, more).await;
        for name in agents {
            cluster.start_agent(name);
        }
        cluster.until_ready(agents).await;
        cluster
    }

    async fn begin(
        mode: Mode,
        dir: TempDir,
        store: StoreAddress,
        link: SocketAddr,
        more: (&[&str], &[(String, String)]),
    ) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let started = member::controller(mode, dir.path(), &store, any, link, more);
        let (controller, http, link) = started.await;
        Self {
            mode,
            dir,
            store,
            controller: Some(controller),
            agents: BTreeMap::new(),
            http,
            link,
            variables: more.1.to_vec(),
        }
    }

    /// Starts an agent, or one that was killed before.
    pub fn start_agent(&mut self, name: &str) {
        self.start_agent_with(name, None, &[]);
    }

    /// Starts an agent with this memory for models, in bytes, and more arguments: those only
    /// where members are processes.
    pub fn start_agent_with(&mut self, name: &str, memory: Option<u64>, more: &[&str]) {
        let settings = AgentSettings {
            memory,
            more,
            variables: &self.variables,
            ..AgentSettings::default()
        };
        let agent = member::agent(self.mode, self.dir.path(), name, self.link, settings);
        self.agents.insert(name.to_owned(), agent);
    }

    /// Starts an agent that reads its power meters through `energy_accounting`; only where members run in
    /// this process.
    pub fn start_agent_metered(&mut self, name: &str, energy_accounting: EnergyAccounting) {
        let settings = AgentSettings {
            energy_accounting: Some(energy_accounting),
            ..AgentSettings::default()
        };
        let agent = member::agent(self.mode, self.dir.path(), name, self.link, settings);
        self.agents.insert(name.to_owned(), agent);
    }

    /// Starts an agent that knows the controller by this address only.
    pub fn start_agent_at(&mut self, name: &str, link: SocketAddr) {
        let settings = AgentSettings {
            variables: &self.variables,
            ..AgentSettings::default()
        };
        let agent = member::agent(self.mode, self.dir.path(), name, link, settings);
        self.agents.insert(name.to_owned(), agent);
    }

    /// Waits until nodes of these names are ready.
    pub async fn until_ready(&self, names: &[&str]) {
        let api = self.api();
        self.until(async || {
            let nodes = api.nodes().await;
            names.iter().all(|name| {
                let node = nodes.iter().find(|node| node["metadata"]["name"] == **name);
                node.is_some_and(|node| node["status"]["phase"] == "Ready")
            })
        })
        .await;
    }

    /// The process of an agent.
    ///
    /// # Panics
    /// When there is none of this name, or it runs in this process.
    #[must_use]
    pub fn agent(&self, name: &str) -> &Process {
        match &self.agents[name] {
            AgentMember::Process(process) => process,
            AgentMember::Here(_) => panic!("{name} runs in this process"),
        }
    }

    /// The process of an agent, to read what it says.
    ///
    /// # Panics
    /// When there is none of this name, or it runs in this process.
    pub fn agent_mut(&mut self, name: &str) -> &mut Process {
        match self.agents.get_mut(name) {
            Some(AgentMember::Process(process)) => process,
            _ => panic!("{name} is no process"),
        }
    }

    /// Kills an agent without a word, as a power cut does.
    ///
    /// # Panics
    /// When it runs in this process.
    pub fn kill_agent(&mut self, name: &str) {
        self.agent(name).signal(libc::SIGKILL);
        self.agents.remove(name);
    }

    /// Kills the controller without a word, as a power cut does. [`Cluster::restart_controller`]
    /// starts it again.
    ///
    /// # Panics
    /// When it runs in this process.
    pub fn kill_controller(&mut self) {
        match self.controller.take() {
            Some(ControllerMember::Process(mut process)) => {
                process.signal(libc::SIGKILL);
                // Its ports are free once it has been waited for.
                process.wait();
            }
            _ => panic!("the controller is no process"),
        }
    }

    /// Stops the controller and starts it again on the same ports and store.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn restart_controller(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
        let dir = self.dir.path();
        let more = (&[] as &[&str], self.variables.as_slice());
        let (controller, ..) =
            member::controller(self.mode, dir, &self.store, self.http, self.link, more).await;
        self.controller = Some(controller);
    }

    /// The fleet's API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(self.http)
    }

    /// The API's address.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The address that agents dial.
    #[must_use]
    pub fn link(&self) -> SocketAddr {
        self.link
    }

    /// The API's address as a URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// A place for a test's files, gone with the cluster.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Waits until `condition` holds. The fleet tells of counters only when asked, so this
    /// asks again and again; it is the only place that does.
    ///
    /// # Panics
    /// When it does not hold before the deadline.
    pub async fn until(&self, condition: impl AsyncFn() -> bool) {
        let ask = async {
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(10));
            while !condition().await {
                tick.tick().await;
            }
        };
        if tokio::time::timeout(DEADLINE, ask).await.is_err() {
            let nodes = self.api().nodes().await;
            let models = self.api().models().await;
            panic!("it did not come true; nodes: {nodes:#?} models: {models:#?}");
        }
    }

    /// Stops all members in order and checks that each ended well and freed its ports.
    ///
    /// # Panics
    /// When something is left behind.
    pub async fn stop(mut self) {
        for (_, agent) in std::mem::take(&mut self.agents) {
            agent.stop().await;
        }
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
        for address in [self.http, self.link] {
            std::net::TcpListener::bind(address)
                .unwrap_or_else(|error| panic!("{address} was left in use: {error}"));
        }
    }
}

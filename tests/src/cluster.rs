//! A whole fleet under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use tempfile::TempDir;

use crate::cluster_builder::ClusterBuilder;
use crate::member::{self, AgentMember, ControllerMember, ControllerSettings};
use crate::process::Process;
use crate::{AgentSettings, Api, DEADLINE, holds_in_time, runners};

/// A controller and its agents. [`Cluster::stop`] stops them in order and checks what they leave
/// behind; dropping a cluster kills what still runs.
pub struct Cluster {
    dir: TempDir,
    /// With the addresses on which the controller listens.
    settings: ControllerSettings,
    /// `None` while it is killed.
    controller: Option<ControllerMember>,
    agents: BTreeMap<String, AgentMember>,
}

impl Cluster {
    /// Returns a builder of a cluster. Nothing runs before [`ClusterBuilder::start`].
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    /// Starts the controller of a cluster that has no agents yet.
    pub(crate) async fn start_controller(dir: TempDir, settings: ControllerSettings) -> Self {
        let (controller, http, link) = member::start_controller(dir.path(), &settings).await;
        Self {
            dir,
            settings: ControllerSettings {
                http,
                link,
                ..settings
            },
            controller: Some(controller),
            agents: BTreeMap::new(),
        }
    }

    /// Starts one more agent, or one that was killed, without waiting for its node to be ready.
    ///
    /// # Panics
    /// Panics if the agent does not start, or if its settings do not fit the cluster's mode.
    pub fn start_agent(&mut self, agent: impl Into<AgentSettings>) {
        let agent = agent.into();
        let name = agent.name.clone();
        let member = member::start_agent(self.dir.path(), &self.settings, agent);
        self.agents.insert(name, member);
    }

    /// Returns the process of an agent.
    ///
    /// # Panics
    /// Panics if there is no agent of this name, or if it runs in the test's process.
    #[must_use]
    pub fn agent(&self, name: &str) -> &Process {
        match &self.agents[name] {
            AgentMember::Process(process) => process,
            AgentMember::InProcess(_) => panic!("{name} runs in the test's process"),
        }
    }

    /// Returns the id of the only process that an agent has started for a model.
    ///
    /// # Panics
    /// Panics as [`Cluster::agent`] does, and if there is not exactly one such process.
    #[must_use]
    pub fn runner(&self, agent: &str, model: &str) -> u32 {
        match runners(self.agent(agent).id(), model)[..] {
            [runner] => runner,
            ref others => panic!("{agent} has the processes {others:?} for {model}"),
        }
    }

    /// Returns the process of an agent, to read its output.
    ///
    /// # Panics
    /// Panics as [`Cluster::agent`] does.
    pub fn agent_mut(&mut self, name: &str) -> &mut Process {
        match self.agents.get_mut(name) {
            Some(AgentMember::Process(process)) => process,
            _ => panic!("{name} is not a process"),
        }
    }

    /// Kills an agent without a chance to say goodbye, as a power cut does.
    ///
    /// # Panics
    /// Panics as [`Cluster::agent`] does.
    pub fn kill_agent(&mut self, name: &str) {
        self.agent(name).signal(libc::SIGKILL);
        self.agents.remove(name);
    }

    /// Kills the controller as a power cut does. [`Cluster::restart_controller`] starts it again.
    ///
    /// # Panics
    /// Panics if the controller runs in the test's process or does not run.
    pub fn kill_controller(&mut self) {
        match self.controller.take() {
            Some(ControllerMember::Process(mut process)) => {
                process.signal(libc::SIGKILL);
                // Its ports are free only after it has been waited for.
                process.wait();
            }
            _ => panic!("the controller is not a running process"),
        }
    }

    /// Sends a signal, such as [`libc::SIGTERM`], to the controller.
    ///
    /// # Panics
    /// Panics if the controller runs in the test's process or does not run.
    pub fn signal_controller(&self, signal: i32) {
        match &self.controller {
            Some(ControllerMember::Process(process)) => process.signal(signal),
            _ => panic!("the controller is not a running process"),
        }
    }

    /// Waits for the controller to end and returns its status and all its output. Afterwards it counts
    /// as killed.
    ///
    /// # Panics
    /// Panics if the controller runs in the test's process or does not run, or does not end before the
    /// deadline.
    pub fn wait_for_controller_end(&mut self) -> (ExitStatus, String) {
        match self.controller.take() {
            Some(ControllerMember::Process(mut process)) => process.wait(),
            _ => panic!("the controller is not a running process"),
        }
    }

    /// Stops the controller if it runs, and starts it again with the same settings, ports and store.
    ///
    /// # Panics
    /// Panics if the controller does not start.
    pub async fn restart_controller(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
        let started = member::start_controller(self.dir.path(), &self.settings);
        let (controller, ..) = started.await;
        self.controller = Some(controller);
    }

    /// Returns a client of the fleet's API: on the admin socket where the controller requires API keys.
    #[must_use]
    pub fn api(&self) -> Api {
        match self.settings.require_keys {
            true => Api::on_socket(&self.admin_socket()),
            false => self.tcp_api(),
        }
    }

    /// Returns a client of the fleet's API on its port, without a key.
    #[must_use]
    pub fn tcp_api(&self) -> Api {
        Api::new(self.settings.http)
    }

    /// Returns the path of the controller's admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.path().join("files").join("admin.sock")
    }

    /// Returns the address of the HTTP API.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.settings.http
    }

    /// Returns the address that agents dial.
    #[must_use]
    pub fn link_address(&self) -> SocketAddr {
        self.settings.link
    }

    /// Returns the URL of the HTTP API, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.settings.http)
    }

    /// Returns the directory of the cluster, which also has room for a test's own files. It is deleted
    /// with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until the nodes of these names are ready.
    ///
    /// # Panics
    /// Panics as [`Cluster::wait_until`] does.
    pub async fn wait_until_ready(&self, nodes: &[&str]) {
        let api = self.api();
        self.wait_until(async || {
            let reported = api.nodes().await;
            nodes.iter().all(|name| {
                let node = reported
                    .iter()
                    .find(|node| node["metadata"]["name"] == **name);
                node.is_some_and(|node| node["status"]["phase"] == "Ready")
            })
        })
        .await;
    }

    /// Waits until exactly this many replicas of a model are ready.
    ///
    /// # Panics
    /// Panics as [`Cluster::wait_until`] does.
    pub async fn wait_for_replicas(&self, model: &str, replicas: u64) {
        let api = self.api();
        self.wait_until(async || api.ready_replicas(model).await == replicas)
            .await;
    }

    /// Waits until `condition` holds. The API has no events for most of what tests wait for, so this
    /// checks the condition again and again until the deadline.
    ///
    /// # Panics
    /// Panics if the condition does not hold before [`DEADLINE`] has passed.
    #[track_caller]
    pub fn wait_until(&self, condition: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            if !holds_in_time(condition).await {
                let nodes = self.api().nodes().await;
                let models = self.api().models().await;
                panic!(
                    "the condition at {caller} does not hold after {DEADLINE:?}; nodes: {nodes:#?} models: {models:#?}"
                );
            }
        }
    }

    /// Stops all members in order, agents first, and checks that each ends without an error and frees
    /// its ports.
    ///
    /// # Panics
    /// Panics if a member fails or a port stays in use.
    pub async fn stop(mut self) {
        for (_, agent) in std::mem::take(&mut self.agents) {
            agent.stop().await;
        }
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
        for address in [self.settings.http, self.settings.link] {
            std::net::TcpListener::bind(address)
                .unwrap_or_else(|error| panic!("{address} is still in use: {error}"));
        }
    }
}

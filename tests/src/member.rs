//! One controller or agent of a cluster, in the test's process or as a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use flotilla_agent::{Agent, AgentConfig, DEFAULT_FILE_RETENTION, NodeConfig, RunnerCommand};
use flotilla_controller::artifacts::SourceHosts;
use flotilla_controller::{Controller, ControllerConfig, StoreAddress};
use flotilla_core::NodeName;
use flotilla_telemetry::TelemetrySettings;

use crate::AgentSettings;
use crate::binary::flotilla_binary;
use crate::cluster_builder::Mode;
use crate::process::{Process, address_in_line};

/// How long a stopping member lets its requests finish.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A running controller.
pub(crate) enum ControllerMember {
    InProcess(Box<Controller>),
    Process(Process),
}

/// A running agent.
pub(crate) enum AgentMember {
    InProcess(Agent),
    Process(Process),
}

/// How the controller of a cluster is started.
pub(crate) struct ControllerSettings {
    /// For the agents, too.
    pub(crate) mode: Mode,
    pub(crate) store: StoreAddress,
    /// The address of the HTTP API. Port 0 lets the system choose.
    pub(crate) http: SocketAddr,
    /// The address that agents dial. Port 0 lets the system choose.
    pub(crate) link: SocketAddr,
    /// Whether the controller requires API keys.
    pub(crate) require_keys: bool,
    /// Command-line arguments of a process.
    pub(crate) args: Vec<String>,
    /// Variables in the environment of a process, and of agents that are processes.
    pub(crate) env: Vec<(String, String)>,
}

/// Starts a controller and returns it with the addresses of its HTTP API and for agents.
pub(crate) async fn start_controller(
    dir: &Path,
    settings: &ControllerSettings,
) -> (ControllerMember, SocketAddr, SocketAddr) {
    match settings.mode {
        Mode::InProcess => {
            let config = ControllerConfig {
                model_roots: vec!["/".into()],
                source_hosts: SourceHosts::new(["*", "127.0.0.1"]),
                http: settings.http,
                link: settings.link,
                store: settings.store.clone(),
                data_dir: dir.join("files"),
                stop_grace: STOP_GRACE,
                ..Default::default()
            };
            let controller = Controller::start(config)
                .await
                .expect("the controller starts");
            let (http, link) = (controller.http(), controller.link());
            let member = ControllerMember::InProcess(Box::new(controller));
            (member, http, link)
        }
        Mode::Processes => {
            let store = settings.store.to_string();
            let (http, link) = (settings.http.to_string(), settings.link.to_string());
            let mut args = vec!["controller", "--http", &http, "--link", &link];
            let files = dir.join("files").display().to_string();
            args.extend(["--store", &store]);
            if !settings.args.iter().any(|arg| arg == "--data-dir") {
                args.extend(["--data-dir", &files]);
            }
            for (flag, value) in [("--model-root", "/"), ("--source-host", "127.0.0.1")] {
                if !settings.args.iter().any(|arg| arg == flag) {
                    args.extend([flag, value]);
                }
            }
            args.extend(settings.args.iter().map(String::as_str));
            let mut process = Process::start_with_env(dir, &args, &settings.env);
            let line = process.wait_for_line("ready http=");
            let http = address_in_line(&line, "http");
            let link = address_in_line(&line, "link");
            (ControllerMember::Process(process), http, link)
        }
    }
}

/// Starts an agent that joins the controller with these settings, unless its own say otherwise.
pub(crate) fn start_agent(
    dir: &Path,
    controller: &ControllerSettings,
    agent: AgentSettings,
) -> AgentMember {
    let name = agent.name.as_str();
    let data_dir = dir.join(name);
    let link = agent.controller.unwrap_or(controller.link).to_string();
    match controller.mode {
        Mode::InProcess => {
            assert!(agent.args.is_empty(), "arguments need Mode::Processes");
            let config = AgentConfig {
                model_roots: vec!["/".into()],
                upstream_secrets: Vec::new(),
                node: NodeConfig {
                    labels: [("harness".to_owned(), "yes".to_owned())].into(),
                    memory: agent.memory.map(flotilla_core::Bytes),
                    ..NodeConfig::new(NodeName::new(name).expect("a valid node name"))
                },
                join: vec![link],
                data_dir,
                adopt_fleet: None,
                token: None,
                insecure: false,
                energy_accounting: agent.energy_accounting,
                metrics: None,
                telemetry: TelemetrySettings::DISABLED,
                fetch_rate: None,
                // Enough for the models of tests, however full the machine's disk is.
                disk: Some(flotilla_core::Bytes(1 << 30)),
                disk_agents: 1,
                file_retention: DEFAULT_FILE_RETENTION,
                simulated_slowdown: 1.0,
                drain_timeout: STOP_GRACE,
                runner: RunnerCommand::new(flotilla_binary()),
            };
            AgentMember::InProcess(Agent::start(config).expect("the agent starts"))
        }
        Mode::Processes => {
            assert!(
                agent.energy_accounting.is_none(),
                "energy accounting of a test needs Mode::InProcess"
            );
            let data_dir = data_dir.display().to_string();
            let memory = agent.memory.map(|bytes| bytes.to_string());
            let mut args = vec!["agent", "--join", &link, "--name", name];
            args.extend(["--data-dir", &data_dir, "--drain-timeout", "5"]);
            args.extend(["--label", "harness=yes", "--metrics", "off"]);
            // Enough for the models of tests, however full the machine's disk is.
            if !agent.args.iter().any(|arg| arg == "--disk") {
                args.extend(["--disk", "1GiB"]);
            }
            if !agent.args.iter().any(|arg| arg == "--model-root") {
                args.extend(["--model-root", "/"]);
            }
            args.extend(memory.iter().flat_map(|bytes| ["--memory", bytes]));
            args.extend(agent.args.iter().map(String::as_str));
            AgentMember::Process(Process::start_with_env(dir, &args, &controller.env))
        }
    }
}

impl ControllerMember {
    /// Stops the controller, which must end without an error.
    pub(crate) async fn stop(self) {
        match self {
            Self::InProcess(controller) => controller.stop().await,
            Self::Process(process) => process.stop(),
        }
    }
}

impl AgentMember {
    /// Stops the agent, which must end without an error.
    pub(crate) async fn stop(self) {
        match self {
            Self::InProcess(agent) => agent.stop().await,
            Self::Process(process) => process.stop(),
        }
    }
}

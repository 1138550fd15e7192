//! A controller or an agent, wherever it runs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use flotilla_agent::Agent;
use flotilla_agent::energy_accounting::EnergyAccounting;
use flotilla_controller::{Controller, StoreAddress};
use flotilla_core::NodeName;
use flotilla_telemetry::TelemetrySettings;

use crate::cluster::Mode;
use crate::process::{Process, address};

/// How long a stopping member lets requests go on in tests.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running controller.
pub(crate) enum ControllerMember {
    Here(Box<Controller>),
    Process(Process),
}

/// A running agent.
pub(crate) enum AgentMember {
    Here(Agent),
    Process(Process),
}

/// Starts a controller. Returns it with its HTTP and link address; ports that are 0 are
/// chosen by the system. `more` are arguments and variables for a process.
pub(crate) async fn controller(
    mode: Mode,
    dir: &Path,
    store: &StoreAddress,
    http: SocketAddr,
    link: SocketAddr,
    (more, variables): (&[&str], &[(String, String)]),
) -> (ControllerMember, SocketAddr, SocketAddr) {
    match mode {
        Mode::InProcess => {
            let config = flotilla_controller::ControllerConfig {
                http,
                link,
                store: store.clone(),
                data_dir: dir.join("files"),
                stop_grace: PATIENCE,
                ..Default::default()
            };
            let controller = Controller::start(config)
                .await
                .expect("the controller starts");
            let (http, link) = (controller.http(), controller.link());
            (ControllerMember::Here(Box::new(controller)), http, link)
        }
        Mode::Processes => {
            let store = store.to_string();
            let (http, link) = (http.to_string(), link.to_string());
            let mut args = vec!["controller", "--http", &http, "--link", &link];
            args.extend(["--store", &store]);
            args.extend(more);
            let mut process = Process::start_with(dir, &args, variables);
            let line = process.line_with("ready http=");
            let (http, link) = (address(&line, "http"), address(&line, "link"));
            (ControllerMember::Process(process), http, link)
        }
    }
}

/// How an agent is started.
#[derive(Default)]
pub(crate) struct AgentSettings<'a> {
    /// Memory for models, in bytes.
    pub(crate) memory: Option<u64>,
    /// Its power meters, where it runs in this process.
    pub(crate) energy_accounting: Option<EnergyAccounting>,
    /// Arguments and variables, where it is a process.
    pub(crate) more: &'a [&'a str],
    pub(crate) variables: &'a [(String, String)],
}

/// Starts an agent that joins the controller at `link`.
pub(crate) fn agent(
    mode: Mode,
    dir: &Path,
    name: &str,
    link: SocketAddr,
    settings: AgentSettings<'_>,
) -> AgentMember {
    let AgentSettings {
        memory,
        energy_accounting,
        more,
        variables,
    } = settings;
    let data_dir = dir.join(name);
    match mode {
        Mode::InProcess => {
            let config = flotilla_agent::AgentConfig {
                node: flotilla_agent::NodeConfig {
                    labels: [("harness".to_owned(), "yes".to_owned())].into(),
                    memory: memory.map(flotilla_core::Bytes),
                    ..flotilla_agent::NodeConfig::new(NodeName::new(name).expect("a node name"))
                },
                join: vec![link.to_string()],
                data_dir,
                energy_accounting,
                metrics: None,
                telemetry: TelemetrySettings::DISABLED,
                fetch_rate: None,
                simulated_slowdown: 1.0,
                drain_timeout: PATIENCE,
                return_memory: || {},
            };
            AgentMember::Here(Agent::start(config).expect("the agent starts"))
        }
        Mode::Processes => {
            let data_dir = data_dir.display().to_string();
            let link = link.to_string();
            let memory = memory.map(|bytes| bytes.to_string());
            let mut args = vec!["agent", "--join", &link, "--name", name];
            args.extend(["--data-dir", &data_dir, "--drain-timeout", "5"]);
            args.extend(["--label", "harness=yes", "--metrics", "off"]);
            args.extend(memory.iter().flat_map(|bytes| ["--memory", bytes]));
            args.extend(more);
            AgentMember::Process(Process::start_with(dir, &args, variables))
        }
    }
}

impl ControllerMember {
    pub(crate) async fn stop(self) {
        match self {
            Self::Here(controller) => controller.stop().await,
            Self::Process(process) => end(process),
        }
    }
}

impl AgentMember {
    pub(crate) async fn stop(self) {
        match self {
            Self::Here(agent) => agent.stop().await,
            Self::Process(process) => end(process),
        }
    }
}

/// Ends a process as Ctrl-C does; it must end well.
fn end(mut process: Process) {
    process.signal(libc::SIGINT);
    let (status, output) = process.wait();
    assert!(status.success(), "{status}:\n{output}");
}

//! The fleet of a soak: an etcd of three members, three controllers, four agents, all processes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{AGENTS, CONTROLLERS, ETCD_MEMBERS, NODE_MEMORY, ResourceGrowth, is_settled};
use crate::{Api, DEADLINE, Etcd, Process, address_in_line, open_files, simulated_model};

/// How often a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct SoakFleet {
    pub(super) etcd: Etcd,
    dir: TempDir,
    controllers: Vec<ControllerProcess>,
    agents: Vec<SoakMember>,
    /// The revision that [`SoakFleet::apply_models`] gives the models.
    pub(super) revision: u32,
}

struct ControllerProcess {
    member: SoakMember,
    http: SocketAddr,
    link: SocketAddr,
}

/// A process, and the memory in bytes and open files that it had when it had settled.
struct SoakMember {
    process: Process,
    baseline: Option<(u64, usize)>,
}

impl SoakFleet {
    /// Starts all members, without waiting for the nodes to be ready.
    pub(super) fn start() -> Self {
        let mut fleet = Self {
            etcd: Etcd::start_members(ETCD_MEMBERS),
            dir: tempfile::tempdir().expect("a temporary directory can be created"),
            controllers: Vec::new(),
            agents: Vec::new(),
            revision: 0,
        };
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        for _ in 0..CONTROLLERS {
            let controller = fleet.start_controller(any_port, any_port);
            fleet.controllers.push(controller);
        }
        for index in 0..AGENTS {
            let agent = fleet.start_agent(index);
            fleet.agents.push(agent);
        }
        fleet
    }

    fn start_controller(&self, http: SocketAddr, link: SocketAddr) -> ControllerProcess {
        let (http, link) = (http.to_string(), link.to_string());
        let store = self.etcd.store().to_string();
        let mut args = vec!["controller", "--http", &http, "--link", &link];
        args.extend(["--store", &store, "--data-dir", "files"]);
        let mut process = start_quietly(self.dir.path(), &args);
        let line = process.wait_for_line("ready http=");
        ControllerProcess {
            member: SoakMember::new(process),
            http: address_in_line(&line, "http"),
            link: address_in_line(&line, "link"),
        }
    }

    fn start_agent(&self, index: usize) -> SoakMember {
        let name = format!("n{index}");
        let links = self.controllers.iter().map(|c| c.link.to_string());
        let (join, memory) = (links.collect::<Vec<_>>().join(","), NODE_MEMORY.to_string());
        let mut args = vec!["agent", "--join", &join, "--name", &name];
        args.extend(["--data-dir", &name]);
        args.extend(["--memory", &memory, "--drain-timeout", "5"]);
        SoakMember::new(start_quietly(self.dir.path(), &args))
    }

    /// Returns a client of each controller's API.
    pub(super) fn apis(&self) -> Vec<Api> {
        let apis = self.controllers.iter().map(|c| Api::new(c.http));
        apis.collect()
    }

    pub(super) fn agent(&self, index: usize) -> &Process {
        &self.agents[index].process
    }

    pub(super) fn controller(&self, index: usize) -> &Process {
        &self.controllers[index].member.process
    }

    pub(super) fn kill_agent(&self, index: usize) {
        self.agent(index).signal(libc::SIGKILL);
    }

    pub(super) fn restart_agent(&mut self, index: usize) {
        self.agents[index] = self.start_agent(index);
    }

    pub(super) fn kill_controller(&mut self, index: usize) {
        let process = &mut self.controllers[index].member.process;
        process.signal(libc::SIGKILL);
        // Its ports are free only after it has been waited for.
        process.wait();
    }

    /// Starts a killed controller again on the same ports.
    pub(super) fn restart_controller(&mut self, index: usize) {
        let ControllerProcess { http, link, .. } = self.controllers[index];
        self.controllers[index] = self.start_controller(http, link);
    }

    /// Applies the three models: `steady` with a fixed number of replicas, `scaled` which follows load,
    /// and `sleepy` which may have none.
    pub(super) async fn apply_models(&self) {
        let model = |name: &str, replicas: Value, memory_share: f64| {
            let options = json!({"outputTokens": 5, "tokensPerSecond": 100, "loadMs": 100});
            let mut model = simulated_model(name, 1, &options);
            model["spec"]["replicas"] = replicas;
            model["spec"]["memory"] = json!((NODE_MEMORY as f64 * memory_share) as u64);
            model["spec"]["revision"] = json!(self.revision.to_string());
            model["spec"]["keepAlive"] = json!("3s");
            model
        };
        let models = [
            model("steady", json!(3), 0.4),
            model("scaled", json!({"min": 2, "max": 3}), 0.2),
            model("sleepy", json!({"min": 0, "max": 2}), 0.1),
        ];
        for model in models {
            let is_applied = async |api: &Api| api.try_apply(&model).await.0 < 300;
            self.wait_until("a model is applied", is_applied).await;
        }
    }

    /// Sets the operation of a node, through whichever controller accepts it.
    pub(super) async fn set_node_operation(&self, node: &str, operation: &Value) {
        let is_set = async |api: &Api| api.try_set_node_operation(node, operation).await < 300;
        self.wait_until("a node operation is set", is_set).await;
    }

    /// Waits until the fleet is settled, as every controller sees it. Notes the memory and open files of
    /// the processes that were started since the last time.
    pub(super) async fn wait_until_settled(&mut self, after: &str) {
        for api in self.apis() {
            let poll = async {
                let mut tick = tokio::time::interval(POLL_INTERVAL);
                while !is_settled(&api).await {
                    tick.tick().await;
                }
            };
            if tokio::time::timeout(DEADLINE, poll).await.is_err() {
                let (nodes, models) = (api.nodes().await, api.models().await);
                panic!("not settled after {after}; nodes: {nodes:#?} models: {models:#?}");
            }
        }
        for member in self.members_mut() {
            let process = &member.process;
            let usage = || (process.resident_bytes(), open_files(process.id()));
            member.baseline = Some(member.baseline.unwrap_or_else(usage));
        }
    }

    fn members_mut(&mut self) -> impl Iterator<Item = &mut SoakMember> {
        let controllers = self.controllers.iter_mut().map(|c| &mut c.member);
        controllers.chain(&mut self.agents)
    }

    /// Returns the most that any process has grown since it had settled.
    pub(super) fn growth(&self) -> ResourceGrowth {
        let controllers = self.controllers.iter().map(|c| &c.member);
        let mut most = ResourceGrowth::default();
        for member in controllers.chain(&self.agents) {
            let Some((memory, files)) = member.baseline else {
                continue;
            };
            let process = &member.process;
            let memory = process.resident_bytes() as i64 - memory as i64;
            let files = open_files(process.id()) as i64 - files as i64;
            most.memory = most.memory.max(memory);
            most.files = most.files.max(files);
        }
        most
    }

    /// Waits until the condition holds, asking one controller after the other.
    pub(super) async fn wait_until(&self, what: &str, condition: impl AsyncFn(&Api) -> bool) {
        let apis = self.apis();
        let poll = async {
            let mut tick = tokio::time::interval(POLL_INTERVAL);
            for api in apis.iter().cycle() {
                if condition(api).await {
                    return;
                }
                tick.tick().await;
            }
        };
        if tokio::time::timeout(DEADLINE, poll).await.is_err() {
            let (nodes, models) = (apis[0].nodes().await, apis[0].models().await);
            panic!("still waiting until {what}; nodes: {nodes:#?} models: {models:#?}");
        }
    }
}

impl SoakMember {
    fn new(process: Process) -> Self {
        Self {
            process,
            baseline: None,
        }
    }
}

/// Starts `flotilla` with a log of no more than what the fleet waits for.
fn start_quietly(dir: &Path, args: &[&str]) -> Process {
    let mut command = Command::new(crate::flotilla_binary());
    command
        .args(args)
        .current_dir(dir)
        .env("FLOTILLA_LOG", "error,flotilla=info");
    Process::spawn(command)
}

//! The fleet of a soak: an etcd of three members, three controllers, four agents, all processes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::full_disk::SmallDisk;
use super::host_clock::HostClock;
use super::{AGENTS, CONTROLLERS, ETCD_MEMBERS, NODE_MEMORY, ResourceGrowth, is_settled};
use crate::{
    Api, DEADLINE, Etcd, Process, address_in_line, any_port, free_address, open_files,
    resident_bytes, simulated_model,
};

/// How often a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How many lines of each process's log are printed when the fleet does not settle.
const LOG_LINES: usize = 60;
/// The most that the database of an etcd member may have, in bytes.
const ETCD_QUOTA: u64 = 32 << 20;
/// The agent and the controller whose hosts have a clock that jumps.
const JUMPING_AGENT: usize = AGENTS - 1;
const JUMPING_CONTROLLER: usize = CONTROLLERS - 1;
/// The agent and the controller whose disks become full.
const FULL_AGENT: usize = 0;
const FULL_CONTROLLER: usize = 0;

pub(super) struct SoakFleet {
    pub(super) etcd: Etcd,
    /// The disks of [`FULL_AGENT`] and [`FULL_CONTROLLER`]. Empty where none can be mounted. Before the
    /// folder that they are in, so that they are unmounted first.
    disks: Vec<SmallDisk>,
    dir: TempDir,
    /// The clocks of the hosts of [`JUMPING_AGENT`] and [`JUMPING_CONTROLLER`].
    clocks: [HostClock; 2],
    /// The address of a controller of another fleet, which all agents know.
    stranger: SocketAddr,
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
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let clocks = ["agent", "controller"].map(|host| HostClock::new(dir.path(), host));
        let folders = [agent_folder(FULL_AGENT), controller_folder(FULL_CONTROLLER)];
        let disks = folders.map(|folder| SmallDisk::mount(&dir.path().join(folder)));
        let mut fleet = Self {
            etcd: Etcd::start_with_quota(ETCD_MEMBERS, ETCD_QUOTA),
            clocks,
            disks: disks.into_iter().flatten().collect(),
            stranger: free_address(),
            dir,
            controllers: Vec::new(),
            agents: Vec::new(),
            revision: 0,
        };
        for index in 0..CONTROLLERS {
            let controller = fleet.start_controller(index, any_port(), any_port());
            fleet.controllers.push(controller);
        }
        for index in 0..AGENTS {
            let agent = fleet.start_agent(index);
            fleet.agents.push(agent);
        }
        fleet
    }

    fn start_controller(
        &self,
        index: usize,
        http: SocketAddr,
        link: SocketAddr,
    ) -> ControllerProcess {
        let (http, link) = (http.to_string(), link.to_string());
        let (store, folder) = (self.etcd.store().to_string(), controller_folder(index));
        let mut args = vec!["controller", "--http", &http, "--link", &link];
        args.extend(["--store", &store, "--data-dir", &folder]);
        let clock = (index == JUMPING_CONTROLLER).then_some(&self.clocks[1]);
        let mut process = start_quietly(self.dir.path(), &args, clock);
        let line = process.wait_for_line("ready http=");
        ControllerProcess {
            member: SoakMember::new(process),
            http: address_in_line(&line, "http"),
            link: address_in_line(&line, "link"),
        }
    }

    fn start_agent(&self, index: usize) -> SoakMember {
        let name = format!("n{index}");
        let links = self
            .controllers
            .iter()
            .map(|c| c.link)
            .chain([self.stranger]);
        let links = links.map(|link| link.to_string());
        let folder = agent_folder(index);
        let (join, memory) = (links.collect::<Vec<_>>().join(","), NODE_MEMORY.to_string());
        let mut args = vec!["agent", "--join", &join, "--name", &name];
        args.extend([
            "--memory",
            &memory,
            "--drain-timeout",
            "5",
            "--data-dir",
            &folder,
        ]);
        let clock = (index == JUMPING_AGENT).then_some(&self.clocks[0]);
        SoakMember::new(start_quietly(self.dir.path(), &args, clock))
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
        self.controllers[index] = self.start_controller(index, http, link);
    }

    /// Starts a controller with an empty store of its own, which agents can reach.
    pub(super) fn start_stranger(&self) -> Process {
        let folder = self.dir.path().join("stranger");
        // Another one each time.
        let _ = std::fs::remove_dir_all(&folder);
        let (link, folder) = (self.stranger.to_string(), folder.display().to_string());
        let args = ["controller", "--http", "127.0.0.1:0", "--link", &link];
        let args = [&args[..], &["--data-dir", &folder]].concat();
        let mut process = start_quietly(self.dir.path(), &args, None);
        process.wait_for_line("ready http=");
        process
    }

    /// The clock of the host of an agent or of a controller.
    pub(super) fn clock(&self, of_controller: bool) -> &HostClock {
        &self.clocks[usize::from(of_controller)]
    }

    /// Whether the disks of an agent and a controller can be filled.
    pub(super) fn has_small_disks(&self) -> bool {
        self.disks.len() == 2
    }

    pub(super) fn fill_disks(&self) {
        self.disks.iter().for_each(SmallDisk::fill);
    }

    pub(super) fn free_disks(&self) {
        self.disks.iter().for_each(SmallDisk::free);
    }

    /// Saves a snapshot of etcd for [`Self::put_store_back`].
    pub(super) fn save_store(&self) {
        self.etcd.save_snapshot(&self.dir.path().join("snapshot"));
    }

    /// Puts etcd back to what it was at [`Self::save_store`], while the controllers run.
    pub(super) fn put_store_back(&mut self) {
        self.etcd.kill();
        self.etcd
            .restore_snapshot(&self.dir.path().join("snapshot"));
        self.etcd.resume();
    }

    /// Applies the three models: `steady` with a fixed number of replicas, `scaled` which follows load,
    /// and `sleepy` which may have none.
    pub(super) async fn apply_models(&mut self) {
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
    pub(super) async fn set_node_operation(&mut self, node: &str, operation: &Value) {
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
                self.print_logs();
                panic!("not settled after {after}; nodes: {nodes:#?} models: {models:#?}");
            }
        }
        for member in self.members_mut() {
            let process = &member.process;
            let usage = || (resident_bytes(process.id()), open_files(process.id()));
            member.baseline = Some(member.baseline.unwrap_or_else(usage));
        }
    }

    /// Prints the end of the log of every controller and agent.
    pub(super) fn print_logs(&mut self) {
        for member in self.members_mut() {
            let process = &mut member.process;
            let (id, lines) = (process.id(), process.last_lines(LOG_LINES));
            eprintln!("log of {id}:\n{lines}");
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
            let memory = resident_bytes(process.id()) as i64 - memory as i64;
            let files = open_files(process.id()) as i64 - files as i64;
            most.memory = most.memory.max(memory);
            most.files = most.files.max(files);
        }
        most
    }

    /// Waits until the condition holds, asking one controller after the other.
    pub(super) async fn wait_until(&mut self, what: &str, condition: impl AsyncFn(&Api) -> bool) {
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
            for api in &apis {
                eprintln!(
                    "{} {:#?}",
                    api.get("readyz").await.1,
                    api.items("controllers").await
                );
            }
            self.print_logs();
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
fn start_quietly(dir: &Path, args: &[&str], clock: Option<&HostClock>) -> Process {
    let mut command = Command::new(crate::flotilla_binary());
    command
        .args(args)
        .current_dir(dir)
        .env("FLOTILLA_LOG", "error,flotilla=info");
    if let Some(clock) = clock {
        clock.apply(&mut command);
    }
    Process::spawn(command)
}

/// The data directory of an agent, below that of the fleet.
fn agent_folder(index: usize) -> String {
    format!("agent-{index}")
}

/// The data directory of a controller, below that of the fleet.
fn controller_folder(index: usize) -> String {
    format!("controller-{index}")
}

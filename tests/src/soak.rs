//! A whole fleet under load while parts of it fail at random, for as long as one likes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Api, DEADLINE, Etcd, Load, Process, Tally, address, open_files, simulated_model};

const CONTROLLERS: usize = 3;
const AGENTS: usize = 4;
const ETCD: usize = 3;
/// Memory of each node.
const MEMORY: u64 = 1 << 30;
/// Files that a process may have open beyond those it had when it had settled: connections of
/// clients and peers come and go.
const MORE_FILES: usize = 60;
/// Memory that it may have grown by, in bytes: allocators keep some.
const MORE_MEMORY: u64 = 128 << 20;

/// What a soak came to.
#[derive(Debug)]
pub struct Report {
    /// What was done to the fleet, how often.
    pub faults: Vec<(&'static str, u32)>,
    pub tally: Tally,
    /// The most that any process had grown by, in bytes and in open files.
    pub grown: (i64, i64),
}

/// A process and what it took when it had settled.
struct Member {
    process: Process,
    settled: Option<(u64, usize)>,
}

struct Fleet {
    etcd: Etcd,
    dir: TempDir,
    controllers: Vec<(Member, SocketAddr, SocketAddr)>,
    agents: Vec<Member>,
    revision: u32,
}

/// Things that may happen.
const FAULTS: [&str; 8] = [
    "agent killed",
    "agent stopped and resumed",
    "controller killed",
    "controller stopped and resumed",
    "etcd member killed",
    "revision changed",
    "node drained",
    "etcd lost its quorum",
];

/// Runs for `time`, with the faults that `seed` gives.
///
/// # Panics
/// When wish and reality do not agree again after a fault, a request fails that had not begun
/// to stream, or a process has grown.
pub async fn run(time: Duration, seed: u64) -> Report {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut fleet = Fleet::start();
    fleet.apply_all().await;
    fleet.settle("the start").await;
    let apis: Vec<Api> = fleet
        .controllers
        .iter()
        .map(|(_, http, _)| Api::new(*http))
        .collect();
    let loads = ["steady", "scaled", "sleepy"].map(|model| Load::start(&apis, model, 3));
    let mut faults: Vec<(&'static str, u32)> = FAULTS.iter().map(|name| (*name, 0)).collect();
    // All of them in turn, each time in another order.
    let mut turn: Vec<usize> = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let which = turn.pop().unwrap_or_else(|| {
            turn.extend(0..FAULTS.len());
            random.shuffle(&mut turn);
            turn.pop().unwrap_or(0)
        });
        println!(
            "{:>5.0} s: {}",
            began.elapsed().as_secs_f64(),
            FAULTS[which]
        );
        fleet.fault(which, &mut random).await;
        fleet.settle(FAULTS[which]).await;
        faults[which].1 += 1;
    }
    let mut tally = Tally::default();
    for (load, model) in loads.into_iter().zip(["steady", "scaled", "sleepy"]) {
        tally.add(load.stop(model).await);
    }
    fleet.settle("the end").await;
    let grown = fleet.grown();
    assert!(tally.errors.is_empty(), "{tally}");
    assert!(
        grown.0 <= MORE_MEMORY as i64,
        "memory has grown by {} bytes",
        grown.0
    );
    assert!(
        grown.1 <= MORE_FILES as i64,
        "{} more files are open",
        grown.1
    );
    Report {
        faults,
        tally,
        grown,
    }
}

impl Fleet {
    fn start() -> Self {
        let mut fleet = Self {
            etcd: Etcd::start_members(ETCD),
            dir: tempfile::tempdir().expect("a temporary folder"),
            controllers: Vec::new(),
            agents: Vec::new(),
            revision: 0,
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        for _ in 0..CONTROLLERS {
            let controller = fleet.controller(any, any);
            fleet.controllers.push(controller);
        }
        for which in 0..AGENTS {
            let agent = fleet.agent(which);
            fleet.agents.push(agent);
        }
        fleet
    }

    fn controller(&self, http: SocketAddr, link: SocketAddr) -> (Member, SocketAddr, SocketAddr) {
        let (http, link) = (http.to_string(), link.to_string());
        let store = self.etcd.store().to_string();
        let args = [
            "controller",
            "--http",
            &http,
            "--link",
            &link,
            "--store",
            &store,
        ];
        let mut process = quiet(self.dir.path(), &args);
        let line = process.line_with("ready http=");
        let member = Member {
            process,
            settled: None,
        };
        (member, address(&line, "http"), address(&line, "link"))
    }

    fn agent(&self, which: usize) -> Member {
        let name = format!("n{which}");
        let join: Vec<_> = self
            .controllers
            .iter()
            .map(|(_, _, link)| link.to_string())
            .collect();
        let (join, memory) = (join.join(","), MEMORY.to_string());
        let args = [
            "agent",
            "--join",
            &join,
            "--name",
            &name,
            "--memory",
            &memory,
            "--drain-timeout",
            "5",
        ];
        Member {
            process: quiet(self.dir.path(), &args),
            settled: None,
        }
    }

    /// Three models: a fixed number of replicas, one that follows load, one that may sleep.
    async fn apply_all(&self) {
        let model = |name: &str, replicas: Value, part: f64| {
            let options = json!({"outputTokens": 5, "tokensPerSecond": 100, "loadMs": 100});
            let mut model = simulated_model(name, 1, &options);
            model["spec"]["replicas"] = replicas;
            model["spec"]["memory"] = json!((MEMORY as f64 * part) as u64);
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
            self.until("a wish to be taken", async |api| {
                api.try_apply(&model).await.0 < 300
            })
            .await;
        }
    }

    async fn fault(&mut self, which: usize, random: &mut fastrand::Rng) {
        let pause = Duration::from_millis(random.u64(500..8_000));
        match which {
            0 => {
                let agent = random.usize(..AGENTS);
                self.agents[agent].process.signal(libc::SIGKILL);
                tokio::time::sleep(pause).await;
                self.agents[agent] = self.agent(agent);
            }
            1 => {
                let process = &self.agents[random.usize(..AGENTS)].process;
                process.signal(libc::SIGSTOP);
                tokio::time::sleep(pause).await;
                process.signal(libc::SIGCONT);
            }
            2 => {
                let controller = random.usize(..CONTROLLERS);
                let (member, http, link) = &mut self.controllers[controller];
                member.process.signal(libc::SIGKILL);
                // Its ports are free once it has been waited for.
                member.process.wait();
                let (http, link) = (*http, *link);
                tokio::time::sleep(pause).await;
                self.controllers[controller] = self.controller(http, link);
            }
            3 => {
                let process = &self.controllers[random.usize(..CONTROLLERS)].0.process;
                process.signal(libc::SIGSTOP);
                tokio::time::sleep(pause).await;
                process.signal(libc::SIGCONT);
            }
            4 => {
                self.etcd.kill_member(random.usize(..ETCD));
                tokio::time::sleep(pause).await;
                self.etcd.resume();
            }
            5 => {
                self.revision += 1;
                self.apply_all().await;
            }
            6 => {
                let node = format!("n{}", random.usize(..AGENTS));
                let order = json!({"cordoned": true, "draining": true});
                self.order(&node, &order).await;
                let empty = async |api: &Api| {
                    let nodes = api.nodes().await;
                    let node = nodes.iter().find(|n| n["metadata"]["name"] == *node);
                    node.is_some_and(|n| n["status"]["assigned"] == json!([]))
                };
                self.until("the node to be empty", empty).await;
                self.order(&node, &json!({})).await;
            }
            _ => {
                self.etcd.kill_member(0);
                self.etcd.kill_member(1);
                tokio::time::sleep(pause).await;
                self.etcd.resume();
            }
        }
    }

    /// Says what is wanted of a node, to whichever controller takes it.
    async fn order(&self, node: &str, order: &Value) {
        self.until("an order to be taken", async |api| {
            api.try_order(node, order).await < 300
        })
        .await;
    }

    /// Waits until wish and reality agree, as every controller sees it, and notes what each
    /// process takes that was started since.
    async fn settle(&mut self, after: &str) {
        for (_, http, _) in &self.controllers {
            let api = Api::new(*http);
            let agree = async {
                let mut tick = tokio::time::interval(Duration::from_millis(100));
                while !agrees(&api).await {
                    tick.tick().await;
                }
            };
            if tokio::time::timeout(DEADLINE, agree).await.is_err() {
                let (nodes, models) = (api.nodes().await, api.models().await);
                panic!("no agreement after {after}; nodes: {nodes:#?} models: {models:#?}");
            }
        }
        for member in self.members() {
            let process = &member.process;
            let now = || (process.resident(), open_files(process.id()));
            member.settled = Some(member.settled.unwrap_or_else(now));
        }
    }

    fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        let controllers = self.controllers.iter_mut().map(|(member, _, _)| member);
        controllers.chain(&mut self.agents)
    }

    /// The most that any process has grown by since it had settled, in bytes and open files.
    fn grown(&mut self) -> (i64, i64) {
        let mut most = (0, 0);
        for member in self.members() {
            let Some((memory, files)) = member.settled else {
                continue;
            };
            let process = &member.process;
            most.0 = most.0.max(process.resident() as i64 - memory as i64);
            most.1 = most.1.max(open_files(process.id()) as i64 - files as i64);
        }
        most
    }

    /// Waits until it holds, asking one controller or another.
    async fn until(&self, what: &str, holds: impl AsyncFn(&Api) -> bool) {
        let ask = async {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            let apis: Vec<_> = self
                .controllers
                .iter()
                .map(|(_, http, _)| Api::new(*http))
                .collect();
            for api in apis.iter().cycle() {
                if holds(api).await {
                    return;
                }
                tick.tick().await;
            }
        };
        if tokio::time::timeout(DEADLINE, ask).await.is_err() {
            let api = Api::new(self.controllers[0].1);
            let (nodes, models) = (api.nodes().await, api.models().await);
            panic!("waited in vain for {what}; nodes: {nodes:#?} models: {models:#?}");
        }
    }
}

/// Whether all nodes are there and every model is served as it is wished for.
async fn agrees(api: &Api) -> bool {
    let nodes = api.nodes().await;
    let models = api.models().await;
    let there = nodes
        .iter()
        .filter(|n| n["status"]["phase"] == "Ready")
        .count()
        == AGENTS;
    let served = models.iter().all(|model| {
        let status = &model["status"];
        let least = match &model["spec"]["replicas"] {
            Value::Number(n) => n.as_u64().unwrap_or(0),
            range => range["min"].as_u64().unwrap_or(0),
        };
        let ready = status["ready"].as_u64().unwrap_or(0);
        let settled = status["phase"] == "Ready" || status["phase"] == "Asleep";
        settled && ready >= least && status["assigned"] == status["ready"]
    });
    // What runs is what is assigned, and nothing else.
    let runs = nodes.iter().all(|node| {
        let names = |list: &Value, field: Option<&str>| -> Vec<String> {
            let items = list.as_array().cloned().unwrap_or_default();
            let name = |item: &Value| field.map_or(item, |f| &item[f]).to_string();
            items.iter().map(name).collect()
        };
        let status = &node["status"];
        names(&status["assigned"], None) == names(&status["models"], Some("name"))
    });
    there && served && runs && models.len() == 3
}

/// Starts `flotilla` with `args`, with no more of its log than is waited for.
fn quiet(dir: &Path, args: &[&str]) -> Process {
    let mut command = Command::new(crate::flotilla());
    command
        .args(args)
        .current_dir(dir)
        .env("FLOTILLA_LOG", "error,flotilla=info");
    Process::spawn(command)
}

//! The faults of a soak.

use std::time::Duration;

use serde_json::json;

use super::fleet::SoakFleet;
use super::host_clock::HostClock;
use super::{AGENTS, CONTROLLERS, ETCD_MEMBERS};
use crate::{Api, open_files};

/// How long all agents stop together: longer than a link may be silent.
const LONG_OUTAGE: Duration = Duration::from_secs(12);

/// A disturbance of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    AgentKilled,
    AgentPaused,
    AgentsPausedTogether,
    ControllerKilled,
    ControllerPaused,
    ControllerOutOfFiles,
    StrangerStarted,
    EtcdMemberKilled,
    EtcdMemberPaused,
    EtcdQuorumLost,
    EtcdFull,
    StorePutBack,
    RevisionChanged,
    NodeDrained,
    ClockJumped,
    DiskFull,
}

impl Fault {
    const ALL: [Self; 16] = [
        Self::AgentKilled,
        Self::AgentPaused,
        Self::AgentsPausedTogether,
        Self::ControllerKilled,
        Self::ControllerPaused,
        Self::ControllerOutOfFiles,
        Self::StrangerStarted,
        Self::EtcdMemberKilled,
        Self::EtcdMemberPaused,
        Self::EtcdQuorumLost,
        Self::EtcdFull,
        Self::StorePutBack,
        Self::RevisionChanged,
        Self::NodeDrained,
        Self::ClockJumped,
        Self::DiskFull,
    ];

    /// Returns the faults that this machine can inject, and prints why it cannot inject the others.
    pub(super) fn possible(fleet: &SoakFleet) -> Vec<Self> {
        let is_possible = |fault: &Self| match fault {
            Self::ClockJumped if !HostClock::is_possible() => {
                println!("no jumps of the clock: libfaketime is not installed");
                false
            }
            Self::DiskFull if !fleet.has_small_disks() => {
                println!("no full disks: only root may mount a small one");
                false
            }
            _ => true,
        };
        Self::ALL.into_iter().filter(is_possible).collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent killed",
            Self::AgentPaused => "agent paused and resumed",
            Self::AgentsPausedTogether => "all agents paused for 12 s",
            Self::ControllerKilled => "controller killed",
            Self::ControllerPaused => "controller paused and resumed",
            Self::ControllerOutOfFiles => "controller out of file descriptors",
            Self::StrangerStarted => "controller with an empty store started",
            Self::EtcdMemberKilled => "etcd member killed",
            Self::EtcdMemberPaused => "etcd member paused and resumed",
            Self::EtcdQuorumLost => "etcd lost its quorum",
            Self::EtcdFull => "etcd full",
            Self::StorePutBack => "etcd put back to an earlier snapshot",
            Self::RevisionChanged => "revision changed",
            Self::NodeDrained => "node drained",
            Self::ClockJumped => "clock of a host jumped by a day",
            Self::DiskFull => "disks of an agent and a controller full",
        }
    }
}

/// Injects one fault and ends it. An outage lasts as long as the random numbers say: that is the fault
/// itself, not a wait for something to happen.
pub(super) async fn inject(fault: Fault, fleet: &mut SoakFleet, random: &mut fastrand::Rng) {
    let outage = tokio::time::sleep(Duration::from_millis(random.u64(500..8_000)));
    match fault {
        Fault::AgentKilled => {
            let agent = random.usize(..AGENTS);
            fleet.kill_agent(agent);
            outage.await;
            fleet.restart_agent(agent);
        }
        Fault::AgentPaused => {
            let process = fleet.agent(random.usize(..AGENTS));
            process.signal(libc::SIGSTOP);
            outage.await;
            process.signal(libc::SIGCONT);
        }
        Fault::AgentsPausedTogether => {
            (0..AGENTS).for_each(|agent| fleet.agent(agent).signal(libc::SIGSTOP));
            tokio::time::sleep(LONG_OUTAGE).await;
            (0..AGENTS).for_each(|agent| fleet.agent(agent).signal(libc::SIGCONT));
        }
        Fault::ControllerKilled => {
            let controller = random.usize(..CONTROLLERS);
            fleet.kill_controller(controller);
            outage.await;
            fleet.restart_controller(controller);
        }
        Fault::ControllerPaused => {
            let process = fleet.controller(random.usize(..CONTROLLERS));
            process.signal(libc::SIGSTOP);
            outage.await;
            process.signal(libc::SIGCONT);
        }
        Fault::ControllerOutOfFiles => {
            let process = fleet.controller(random.usize(..CONTROLLERS));
            let before = process.limit_open_files(open_files(process.id()) as u64);
            outage.await;
            process.limit_open_files(before);
        }
        Fault::StrangerStarted => {
            let stranger = fleet.start_stranger();
            outage.await;
            drop(stranger);
        }
        Fault::EtcdMemberKilled => {
            fleet.etcd.kill_member(random.usize(..ETCD_MEMBERS));
            outage.await;
            fleet.etcd.resume();
        }
        Fault::EtcdMemberPaused => {
            let member = random.usize(..ETCD_MEMBERS);
            fleet.etcd.signal_member(member, libc::SIGSTOP);
            outage.await;
            fleet.etcd.signal_member(member, libc::SIGCONT);
        }
        Fault::EtcdQuorumLost => {
            fleet.etcd.kill_member(0);
            fleet.etcd.kill_member(1);
            outage.await;
            fleet.etcd.resume();
        }
        Fault::EtcdFull => {
            fleet.etcd.fill();
            outage.await;
            fleet.etcd.make_room();
        }
        Fault::StorePutBack => {
            fleet.put_store_back();
            // The snapshot has the models as they were.
            fleet.apply_models().await;
        }
        Fault::RevisionChanged => {
            fleet.revision += 1;
            fleet.apply_models().await;
        }
        Fault::NodeDrained => {
            let node = format!("n{}", random.usize(..AGENTS));
            let drain = json!({"cordoned": true, "draining": true});
            fleet.set_node_operation(&node, &drain).await;
            let is_empty = async |api: &Api| {
                let nodes = api.nodes().await;
                let node = nodes.iter().find(|n| n["metadata"]["name"] == *node);
                node.is_some_and(|n| n["status"]["assigned"] == json!([]))
            };
            fleet.wait_until("the node is empty", is_empty).await;
            fleet.set_node_operation(&node, &json!({})).await;
        }
        Fault::ClockJumped => {
            let clock = fleet.clock(random.bool());
            clock.jump(if random.bool() { "+1d" } else { "-1d" });
            outage.await;
            clock.jump("+0");
        }
        Fault::DiskFull => {
            fleet.fill_disks();
            fleet.revision += 1;
            fleet.apply_models().await;
            outage.await;
            fleet.free_disks();
        }
    }
}

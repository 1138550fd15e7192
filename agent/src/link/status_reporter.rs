//! Sends the status reports of one session.

use flotilla_core::{Bytes, StateVersion};
use flotilla_proto::v1::{ModelStatus, NodeDisk, NodeEnergy, StatusReport};
use tokio::sync::mpsc;

use super::agent_link::AgentLink;
use super::energy_report::EnergyReporter;

/// Sends the status of the models and the node's energy to one controller.
pub(super) struct StatusReporter<'a> {
    link: &'a AgentLink,
    /// Id of the session.
    session: String,
    sender: mpsc::Sender<StatusReport>,
    energy: EnergyReporter,
    /// The statuses of the last report.
    last_statuses: Vec<ModelStatus>,
    /// The version of the desired state in the last report.
    last_version: StateVersion,
    /// Whether the agent stopped at the last report.
    last_stopping: bool,
    /// The space for files of models in the last report.
    last_budget: Option<Bytes>,
}

impl<'a> StatusReporter<'a> {
    /// Creates a reporter that has sent nothing yet. The channel of `sender` must be empty.
    pub(super) fn new(
        link: &'a AgentLink,
        session: String,
        sender: mpsc::Sender<StatusReport>,
    ) -> Self {
        Self {
            link,
            session,
            sender,
            energy: EnergyReporter::default(),
            last_statuses: Vec::new(),
            last_version: StateVersion::default(),
            last_stopping: false,
            last_budget: None,
        }
    }

    /// Sends the report that opens the sync stream.
    pub(super) fn send_first(&mut self) {
        self.last_statuses = self.link.statuses.now();
        self.last_version = self.link.desired_state.followed().version;
        self.last_stopping = self.link.drain.is_cancelled();
        self.last_budget = self.link.artifacts.budget();
        let energy = self.energy.next_report(self.current_energy());
        let report = self.report(energy);
        // The channel is empty, so this cannot fail.
        let _ = self.sender.try_send(report);
    }

    /// Sends a report if a status has changed or the energy is due. Does nothing while the previous
    /// report has not been sent yet: the next call tries again.
    pub(super) fn send_changes(&mut self) {
        let statuses = self.link.statuses.now();
        let current_energy = self.current_energy();
        let Ok(permit) = self.sender.try_reserve() else {
            return;
        };
        let energy = self.energy.next_report(current_energy);
        let version = self.link.desired_state.followed().version;
        let stopping = self.link.drain.is_cancelled();
        let budget = self.link.artifacts.budget();
        if statuses != self.last_statuses
            || version != self.last_version
            || stopping != self.last_stopping
            || budget != self.last_budget
            || energy.is_some()
        {
            (self.last_statuses, self.last_version) = (statuses, version);
            (self.last_stopping, self.last_budget) = (stopping, budget);
            permit.send(self.report(energy));
        }
    }

    /// The report with what was noted last.
    fn report(&self, energy: Option<NodeEnergy>) -> StatusReport {
        let disk = self.link.artifacts.usage();
        StatusReport {
            session: self.session.clone(),
            models: self.last_statuses.clone(),
            energy,
            epoch: self.last_version.epoch,
            store_revision: self.last_version.revision.0,
            disk: Some(NodeDisk {
                used_bytes: disk.used,
                unneeded_bytes: disk.unneeded,
                budget_bytes: self.last_budget.map(|budget| budget.0),
            }),
            stopping: self.last_stopping,
        }
    }

    fn current_energy(&self) -> NodeEnergy {
        self.link.energy_accounting.latest_reading().message()
    }
}

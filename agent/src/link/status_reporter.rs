//! Sends the status reports of one session.

use flotilla_core::StateVersion;
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
        }
    }

    /// Sends the report that opens the sync stream.
    pub(super) fn send_first(&mut self) {
        self.last_statuses = self.link.statuses.now();
        self.last_version = self.link.desired_state.followed().version;
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
        if statuses != self.last_statuses || version != self.last_version || energy.is_some() {
            (self.last_statuses, self.last_version) = (statuses, version);
            permit.send(self.report(energy));
        }
    }

    /// The report with the last statuses and the last version.
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
            }),
        }
    }

    fn current_energy(&self) -> NodeEnergy {
        self.link.energy_accounting.latest_reading().message()
    }
}

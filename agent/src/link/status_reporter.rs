//! Sends the status reports of one session.

use flotilla_proto::v1::{ModelStatus, NodeEnergy, StatusReport};
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
        }
    }

    /// Sends the report that opens the sync stream.
    pub(super) fn send_first(&mut self) {
        self.last_statuses = self.link.statuses.now();
        let report = StatusReport {
            session: self.session.clone(),
            models: self.last_statuses.clone(),
            energy: self.energy.next_report(self.current_energy()),
        };
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
        if statuses != self.last_statuses || energy.is_some() {
            permit.send(StatusReport {
                session: self.session.clone(),
                models: statuses.clone(),
                energy,
            });
            self.last_statuses = statuses;
        }
    }

    fn current_energy(&self) -> NodeEnergy {
        self.link.energy_accounting.latest_reading().message()
    }
}

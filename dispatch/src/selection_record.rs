//! The record of what a selection pass compared.

use flotilla_core::routing::{
    AffinityRecord, CandidateRecord, RejectReason, RejectedCandidate, SelectionReason,
};
use flotilla_core::{ModelName, NodeName};

use crate::ReplicaView;
use crate::candidate_estimate::CandidateEstimate;

/// The candidates that a pass compared and rejected, for the decision record.
#[derive(Debug, Default)]
pub(crate) struct SelectionRecord {
    pub(crate) candidates: Vec<CandidateRecord>,
    pub(crate) rejected: Vec<RejectedCandidate>,
    pub(crate) affinity: Option<AffinityRecord>,
}

impl SelectionRecord {
    /// Records a replica whose circuit breaker is open: as a candidate with its `estimate` if it is
    /// selected as the last resort, else as rejected.
    pub(crate) fn add_open_breaker(
        &mut self,
        model: &ModelName,
        replica: &ReplicaView,
        estimate: Option<&CandidateEstimate>,
        selection: Option<SelectionReason>,
    ) {
        match estimate {
            Some(estimate) => self.candidates.push(CandidateRecord {
                selection,
                ..estimate.record(model, replica)
            }),
            None => {
                let reason = RejectReason::CircuitOpen;
                self.reject_replica(model, &replica.node, reason, String::new());
            }
        }
    }

    pub(crate) fn reject_model(&mut self, model: &ModelName, reason: RejectReason, detail: &str) {
        self.rejected.push(RejectedCandidate {
            model: model.clone(),
            node: None,
            reason,
            detail: detail.to_owned(),
        });
    }

    /// Records a rejected replica, once: a sample may draw it again.
    pub(crate) fn reject_replica(
        &mut self,
        model: &ModelName,
        node: &NodeName,
        reason: RejectReason,
        detail: String,
    ) {
        let mut rejected = self.rejected.iter();
        if !rejected.any(|r| r.model == *model && r.node.as_ref() == Some(node)) {
            self.rejected.push(RejectedCandidate {
                model: model.clone(),
                node: Some(node.clone()),
                reason,
                detail,
            });
        }
    }
}

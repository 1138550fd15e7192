//! One look at the fleet for a replica that can take a request: of each model that may answer the
//! best of a few, and of those the one that comes nearest to what the task wants.

use flotilla_core::routing::{
    AffinityRecord, CandidateRecord, CandidateStatus as Seen, ExpectedAnswer, RejectReason,
    RejectedCandidate, nearest, score, select,
};
use flotilla_core::{ModelName, NodeName};

use super::affinity::AffinityHit;
use super::appraise::{CandidateEstimate, appraise, choose, pick, tell};
use super::tries::RetryState;
use crate::fleet::{EligibleReplicas, FleetView, MeasuredQuality, ReplicaView, pace_clock};

/// A replica that could be asked.
pub(super) struct SelectedReplica {
    /// Which of the plan's models it is of.
    pub(super) model: usize,
    pub(super) replica: ReplicaView,
    /// Bytes of the prompt that it has yet to read.
    pub(super) unread_bytes: u32,
    expected: ExpectedAnswer,
}

/// What a look at the fleet came to.
pub(super) enum SelectionResult {
    Found(SelectedReplica),
    /// Nobody can take it now, but the model of this number may be able to soon.
    Wait(usize),
    /// Nobody can.
    Nobody(SkipReason),
}

/// Why a model has no replica for a request. Of several models the last of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SkipReason {
    /// It cannot answer.
    Out,
    /// None keeps the limits.
    Unmet,
    /// None can answer before the deadline.
    Late,
    /// All take no more.
    Full,
    /// One may be able to take it soon.
    Coming,
}

impl RetryState<'_> {
    /// A replica that can take the request now. `in_line`: the model whose line the request is at
    /// the head of. What is seen goes on record.
    pub(super) fn look(&mut self, in_line: Option<usize>) -> SelectionResult {
        let view = self.dispatch.fleet.peek();
        if view.generation != self.generation {
            // What refused before may be another replica now.
            self.generation = view.generation;
            self.tried.clear();
        }
        self.decision.candidates.clear();
        self.decision.rejected.clear();
        self.decision.affinity = None;
        let (mut wait, mut worst) = (None, SkipReason::Out);
        let mut found: Vec<SelectedReplica> = Vec::new();
        for at in 0..self.plan.models.len() {
            match self.look_at(&view, at, in_line) {
                Ok(one) => found.push(one),
                Err(SkipReason::Coming) => wait = wait.or(Some(at)),
                Err(passed) => worst = worst.max(passed),
            }
            // Without weights the first one that can is the one.
            if self.plan.weights.is_none() && !found.is_empty() {
                break;
            }
        }
        match (self.nearest(found), wait) {
            (Some(found), _) => SelectionResult::Found(found),
            (None, Some(at)) => SelectionResult::Wait(at),
            (None, None) => SelectionResult::Nobody(worst),
        }
    }

    /// The one of several models' replicas that comes nearest to what the task wants.
    fn nearest(&mut self, mut found: Vec<SelectedReplica>) -> Option<SelectedReplica> {
        if found.len() < 2 {
            return found.pop();
        }
        let expected: Vec<_> = found.iter().map(|found| found.expected).collect();
        let scores = score(self.plan.weights.unwrap_or_default(), &expected);
        for (one, score) in found.iter().zip(&scores) {
            let model = &self.plan.models[one.model];
            for candidate in &mut self.decision.candidates {
                if candidate.node == one.replica.node && candidate.model == *model {
                    candidate.score = Some(*score);
                }
            }
        }
        nearest(&scores).map(|best| found.swap_remove(best))
    }

    /// A replica of one model, or why there is none, which goes on record.
    fn look_at(
        &mut self,
        view: &FleetView,
        at: usize,
        in_line: Option<usize>,
    ) -> Result<SelectedReplica, SkipReason> {
        let name = self.plan.models[at].clone();
        let Some(model) = view.by_name.get(&name) else {
            return self.pass(&name, RejectReason::UnknownModel, SkipReason::Out);
        };
        if in_line != Some(at) && self.dispatch.lobby.is_used(&name) {
            return self.pass(&name, RejectReason::Queued, SkipReason::Coming);
        }
        if let Some(zones) = &self.plan.zones
            && model.leaves_zones(zones)
        {
            return self.pass_for(
                &name,
                (RejectReason::Zone, AWAY.to_owned()),
                SkipReason::Out,
            );
        }
        let task = self.decision.task.as_ref();
        let measured = view.routing.measured(task, &name);
        let eligible = model.eligible(self.plan.zones.as_ref());
        if eligible.is_empty() {
            if !model.replicas.is_empty() {
                return self.pass(&name, RejectReason::Zone, SkipReason::Out);
            }
            let coming = if model.coming {
                SkipReason::Coming
            } else {
                SkipReason::Out
            };
            return self.pass(&name, RejectReason::NotLoaded, coming);
        }
        let known = self.dispatch.affinity.find(&name, &self.plan);
        let mut known = known.filter_map(|known| Some((eligible.on(&known.node)?, known)));
        // What was read before is read as slowly again where nothing of it is kept.
        let known = known.find(|(index, known)| {
            known.bytes == 0 || eligible.get(*index).load.limits().prefix_cache
        });
        match self.pick(at, &name, &eligible, known.as_ref(), measured) {
            Ok((i, appraisal)) => {
                let replica = eligible.get(i).clone();
                self.decision.affinity = known.map(|(preferred, known)| AffinityRecord {
                    node: known.node,
                    known_bytes: known.bytes,
                    taken: preferred == i,
                });
                Ok(SelectedReplica {
                    model: at,
                    replica,
                    unread_bytes: appraisal.unread_bytes,
                    expected: appraisal.compared(),
                })
            }
            Err(SkipReason::Out) => self.pass(&name, RejectReason::AttemptFailed, SkipReason::Coming),
            Err(SkipReason::Full) => self.pass(&name, RejectReason::Full, SkipReason::Full),
            Err(passed) => Err(passed),
        }
    }

    /// One of a model's replicas. `known`: one that may have the conversation in memory.
    fn pick(
        &mut self,
        at: usize,
        name: &ModelName,
        eligible: &EligibleReplicas<'_>,
        known: Option<&(usize, AffinityHit)>,
        measured: MeasuredQuality,
    ) -> Result<(usize, CandidateEstimate), SkipReason> {
        let (now, time) = (pace_clock(), self.time());
        let Self {
            plan,
            decision,
            tried,
            ..
        } = self;
        let (candidates, rejected) = (&mut decision.candidates, &mut decision.rejected);
        let earlier = candidates.len();
        let (mut broken, mut reasons) = (Vec::new(), Vec::new());
        let mut passed = SkipReason::Out;
        let picked = select(
            eligible.len(),
            known.map(|(index, _)| *index),
            |i| {
                let replica = eligible.get(i);
                if was_tried(tried, at, replica) {
                    return Seen::Out;
                }
                let bytes = known.filter(|(index, _)| *index == i).map(|(_, k)| k.bytes);
                match appraise(replica, plan, measured, bytes, time, now) {
                    Ok(seen) if seen.prospect.admitted => {
                        candidates.push(seen.candidate(name, replica));
                        Seen::Able(seen)
                    }
                    Ok(seen) => {
                        if !broken.contains(&i) {
                            broken.push(i);
                        }
                        Seen::LastResort(seen)
                    }
                    Err((reason, detail)) => {
                        passed = passed.max(passed_for(reason));
                        // A replica may be drawn more than once.
                        let told = rejected
                            .iter()
                            .any(|r| r.model == *name && r.node.as_ref() == Some(&replica.node));
                        if !told {
                            rejected.push(reject(name, &replica.node, reason, detail));
                        }
                        Seen::Out
                    }
                }
            },
            |seen: &[CandidateEstimate]| {
                let (chosen, told) = choose(seen, plan, now);
                reasons = told;
                chosen
            },
            |n| fastrand::usize(..n),
        );
        // Those that were compared are on record in the same order: all that are able, or else all
        // that are broken.
        tell(&mut candidates[earlier..], &reasons);
        for (at, i) in broken.into_iter().enumerate() {
            let replica = eligible.get(i);
            match &picked {
                Some((at_last, seen)) if *at_last == i => candidates.push(CandidateRecord {
                    selection: reasons.get(at).copied(),
                    ..seen.candidate(name, replica)
                }),
                _ => {
                    let node = &replica.node;
                    rejected.push(reject(name, node, RejectReason::CircuitOpen, String::new()));
                }
            }
        }
        picked.ok_or(passed)
    }

    /// A replica beside the one that was picked that has nothing else to do.
    pub(super) fn spare(&self, beside: &NodeName) -> Option<ReplicaView> {
        let view = self.dispatch.fleet.peek();
        let model = view.by_name.get(self.model())?;
        let eligible = model.eligible(self.plan.zones.as_ref());
        let (now, time) = (pace_clock(), self.time());
        let (plan, at) = (&self.plan, self.model);
        let task = self.decision.task.as_ref();
        let measured = view.routing.measured(task, self.model());
        let picked = select(
            eligible.len(),
            None,
            |i| {
                let replica = eligible.get(i);
                if replica.node == *beside || was_tried(&self.tried, at, replica) {
                    return Seen::Out;
                }
                match appraise(replica, plan, measured, None, time, now) {
                    Ok(seen) if seen.prospect.admitted && seen.prospect.load.has_room() => {
                        Seen::Able(seen)
                    }
                    _ => Seen::Out,
                }
            },
            |seen: &[CandidateEstimate]| pick(seen, plan, now),
            |n| fastrand::usize(..n),
        );
        picked.map(|(i, _)| eligible.get(i).clone())
    }

    /// Passes a model over, on record.
    fn pass<T>(
        &mut self,
        model: &ModelName,
        reason: RejectReason,
        passed: SkipReason,
    ) -> Result<T, SkipReason> {
        self.pass_for(model, (reason, String::new()), passed)
    }

    fn pass_for<T>(
        &mut self,
        model: &ModelName,
        (reason, detail): (RejectReason, String),
        passed: SkipReason,
    ) -> Result<T, SkipReason> {
        self.decision.rejected.push(RejectedCandidate {
            model: model.clone(),
            node: None,
            reason,
            detail,
        });
        Err(passed)
    }
}

/// Why a model with a server elsewhere answers nothing that is held to zones.
pub(super) const AWAY: &str = "its server is outside: options.zone may say otherwise";

fn was_tried(tried: &[(usize, NodeName)], model: usize, replica: &ReplicaView) -> bool {
    let same = |(at, node): &(usize, NodeName)| *at == model && *node == replica.node;
    tried.iter().any(same)
}

fn passed_for(reason: RejectReason) -> SkipReason {
    match reason {
        RejectReason::Full => SkipReason::Full,
        RejectReason::Deadline => SkipReason::Late,
        _ => SkipReason::Unmet,
    }
}

pub(super) fn reject(
    model: &ModelName,
    node: &NodeName,
    reason: RejectReason,
    detail: String,
) -> RejectedCandidate {
    RejectedCandidate {
        model: model.clone(),
        node: Some(node.clone()),
        reason,
        detail,
    }
}

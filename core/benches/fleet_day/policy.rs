//! The policies of choosing replicas.

use flotilla_core::Watts;
use flotilla_core::estimate::{ComputeTime, RequestCost, ServedRequest, SpeedEstimate};
use flotilla_core::routing::{
    CandidateStatus, ObjectiveWeights, ReplicaCandidate, ReplicaLoad, choose_replica,
    sample_and_choose,
};

use super::fleet::{Fleet, MODELS};
use super::load::{BYTES, Request};

/// The weight of a new answer in the running mean of watts, as in the dispatcher's load guard.
const NEW_WATTS_WEIGHT: f32 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Policy {
    /// All replicas in turn.
    RoundRobin,
    /// The replica with the fewest requests, plus so many `more`, per slot: of a `sample` of that size,
    /// or of all replicas.
    LeastLoad { sample: Option<usize>, more: u32 },
    /// Flotilla with the weights of a task, or with its default rule.
    Flotilla(Option<ObjectiveWeights>),
}

/// What a controller knows of a replica.
#[derive(Clone, Copy, Default)]
pub(crate) struct ReplicaKnowledge {
    pub(crate) in_flight: u32,
    speed: Option<SpeedEstimate>,
    watts: Option<f32>,
    pub(crate) pressure_factor: f32,
}

/// A controller that chooses replicas by a policy.
pub(crate) struct Controller<'a> {
    fleet: &'a Fleet,
    policy: Policy,
    pub(crate) known: Vec<ReplicaKnowledge>,
    next: Vec<usize>,
    random: fastrand::Rng,
}

impl<'a> Controller<'a> {
    pub(crate) fn new(fleet: &'a Fleet, policy: Policy, seed: u64) -> Self {
        let idle = ReplicaKnowledge {
            pressure_factor: 1.0,
            ..ReplicaKnowledge::default()
        };
        Self {
            fleet,
            policy,
            known: vec![idle; fleet.replicas.len()],
            next: vec![0; MODELS.len()],
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub(crate) fn load(&self, replica: usize) -> ReplicaLoad {
        let of = &self.fleet.replicas[replica];
        ReplicaLoad {
            in_flight: self.known[replica].in_flight,
            external_in_flight: 0,
            concurrency: of.concurrency,
            capacity: of.capacity,
        }
    }

    /// The replica that gets a request. `None` if all are full.
    pub(crate) fn choose(&mut self, request: &Request) -> Option<usize> {
        let model = usize::from(request.model);
        let all = &self.fleet.by_model[model];
        match self.policy {
            Policy::RoundRobin => {
                let from = self.next[model];
                let turn = (0..all.len()).map(|more| (from + more) % all.len());
                let found = turn.into_iter().find(|at| !self.load(all[*at]).is_full())?;
                self.next[model] = (found + 1) % all.len();
                Some(all[found])
            }
            Policy::LeastLoad { sample, more } => self.least(model, sample, more),
            Policy::Flotilla(weights) => self.sample_and_choose(request, weights),
        }
    }

    fn busy(&self, replica: usize, more: u32) -> u32 {
        // All numbers of slots divide 16.
        (self.known[replica].in_flight + more) * (16 / self.fleet.replicas[replica].concurrency)
    }

    fn least(&mut self, model: usize, sample: Option<usize>, more: u32) -> Option<usize> {
        let all = &self.fleet.by_model[model];
        // A random start breaks ties evenly.
        let start = self.random.usize(..all.len());
        let best = match sample {
            None => {
                let order = all[start..].iter().chain(&all[..start]).copied();
                order.min_by_key(|replica| self.busy(*replica, more))?
            }
            Some(sample) => {
                let mut random = self.random.clone();
                let drawn = (0..sample).map(|_| all[random.usize(..all.len())]);
                let best = drawn.min_by_key(|replica| self.busy(*replica, more))?;
                self.random = random;
                best
            }
        };
        (!self.load(best).is_full()).then_some(best)
    }

    fn sample_and_choose(
        &mut self,
        request: &Request,
        weights: Option<ObjectiveWeights>,
    ) -> Option<usize> {
        let model = usize::from(request.model);
        let all = &self.fleet.by_model[model];
        let cost = RequestCost {
            prompt_bytes: u32::from(request.prompt) * BYTES,
            max_tokens: MODELS[model].configured.then_some(MODELS[model].most),
        };
        let now = request.at as f32;
        let (known, fleet) = (&self.known, self.fleet);
        let inspect = |index: usize| {
            let replica = all[index];
            let load = self.load(replica);
            if load.is_full() {
                return CandidateStatus::Ineligible;
            }
            let of = &known[replica];
            let power = fleet.nodes[fleet.replicas[replica].node].power();
            let joules = of.speed.map(|speed| {
                let alone = speed.unloaded_seconds(cost);
                of.watts.map_or_else(
                    || power.answer_energy(alone, 1),
                    |watts| Watts(watts).energy_over(alone),
                )
            });
            CandidateStatus::Eligible(ReplicaCandidate {
                load,
                speed: of.speed,
                joules,
                remaining_share: 1.0,
                pressure_factor: of.pressure_factor,
            })
        };
        let mut random = self.random.clone();
        let chosen = sample_and_choose(
            all.len(),
            None,
            inspect,
            |sample| choose_replica(sample, weights, cost, now).map_or(0, |choice| choice.index),
            |n| random.usize(..n),
        );
        self.random = random;
        chosen.map(|(index, _)| all[index])
    }

    /// Learns from an answer as the dispatcher's load guard does.
    pub(crate) fn record_answer(
        &mut self,
        replica: usize,
        served: ServedRequest,
        joules: f32,
        now: f32,
    ) {
        let known = &mut self.known[replica];
        known.speed = Some(SpeedEstimate::learn(known.speed, served, now));
        if let Some(ComputeTime { prefill, decode }) = served.compute_time {
            let seen = joules / (prefill + decode).max(1e-6);
            let before = known.watts.unwrap_or(seen);
            known.watts = Some(before + NEW_WATTS_WEIGHT * (seen - before));
        }
    }
}

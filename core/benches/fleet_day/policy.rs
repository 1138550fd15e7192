//! The policies of choosing replicas.

use flotilla_core::Watts;
use flotilla_core::estimate::{ComputeTime, RequestCost, ServedRequest, SpeedEstimate};
use flotilla_core::routing::{
    CandidateStatus, ObjectiveWeights, ReplicaCandidate, ReplicaLoad, choose_replica,
    sample_and_choose,
};

use super::fleet::{Fleet, MODELS, Replica};
use super::load::{BYTES_PER_TOKEN, Request};

/// The weight of a new answer in the running mean of watts, as in the dispatcher's load guard.
const NEW_WATTS_WEIGHT: f32 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Policy {
    /// Chooses all replicas in turn.
    RoundRobin,
    /// Chooses the replica with the fewest requests per slot.
    LeastLoad {
        /// Size of the sample of replicas. `None`: all replicas.
        sample: Option<usize>,
        /// Requests that are added to those of each replica.
        extra: u32,
    },
    /// Flotilla's policy with the weights of a task, or with its default rule.
    Flotilla(Option<ObjectiveWeights>),
}

/// The state of a replica in a controller.
#[derive(Clone, Copy, Default)]
pub(crate) struct ReplicaState {
    pub(crate) in_flight: u32,
    speed: Option<SpeedEstimate>,
    watts: Option<f32>,
    pub(crate) pressure_factor: f32,
}

/// A controller that chooses replicas by a policy.
pub(crate) struct Controller<'a> {
    fleet: &'a Fleet,
    policy: Policy,
    /// The state of each replica.
    pub(crate) states: Vec<ReplicaState>,
    /// Index of the next replica of each model for [`Policy::RoundRobin`].
    next: Vec<usize>,
    random: fastrand::Rng,
}

impl<'a> Controller<'a> {
    pub(crate) fn new(fleet: &'a Fleet, policy: Policy, seed: u64) -> Self {
        let idle = ReplicaState {
            pressure_factor: 1.0,
            ..ReplicaState::default()
        };
        Self {
            fleet,
            policy,
            states: vec![idle; fleet.replicas.len()],
            next: vec![0; MODELS.len()],
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub(crate) fn load(&self, replica: usize) -> ReplicaLoad {
        let Replica {
            concurrency,
            capacity,
            ..
        } = self.fleet.replicas[replica];
        ReplicaLoad {
            in_flight: self.states[replica].in_flight,
            external_in_flight: 0,
            concurrency,
            capacity,
        }
    }

    /// Returns the replica for a request. `None`: all replicas are full.
    pub(crate) fn choose(&mut self, request: &Request) -> Option<usize> {
        let model = usize::from(request.model);
        let all = &self.fleet.by_model[model];
        match self.policy {
            Policy::RoundRobin => {
                let start = self.next[model];
                let order = (0..all.len()).map(|offset| (start + offset) % all.len());
                let index = order
                    .into_iter()
                    .find(|index| !self.load(all[*index]).is_full())?;
                self.next[model] = (index + 1) % all.len();
                Some(all[index])
            }
            Policy::LeastLoad { sample, extra } => self.choose_least_load(model, sample, extra),
            Policy::Flotilla(weights) => self.sample_and_choose(request, weights),
        }
    }

    /// Returns the requests per slot, as a multiple of 1/16.
    fn relative_load(&self, replica: usize, extra: u32) -> u32 {
        // All numbers of slots divide 16.
        (self.states[replica].in_flight + extra) * (16 / self.fleet.replicas[replica].concurrency)
    }

    fn choose_least_load(
        &mut self,
        model: usize,
        sample: Option<usize>,
        extra: u32,
    ) -> Option<usize> {
        let all = &self.fleet.by_model[model];
        // A random start breaks ties evenly.
        let start = self.random.usize(..all.len());
        let best = match sample {
            None => {
                let order = all[start..].iter().chain(&all[..start]).copied();
                order.min_by_key(|replica| self.relative_load(*replica, extra))?
            }
            Some(sample) => {
                let mut random = self.random.clone();
                let replicas = (0..sample).map(|_| all[random.usize(..all.len())]);
                let best = replicas.min_by_key(|replica| self.relative_load(*replica, extra))?;
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
            prompt_bytes: u32::from(request.prompt) * BYTES_PER_TOKEN,
            max_tokens: MODELS[model].has_limit.then_some(MODELS[model].max_tokens),
            choices: 1,
        };
        let now = request.arrival as f32;
        let (states, fleet) = (&self.states, self.fleet);
        let inspect = |index: usize| {
            let replica = all[index];
            let load = self.load(replica);
            if load.is_full() {
                return CandidateStatus::Ineligible;
            }
            let state = &states[replica];
            let power = fleet.nodes[fleet.replicas[replica].node].power();
            let joules = state.speed.map(|speed| {
                let seconds = speed.unloaded_seconds(cost);
                state.watts.map_or_else(
                    || power.answer_energy(seconds, 1),
                    |watts| Watts(watts).energy_over(seconds),
                )
            });
            CandidateStatus::Eligible(ReplicaCandidate {
                load,
                speed: state.speed,
                joules,
                remaining_share: 1.0,
                pressure_factor: state.pressure_factor,
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
        let state = &mut self.states[replica];
        state.speed = Some(SpeedEstimate::learn(state.speed, served, now));
        if let Some(ComputeTime { prefill, decode }) = served.compute_time {
            let measured = joules / (prefill + decode).max(1e-6);
            let previous = state.watts.unwrap_or(measured);
            state.watts = Some(previous + NEW_WATTS_WEIGHT * (measured - previous));
        }
    }
}

//! How a replica is picked.

use flotilla_core::Watts;
use flotilla_core::estimate::{ComputeTime, RequestCost, ServedRequest, SpeedEstimate};
use flotilla_core::routing::{
    CandidateStatus, ObjectiveWeights, ReplicaCandidate, ReplicaLoad, choose_replica,
    sample_and_choose,
};

use super::fleet::{Fleet, MODELS};
use super::load::{BYTES, Request};

/// How fast the watts of an answer follow the answers, as in the controller's load guard.
const WATTS_FOLLOW: f32 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Policy {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests, and so many `more`, for what it computes at once: of so many
    /// that are drawn, or of all.
    LeastLoad { looks: Option<usize>, more: u32 },
    /// Flotilla with weights of a task, or with its own rule.
    Flotilla(Option<ObjectiveWeights>),
}

/// What the controller knows of a replica.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    pub(crate) in_flight: u32,
    speed: Option<SpeedEstimate>,
    watts: Option<f32>,
    pub(crate) pressure_factor: f32,
}

/// A controller.
pub(crate) struct Controller<'a> {
    fleet: &'a Fleet,
    policy: Policy,
    pub(crate) known: Vec<Known>,
    next: Vec<usize>,
    random: fastrand::Rng,
}

impl<'a> Controller<'a> {
    pub(crate) fn new(fleet: &'a Fleet, policy: Policy, seed: u64) -> Self {
        let idle = Known {
            pressure_factor: 1.0,
            ..Known::default()
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

    /// The replica that gets a request. `None`: it is refused.
    pub(crate) fn pick(&mut self, request: &Request) -> Option<usize> {
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
            Policy::LeastLoad { looks, more } => self.least(model, looks, more),
            Policy::Flotilla(weights) => self.prefer(request, weights),
        }
    }

    fn busy(&self, replica: usize, more: u32) -> u32 {
        // Concurrencies divide 16.
        (self.known[replica].in_flight + more) * (16 / self.fleet.replicas[replica].concurrency)
    }

    fn least(&mut self, model: usize, looks: Option<usize>, more: u32) -> Option<usize> {
        let all = &self.fleet.by_model[model];
        // A random start breaks ties evenly.
        let start = self.random.usize(..all.len());
        let best = match looks {
            None => {
                let order = all[start..].iter().chain(&all[..start]).copied();
                order.min_by_key(|replica| self.busy(*replica, more))?
            }
            Some(looks) => {
                let mut random = self.random.clone();
                let drawn = (0..looks).map(|_| all[random.usize(..all.len())]);
                let best = drawn.min_by_key(|replica| self.busy(*replica, more))?;
                self.random = random;
                best
            }
        };
        (!self.load(best).is_full()).then_some(best)
    }

    fn prefer(&mut self, request: &Request, weights: Option<ObjectiveWeights>) -> Option<usize> {
        let model = usize::from(request.model);
        let all = &self.fleet.by_model[model];
        let cost = RequestCost {
            prompt_bytes: u32::from(request.prompt) * BYTES,
            max_tokens: MODELS[model].configured.then_some(MODELS[model].most),
        };
        let now = request.at as f32;
        let (known, fleet) = (&self.known, self.fleet);
        let look = |at: usize| {
            let replica = all[at];
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
        let picked = sample_and_choose(
            all.len(),
            None,
            look,
            |seen| choose_replica(seen, weights, cost, now).map_or(0, |choice| choice.index),
            |n| random.usize(..n),
        );
        self.random = random;
        picked.map(|(at, _)| all[at])
    }

    /// An answer came, as the controller's load guard learns from it.
    pub(crate) fn served(&mut self, replica: usize, served: ServedRequest, joules: f32, now: f32) {
        let known = &mut self.known[replica];
        known.speed = Some(SpeedEstimate::learn(known.speed, served, now));
        if let Some(ComputeTime { prefill, decode }) = served.compute_time {
            let seen = joules / (prefill + decode).max(1e-6);
            let before = known.watts.unwrap_or(seen);
            known.watts = Some(before + WATTS_FOLLOW * (seen - before));
        }
    }
}

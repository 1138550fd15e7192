//! A day, event by event. A node computes its requests at once, each as slow as there are others
//! beside it; what it draws on top of idle is divided among them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use flotilla_core::estimate::{ComputeTime, ServedRequest};
use flotilla_core::routing::ReplicaLoad;

use super::fleet::{Fleet, KINDS, Node, THROTTLED};
use super::load::{BYTES, Request};
use super::policy::{Controller, Policy};

/// How often nodes say how they are, in seconds.
const TOLD_EVERY: f64 = 5.0;

/// By how much joules that a node tells of an answer differ from what it took: standard deviation
/// of the logarithm.
const TOLD_WRONG: f64 = 0.15;

/// What a day came to.
pub(crate) struct Outcome {
    /// Seconds of the whole answers by the part of the day that they end in, and of all, sorted.
    pub(crate) seconds: Vec<Vec<f32>>,
    all: Vec<f32>,
    pub(crate) rejected: usize,
    /// Answers of nodes that were strained when they were asked.
    pub(crate) strained: usize,
    /// On top of idle, and with it.
    pub(crate) active: f64,
    pub(crate) whole: f64,
    /// Answers by kind of node.
    pub(crate) by_kind: Vec<usize>,
    /// Joules on top of idle by the part of the day.
    pub(crate) hours: Vec<f64>,
}

/// Parts of the day that are told of one by one.
pub(crate) const HOURS: usize = 48;

impl Outcome {
    pub(crate) fn answers(&self) -> usize {
        self.all.len()
    }

    /// Joules per request, on top of idle.
    pub(crate) fn joules(&self) -> f64 {
        self.active / self.answers() as f64
    }

    /// What so many of the answers (0 to 1) take at most, in seconds.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.all, part)
    }

    /// The same of one part of the day.
    pub(crate) fn hour_quantile(&self, hour: usize, part: f64) -> f64 {
        quantile(&self.seconds[hour], part)
    }
}

fn quantile(sorted: &[f32], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    let seconds = sorted.get(at).or(sorted.last());
    seconds.copied().map_or(0.0, f64::from)
}

/// A request that is being computed.
struct Running {
    /// The node's work at which it is done.
    until: f64,
    request: usize,
    replica: usize,
    began: f64,
    /// The node's joules per request when it began.
    joules: f64,
    load: ReplicaLoad,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    /// Seconds of work each of its requests was given so far.
    work: f64,
    /// Joules each of its requests took so far.
    joules: f64,
    at: f64,
    version: u32,
    throttled: bool,
    strained: bool,
}

#[derive(Default)]
struct Queue {
    computing: u32,
    waiting: VecDeque<(usize, ReplicaLoad)>,
}

/// Something that happens: when, on which node, and which version of its plans it belongs to.
#[derive(PartialEq)]
struct Event(f64, usize, u32);

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_node = self.1.cmp(&other.1);
        self.0
            .total_cmp(&other.0)
            .then(by_node)
            .then(self.2.cmp(&other.2))
    }
}

pub(crate) struct Simulation<'a> {
    fleet: &'a Fleet,
    requests: &'a [Request],
    /// Seconds of the day.
    long: f64,
    controller: Controller<'a>,
    nodes: Vec<State>,
    queues: Vec<Queue>,
    events: BinaryHeap<Reverse<Event>>,
    random: fastrand::Rng,
    outcome: Outcome,
}

impl State {
    fn slow(&self, node: &Node) -> f64 {
        let beside = self.running.len().saturating_sub(1) as f64;
        let heat = if self.throttled { THROTTLED.0 } else { 1.0 };
        (1.0 + f64::from(KINDS[node.kind].crowding) * beside) / heat
    }
}

impl<'a> Simulation<'a> {
    pub(crate) fn new(
        fleet: &'a Fleet,
        requests: &'a [Request],
        long: f64,
        policy: Policy,
        seed: u64,
    ) -> Self {
        Self {
            fleet,
            requests,
            long,
            controller: Controller::new(fleet, policy, seed),
            nodes: fleet.nodes.iter().map(|_| State::default()).collect(),
            queues: fleet.replicas.iter().map(|_| Queue::default()).collect(),
            events: BinaryHeap::new(),
            random: fastrand::Rng::with_seed(seed ^ 0x5eed),
            outcome: Outcome {
                seconds: vec![Vec::new(); HOURS],
                all: Vec::new(),
                rejected: 0,
                strained: 0,
                active: 0.0,
                whole: 0.0,
                by_kind: vec![0; KINDS.len()],
                hours: vec![0.0; HOURS],
            },
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        let mut told = 0.0;
        for at in 0..self.requests.len() {
            let now = self.requests[at].at;
            self.finish_until(now);
            if now >= told {
                self.tell(now);
                told = now + TOLD_EVERY;
            }
            self.arrive(at);
        }
        self.finish_until(f64::INFINITY);
        for hour in &mut self.outcome.seconds {
            hour.sort_by(f32::total_cmp);
        }
        self.outcome.all = self.outcome.seconds.concat();
        self.outcome.all.sort_by(f32::total_cmp);
        let idle = self
            .fleet
            .nodes
            .iter()
            .map(|node| f64::from(KINDS[node.kind].idle));
        self.outcome.whole = self.outcome.active + idle.sum::<f64>() * self.long;
        self.outcome
    }

    /// Nodes say what strains them.
    fn tell(&mut self, now: f64) {
        for node in 0..self.nodes.len() {
            let strain = self.fleet.nodes[node].strain(now / self.long);
            self.nodes[node].strained = !strain.is_none();
            if self.nodes[node].throttled != strain.throttled {
                self.advance(node, now);
                self.nodes[node].throttled = strain.throttled;
                self.plan(node);
            }
        }
        for (at, replica) in self.fleet.replicas.iter().enumerate() {
            let strain = self.fleet.nodes[replica.node].strain(now / self.long);
            self.controller.known[at].pressure_factor = strain.factor();
        }
    }

    fn arrive(&mut self, request: usize) {
        let Some(replica) = self.controller.pick(&self.requests[request]) else {
            self.outcome.rejected += 1;
            return;
        };
        let load = self.controller.load(replica);
        self.controller.known[replica].in_flight += 1;
        let of = &self.fleet.replicas[replica];
        self.outcome.strained += usize::from(self.nodes[of.node].strained);
        self.outcome.by_kind[self.fleet.nodes[of.node].kind] += 1;
        if self.queues[replica].computing < of.concurrency {
            self.advance(of.node, self.requests[request].at);
            self.begin(replica, request, load);
            self.plan(of.node);
        } else {
            self.queues[replica].waiting.push_back((request, load));
        }
    }

    /// A node that is advanced to now begins to compute a request.
    fn begin(&mut self, replica: usize, request: usize, load: ReplicaLoad) {
        self.queues[replica].computing += 1;
        let of = &self.fleet.replicas[replica];
        let (asked, node) = (&self.requests[request], &mut self.nodes[of.node]);
        let prefill = f64::from(of.prefill) * f64::from(asked.prompt);
        let decode = f64::from(of.decode) * f64::from(asked.output);
        node.running.push(Running {
            until: node.work + prefill + decode,
            request,
            replica,
            began: node.at,
            joules: node.joules,
            load,
        });
    }

    /// Counts what a node has done up to now.
    fn advance(&mut self, node: usize, now: f64) {
        let (state, of) = (&mut self.nodes[node], &self.fleet.nodes[node]);
        let spell = now - state.at;
        state.at = now;
        if state.running.is_empty() || spell <= 0.0 {
            return;
        }
        state.work += spell / state.slow(of);
        let joules = of.active(state.running.len(), state.throttled) * spell;
        state.joules += joules / state.running.len() as f64;
        self.outcome.active += joules;
        let hour = ((now / self.long * HOURS as f64) as usize).min(HOURS - 1);
        self.outcome.hours[hour] += joules;
    }

    /// Foresees the next end on a node.
    fn plan(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.version += 1;
        let next = state
            .running
            .iter()
            .map(|running| running.until)
            .fold(f64::INFINITY, f64::min);
        if next.is_finite() {
            let left = (next - state.work).max(0.0) * state.slow(&self.fleet.nodes[node]);
            self.events
                .push(Reverse(Event(state.at + left, node, state.version)));
        }
    }

    fn finish_until(&mut self, now: f64) {
        while let Some(Reverse(Event(at, ..))) = self.events.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse(Event(at, node, version))) = self.events.pop() else {
                return;
            };
            if self.nodes[node].version == version {
                self.advance(node, at);
                self.finish(node);
                self.plan(node);
            }
        }
    }

    /// The request of a node that is nearest to its end has ended.
    fn finish(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        let ends = |(_, running): &(usize, &Running)| running.until;
        let first = state.running.iter().enumerate();
        let Some((first, _)) = first.min_by(|a, b| ends(a).total_cmp(&ends(b))) else {
            return;
        };
        let ended = state.running.swap_remove(first);
        let (now, joules) = (state.at, state.joules - ended.joules);
        let (asked, of) = (
            &self.requests[ended.request],
            &self.fleet.replicas[ended.replica],
        );
        let hour = ((now / self.long * HOURS as f64) as usize).min(HOURS - 1);
        self.outcome.seconds[hour].push((now - asked.at) as f32);
        let computed = (now - ended.began) as f32;
        let (prompt, output) = (f32::from(asked.prompt), f32::from(asked.output));
        let prefill = of.prefill * prompt / (of.prefill * prompt + of.decode * output);
        let served = ServedRequest {
            prompt_bytes: u32::from(asked.prompt) * BYTES,
            prompt_tokens: u32::from(asked.prompt),
            completion_tokens: u32::from(asked.output),
            seconds: (now - asked.at) as f32,
            compute_time: Some(ComputeTime {
                prefill: computed * prefill,
                decode: computed * (1.0 - prefill),
            }),
            load: ended.load,
        };
        let told = joules * (TOLD_WRONG * super::fleet::normal(&mut self.random)).exp();
        self.controller
            .served(ended.replica, served, told as f32, now as f32);
        self.controller.known[ended.replica].in_flight -= 1;
        self.queues[ended.replica].computing -= 1;
        if let Some((next, load)) = self.queues[ended.replica].waiting.pop_front() {
            self.begin(ended.replica, next, load);
        }
    }
}

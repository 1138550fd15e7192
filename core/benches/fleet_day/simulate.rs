//! Simulates a day event by event. A node computes its requests concurrently, each one slowed down by the
//! others; the energy above idle is divided among them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use flotilla_core::estimate::{ComputeTime, ServedRequest};
use flotilla_core::routing::ReplicaLoad;

use super::fleet::{Fleet, KINDS, Node, THROTTLED};
use super::load::{BYTES, Request};
use super::policy::{Controller, Policy};

/// The interval of the nodes' status reports, in seconds.
const REPORT_INTERVAL: f64 = 5.0;

/// The error of the joules that a node reports for an answer: standard deviation of the logarithm.
const REPORTED_JOULES_ERROR: f64 = 0.15;

/// The results of a day.
pub(crate) struct DayOutcome {
    /// Seconds of the answers by the part of the day in which they end, sorted.
    pub(crate) seconds: Vec<Vec<f32>>,
    /// Seconds of all answers, sorted.
    all: Vec<f32>,
    pub(crate) rejected: usize,
    /// Answers of nodes that were under pressure at dispatch.
    pub(crate) under_pressure: usize,
    /// Joules above idle.
    pub(crate) active: f64,
    /// Joules with idle.
    pub(crate) whole: f64,
    /// Answers by kind of node.
    pub(crate) by_kind: Vec<usize>,
    /// Joules above idle by the part of the day.
    pub(crate) hours: Vec<f64>,
}

/// The number of parts of the day that are reported separately.
pub(crate) const HOURS: usize = 48;

impl DayOutcome {
    pub(crate) fn answers(&self) -> usize {
        self.all.len()
    }

    /// Joules per request, above idle.
    pub(crate) fn joules(&self) -> f64 {
        self.active / self.answers() as f64
    }

    /// The quantile `part` (0 to 1) of the answers' seconds.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.all, part)
    }

    /// The same quantile in one part of the day.
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
    /// The node's work at which the request is done.
    until: f64,
    request: usize,
    replica: usize,
    began: f64,
    /// The node's joules per request at the start of the request.
    joules: f64,
    load: ReplicaLoad,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    /// Seconds of work that each of its requests has had so far.
    work: f64,
    /// Joules that each of its requests has taken so far.
    joules: f64,
    at: f64,
    version: u32,
    throttled: bool,
    under_pressure: bool,
}

#[derive(Default)]
struct Queue {
    computing: u32,
    waiting: VecDeque<(usize, ReplicaLoad)>,
}

/// The expected end of a request: the time, the node, and the version of the node's plan.
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
    /// The length of the day in seconds.
    long: f64,
    controller: Controller<'a>,
    nodes: Vec<State>,
    queues: Vec<Queue>,
    events: BinaryHeap<Reverse<Event>>,
    random: fastrand::Rng,
    outcome: DayOutcome,
}

impl State {
    fn slow(&self, node: &Node) -> f64 {
        let beside = self.running.len().saturating_sub(1) as f64;
        let heat = if self.throttled { THROTTLED.0 } else { 1.0 };
        (1.0 + f64::from(KINDS[node.kind].contention) * beside) / heat
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
            outcome: DayOutcome {
                seconds: vec![Vec::new(); HOURS],
                all: Vec::new(),
                rejected: 0,
                under_pressure: 0,
                active: 0.0,
                whole: 0.0,
                by_kind: vec![0; KINDS.len()],
                hours: vec![0.0; HOURS],
            },
        }
    }

    pub(crate) fn run(mut self) -> DayOutcome {
        let mut next_report = 0.0;
        for at in 0..self.requests.len() {
            let now = self.requests[at].at;
            self.finish_until(now);
            if now >= next_report {
                self.report(now);
                next_report = now + REPORT_INTERVAL;
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

    /// Reports the pressure of all nodes to the controller.
    fn report(&mut self, now: f64) {
        for node in 0..self.nodes.len() {
            let pressure = self.fleet.nodes[node].pressure(now / self.long);
            self.nodes[node].under_pressure = !pressure.is_none();
            if self.nodes[node].throttled != pressure.throttled {
                self.advance(node, now);
                self.nodes[node].throttled = pressure.throttled;
                self.plan(node);
            }
        }
        for (at, replica) in self.fleet.replicas.iter().enumerate() {
            let pressure = self.fleet.nodes[replica.node].pressure(now / self.long);
            self.controller.known[at].pressure_factor = pressure.factor();
        }
    }

    fn arrive(&mut self, request: usize) {
        let Some(replica) = self.controller.choose(&self.requests[request]) else {
            self.outcome.rejected += 1;
            return;
        };
        let load = self.controller.load(replica);
        self.controller.known[replica].in_flight += 1;
        let of = &self.fleet.replicas[replica];
        self.outcome.under_pressure += usize::from(self.nodes[of.node].under_pressure);
        self.outcome.by_kind[self.fleet.nodes[of.node].kind] += 1;
        if self.queues[replica].computing < of.concurrency {
            self.advance(of.node, self.requests[request].at);
            self.begin(replica, request, load);
            self.plan(of.node);
        } else {
            self.queues[replica].waiting.push_back((request, load));
        }
    }

    /// Begins to compute a request on a node that was advanced to now.
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

    /// Advances a node to now: counts its work and energy.
    fn advance(&mut self, node: usize, now: f64) {
        let (state, of) = (&mut self.nodes[node], &self.fleet.nodes[node]);
        let elapsed = now - state.at;
        state.at = now;
        if state.running.is_empty() || elapsed <= 0.0 {
            return;
        }
        state.work += elapsed / state.slow(of);
        let joules = of.active(state.running.len(), state.throttled) * elapsed;
        state.joules += joules / state.running.len() as f64;
        self.outcome.active += joules;
        let hour = ((now / self.long * HOURS as f64) as usize).min(HOURS - 1);
        self.outcome.hours[hour] += joules;
    }

    /// Schedules the next end of a request on a node.
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

    /// Ends the request of a node that is nearest to its end.
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
        let reported =
            joules * (REPORTED_JOULES_ERROR * super::fleet::normal(&mut self.random)).exp();
        self.controller
            .record_answer(ended.replica, served, reported as f32, now as f32);
        self.controller.known[ended.replica].in_flight -= 1;
        self.queues[ended.replica].computing -= 1;
        if let Some((next, load)) = self.queues[ended.replica].waiting.pop_front() {
            self.begin(ended.replica, next, load);
        }
    }
}

//! Simulates a day event by event. A node computes its requests concurrently. They slow each other down,
//! and the energy above idle is divided among them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use flotilla_core::estimate::{ComputeTime, ServedRequest};
use flotilla_core::routing::ReplicaLoad;

use super::fleet::{Fleet, KINDS, Node, Replica, THROTTLED};
use super::load::{BYTES_PER_TOKEN, Request};
use super::policy::{Controller, Policy};

/// The interval of the nodes' status reports, in seconds.
const REPORT_INTERVAL: f64 = 5.0;

/// Error of the joules that a node reports for an answer: the standard deviation of the logarithm.
const REPORTED_JOULES_ERROR: f64 = 0.15;

/// The results of a day.
pub(crate) struct DayOutcome {
    /// Seconds of the answers by the period of the day in which they end, sorted.
    pub(crate) seconds: Vec<Vec<f32>>,
    /// Seconds of all answers, sorted.
    all: Vec<f32>,
    pub(crate) rejected: usize,
    /// Answers of nodes that were under pressure at dispatch.
    pub(crate) under_pressure: usize,
    /// Joules above idle.
    pub(crate) active_joules: f64,
    /// Joules including idle.
    pub(crate) total_joules: f64,
    /// Answers by kind of node.
    pub(crate) by_kind: Vec<usize>,
    /// Joules above idle by period of the day.
    pub(crate) period_joules: Vec<f64>,
}

/// The number of periods of the day that are reported separately.
pub(crate) const PERIODS: usize = 48;

impl DayOutcome {
    pub(crate) fn answers(&self) -> usize {
        self.all.len()
    }

    /// Returns the joules per request above idle.
    pub(crate) fn joules(&self) -> f64 {
        self.active_joules / self.answers() as f64
    }

    /// Returns the quantile `part` (0 to 1) of the answers' seconds.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.all, part)
    }

    /// Returns the same quantile in one period of the day.
    pub(crate) fn period_quantile(&self, period: usize, part: f64) -> f64 {
        quantile(&self.seconds[period], part)
    }
}

/// Returns the index of the period of the day that contains `now`.
fn period(now: f64, day_seconds: f64) -> usize {
    ((now / day_seconds * PERIODS as f64) as usize).min(PERIODS - 1)
}

fn quantile(sorted: &[f32], part: f64) -> f64 {
    let index = (sorted.len() as f64 * part) as usize;
    let seconds = sorted.get(index).or(sorted.last());
    seconds.copied().map_or(0.0, f64::from)
}

/// A request that is being computed.
struct Running {
    /// The node's work at which the request is complete.
    end_work: f64,
    request: usize,
    replica: usize,
    started_at: f64,
    /// The node's joules per request at the start of the request.
    joules: f64,
    load: ReplicaLoad,
}

/// The state of a node.
#[derive(Default)]
struct NodeState {
    running: Vec<Running>,
    /// Seconds of work for a request that has run since the start of the day.
    work: f64,
    /// Joules of such a request.
    joules: f64,
    /// Time up to which `work` and `joules` are counted.
    updated_at: f64,
    /// Version of the plan, which makes earlier events of the node invalid.
    version: u32,
    throttled: bool,
    under_pressure: bool,
}

/// The requests of a replica.
#[derive(Default)]
struct Queue {
    active: u32,
    waiting: VecDeque<(usize, ReplicaLoad)>,
}

/// The expected completion of a request.
#[derive(PartialEq)]
struct Event {
    time: f64,
    node: usize,
    /// Version of the node's plan.
    version: u32,
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_node = self.node.cmp(&other.node);
        self.time
            .total_cmp(&other.time)
            .then(by_node)
            .then(self.version.cmp(&other.version))
    }
}

pub(crate) struct Simulation<'a> {
    fleet: &'a Fleet,
    requests: &'a [Request],
    /// The length of the day in seconds.
    day_seconds: f64,
    controller: Controller<'a>,
    nodes: Vec<NodeState>,
    queues: Vec<Queue>,
    events: BinaryHeap<Reverse<Event>>,
    random: fastrand::Rng,
    outcome: DayOutcome,
}

impl NodeState {
    /// Returns the factor by which a request takes longer than on the idle node.
    fn slowdown(&self, node: &Node) -> f64 {
        let others = self.running.len().saturating_sub(1) as f64;
        let heat = if self.throttled { THROTTLED.0 } else { 1.0 };
        (1.0 + f64::from(KINDS[node.kind].contention) * others) / heat
    }
}

impl<'a> Simulation<'a> {
    pub(crate) fn new(
        fleet: &'a Fleet,
        requests: &'a [Request],
        day_seconds: f64,
        policy: Policy,
        seed: u64,
    ) -> Self {
        Self {
            fleet,
            requests,
            day_seconds,
            controller: Controller::new(fleet, policy, seed),
            nodes: fleet.nodes.iter().map(|_| NodeState::default()).collect(),
            queues: fleet.replicas.iter().map(|_| Queue::default()).collect(),
            events: BinaryHeap::new(),
            random: fastrand::Rng::with_seed(seed ^ 0x5eed),
            outcome: DayOutcome {
                seconds: vec![Vec::new(); PERIODS],
                all: Vec::new(),
                rejected: 0,
                under_pressure: 0,
                active_joules: 0.0,
                total_joules: 0.0,
                by_kind: vec![0; KINDS.len()],
                period_joules: vec![0.0; PERIODS],
            },
        }
    }

    pub(crate) fn run(mut self) -> DayOutcome {
        let mut next_report = 0.0;
        for request in 0..self.requests.len() {
            let now = self.requests[request].arrival;
            self.finish_until(now);
            if now >= next_report {
                self.report(now);
                next_report = now + REPORT_INTERVAL;
            }
            self.dispatch(request);
        }
        self.finish_until(f64::INFINITY);
        for period in &mut self.outcome.seconds {
            period.sort_by(f32::total_cmp);
        }
        self.outcome.all = self.outcome.seconds.concat();
        self.outcome.all.sort_by(f32::total_cmp);
        let idle = self
            .fleet
            .nodes
            .iter()
            .map(|node| f64::from(KINDS[node.kind].idle));
        let idle_joules = idle.sum::<f64>() * self.day_seconds;
        self.outcome.total_joules = self.outcome.active_joules + idle_joules;
        self.outcome
    }

    /// Reports the pressure of all nodes to the controller.
    fn report(&mut self, now: f64) {
        for node in 0..self.nodes.len() {
            let pressure = self.fleet.nodes[node].pressure(now / self.day_seconds);
            self.nodes[node].under_pressure = !pressure.is_none();
            if self.nodes[node].throttled != pressure.throttled {
                self.advance(node, now);
                self.nodes[node].throttled = pressure.throttled;
                self.plan(node);
            }
        }
        for (index, replica) in self.fleet.replicas.iter().enumerate() {
            let pressure = self.fleet.nodes[replica.node].pressure(now / self.day_seconds);
            self.controller.states[index].pressure_factor = pressure.factor();
        }
    }

    /// Sends a request to the replica that the controller chooses.
    fn dispatch(&mut self, request: usize) {
        let Some(replica) = self.controller.choose(&self.requests[request]) else {
            self.outcome.rejected += 1;
            return;
        };
        let load = self.controller.load(replica);
        self.controller.states[replica].in_flight += 1;
        let Replica {
            node, concurrency, ..
        } = self.fleet.replicas[replica];
        self.outcome.under_pressure += usize::from(self.nodes[node].under_pressure);
        self.outcome.by_kind[self.fleet.nodes[node].kind] += 1;
        if self.queues[replica].active < concurrency {
            self.advance(node, self.requests[request].arrival);
            self.start(replica, request, load);
            self.plan(node);
        } else {
            self.queues[replica].waiting.push_back((request, load));
        }
    }

    /// Starts to compute a request on a node that was advanced to the current time.
    fn start(&mut self, replica: usize, request: usize, load: ReplicaLoad) {
        self.queues[replica].active += 1;
        let Replica {
            node,
            prefill,
            decode,
            ..
        } = self.fleet.replicas[replica];
        let Request { prompt, output, .. } = self.requests[request];
        let prefill = f64::from(prefill) * f64::from(prompt);
        let decode = f64::from(decode) * f64::from(output);
        let node = &mut self.nodes[node];
        node.running.push(Running {
            end_work: node.work + prefill + decode,
            request,
            replica,
            started_at: node.updated_at,
            joules: node.joules,
            load,
        });
    }

    /// Advances a node to `now`: counts its work and energy.
    fn advance(&mut self, node: usize, now: f64) {
        let (state, node) = (&mut self.nodes[node], &self.fleet.nodes[node]);
        let elapsed = now - state.updated_at;
        state.updated_at = now;
        if state.running.is_empty() || elapsed <= 0.0 {
            return;
        }
        state.work += elapsed / state.slowdown(node);
        let joules = node.active_watts(state.running.len(), state.throttled) * elapsed;
        state.joules += joules / state.running.len() as f64;
        self.outcome.active_joules += joules;
        self.outcome.period_joules[period(now, self.day_seconds)] += joules;
    }

    /// Schedules the next completion of a request on a node.
    fn plan(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.version += 1;
        let next = state
            .running
            .iter()
            .map(|running| running.end_work)
            .fold(f64::INFINITY, f64::min);
        if next.is_finite() {
            let slowdown = state.slowdown(&self.fleet.nodes[node]);
            let time = state.updated_at + (next - state.work).max(0.0) * slowdown;
            self.events.push(Reverse(Event {
                time,
                node,
                version: state.version,
            }));
        }
    }

    fn finish_until(&mut self, now: f64) {
        while let Some(Reverse(Event { time, .. })) = self.events.peek() {
            if *time > now {
                return;
            }
            let Some(Reverse(Event {
                time,
                node,
                version,
            })) = self.events.pop()
            else {
                return;
            };
            if self.nodes[node].version == version {
                self.advance(node, time);
                self.finish(node);
                self.plan(node);
            }
        }
    }

    /// Completes the request of a node that has the least work left.
    fn finish(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        let end_work = |(_, running): &(usize, &Running)| running.end_work;
        let running = state.running.iter().enumerate();
        let Some((index, _)) = running.min_by(|a, b| end_work(a).total_cmp(&end_work(b))) else {
            return;
        };
        let completed = state.running.swap_remove(index);
        let (now, joules) = (state.updated_at, state.joules - completed.joules);
        let (request, replica) = (
            &self.requests[completed.request],
            &self.fleet.replicas[completed.replica],
        );
        let seconds = (now - request.arrival) as f32;
        self.outcome.seconds[period(now, self.day_seconds)].push(seconds);
        let compute_seconds = (now - completed.started_at) as f32;
        let prefill = replica.prefill * f32::from(request.prompt);
        let decode = replica.decode * f32::from(request.output);
        let prefill_share = prefill / (prefill + decode);
        let served = ServedRequest {
            prompt_bytes: u32::from(request.prompt) * BYTES_PER_TOKEN,
            prompt_tokens: u32::from(request.prompt),
            completion_tokens: u32::from(request.output),
            choices: 1,
            seconds,
            compute_time: Some(ComputeTime {
                prefill: compute_seconds * prefill_share,
                decode: compute_seconds * (1.0 - prefill_share),
            }),
            load: completed.load,
        };
        let reported =
            joules * (REPORTED_JOULES_ERROR * super::fleet::normal(&mut self.random)).exp();
        self.controller
            .record_answer(completed.replica, served, reported as f32, now as f32);
        self.controller.states[completed.replica].in_flight -= 1;
        self.queues[completed.replica].active -= 1;
        if let Some((next, load)) = self.queues[completed.replica].waiting.pop_front() {
            self.start(completed.replica, next, load);
        }
    }
}

//! The simulated fleet: the kinds of nodes, their models, and the times of power and thermal pressure.
//!
//! Speeds are those of a model with a billion weights of 4 bits (0.7 GB) and one request at a time. Watts
//! are those of the whole node. The values are our own rounded estimates, similar to published ones:
//!
//! - Decoding waits for memory: a token takes at least the time to read the weights once
//!   (ericxliu.me, "Benchmarking LLMs on Jetson Orin Nano", 2025). Speeds therefore follow the bandwidth: 17 GB/s
//!   of a Raspberry Pi 5, one channel of an N100, 80 GB/s of a Ryzen 7 with DDR5-5600 (minipcblogs.com,
//!   "Ryzen 8845HS mini PCs", 2026), 68 GB/s of a Jetson Orin Nano, 360 GB/s of an RTX 3060
//!   (specpicks.com, "Ryzen AI Max 395 vs RTX 3060", 2026); a third to a half of each is reached in practice.
//! - Raspberry Pi: 3 to 10 W; small x86 boxes: 2 to 8 W idle, up to 25 W (minipcland.com, "How much power
//!   do mini Linux PCs consume", 2024). For a Ryzen 7, the package limit of 54 W and the rest of the box.
//! - Jetson Orin Nano Super: in its 25 W mode, where it takes the fewest joules per token (smolhub.com,
//!   "Jetson Orin Nano Super benchmark", 2026).
//! - Workstation: the 170 W of an RTX 3060 (TechPowerUp) and the rest of a PC.
//! - Old server: two processors of 95 W with fans and memory; our own estimate.
//!
//! The gain from computing requests concurrently (`contention`, `single_share`) is our own estimate, too:
//! small on processors, large on a graphics card.

use flotilla_core::Watts;
use flotilla_core::energy::NodePressure;
use flotilla_core::energy::PowerRange;

/// A kind of node.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The fraction of all nodes.
    fraction: f32,
    /// Watts without requests.
    pub(crate) idle: f32,
    /// Watts under full load.
    pub(crate) max: f32,
    /// Tokens per second of a model with a billion weights in decode.
    decode: f32,
    /// The same in prefill.
    prefill: f32,
    /// Slots of a replica.
    pub(crate) concurrency: u32,
    /// The share of its time by which each concurrent request slows a request down; 1 for no gain.
    pub(crate) contention: f32,
    /// The share of the power above idle that a single request draws.
    pub(crate) single_share: f32,
    /// Whether the node is too small for large models.
    small: bool,
}

#[rustfmt::skip]
pub(crate) const KINDS: [Kind; 6] = [
    Kind { name: "Raspberry Pi 5", fraction: 0.30, idle: 3.0, max: 9.0, decode: 10.0, prefill: 45.0, concurrency: 2, contention: 0.70, single_share: 0.95, small: true },
    Kind { name: "mini PC, N100", fraction: 0.20, idle: 7.0, max: 23.0, decode: 14.0, prefill: 60.0, concurrency: 2, contention: 0.65, single_share: 0.90, small: true },
    Kind { name: "mini PC, Ryzen 7", fraction: 0.17, idle: 9.0, max: 65.0, decode: 45.0, prefill: 300.0, concurrency: 4, contention: 0.45, single_share: 0.80, small: false },
    Kind { name: "old server, 2 Xeons", fraction: 0.15, idle: 90.0, max: 290.0, decode: 32.0, prefill: 200.0, concurrency: 4, contention: 0.45, single_share: 0.75, small: false },
    Kind { name: "Jetson Orin Nano", fraction: 0.15, idle: 5.0, max: 19.0, decode: 45.0, prefill: 900.0, concurrency: 4, contention: 0.35, single_share: 0.85, small: false },
    Kind { name: "workstation, RTX 3060", fraction: 0.03, idle: 45.0, max: 235.0, decode: 160.0, prefill: 5_000.0, concurrency: 8, contention: 0.15, single_share: 0.65, small: false },
];

/// A model with its requests and its share of the nodes.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// Billions of weights.
    size: f32,
    /// The fraction of the requests.
    pub(crate) fraction: f64,
    /// The fraction of the nodes that have the model.
    node_fraction: f32,
    large: bool,
    /// Median and standard deviation of the logarithm of the tokens of prompt and answer. They are
    /// lognormal, since traces of such services are long-tailed (Wang et al., "BurstGPT", arXiv:2401.17644).
    pub(crate) prompt: (f64, f64),
    pub(crate) output: (f64, f64),
    /// Maximum number of tokens of an answer.
    pub(crate) max_tokens: u32,
    /// Whether requests contain the maximum.
    pub(crate) has_limit: bool,
}

#[rustfmt::skip]
pub(crate) const MODELS: [Model; 3] = [
    Model { name: "intent, 0.14 B", size: 0.14, fraction: 0.50, node_fraction: 0.5, large: false, prompt: (60.0, 0.6), output: (4.0, 0.4), max_tokens: 8, has_limit: true },
    Model { name: "assistant, 1 B", size: 1.0, fraction: 0.35, node_fraction: 0.6, large: false, prompt: (180.0, 0.9), output: (70.0, 0.8), max_tokens: 400, has_limit: false },
    Model { name: "writer, 3 B", size: 3.0, fraction: 0.15, node_fraction: 0.7, large: true, prompt: (300.0, 0.9), output: (120.0, 0.7), max_tokens: 500, has_limit: false },
];

/// The queue length of a replica: the default in a model's spec.
const QUEUE: u32 = 64;

/// A node.
pub(crate) struct Node {
    pub(crate) kind: usize,
    /// Factor on the speed of its kind.
    speed: f32,
    /// Factor on the power above idle of its kind.
    power_factor: f32,
    /// Start and end of the time on battery, as fractions of the day.
    battery: Option<(f64, f64)>,
    /// Start and end of the time when the node is throttled, as fractions of the day.
    heat: Option<(f64, f64)>,
}

/// A model on a node.
pub(crate) struct Replica {
    pub(crate) node: usize,
    pub(crate) concurrency: u32,
    pub(crate) capacity: u32,
    /// Seconds per token in decode.
    pub(crate) decode: f32,
    /// Seconds per token in prefill.
    pub(crate) prefill: f32,
}

pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) replicas: Vec<Replica>,
    /// Indices of the replicas of each model.
    pub(crate) by_model: Vec<Vec<usize>>,
}

/// The factors on speed and on power above idle of a throttled node.
pub(crate) const THROTTLED: (f64, f64) = (0.55, 0.65);

impl Fleet {
    pub(crate) fn new(size: usize, random: &mut fastrand::Rng) -> Self {
        let mut fleet = Self {
            nodes: Vec::new(),
            replicas: Vec::new(),
            by_model: vec![Vec::new(); MODELS.len()],
        };
        let mut kinds = Vec::new();
        for (index, kind) in KINDS.iter().enumerate() {
            let count = (kind.fraction * size as f32).round() as usize;
            kinds.extend(std::iter::repeat_n(index, count));
        }
        for kind in kinds {
            let factor =
                |random: &mut fastrand::Rng, spread: f32| (spread * normal(random) as f32).exp();
            let period = |random: &mut fastrand::Rng, probability: f32, max_length: f64| {
                let (start, length) = (random.f64(), (0.3 + 0.7 * random.f64()) * max_length);
                (random.f32() < probability).then_some((start, start + length))
            };
            let small = KINDS[kind].small;
            let node = Node {
                kind,
                speed: factor(random, 0.08),
                power_factor: factor(random, 0.08),
                // Small nodes are on battery more often, for up to three hours.
                battery: period(random, if small { 0.15 } else { 0.05 }, 0.125),
                // Fanless nodes are throttled more often, for up to five hours.
                heat: period(random, if small { 0.15 } else { 0.08 }, 0.2),
            };
            fleet.nodes.push(node);
            for (index, model) in MODELS.iter().enumerate() {
                if (small && model.large) || random.f32() > model.node_fraction {
                    continue;
                }
                fleet.place(fleet.nodes.len() - 1, index);
            }
        }
        fleet
    }

    fn place(&mut self, node: usize, model: usize) {
        let speed = self.nodes[node].speed;
        let kind = &KINDS[self.nodes[node].kind];
        // The constant overhead of a token counts as additional weights. It matters for very small models.
        let size = MODELS[model].size + 0.05;
        self.by_model[model].push(self.replicas.len());
        self.replicas.push(Replica {
            node,
            concurrency: kind.concurrency,
            capacity: kind.concurrency + QUEUE,
            decode: size / (kind.decode * speed),
            prefill: size / (kind.prefill * speed),
        });
    }
}

impl Node {
    /// Returns the power range that the agent reports.
    pub(crate) fn power(&self) -> PowerRange {
        let kind = &KINDS[self.kind];
        PowerRange {
            idle: Watts(kind.idle),
            max: Watts(kind.max),
            configured: true,
        }
    }

    /// Returns the watts above idle with `requests` concurrent requests.
    pub(crate) fn active_watts(&self, requests: usize, throttled: bool) -> f64 {
        let kind = &KINDS[self.kind];
        let concurrency = (requests as f32 - 1.0) / (kind.concurrency as f32 - 1.0);
        let share = kind.single_share + (1.0 - kind.single_share) * concurrency.min(1.0);
        let heat = if throttled { THROTTLED.1 } else { 1.0 };
        f64::from((kind.max - kind.idle) * share * self.power_factor) * heat
    }

    /// Returns the pressure at a fraction of the day.
    pub(crate) fn pressure(&self, day: f64) -> NodePressure {
        let within = |period: Option<(f64, f64)>| {
            period.filter(|(start, end)| (*start..*end).contains(&day))
        };
        NodePressure {
            battery: within(self.battery)
                .map(|(start, end)| 1.0 - 0.8 * ((day - start) / (end - start)) as f32),
            throttled: within(self.heat).is_some(),
        }
    }
}

/// Returns a random number of the standard normal distribution (Box and Muller, "A Note on the Generation of
/// Random Normal Deviates", 1958).
pub(crate) fn normal(random: &mut fastrand::Rng) -> f64 {
    let (u, v) = (1.0 - random.f64(), random.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

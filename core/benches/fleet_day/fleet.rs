//! The fleet: what kinds of nodes there are, which models they have, and when they are strained.
//!
//! Speeds are of a model of a billion weights in 4 bits (0.7 GB), one request alone; watts are those of the
//! whole node. They are ours, rounded, and of the order of what was published:
//!
//! - Decoding waits for memory: a token takes at least the time to read the weights once
//!   (ericxliu.me, "Benchmarking LLMs on Jetson Orin Nano", 2025). So speeds follow the bandwidth: 17 GB/s
//!   of a Raspberry Pi 5, one channel of an N100, 80 GB/s of a Ryzen 7 with DDR5-5600 (minipcblogs.com,
//!   "Ryzen 8845HS mini PCs", 2026), 68 GB/s of a Jetson Orin Nano, 360 GB/s of an RTX 3060
//!   (specpicks.com, "Ryzen AI Max 395 vs RTX 3060", 2026); of each a third to a half is got in practice.
//! - Raspberry Pi: 3 to 10 W; small x86 boxes: 2 to 8 W idle, up to 25 W (minipcland.com, "How much power
//!   do mini Linux PCs consume", 2024). A Ryzen 7's are its package's limit of 54 W and the rest of the box.
//! - Jetson Orin Nano Super: in its mode of 25 W, where it takes the fewest joules per token (smolhub.com,
//!   "Jetson Orin Nano Super benchmark", 2026).
//! - Workstation: an RTX 3060's 170 W (TechPowerUp) and a PC around it.
//! - Old server: two processors of 95 W with fans and memory; an estimate of ours.
//!
//! How much is gained by computing requests at once (`crowding`, `alone`) is an estimate of ours too:
//! little on processors, much on a graphics card.

use flotilla_core::Watts;
use flotilla_core::energy::NodePressure;
use flotilla_core::energy::PowerRange;

/// A kind of node.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Part of all nodes.
    part: f32,
    pub(crate) idle: f32,
    pub(crate) max: f32,
    /// Tokens per second of a model of a billion weights.
    decode: f32,
    prefill: f32,
    /// Requests that a replica computes at once, and by what part of its time each one beside it slows
    /// a request down: 1 where nothing is gained.
    pub(crate) concurrency: u32,
    pub(crate) crowding: f32,
    /// Part of the watts on top of idle that a single request draws.
    pub(crate) alone: f32,
    /// Whether there is no larger model on it.
    small: bool,
}

#[rustfmt::skip]
pub(crate) const KINDS: [Kind; 6] = [
    Kind { name: "Raspberry Pi 5", part: 0.30, idle: 3.0, max: 9.0, decode: 10.0, prefill: 45.0, concurrency: 2, crowding: 0.70, alone: 0.95, small: true },
    Kind { name: "mini PC, N100", part: 0.20, idle: 7.0, max: 23.0, decode: 14.0, prefill: 60.0, concurrency: 2, crowding: 0.65, alone: 0.90, small: true },
    Kind { name: "mini PC, Ryzen 7", part: 0.17, idle: 9.0, max: 65.0, decode: 45.0, prefill: 300.0, concurrency: 4, crowding: 0.45, alone: 0.80, small: false },
    Kind { name: "old server, 2 Xeons", part: 0.15, idle: 90.0, max: 290.0, decode: 32.0, prefill: 200.0, concurrency: 4, crowding: 0.45, alone: 0.75, small: false },
    Kind { name: "Jetson Orin Nano", part: 0.15, idle: 5.0, max: 19.0, decode: 45.0, prefill: 900.0, concurrency: 4, crowding: 0.35, alone: 0.85, small: false },
    Kind { name: "workstation, RTX 3060", part: 0.03, idle: 45.0, max: 235.0, decode: 160.0, prefill: 5_000.0, concurrency: 8, crowding: 0.15, alone: 0.65, small: false },
];

/// A model, its requests and where it is.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// Billions of weights.
    size: f32,
    /// Part of the requests.
    pub(crate) part: f64,
    /// Part of the nodes that have it.
    placed: f32,
    large: bool,
    /// Median and spread (of the logarithm) of the tokens of prompt and answer: lognormal, as traces of
    /// such services are long-tailed (Wang et al., "BurstGPT", arXiv:2401.17644).
    pub(crate) prompt: (f64, f64),
    pub(crate) output: (f64, f64),
    /// Most tokens of an answer; told with the request where the client states it.
    pub(crate) most: u32,
    pub(crate) configured: bool,
}

#[rustfmt::skip]
pub(crate) const MODELS: [Model; 3] = [
    Model { name: "intent, 0.14 B", size: 0.14, part: 0.50, placed: 0.5, large: false, prompt: (60.0, 0.6), output: (4.0, 0.4), most: 8, configured: true },
    Model { name: "assistant, 1 B", size: 1.0, part: 0.35, placed: 0.6, large: false, prompt: (180.0, 0.9), output: (70.0, 0.8), most: 400, configured: false },
    Model { name: "writer, 3 B", size: 3.0, part: 0.15, placed: 0.7, large: true, prompt: (300.0, 0.9), output: (120.0, 0.7), most: 500, configured: false },
];

/// Requests that may wait on one replica, as the default of a model's spec.
const QUEUE: u32 = 64;

/// A node that is there.
pub(crate) struct Node {
    pub(crate) kind: usize,
    /// By which factor it is faster than its kind, and draws more.
    speed: f32,
    draw: f32,
    /// When it lives off its battery, and is slowed down by heat: parts of the day.
    battery: Option<(f64, f64)>,
    heat: Option<(f64, f64)>,
}

/// A model on a node.
pub(crate) struct Replica {
    pub(crate) node: usize,
    pub(crate) concurrency: u32,
    pub(crate) capacity: u32,
    /// Seconds per token.
    pub(crate) decode: f32,
    pub(crate) prefill: f32,
}

pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Node>,
    pub(crate) replicas: Vec<Replica>,
    /// Replicas by model.
    pub(crate) by_model: Vec<Vec<usize>>,
}

/// By which factor a node is slower that is slowed down by heat, and what of its watts on top of idle it
/// still draws.
pub(crate) const THROTTLED: (f64, f64) = (0.55, 0.65);

impl Fleet {
    pub(crate) fn new(size: usize, random: &mut fastrand::Rng) -> Self {
        let mut fleet = Self {
            nodes: Vec::new(),
            replicas: Vec::new(),
            by_model: vec![Vec::new(); MODELS.len()],
        };
        let mut kinds = Vec::new();
        for (at, kind) in KINDS.iter().enumerate() {
            let count = (kind.part * size as f32).round() as usize;
            kinds.extend(std::iter::repeat_n(at, count));
        }
        for kind in kinds {
            let near =
                |random: &mut fastrand::Rng, spread: f32| (spread * normal(random) as f32).exp();
            let spell = |random: &mut fastrand::Rng, part: f32, longest: f64| {
                let (from, long) = (random.f64(), (0.3 + 0.7 * random.f64()) * longest);
                (random.f32() < part).then_some((from, from + long))
            };
            let small = KINDS[kind].small;
            let node = Node {
                kind,
                speed: near(random, 0.08),
                draw: near(random, 0.08),
                // Shops' small nodes have batteries; a spell of up to three hours.
                battery: spell(random, if small { 0.15 } else { 0.05 }, 0.125),
                // Fanless ones get hot for up to five hours.
                heat: spell(random, if small { 0.15 } else { 0.08 }, 0.2),
            };
            fleet.nodes.push(node);
            for (at, model) in MODELS.iter().enumerate() {
                if (small && model.large) || random.f32() > model.placed {
                    continue;
                }
                fleet.place(fleet.nodes.len() - 1, at);
            }
        }
        fleet
    }

    fn place(&mut self, node: usize, model: usize) {
        let (of, what) = (&self.nodes[node], &MODELS[model]);
        let kind = &KINDS[of.kind];
        // What is not reading weights takes as long as some more of them, which very small models feel.
        let size = what.size + 0.05;
        self.by_model[model].push(self.replicas.len());
        self.replicas.push(Replica {
            node,
            concurrency: kind.concurrency,
            capacity: kind.concurrency + QUEUE,
            decode: size / (kind.decode * of.speed),
            prefill: size / (kind.prefill * of.speed),
        });
    }
}

impl Node {
    /// What it draws, as its agent tells.
    pub(crate) fn power(&self) -> PowerRange {
        let kind = &KINDS[self.kind];
        PowerRange {
            idle: Watts(kind.idle),
            max: Watts(kind.max),
            configured: true,
        }
    }

    /// Watts on top of idle with so many requests at once.
    pub(crate) fn active(&self, requests: usize, throttled: bool) -> f64 {
        let kind = &KINDS[self.kind];
        let more = (requests as f32 - 1.0) / (kind.concurrency as f32 - 1.0);
        let part = kind.alone + (1.0 - kind.alone) * more.min(1.0);
        let heat = if throttled { THROTTLED.1 } else { 1.0 };
        f64::from((kind.max - kind.idle) * part * self.draw) * heat
    }

    /// What strains it at this part of the day.
    pub(crate) fn strain(&self, day: f64) -> NodePressure {
        let within =
            |spell: Option<(f64, f64)>| spell.filter(|(from, to)| (*from..*to).contains(&day));
        NodePressure {
            battery: within(self.battery)
                .map(|(from, to)| 1.0 - 0.8 * ((day - from) / (to - from)) as f32),
            throttled: within(self.heat).is_some(),
        }
    }
}

/// A number of the standard normal distribution (Box and Muller).
pub(crate) fn normal(random: &mut fastrand::Rng) -> f64 {
    let (u, v) = (1.0 - random.f64(), random.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

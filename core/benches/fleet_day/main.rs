//! Simulates a day of a fleet of 1,000 unequal nodes and compares the energy and time of requests under
//! several policies for choosing replicas. Flotilla's policy is the code of this crate. Also measures
//! the error of the joules that are attributed to a request.
//!
//! `cargo bench -p flotilla-core --bench fleet_day` writes `docs/fleet-day.md` and `docs/fleet-day.svg`.
//! All random numbers come from fixed seeds: the results are reproducible.

mod attribution;
mod fleet;
mod load;
mod policy;
mod report;
mod simulate;

use std::fmt::Write as _;
use std::path::Path;

use attribution::{EnergyReading, NodeWorkload};
use fleet::{Fleet, KINDS, MODELS};
use flotilla_core::routing::ObjectiveWeights;
use policy::Policy;
use report::{PolicyResult, RelativeResult};
use simulate::{DayOutcome, Simulation};

const NODES: usize = 1_000;
/// The load of the fleet at the usual peak of the main day, 0 to 1.
const PEAK_LOAD: f64 = 0.6;
/// The length of the main day in seconds.
const DAY_SECONDS: f64 = 43_200.0;
/// The length of the other days in seconds.
const SHORT_DAY_SECONDS: f64 = 7_200.0;
/// The loads and the seeds of the other days.
const PEAK_LOADS: [f64; 3] = [0.3, 0.6, 0.9];
const SEEDS: [u64; 3] = [2, 3, 4];

/// Task weights that consider time only.
const SOONEST: ObjectiveWeights = ObjectiveWeights {
    quality: 0.0,
    latency: 1.0,
    energy: 0.0,
};

const POLICIES: [(&str, Policy); 6] = [
    ("round robin", Policy::RoundRobin),
    (
        "least load of two",
        Policy::LeastLoad {
            sample: Some(2),
            extra: 0,
        },
    ),
    (
        "least load of all",
        Policy::LeastLoad {
            sample: None,
            extra: 0,
        },
    ),
    (
        "shortest expected delay of all",
        Policy::LeastLoad {
            sample: None,
            extra: 1,
        },
    ),
    ("Flotilla, soonest", Policy::Flotilla(Some(SOONEST))),
    ("Flotilla", Policy::Flotilla(None)),
];

/// Simulates a day of a fleet once for each policy. Returns the number of requests and the results.
fn simulate_day(seed: u64, peak_load: f64, day_seconds: f64) -> (usize, Vec<PolicyResult>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::new(NODES, &mut random);
    let requests = load::day(&fleet, peak_load, day_seconds, &mut random);
    let rows = POLICIES.map(|(name, policy)| PolicyResult {
        name,
        outcome: Simulation::new(&fleet, &requests, day_seconds, policy, seed).run(),
    });
    (requests.len(), rows.into())
}

fn outcome_of<'a>(rows: &'a [PolicyResult], name: &str) -> &'a DayOutcome {
    let row = rows.iter().find(|row| row.name == name);
    &row.expect("the policy is in POLICIES").outcome
}

/// Compares Flotilla with both policies that read the load of all replicas, for each seed and load.
/// Returns a table.
fn other_days() -> String {
    let mut text = String::from(
        "| seed | busy at peak | requests | J against least load | p95 against it | J against shortest expected delay | p95 against it |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for seed in SEEDS {
        for peak_load in PEAK_LOADS {
            let (requests, rows) = simulate_day(seed, peak_load, SHORT_DAY_SECONDS);
            let flotilla = outcome_of(&rows, "Flotilla");
            let load = RelativeResult::new(flotilla, outcome_of(&rows, "least load of all"));
            let delay = RelativeResult::new(
                flotilla,
                outcome_of(&rows, "shortest expected delay of all"),
            );
            let _ = writeln!(
                text,
                "| {seed} | {:.0} % | {requests} | {:+.0} % | {:+.0} % | {:+.0} % | {:+.0} % |",
                100.0 * peak_load,
                load.joules,
                load.p95,
                delay.joules,
                delay.p95,
            );
        }
    }
    text
}

/// Measures the attribution errors of mixed requests, and of short requests one at a time.
fn attribution_errors() -> Vec<(&'static str, attribution::Errors)> {
    let mixed = NodeWorkload {
        max_concurrent: 8,
        max_seconds: 10.0,
    };
    let short = NodeWorkload {
        max_concurrent: 1,
        max_seconds: 0.04,
    };
    vec![
        ("meter", attribution::errors(EnergyReading::Meter, mixed, 1)),
        (
            "estimate",
            attribution::errors(EnergyReading::Estimate, mixed, 1),
        ),
        (
            "meter, short requests one at a time",
            attribution::errors(EnergyReading::Meter, short, 1),
        ),
        (
            "estimate, short requests one at a time",
            attribution::errors(EnergyReading::Estimate, short, 1),
        ),
    ]
}

fn main() {
    // `cargo test` runs benches without this argument. A short day then shows that they work.
    if !std::env::args().any(|arg| arg == "--bench") {
        let (requests, rows) = simulate_day(1, 0.3, 60.0);
        println!("{requests} requests\n{}", report::table(&rows));
        return;
    }
    let (requests, mut rows) = simulate_day(1, PEAK_LOAD, DAY_SECONDS);
    let flotilla = outcome_of(&rows, "Flotilla");
    let load = RelativeResult::new(flotilla, outcome_of(&rows, "least load of all"));
    let delay = RelativeResult::new(
        flotilla,
        outcome_of(&rows, "shortest expected delay of all"),
    );
    let errors = attribution_errors();
    let kinds = KINDS.map(|kind| kind.name);
    let models = MODELS.map(|model| model.name).join("; ");
    let text = format!(
        "# A day of a fleet\n\n\
         Written by `cargo bench -p flotilla-core --bench fleet_day`: a simulation, event by event, of \
         {NODES} unequal nodes and {requests} requests ({models}) on a day compressed to {:.0} hours, \
         with rush hours and bursts, batteries and heat. At its peak the fleet is {:.0} % busy. \
         Replicas are chosen by Flotilla's own code; the nodes' figures are plausible ones, with \
         their sources in `core/benches/fleet_day/fleet.rs`. Nothing here was measured on such a fleet.\n\n\
         {}\n\
         Energy above idle is what routing can change; energy with idle is what the whole fleet draws, \
         per request. Least load chooses the replica with the fewest requests per slot; reading the \
         load of all replicas answers sooner than reading two, so Flotilla is compared with it: \
         **{:+.0} % joules at a p95 {:+.0} %**. Shortest expected delay (as in Linux Virtual Server) \
         counts the arriving request, too, so that large replicas come first. It reads the load of every \
         replica for every request and ignores energy: Flotilla, which samples eight replicas, takes \
         {:+.0} % joules at a p95 {:+.0} %. The fewer nodes are much faster than the rest, the more \
         rarely a sample contains one: if a few nodes could do all the work, the p95 is higher still.\n\n\
         ![over the day](fleet-day.svg)\n\n\
         Answers by kind of node:\n\n{}\n\
         ## Other seeds and loads\n\n{}\n\
         ## Errors of the joules attributed to a request\n\n\
         The agent's ledger on a simulated node whose energy is known token by token (two models, 5 ms \
         to 10 s, 1 to 8 concurrent requests): with a meter (steps of 0.05 J, 3 % noise), and with the \
         estimate from processor time and the node's idle and maximum power, which are 10 W and 45 W \
         while requests really draw 20 W to 34 W on top of idle. Seconds of work have one price for \
         all models of a node, so requests of the model that draws less are charged a little too \
         much. Then the same for a node with short answers only (5 to 40 ms), one at a time.\n\n{}",
        DAY_SECONDS / 3_600.0,
        100.0 * PEAK_LOAD,
        report::table(&rows),
        load.joules,
        load.p95,
        delay.joules,
        delay.p95,
        report::kinds(&rows, &kinds),
        other_days(),
        report::errors(&errors),
    );
    println!("{text}");
    // The worst policies would hide the others in the chart.
    rows.retain(|row| row.name != "round robin" && row.name != "least load of two");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let (page, chart) = (docs.join("fleet-day.md"), docs.join("fleet-day.svg"));
    std::fs::write(&page, text).expect("docs can be written");
    report::chart(&chart, &rows).expect("the chart can be drawn");
    println!("Written: {}, {}", page.display(), chart.display());
}

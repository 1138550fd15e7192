//! A day of a fleet of 1,000 unequal nodes: what energy and time requests take by how their replicas
//! are picked, with Flotilla's own code for that. And how wrong the joules are that a request is told.
//!
//! `cargo bench -p flotilla-core --bench fleet_day` writes `docs/fleet-day.md` and `docs/fleet-day.svg`.
//! Everything is drawn from seeds: it comes to the same each time.

mod attribution;
mod fleet;
mod load;
mod policy;
mod report;
mod simulate;

use std::fmt::Write as _;
use std::path::Path;

use attribution::{Asked, Source};
use fleet::{Fleet, KINDS, MODELS};
use flotilla_core::routing::ObjectiveWeights;
use policy::Policy;
use report::{Beside, Row};
use simulate::{Outcome, Simulation};

const NODES: usize = 1_000;
/// Of the day that is told of in full: how busy the fleet is at its usual peak, and seconds.
const BUSY: f64 = 0.6;
const DAY: f64 = 43_200.0;
/// Of the other days.
const SHORT_DAY: f64 = 7_200.0;
const LEVELS: [f64; 3] = [0.3, 0.6, 0.9];
const SEEDS: [u64; 3] = [2, 3, 4];

/// What a task's weights can say: time is all that counts.
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
            looks: Some(2),
            more: 0,
        },
    ),
    (
        "least load of all",
        Policy::LeastLoad {
            looks: None,
            more: 0,
        },
    ),
    (
        "shortest expected delay of all",
        Policy::LeastLoad {
            looks: None,
            more: 1,
        },
    ),
    ("Flotilla, soonest", Policy::Flotilla(Some(SOONEST))),
    ("Flotilla", Policy::Flotilla(None)),
];

/// A fleet and a day, once for each policy.
fn days(seed: u64, busy: f64, long: f64) -> (usize, Vec<Row>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::new(NODES, &mut random);
    let requests = load::day(&fleet, busy, long, &mut random);
    let rows = POLICIES.map(|(name, policy)| Row {
        name,
        outcome: Simulation::new(&fleet, &requests, long, policy, seed).run(),
    });
    (requests.len(), rows.into())
}

fn of<'a>(rows: &'a [Row], name: &str) -> &'a Outcome {
    let found = rows.iter().find(|row| row.name == name);
    &found.expect("there is such a policy").outcome
}

/// Flotilla beside both that look at the load of all, for each seed and level.
fn others() -> String {
    let mut text = String::from(
        "| seed | busy at peak | requests | J beside least load | p95 beside it | J beside shortest expected delay | p95 beside it |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for seed in SEEDS {
        for busy in LEVELS {
            let (requests, rows) = days(seed, busy, SHORT_DAY);
            let flotilla = of(&rows, "Flotilla");
            let load = Beside::new(flotilla, of(&rows, "least load of all"));
            let delay = Beside::new(flotilla, of(&rows, "shortest expected delay of all"));
            let _ = writeln!(
                text,
                "| {seed} | {:.0} % | {requests} | {:+.0} % | {:+.0} % | {:+.0} % | {:+.0} % |",
                100.0 * busy,
                load.joules,
                load.p95,
                delay.joules,
                delay.p95,
            );
        }
    }
    text
}

/// How wrong the joules are, of all sorts of requests and of a node that has short ones one at a time.
fn errors() -> Vec<(&'static str, attribution::Errors)> {
    let all = Asked {
        at_once: 8,
        longest: 10.0,
    };
    let short = Asked {
        at_once: 1,
        longest: 0.04,
    };
    vec![
        ("meter", attribution::errors(Source::Meter, all, 1)),
        ("estimate", attribution::errors(Source::Estimate, all, 1)),
        (
            "meter, one short one at a time",
            attribution::errors(Source::Meter, short, 1),
        ),
        (
            "estimate, one short one at a time",
            attribution::errors(Source::Estimate, short, 1),
        ),
    ]
}

fn main() {
    // `cargo test` runs benches too, without this: a short day shows that it works.
    if !std::env::args().any(|arg| arg == "--bench") {
        let (requests, rows) = days(1, 0.3, 60.0);
        println!("{requests} requests\n{}", report::table(&rows));
        return;
    }
    let (requests, mut rows) = days(1, BUSY, DAY);
    let flotilla = of(&rows, "Flotilla");
    let load = Beside::new(flotilla, of(&rows, "least load of all"));
    let delay = Beside::new(flotilla, of(&rows, "shortest expected delay of all"));
    let errors = errors();
    let kinds = KINDS.map(|kind| kind.name);
    let models = MODELS.map(|model| model.name).join("; ");
    let text = format!(
        "# A day of a fleet\n\n\
         Written by `cargo bench -p flotilla-core --bench fleet_day`: a simulation, event by event, of \
         {NODES} unequal nodes and {requests} requests ({models}) on a day compressed to {:.0} hours, \
         with rush hours and bursts, batteries and heat. At its peak the fleet is {:.0} % busy. \
         Replicas are picked by Flotilla's own code; the nodes' figures are plausible ones, with \
         their sources in `core/benches/fleet_day/fleet.rs`. Nothing here was measured on such a fleet.\n\n\
         {}\n\
         Above idle is what routing can change; with idle is what the whole fleet draws, by request. \
         Least load is the fewest requests for what a replica computes at once; looking at all \
         ends sooner than looking at two, so it is what Flotilla is compared with: \
         **{:+.0} % joules at a p95 {:+.0} %**. Shortest expected delay (as in Linux Virtual Server) \
         counts the request that is to come, so that large replicas go first. It reads \
         the load of each replica for each request, and it knows no energy: Flotilla, which looks at \
         eight, takes {:+.0} % joules at a p95 {:+.0} %. The fewer nodes are much faster than the rest, the \
         rarer a sample finds one: where a few could do all the work it is later still.\n\n\
         ![over the day](fleet-day.svg)\n\n\
         Who answers:\n\n{}\n\
         ## Other seeds and loads\n\n{}\n\
         ## How wrong the joules are that a request is told\n\n\
         The agent's ledger on a node whose joules are known token by token (two models, 5 ms to \
         10 s, 1 to 8 requests at once): with a meter (steps of 0.05 J, 3 % noise), and with the \
         estimate from processor time and the node's idle and greatest watts, which are 10 W and 45 W \
         while requests really draw 20 W to 34 W on top of idle. Seconds of work have one price for \
         all models of a node: so requests of the model that draws less are told a little too much. Then the \
         same for a node that is asked for short answers only (5 to 40 ms), one at a time.\n\n{}",
        DAY / 3_600.0,
        100.0 * BUSY,
        report::table(&rows),
        load.joules,
        load.p95,
        delay.joules,
        delay.p95,
        report::kinds(&rows, &kinds),
        others(),
        report::errors(&errors),
    );
    println!("{text}");
    // What is worst would hide the rest.
    rows.retain(|row| row.name != "round robin" && row.name != "least load of two");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let (page, chart) = (docs.join("fleet-day.md"), docs.join("fleet-day.svg"));
    std::fs::write(&page, text).expect("docs can be written");
    report::chart(&chart, &rows).expect("the chart can be drawn");
    println!("Written: {}, {}", page.display(), chart.display());
}

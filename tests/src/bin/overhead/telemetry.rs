//! What telemetry costs: fleets that differ only in what is told of them, under the same load.

use std::time::Duration;

use flotilla_tests::Cluster;
use flotilla_tests::sink::Sink;

use crate::{load, serve};

/// How often the fleets are started anew: two that are told the same differ by a few percent for as
/// long as they run.
const STARTS: usize = 5;
/// How often each is measured until then, in turns: the machine is not the same from one minute to the
/// next.
const ROUNDS: usize = 6;

/// Prints requests/s with telemetry to those without it, `time` for each in all.
pub(crate) async fn measure(time: Duration) {
    let sink = Sink::start();
    let parts: [(&str, &[(&str, &str)]); 3] = [
        ("without telemetry", &[("OTEL_SDK_DISABLED", "true")]),
        ("metrics for Prometheus, the default", &[]),
        (
            "the same, OTLP and 1 trace of 100",
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint()),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
            ],
        ),
    ];
    let slice = time / u32::try_from(STARTS * ROUNDS).expect("a small number");
    let mut rates = parts.map(|_| Vec::new());
    for _ in 0..STARTS {
        let mut fleets = Vec::new();
        for (_, environment) in &parts {
            let fleet = Cluster::start_among(environment, &[], &["n1"]).await;
            serve(&fleet).await;
            // Until everything is compiled, connected and at hand.
            load(&fleet, slice, 32, true).await;
            fleets.push(fleet);
        }
        for round in 0..ROUNDS {
            // Who comes first changes, too.
            for turn in 0..fleets.len() {
                let at = (turn + round) % fleets.len();
                let measured = load(&fleets[at], slice, 32, true).await;
                rates[at].push(measured.requests_per_second);
            }
        }
        for fleet in fleets {
            fleet.stop().await;
        }
    }
    println!(
        "\n{:<44}{:>12}{:>10}{:>18}",
        "32 at once, streamed; medians", "requests/s", "ratio", "quartiles"
    );
    let without = rates[0].clone();
    for ((what, _), rates) in parts.iter().zip(rates) {
        let ratios = rates
            .iter()
            .zip(&without)
            .map(|(with, without)| with / without);
        let [low, ratio, high] = quartiles(ratios.collect());
        let [_, rate, _] = quartiles(rates);
        println!("{what:<44}{rate:>12.0}{ratio:>10.3}{low:>10.3} to {high:.3}");
    }
    let megabytes = sink.taken() as f64 / 1e6;
    println!("sent to the collector: {megabytes:.1} MB");
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

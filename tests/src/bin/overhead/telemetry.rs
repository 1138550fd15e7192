//! What telemetry costs: fleets that differ only in what is told of them, under the same load.

use std::time::Duration;

use flotilla_tests::Cluster;
use flotilla_tests::sink::Sink;

use crate::{load, serve};

/// How often the fleets are started anew: two that are told the same differ by a few percent for as
/// long as they run, so each start gives one ratio.
const STARTS: usize = 5;
/// How often each is measured until then, in turns: the machine is not the same from one minute to the
/// next.
const ROUNDS: usize = 6;
/// Milliseconds between exports, of spans and of metrics: several while a fleet is measured, where by
/// default spans go every 5 s and metrics every minute.
const SPANS_EVERY: u64 = 200;
const METRICS_EVERY: u64 = 500;

/// Prints requests/s with telemetry to those without it, `time` for each in all.
pub(crate) async fn measure(time: Duration) {
    let sink = Sink::start();
    let (spans, metrics) = (SPANS_EVERY.to_string(), METRICS_EVERY.to_string());
    let parts: [(&str, &[(&str, &str)]); 3] = [
        ("without telemetry", &[("OTEL_SDK_DISABLED", "true")]),
        ("metrics for Prometheus, the default", &[]),
        (
            "the same, OTLP and 1 trace of 100",
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint()),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
                ("OTEL_BSP_SCHEDULE_DELAY", &spans),
                ("OTEL_METRIC_EXPORT_INTERVAL", &metrics),
            ],
        ),
    ];
    let slice = time / u32::try_from(STARTS * ROUNDS).expect("a small number");
    let mut rates = parts.map(|_| Vec::new());
    let mut ratios = parts.map(|_| Vec::new());
    for _ in 0..STARTS {
        let mut fleets = Vec::new();
        for (_, environment) in &parts {
            let fleet = Cluster::start_among(environment, &[], &["n1"]).await;
            serve(&fleet).await;
            // Until everything is compiled, connected and at hand.
            load(&fleet, slice, 32, true).await;
            fleets.push(fleet);
        }
        let mut measured = parts.map(|_| Vec::new());
        for round in 0..ROUNDS {
            // Who comes first changes, too.
            for turn in 0..fleets.len() {
                let at = (turn + round) % fleets.len();
                // What a fleet has yet to export is not the next one's.
                tokio::time::sleep(Duration::from_millis(2 * SPANS_EVERY)).await;
                measured[at].push(load(&fleets[at], slice, 32, true).await.requests_per_second);
            }
        }
        let without = measured[0].clone();
        for ((rates, ratios), measured) in rates.iter_mut().zip(&mut ratios).zip(measured) {
            let rounds = measured.iter().zip(&without);
            ratios.push(median(rounds.map(|(with, without)| with / without)));
            rates.extend(measured);
        }
        for fleet in fleets {
            fleet.stop().await;
        }
    }
    println!(
        "\n{:<44}{:>12}{:>10}{:>18}",
        "32 at once, streamed; medians", "requests/s", "ratio", "of each start"
    );
    for (((what, _), rates), ratios) in parts.iter().zip(rates).zip(ratios) {
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let (rate, ratio) = (median(rates.into_iter()), median(ratios.into_iter()));
        println!("{what:<44}{rate:>12.0}{ratio:>10.3}{least:>10.3} to {most:.3}");
    }
    let megabytes = sink.taken() as f64 / 1e6;
    println!("sent to the collector: {megabytes:.1} MB");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

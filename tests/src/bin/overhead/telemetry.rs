//! Measures the cost of telemetry: fleets that differ only in their telemetry, under the same load.

use std::time::Duration;

use flotilla_tests::telemetry_sink::TelemetrySink;
use flotilla_tests::{Cluster, Mode};

use crate::{measure_chat, serve_model};

/// How often the fleets are started. Two fleets with the same settings differ by a few percent for as
/// long as they run, so each start gives one ratio.
const STARTS: usize = 5;
/// How often each fleet is measured between starts, in turn, since the speed of a machine changes from one
/// minute to the next.
const ROUNDS: usize = 6;
/// Milliseconds between exports of spans. The default of 5 s would give less than one export in a
/// measurement.
const SPAN_INTERVAL: u64 = 200;
/// Milliseconds between exports of metrics, by default a minute.
const METRIC_INTERVAL: u64 = 500;

/// Measures each setting of telemetry for `time` in all, and prints its requests per second and their
/// ratio to those without telemetry.
pub(crate) async fn measure(time: Duration) {
    let sink = TelemetrySink::start();
    let (spans, metrics) = (SPAN_INTERVAL.to_string(), METRIC_INTERVAL.to_string());
    let settings: [(&str, &[(&str, &str)]); 3] = [
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
    let mut rates = settings.map(|_| Vec::new());
    let mut ratios = settings.map(|_| Vec::new());
    for _ in 0..STARTS {
        let mut fleets = Vec::new();
        for (_, environment) in &settings {
            let fleet = Cluster::builder()
                .mode(Mode::Processes)
                .env(environment)
                .agents(["n1"])
                .start()
                .await;
            serve_model(&fleet).await;
            // Warms up connections and caches.
            measure_chat(&fleet, slice, 32, true).await;
            fleets.push(fleet);
        }
        let mut measured = settings.map(|_| Vec::new());
        for round in 0..ROUNDS {
            // The order changes, too.
            for turn in 0..fleets.len() {
                let index = (turn + round) % fleets.len();
                // A pause of the benchmark: the fleet before finishes its exports, so that they do
                // not take CPU time from the next one.
                tokio::time::sleep(Duration::from_millis(2 * SPAN_INTERVAL)).await;
                let measurement = measure_chat(&fleets[index], slice, 32, true).await;
                measured[index].push(measurement.requests_per_second);
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
        "32 connections, streamed; medians", "requests/s", "ratio", "of each start"
    );
    for (((name, _), rates), ratios) in settings.iter().zip(rates).zip(ratios) {
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let (rate, ratio) = (median(rates.into_iter()), median(ratios.into_iter()));
        println!("{name:<44}{rate:>12.0}{ratio:>10.3}{least:>10.3} to {most:.3}");
    }
    let megabytes = sink.received_bytes() as f64 / 1e6;
    println!("sent to the collector: {megabytes:.1} MB");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

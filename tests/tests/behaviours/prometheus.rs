//! The files in `deploy/` for Prometheus and Grafana, tested with a real Prometheus and a real fleet: the
//! rules do what their tests say, and every panel of every dashboard shows data.

mod dashboards;
mod fleet;
mod promql;
mod server;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use flotilla_telemetry::names::{self, MetricDefinition};
use flotilla_tests::{DEADLINE, repository};
use serde_json::Value;

use dashboards::placeholders;
use fleet::ObservedFleet;
use promql::referenced_names;
use server::{Prometheus, promtool};
use table::{RecordingRules, check_reported};

/// Series that may have no data on a test machine, and why.
const OPTIONAL_SERIES: [(&str, &str); 3] = [
    (
        "flotilla_node:component_watts:max",
        "machines that tests run on have no power meters",
    ),
    (
        "flotilla_node:battery_charge:max",
        "machines that tests run on have no batteries",
    ),
    (
        "flotilla_node:on_battery:max",
        "machines that tests run on have no batteries",
    ),
];
/// Metrics that need not be reported on a test machine, for the same reasons, or because the fleet here has no encoder.
const OPTIONAL_METRICS: [&MetricDefinition; 8] = [
    &names::HW_ENERGY,
    &names::HW_POWER,
    &names::BATTERY_CHARGE,
    &names::ON_BATTERY,
    &names::DEVICE_MEMORY_USED,
    &names::DEVICE_MEMORY_BUDGET,
    &names::ENCODER_REQUESTS,
    &names::ENCODER_DURATION,
];

/// Returns a folder of `deploy/`.
fn deploy_folder(name: &str) -> PathBuf {
    repository().join("deploy").join(name)
}

/// Returns the names after `key` in a file of rules.
fn names_after(file: &str, key: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(deploy_folder("prometheus").join(file)).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key));
    lines.map(str::to_owned).collect()
}

#[test]
fn prometheus_accepts_the_configuration_and_every_rule_passes_its_tests() {
    let folder = deploy_folder("prometheus");
    promtool(&["check", "config"], &folder.join("prometheus.yml"));
    for rules in ["recording.yml", "alerts.yml"] {
        promtool(&["check", "rules"], &folder.join(rules));
    }
    promtool(&["test", "rules"], &folder.join("rules_test.yml"));
    // Every recording rule has a test, and every alert has one where it fires and one where it does not.
    let recorded = names_after("recording.yml", "- record: ");
    assert_eq!(recorded, names_after("rules_test.yml", "- expr: "));
    let tests = fs::read_to_string(folder.join("rules_test.yml")).unwrap();
    let cases = tests.split("- alertname: ").skip(1);
    let cases: BTreeSet<_> = cases
        .map(|case| {
            let (alert, case) = case.split_once('\n').unwrap();
            (alert.to_owned(), !case.contains("exp_alerts: []"))
        })
        .collect();
    let alerts = names_after("alerts.yml", "- alert: ");
    let expected = alerts
        .into_iter()
        .flat_map(|alert| [(alert.clone(), false), (alert, true)]);
    assert_eq!(cases, expected.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_every_dashboard_shows_data_of_a_real_fleet() {
    let observed = ObservedFleet::start().await;
    let prometheus = Prometheus::start(&observed.targets);
    let rules = prometheus.rules().await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let recording = rules.iter().filter(|rule| rule["type"] == "recording");
    let recorded =
        recording.map(|rule| (text(&rule["name"]), referenced_names(&text(&rule["query"]))));
    let recorded = RecordingRules(recorded.collect());
    for rule in &rules {
        let annotations = rule["annotations"].to_string();
        let labels = placeholders(&annotations, "$labels.");
        recorded.check(&text(&rule["query"]), &labels, &text(&rule["name"]));
    }
    let (queries, variables) = dashboards::read();
    for query in &queries {
        recorded.check(&query.expression, &query.legend, &query.panel);
    }

    // Recording rules come first, since most panels show them.
    let rule_query = |name: &String| (name.clone(), name.clone(), BTreeSet::new());
    let mut missing: Vec<_> = recorded.0.keys().map(rule_query).collect();
    let panel_query = |q: dashboards::PanelQuery| (q.panel, q.expression, q.legend);
    missing.extend(queries.into_iter().map(panel_query));
    missing.retain(|(_, expression, _)| {
        let metrics = referenced_names(expression).metrics;
        !OPTIONAL_SERIES
            .iter()
            .any(|(name, _)| metrics.contains(*name))
    });
    let poll = async {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while !missing.is_empty() {
            tick.tick().await;
            let mut still_missing = Vec::new();
            for query in &missing {
                if !shows_data(&prometheus.query(&query.1).await, &query.2) {
                    still_missing.push(query.clone());
                }
            }
            missing = still_missing;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, poll).await.is_ok();
    assert!(in_time, "without data: {missing:#?}");

    for variable in variables {
        let values = prometheus
            .label_values(&variable.label, &variable.selector)
            .await;
        assert!(!values.is_empty(), "no values: {variable:?}");
    }
    // Both controllers report the metrics of each node, and the rules keep one of them.
    for (expression, series) in [
        ("count(hw_host_power_watts)", "4"),
        ("count(flotilla_node:watts:max)", "2"),
        ("flotilla_fleet:controllers:count", "2"),
        ("flotilla_fleet:leaders:sum", "1"),
        ("flotilla_fleet:nodes_ready:sum", "2"),
        (
            "flotilla_model:replicas_ready:max{flotilla_model=\"large\"}",
            "2",
        ),
    ] {
        let result = prometheus.query(expression).await;
        assert_eq!(result[0]["value"][1], series, "{expression}: {result:?}");
    }
    for rule in prometheus.rules().await {
        assert_eq!(rule["health"], "ok", "{rule}");
    }

    let mut reported = BTreeSet::new();
    for (address, is_controller) in [
        (observed.targets[0], true),
        (observed.targets[1], true),
        (observed.node_target, false),
    ] {
        let response = reqwest::get(format!("http://{address}/metrics")).await;
        let text = response.unwrap().text().await.unwrap();
        reported.extend(check_reported(&text, is_controller));
    }
    let unreported = names::ALL
        .iter()
        .filter(|metric| !reported.contains(metric.name) && !OPTIONAL_METRICS.contains(metric));
    assert_eq!(unreported.count(), 0, "reported is only {reported:?}");
    drop(prometheus);
    observed.stop().await;
}

/// Whether a panel with this legend shows something of these series.
fn shows_data(series: &[Value], legend: &BTreeSet<String>) -> bool {
    let has_number = |series: &Value| {
        let value = series["value"][1].as_str().unwrap_or("NaN");
        value.parse::<f64>().is_ok_and(|value| !value.is_nan())
    };
    let has_label = |label: &String| series.iter().any(|s| s["metric"][label].is_string());
    series.iter().any(has_number) && legend.iter().all(has_label)
}

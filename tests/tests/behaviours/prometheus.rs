//! What `deploy/` has for Prometheus and Grafana, tried on the real Prometheus with a real fleet:
//! rules that hold, and dashboards of which every panel shows something.

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
use fleet::Observed;
use promql::named;
use server::{Prometheus, promtool};
use table::{Recorded, check_told};

/// What may be without data here, and why.
const MAY_BE_EMPTY: [(&str, &str); 3] = [
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
/// What is not told here, for the same reasons.
const MAY_BE_UNTOLD: [&MetricDefinition; 4] = [
    &names::HW_ENERGY,
    &names::HW_POWER,
    &names::BATTERY_CHARGE,
    &names::ON_BATTERY,
];

/// A folder of `deploy/`.
fn deploy_folder(name: &str) -> PathBuf {
    repository().join("deploy").join(name)
}

/// The names after `key` in a file of rules.
fn names_after(file: &str, key: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(deploy_folder("prometheus").join(file)).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key));
    lines.map(str::to_owned).collect()
}

#[test]
fn prometheus_takes_the_configuration_and_every_rule_does_what_its_tests_say() {
    let folder = deploy_folder("prometheus");
    promtool(&["check", "config"], &folder.join("prometheus.yml"));
    for rules in ["recording.yml", "alerts.yml"] {
        promtool(&["check", "rules"], &folder.join(rules));
    }
    promtool(&["test", "rules"], &folder.join("rules_test.yml"));
    // Each is tested: every recording rule, every alert where it fires and where it does not.
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
    let wanted = alerts
        .into_iter()
        .flat_map(|alert| [(alert.clone(), false), (alert, true)]);
    assert_eq!(cases, wanted.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_every_dashboard_shows_what_a_real_fleet_tells() {
    let observed = Observed::start().await;
    let prometheus = Prometheus::start(&observed.targets);
    let rules = prometheus.rules().await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let recording = rules.iter().filter(|rule| rule["type"] == "recording");
    let recorded = recording.map(|rule| (text(&rule["name"]), named(&text(&rule["query"]))));
    let recorded = Recorded(recorded.collect());
    for rule in &rules {
        let annotations = rule["annotations"].to_string();
        let told = placeholders(&annotations, "$labels.");
        recorded.check(&text(&rule["query"]), &told, &text(&rule["name"]));
    }
    let (asked, choices) = dashboards::read();
    for asked in &asked {
        recorded.check(&asked.expression, &asked.legend, &asked.place);
    }

    // What is recorded comes first: it is what most panels show.
    let of_rule = |name: &String| (name.clone(), name.clone(), BTreeSet::new());
    let mut missing: Vec<_> = recorded.0.keys().map(of_rule).collect();
    let of_panel = |asked: dashboards::Asked| (asked.place, asked.expression, asked.legend);
    missing.extend(asked.into_iter().map(of_panel));
    missing.retain(|(_, expression, _)| {
        let metrics = named(expression).metrics;
        !MAY_BE_EMPTY.iter().any(|(name, _)| metrics.contains(*name))
    });
    let asking = async {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while !missing.is_empty() {
            tick.tick().await;
            let mut still = Vec::new();
            for query in &missing {
                if !shows(&prometheus.query(&query.1).await, &query.2) {
                    still.push(query.clone());
                }
            }
            missing = still;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, asking).await.is_ok();
    assert!(in_time, "without data: {missing:#?}");

    for choice in choices {
        let values = prometheus
            .label_values(&choice.label, &choice.selector)
            .await;
        assert!(!values.is_empty(), "nothing to choose from: {choice:?}");
    }
    // Each node's metrics are there from both controllers, and once after the rules.
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
        let found = prometheus.query(expression).await;
        assert_eq!(found[0]["value"][1], series, "{expression}: {found:?}");
    }
    for rule in prometheus.rules().await {
        assert_eq!(rule["health"], "ok", "{rule}");
    }

    let mut told = BTreeSet::new();
    for (address, controller) in [
        (observed.targets[0], true),
        (observed.targets[1], true),
        (observed.of_node, false),
    ] {
        let response = reqwest::get(format!("http://{address}/metrics")).await;
        let text = response.unwrap().text().await.unwrap();
        told.extend(check_told(&text, controller));
    }
    let untold = names::ALL
        .iter()
        .filter(|metric| !told.contains(metric.name) && !MAY_BE_UNTOLD.contains(metric));
    assert_eq!(untold.count(), 0, "of the table there is only {told:?}");
    drop(prometheus);
    observed.stop().await;
}

/// Whether a panel with this legend shows something for these series.
fn shows(series: &[Value], legend: &BTreeSet<String>) -> bool {
    let number = |series: &Value| {
        let value = series["value"][1].as_str().unwrap_or("NaN");
        value.parse::<f64>().is_ok_and(|value| !value.is_nan())
    };
    let named = |label: &String| series.iter().any(|s| s["metric"][label].is_string());
    series.iter().any(number) && legend.iter().all(named)
}

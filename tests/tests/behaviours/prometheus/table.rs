//! Checks expressions and reported metrics against the table of metrics in the telemetry crate.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_telemetry::names::{self, InstrumentKind, MetricDefinition, Reporter};

use super::promql::{ReferencedNames, referenced_names};

/// Returns the metric to which a series of this name belongs.
fn definition(name: &str) -> Option<&'static MetricDefinition> {
    names::ALL.iter().copied().find(|metric| {
        let suffixes: &[&str] = match metric.kind {
            InstrumentKind::Histogram => &["_bucket", "_sum", "_count"],
            InstrumentKind::Counter | InstrumentKind::Gauge => &[""],
        };
        let base = metric.prometheus_name();
        suffixes
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(&base))
    })
}

/// Returns the labels of a series of a metric.
fn labels(metric: &MetricDefinition, name: &str) -> BTreeSet<String> {
    let attributes = metric.attributes.iter().map(|key| key.replace('.', "_"));
    let mut labels: BTreeSet<_> = attributes.collect();
    if name.ends_with("_bucket") {
        labels.insert("le".into());
    }
    labels
}

/// Returns the labels that Prometheus adds to every series.
fn scrape_labels() -> BTreeSet<String> {
    ["instance", "job"].map(str::to_owned).into()
}

/// The recording rules by their names, each with the names in its expression.
pub(super) struct RecordingRules(pub(super) BTreeMap<String, ReferencedNames>);

impl RecordingRules {
    /// Returns the labels that these metrics may have: metrics of the table, or results of rules.
    fn allowed_labels(&self, names: &ReferencedNames, context: &str) -> BTreeSet<String> {
        let metric_labels = |name: &String| -> BTreeSet<String> {
            if let Some(rule) = self.0.get(name) {
                return &self.allowed_labels(rule, name) | &rule.labels;
            }
            if name == "up" {
                return scrape_labels();
            }
            let metric =
                definition(name).unwrap_or_else(|| panic!("{context}: {name} is not a metric"));
            let mut labels = &labels(metric, name) | &scrape_labels();
            if metric.reporter == Reporter::Agent {
                labels.insert("flotilla_node".into());
            }
            labels
        };
        names.metrics.iter().flat_map(metric_labels).collect()
    }

    /// Checks that all metrics of an expression exist, and that they have the labels in the expression
    /// and in `legend`, the texts shown with it. `context` is for the message.
    pub(super) fn check(&self, expression: &str, legend: &BTreeSet<String>, context: &str) {
        let names = referenced_names(expression);
        let mut allowed = self.allowed_labels(&names, context);
        if expression.contains("label_replace(") {
            allowed.insert("flotilla_model".into());
        }
        let used = &names.labels | legend;
        let unknown: Vec<_> = used.difference(&allowed).collect();
        assert!(
            unknown.is_empty(),
            "{context}: no label {unknown:?} in {expression}"
        );
    }
}

/// Checks the metrics that a process reports against the table, and returns their names.
pub(super) fn check_reported(text: &str, is_controller: bool) -> BTreeSet<&'static str> {
    let mut reported = BTreeSet::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            if name == "target_info" {
                continue;
            }
            let metric = names::ALL.iter().find(|m| m.prometheus_name() == name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table"));
            assert_eq!(format!("{:?}", metric.kind).to_lowercase(), kind, "{name}");
            reported.insert(metric.name);
        }
        if line.starts_with('#') || line.starts_with("target_info") {
            continue;
        }
        let names = referenced_names(line);
        let name = names.metrics.first().unwrap();
        let metric = definition(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        let mut allowed = labels(metric, name);
        if metric.reporter == Reporter::Agent && is_controller {
            assert!(names.labels.contains("flotilla_node"), "{line}");
            allowed.insert("flotilla_node".into());
        }
        assert!(names.labels.is_subset(&allowed), "{line}");
        assert!(
            is_controller || metric.reporter == Reporter::Agent,
            "{line}"
        );
    }
    reported
}

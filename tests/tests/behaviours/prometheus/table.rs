//! The table of metrics as Prometheus sees it, and what is held against it.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_telemetry::names::{self, InstrumentKind, MetricDefinition, Reporter};

use super::promql::{Named, named};

/// The metric that Prometheus knows by this name.
fn known(name: &str) -> Option<&'static MetricDefinition> {
    names::ALL.iter().copied().find(|metric| {
        let suffixes: &[&str] = match metric.kind {
            InstrumentKind::Histogram => &["_bucket", "_sum", "_count"],
            InstrumentKind::Counter | InstrumentKind::Gauge => &[""],
        };
        let own = metric.prometheus_name();
        suffixes
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(&own))
    })
}

/// The labels that a metric of the table has with Prometheus.
fn labels(metric: &MetricDefinition, name: &str) -> BTreeSet<String> {
    let own = metric.attributes.iter().map(|key| key.replace('.', "_"));
    let mut labels: BTreeSet<_> = own.collect();
    if name.ends_with("_bucket") {
        labels.insert("le".into());
    }
    labels
}

/// What every series that was scraped has.
fn scraped() -> BTreeSet<String> {
    ["instance", "job"].map(str::to_owned).into()
}

/// The recording rules by their names.
pub(super) struct Recorded(pub(super) BTreeMap<String, Named>);

impl Recorded {
    /// The labels that what is named may have: of metrics in the table, or of what rules make of them.
    fn labels(&self, named: &Named, place: &str) -> BTreeSet<String> {
        let of_metric = |name: &String| -> BTreeSet<String> {
            if let Some(rule) = self.0.get(name) {
                return &self.labels(rule, name) | &rule.labels;
            }
            if name == "up" {
                return scraped();
            }
            let metric = known(name).unwrap_or_else(|| panic!("{place}: {name} is no metric"));
            let mut labels = &labels(metric, name) | &scraped();
            if metric.reporter == Reporter::Agent {
                labels.insert("flotilla_node".into());
            }
            labels
        };
        named.metrics.iter().flat_map(of_metric).collect()
    }

    /// Holds an expression, and what is said of its labels elsewhere, against the table.
    pub(super) fn check(&self, expression: &str, elsewhere: &BTreeSet<String>, place: &str) {
        let named = named(expression);
        let mut may = self.labels(&named, place);
        if expression.contains("label_replace(") {
            may.insert("flotilla_model".into());
        }
        let used = &named.labels | elsewhere;
        let unknown: Vec<_> = used.difference(&may).collect();
        assert!(
            unknown.is_empty(),
            "{place}: no label {unknown:?} in {expression}"
        );
    }
}

/// Holds what a process tells against the table. Returns what it told of.
pub(super) fn check_told(text: &str, controller: bool) -> BTreeSet<&'static str> {
    let mut told = BTreeSet::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            if name == "target_info" {
                continue;
            }
            let metric = names::ALL.iter().find(|m| m.prometheus_name() == name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table"));
            assert_eq!(format!("{:?}", metric.kind).to_lowercase(), kind, "{name}");
            told.insert(metric.name);
        }
        if line.starts_with('#') || line.starts_with("target_info") {
            continue;
        }
        let told = named(line);
        let name = told.metrics.first().unwrap();
        let metric = known(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        let mut may = labels(metric, name);
        if metric.reporter == Reporter::Agent && controller {
            assert!(told.labels.contains("flotilla_node"), "{line}");
            may.insert("flotilla_node".into());
        }
        assert!(told.labels.is_subset(&may), "{line}");
        assert!(controller || metric.reporter == Reporter::Agent, "{line}");
    }
    told
}

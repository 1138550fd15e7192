//! The queries of the dashboards in `deploy/grafana`.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::deploy_folder;

/// A query of a panel.
#[derive(Debug)]
pub(super) struct PanelQuery {
    /// The titles of the dashboard and the panel, for messages.
    pub(super) panel: String,
    /// The expression, with Grafana's variables replaced.
    pub(super) expression: String,
    /// The labels in the legend.
    pub(super) legend: BTreeSet<String>,
}

/// A variable of a dashboard: its values are those of a label of the selected series.
#[derive(Debug)]
pub(super) struct DashboardVariable {
    pub(super) selector: String,
    pub(super) label: String,
}

/// Replacements of Grafana's own variables and of those of the dashboards. The latter match every value.
const REPLACEMENTS: [(&str, &str); 6] = [
    ("$__rate_interval", "30s"),
    ("$__range", "5m"),
    ("$model", ".+"),
    ("$node", ".+"),
    ("$task", ".+"),
    ("$zone", ".+"),
];

/// Reads all dashboards. Returns the queries of all panels, and the variables with values from
/// Prometheus.
pub(super) fn read() -> (Vec<PanelQuery>, Vec<DashboardVariable>) {
    let (mut queries, mut variables) = (Vec::new(), Vec::new());
    let mut uids = BTreeSet::new();
    for entry in fs::read_dir(deploy_folder("grafana")).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let title = board["title"].as_str().unwrap();
        assert!(
            uids.insert(board["uid"].to_string()),
            "{title} has the uid of another dashboard"
        );
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "the id of another panel: {panel}"
            );
            if panel["type"] != "row" {
                queries.extend(panel_queries(title, panel));
            }
        }
        for variable in board["templating"]["list"].as_array().unwrap() {
            if variable["type"] == "query" {
                variables.push(read_variable(variable));
            }
        }
    }
    assert!(queries.len() > 50, "{queries:#?}");
    (queries, variables)
}

/// Returns the queries of a panel, and checks that it has a description, a unit and legends.
fn panel_queries(board: &str, panel: &Value) -> Vec<PanelQuery> {
    let name = format!("{board}, {}", panel["title"].as_str().unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(!text(&panel["description"]).is_empty(), "{name}");
    assert!(
        !text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(),
        "{name}"
    );
    let query = |target: &Value| {
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}");
        let legend = text(&target["legendFormat"]);
        assert_eq!(
            legend.is_empty(),
            target["format"] == "table",
            "{name}: only tables have columns"
        );
        PanelQuery {
            panel: name.clone(),
            expression: replace_variables(&text(&target["expr"])),
            legend: placeholders(&legend, "{{"),
        }
    };
    panel["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(query)
        .collect()
}

/// Returns the labels in the placeholders of a text: each stands between `prefix` and `}}`.
pub(super) fn placeholders(text: &str, prefix: &str) -> BTreeSet<String> {
    let after = text.split(prefix).skip(1);
    let labels = after.filter_map(|rest| rest.split_once("}}"));
    labels
        .map(|(label, _)| label.trim().to_owned())
        .filter(|label| !label.is_empty())
        .collect()
}

fn read_variable(variable: &Value) -> DashboardVariable {
    let query = variable["query"]["query"].as_str().unwrap();
    let inner = query
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'));
    let (selector, label) = inner.and_then(|inner| inner.rsplit_once(", ")).unwrap();
    DashboardVariable {
        selector: replace_variables(selector),
        label: label.to_owned(),
    }
}

fn replace_variables(expression: &str) -> String {
    let replace = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
    let expression = REPLACEMENTS.iter().fold(expression.to_owned(), replace);
    assert!(
        !expression.contains('$'),
        "an unknown variable: {expression}"
    );
    expression
}

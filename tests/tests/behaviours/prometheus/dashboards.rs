//! The dashboards of the repository, as far as Prometheus is asked by them.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::deploy_folder;

/// What a panel asks.
#[derive(Debug)]
pub(super) struct Asked {
    /// The dashboard and the panel, for people.
    pub(super) place: String,
    /// With Grafana's variables replaced.
    pub(super) expression: String,
    /// Labels that the legend names.
    pub(super) legend: BTreeSet<String>,
}

/// What a variable's values are taken from.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) selector: String,
    pub(super) label: String,
}

/// What is made of Grafana's own variables and of those of the dashboards: every value that there is.
const VARIABLES: [(&str, &str); 6] = [
    ("$__rate_interval", "30s"),
    ("$__range", "5m"),
    ("$model", ".+"),
    ("$node", ".+"),
    ("$task", ".+"),
    ("$zone", ".+"),
];

/// Every query of every panel, and every variable that asks Prometheus.
pub(super) fn read() -> (Vec<Asked>, Vec<Choice>) {
    let (mut asked, mut choices) = (Vec::new(), Vec::new());
    let mut uids = BTreeSet::new();
    for entry in fs::read_dir(deploy_folder("grafana")).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let title = board["title"].as_str().unwrap();
        assert!(
            uids.insert(board["uid"].to_string()),
            "{title} has another's uid"
        );
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "an id twice: {panel}"
            );
            if panel["type"] != "row" {
                asked.extend(of_panel(title, panel));
            }
        }
        for variable in board["templating"]["list"].as_array().unwrap() {
            if variable["type"] == "query" {
                choices.push(choice(variable));
            }
        }
    }
    assert!(asked.len() > 50, "{asked:#?}");
    (asked, choices)
}

fn of_panel(board: &str, panel: &Value) -> Vec<Asked> {
    let place = format!("{board}, {}", panel["title"].as_str().unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(!text(&panel["description"]).is_empty(), "{place}");
    assert!(
        !text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(),
        "{place}"
    );
    let asked = |target: &Value| {
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{place}");
        let legend = text(&target["legendFormat"]);
        assert_eq!(
            legend.is_empty(),
            target["format"] == "table",
            "{place}: only tables have columns"
        );
        Asked {
            place: place.clone(),
            expression: replaced(&text(&target["expr"])),
            legend: placeholders(&legend, "{{"),
        }
    };
    panel["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(asked)
        .collect()
}

/// The labels between braces in a text for people.
pub(super) fn placeholders(text: &str, before: &str) -> BTreeSet<String> {
    let after = text.split(before).skip(1);
    let labels = after.filter_map(|rest| rest.split_once("}}"));
    labels
        .map(|(label, _)| label.trim().to_owned())
        .filter(|label| !label.is_empty())
        .collect()
}

fn choice(variable: &Value) -> Choice {
    let query = variable["query"]["query"].as_str().unwrap();
    let inner = query
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'));
    let (selector, label) = inner.and_then(|inner| inner.rsplit_once(", ")).unwrap();
    Choice {
        selector: replaced(selector),
        label: label.to_owned(),
    }
}

fn replaced(expression: &str) -> String {
    let replace = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
    let expression = VARIABLES.iter().fold(expression.to_owned(), replace);
    assert!(
        !expression.contains('$'),
        "an unknown variable: {expression}"
    );
    expression
}

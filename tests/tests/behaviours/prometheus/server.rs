//! A real Prometheus on loopback with the configuration in `deploy/prometheus`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use flotilla_tests::{Process, free_address};
use reqwest::{Client, Url};
use serde_json::Value;
use tempfile::TempDir;

use super::deploy_folder;

/// A running Prometheus. It is killed when dropped.
pub(super) struct Prometheus {
    client: Client,
    base: String,
    _process: Process,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes these targets every second, and waits until it answers. All else
    /// is as in `deploy/prometheus`.
    pub(super) fn start(targets: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in ["recording.yml", "alerts.yml"] {
            fs::copy(configuration_folder().join(file), dir.path().join(file)).unwrap();
        }
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, test_configuration(targets)).unwrap();
        let address = free_address();
        let mut command = Command::new("prometheus");
        command
            .arg("--config.file")
            .arg(config)
            .arg("--storage.tsdb.path")
            .arg(dir.path().join("data"))
            .args(["--web.listen-address", &address.to_string()]);
        let mut process = Process::spawn(command);
        process.wait_for_line("Server is ready to receive web requests");
        Self {
            client: Client::new(),
            base: format!("http://{address}/api/v1"),
            _process: process,
            _dir: dir,
        }
    }

    /// Evaluates an expression and returns its series, each with its labels and its value.
    pub(super) async fn query(&self, expression: &str) -> Vec<Value> {
        let data = self.get("query", &[("query", expression)]).await;
        match data["resultType"].as_str() {
            Some("vector") => data["result"].as_array().unwrap().clone(),
            _ => panic!("{expression} does not return series: {data}"),
        }
    }

    /// Returns the values of a label in the series that a selector matches.
    pub(super) async fn label_values(&self, label: &str, selector: &str) -> Vec<Value> {
        let path = format!("label/{label}/values");
        let data = self.get(&path, &[("match[]", selector)]).await;
        data.as_array().unwrap().clone()
    }

    /// Returns all rules, as Prometheus has read them.
    pub(super) async fn rules(&self) -> Vec<Value> {
        let data = self.get("rules", &[]).await;
        let groups = data["groups"].as_array().unwrap();
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap());
        rules.cloned().collect()
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = Url::parse_with_params(&format!("{}/{path}", self.base), parameters).unwrap();
        let response = self.client.get(url).send().await.unwrap();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].clone()
    }
}

fn configuration_folder() -> PathBuf {
    deploy_folder("prometheus")
}

/// Returns the repository's configuration with these targets, scraped and evaluated every second.
fn test_configuration(targets: &[SocketAddr]) -> String {
    let text = fs::read_to_string(configuration_folder().join("prometheus.yml")).unwrap();
    let targets: Vec<_> = targets
        .iter()
        .map(|address| format!("\"{address}\""))
        .collect();
    let mut replaced = 0;
    let mut replace = |line: &str| -> String {
        let (before, value) = match line.split_once(": ") {
            Some((before, _)) if before.starts_with('#') => return line.to_owned(),
            Some(("  scrape_interval", _)) => ("  scrape_interval", "1s".to_owned()),
            Some(("  scrape_timeout", _)) => ("  scrape_timeout", "1s".to_owned()),
            Some(("  evaluation_interval", _)) => ("  evaluation_interval", "1s".to_owned()),
            Some(("      - targets", _)) => {
                ("      - targets", format!("[{}]", targets.join(", ")))
            }
            _ => return line.to_owned(),
        };
        replaced += 1;
        format!("{before}: {value}")
    };
    let lines: Vec<_> = text.lines().map(&mut replace).collect();
    assert_eq!(replaced, 4, "{text}");
    lines.join("\n")
}

/// Runs `promtool` on a file of the repository. It must succeed.
pub(super) fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool")
        .args(arguments)
        .arg(file)
        .output()
        .expect("promtool is installed (Debian's package prometheus)");
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "promtool {arguments:?} {}:\n{printed}",
        file.display()
    );
}

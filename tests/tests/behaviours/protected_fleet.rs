//! A fleet with a certificate authority, of processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flotilla_tests::{
    Api, Etcd, Process, address_in_line, find_in_time, flotilla_binary, free_address,
    simulated_model,
};
use serde_json::{Value, json};

/// A fleet of processes whose controllers share a secret.
pub(crate) struct ProtectedFleet {
    pub(crate) dir: tempfile::TempDir,
    /// Without one, the store is in the directory of the only controller.
    pub(crate) etcd: Option<Etcd>,
    pub(crate) controllers: Vec<ProtectedController>,
}

pub(crate) struct ProtectedController {
    pub(crate) process: Process,
    pub(crate) data_dir: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) link: SocketAddr,
}

impl ProtectedFleet {
    pub(crate) fn start(etcd: Option<Etcd>, controllers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let created = flotilla(dir.path(), &["secret", "create", "secret"], None);
        assert!(created.status.success(), "{}", text(&created));
        let mut fleet = Self {
            dir,
            etcd,
            controllers: Vec::new(),
        };
        for _ in 0..controllers {
            fleet.add_controller(&[]);
        }
        fleet
    }

    pub(crate) fn add_controller(&mut self, args: &[&str]) {
        let number = self.controllers.len();
        let data_dir = self.dir.path().join(format!("controller-{number}"));
        let (http, link) = (free_address(), free_address());
        let store = self.etcd.as_ref().map(|etcd| etcd.store().to_string());
        let process = start_controller(self.dir.path(), &data_dir, http, link, store, args);
        self.controllers.push(process);
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.controllers[0].data_dir.join("authority.crt")
    }

    pub(crate) fn api(&self, controller: usize) -> Api {
        let authority = std::fs::read(self.authority()).unwrap();
        Api::with_authority(self.controllers[controller].http, &authority)
    }

    /// Runs a command of the CLI against the first controller.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let url = format!("https://{}", self.controllers[0].http);
        let args = [args, &["--url", &url]].concat();
        flotilla(self.dir.path(), &args, Some(&self.authority()))
    }

    /// Creates a join token and returns its text.
    pub(crate) fn token(&self, args: &[&str]) -> String {
        let created = self.run(&[&["token", "create"], args].concat());
        assert!(created.status.success(), "{}", text(&created));
        String::from_utf8(created.stdout).unwrap().trim().to_owned()
    }

    /// Starts an agent that dials a controller, with a token if it is not empty.
    pub(crate) fn agent(
        &self,
        name: &str,
        controller: usize,
        token: &str,
        args: &[&str],
    ) -> Process {
        self.agent_in(name, name, self.controllers[controller].link, token, args)
    }

    /// Starts an agent with this data directory that dials an address.
    pub(crate) fn agent_in(
        &self,
        dir: &str,
        name: &str,
        link: SocketAddr,
        token: &str,
        args: &[&str],
    ) -> Process {
        let link = link.to_string();
        let data_dir = self.dir.path().join(dir).display().to_string();
        let mut line = vec!["agent", "--join", &link, "--name", name, "--metrics", "off"];
        line.extend([
            "--data-dir",
            &data_dir,
            "--disk",
            "1GiB",
            "--drain-timeout",
            "1",
        ]);
        line.extend(args);
        let env = match token {
            "" => Vec::new(),
            token => vec![("FLOTILLA_TOKEN".to_owned(), token.to_owned())],
        };
        Process::start_with_env(self.dir.path(), &line, &env)
    }
}

pub(crate) fn start_controller(
    dir: &Path,
    data_dir: &Path,
    http: SocketAddr,
    link: SocketAddr,
    store: Option<String>,
    args: &[&str],
) -> ProtectedController {
    let mut process = spawn_controller(dir, data_dir, http, link, store, args);
    let line = process.wait_for_line("ready http=");
    ProtectedController {
        process,
        data_dir: data_dir.to_owned(),
        http: address_in_line(&line, "http"),
        link: address_in_line(&line, "link"),
    }
}

pub(crate) fn spawn_controller(
    dir: &Path,
    data_dir: &Path,
    http: SocketAddr,
    link: SocketAddr,
    store: Option<String>,
    args: &[&str],
) -> Process {
    let (http, link) = (http.to_string(), link.to_string());
    let data_dir = data_dir.display().to_string();
    let store = store.unwrap_or_else(|| "embedded".to_owned());
    let mut line = vec![
        "controller",
        "--http",
        &http,
        "--link",
        &link,
        "--store",
        &store,
    ];
    line.extend(["--data-dir", &data_dir, "--drain-timeout", "1"]);
    if !args.contains(&"--secret-file") {
        line.extend(["--secret-file", "secret"]);
    }
    line.extend(args);
    Process::start(dir, &line)
}

/// Runs the CLI, which trusts `authority`.
pub(crate) fn flotilla(dir: &Path, args: &[&str], authority: Option<&Path>) -> Output {
    let mut command = Command::new(flotilla_binary());
    command.args(args).current_dir(dir);
    if let Some(authority) = authority {
        command.env("SSL_CERT_FILE", authority);
    }
    command.output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

pub(crate) async fn node(api: &Api, name: &str) -> Option<Value> {
    let nodes = api.nodes().await;
    nodes
        .into_iter()
        .find(|node| node["metadata"]["name"] == name)
}

pub(crate) async fn wait_for_phase(api: &Api, name: &str, phase: &str) -> Value {
    let found = find_in_time(async || {
        let node = node(api, name).await?;
        (node["status"]["phase"] == phase).then_some(node)
    });
    found
        .await
        .unwrap_or_else(|| panic!("{name} is not {phase}"))
}

pub(crate) async fn serve(api: &Api, model: &str) {
    api.apply(&simulated_model(model, 1, &json!({}))).await;
    let ready = find_in_time(async || (api.ready_replicas(model).await == 1).then_some(()));
    ready.await.expect("the model is served");
}

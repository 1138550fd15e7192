//! Fleets that require keys, and the command line towards them.

use std::process::{Command, Output};

use flotilla_tests::{
    Api, CONTROLLER_ON_FREE_PORTS, Cluster, ClusterBuilder, Etcd, Mode, Process, address_in_line,
    flotilla_binary,
};
use reqwest::Method;
use serde_json::Value;

/// A cluster whose controller requires keys.
pub(crate) fn cluster() -> ClusterBuilder {
    Cluster::builder().mode(Mode::Processes).require_keys()
}

/// Runs the command line against a fleet at this URL.
fn run(cluster: &Cluster, url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(flotilla_binary());
    command.args(args).env("FLOTILLA_URL", url);
    command.env_remove("FLOTILLA_API_KEY");
    command.env("FLOTILLA_CONFIG", cluster.dir().join("config.yaml"));
    command.current_dir(cluster.dir()).output().unwrap()
}

/// Runs the command line over the admin socket, where it must succeed, and returns what it prints.
pub(crate) fn admin(cluster: &Cluster, args: &[&str]) -> String {
    let socket = format!("unix:{}", cluster.admin_socket().display());
    let output = run(cluster, &socket, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Creates a key with these flags, and returns it.
pub(crate) fn create_key(cluster: &Cluster, name: &str, flags: &[&str]) -> String {
    let key = admin(cluster, &[&["key", "create", name], flags].concat());
    assert!(key.starts_with("flt_") && key.ends_with('\n'), "{key}");
    key.trim().to_owned()
}

/// Sends a request with a JSON body, and returns the status of the response.
pub(crate) async fn status(api: &Api, method: &str, path: &str, body: &Value) -> u16 {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let response = api.request(method, path).json(body).send().await.unwrap();
    response.status().as_u16()
}

/// Starts a second controller of the fleet in etcd, which requires keys.
pub(crate) fn second_controller(cluster: &Cluster, etcd: &Etcd) -> (Process, Api) {
    let store = etcd.store().to_string();
    let data = cluster.dir().join("second").display().to_string();
    let args = ["--require-keys", "--store", &store, "--data-dir", &data];
    let args = [&CONTROLLER_ON_FREE_PORTS[..], &args].concat();
    let mut process = Process::start(cluster.dir(), &args);
    let line = process.wait_for_line("ready http=");
    (process, Api::new(address_in_line(&line, "http")))
}

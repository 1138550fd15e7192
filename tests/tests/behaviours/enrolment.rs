//! Fleets with a certificate authority: who gets in, what is encrypted, and who is cut off.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use flotilla_tests::{
    Api, Etcd, Process, address_in_line, find_in_time, flotilla_binary, free_address,
    simulated_model,
};
use serde_json::{Value, json};

/// A fleet of processes whose controllers share a secret.
struct ProtectedFleet {
    dir: tempfile::TempDir,
    /// Without one, the store is in the directory of the only controller.
    etcd: Option<Etcd>,
    controllers: Vec<ProtectedController>,
}

struct ProtectedController {
    process: Process,
    data_dir: PathBuf,
    http: SocketAddr,
    link: SocketAddr,
}

impl ProtectedFleet {
    fn start(etcd: Option<Etcd>, controllers: usize) -> Self {
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

    fn add_controller(&mut self, args: &[&str]) {
        let number = self.controllers.len();
        let data_dir = self.dir.path().join(format!("controller-{number}"));
        let (http, link) = (free_address(), free_address());
        let store = self.etcd.as_ref().map(|etcd| etcd.store().to_string());
        let process = start_controller(self.dir.path(), &data_dir, http, link, store, args);
        self.controllers.push(process);
    }

    fn authority(&self) -> PathBuf {
        self.controllers[0].data_dir.join("authority.crt")
    }

    fn api(&self, controller: usize) -> Api {
        let authority = std::fs::read(self.authority()).unwrap();
        Api::with_authority(self.controllers[controller].http, &authority)
    }

    /// Runs a command of the CLI against the first controller.
    fn run(&self, args: &[&str]) -> Output {
        let url = format!("https://{}", self.controllers[0].http);
        let args = [args, &["--url", &url]].concat();
        flotilla(self.dir.path(), &args, Some(&self.authority()))
    }

    /// Creates a join token and returns its text.
    fn token(&self, args: &[&str]) -> String {
        let created = self.run(&[&["token", "create"], args].concat());
        assert!(created.status.success(), "{}", text(&created));
        String::from_utf8(created.stdout).unwrap().trim().to_owned()
    }

    /// Starts an agent that dials a controller, with a token if it is not empty.
    fn agent(&self, name: &str, controller: usize, token: &str, args: &[&str]) -> Process {
        self.agent_in(name, name, self.controllers[controller].link, token, args)
    }

    /// Starts an agent with this data directory that dials an address.
    fn agent_in(
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

fn start_controller(
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

fn spawn_controller(
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
fn flotilla(dir: &Path, args: &[&str], authority: Option<&Path>) -> Output {
    let mut command = Command::new(flotilla_binary());
    command.args(args).current_dir(dir);
    if let Some(authority) = authority {
        command.env("SSL_CERT_FILE", authority);
    }
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

async fn node(api: &Api, name: &str) -> Option<Value> {
    let nodes = api.nodes().await;
    nodes
        .into_iter()
        .find(|node| node["metadata"]["name"] == name)
}

async fn wait_for_phase(api: &Api, name: &str, phase: &str) -> Value {
    let found = find_in_time(async || {
        let node = node(api, name).await?;
        (node["status"]["phase"] == phase).then_some(node)
    });
    found
        .await
        .unwrap_or_else(|| panic!("{name} is not {phase}"))
}

async fn serve(api: &Api, model: &str) {
    api.apply(&simulated_model(model, 1, &json!({}))).await;
    let ready = find_in_time(async || (api.ready_replicas(model).await == 1).then_some(()));
    ready.await.expect("the model is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_enrols_once_and_everything_between_it_and_clients_is_encrypted() {
    let fleet = ProtectedFleet::start(None, 1);
    let api = fleet.api(0);
    // Without a token the agent learns what to do.
    let mut stranger = fleet.agent("stranger", 0, "", &[]);
    stranger.wait_for_line("links to this controller have TLS: start the agent with --token-file");
    drop(stranger);
    let token = fleet.token(&["--zone", "clinic", "--label", "site=a"]);
    let mut agent = fleet.agent(
        "n1",
        0,
        &token,
        &["--label", "site=forged", "--label", "rack=7"],
    );
    agent.wait_for_line("enrolled");
    let joined = wait_for_phase(&api, "n1", "Ready").await;
    assert_eq!(joined["status"]["enrolment"], "Enrolled");
    assert_eq!(joined["metadata"]["labels"]["site"], "a");
    assert_eq!(joined["metadata"]["labels"]["rack"], "7");
    assert!(joined["spec"].to_string().contains("clinic"), "{joined}");
    serve(&api, "m").await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    for file in ["n1/node-key.pem", "n1/enrolment.json", "secret"] {
        let metadata = std::fs::metadata(fleet.dir.path().join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
    }
    // The token is used up, and says so.
    let mut second = fleet.agent("n2", 0, &token, &[]);
    second.wait_for_line("is used up");
    drop(second);
    let list = fleet.run(&["token", "list"]);
    assert!(
        text(&list).contains("UsedUp") && text(&list).contains("1 of 1"),
        "{}",
        text(&list)
    );
    // Neither the name of another node nor a zone that was not granted is to be had.
    let other = fleet.token(&["--uses", "5"]);
    let mut impostor = fleet.agent_in("impostor", "n1", fleet.controllers[0].link, &other, &[]);
    impostor.wait_for_line("another node has enrolled as 'n1'");
    drop(impostor);
    let mut zoned = fleet.agent("n3", 0, &other, &["--zone", "bank"]);
    zoned.wait_for_line("does not grant the zone 'bank'");
    drop(zoned);
    let deleted = other.split('.').nth(2).unwrap();
    assert!(fleet.run(&["token", "delete", deleted]).status.success());
    let mut late = fleet.agent("n4", 0, &other, &[]);
    late.wait_for_line("this fleet has no such join token");
    drop(late);
    // The certificate is enough from then on.
    agent.stop();
    wait_for_phase(&api, "n1", "Lost").await;
    let mut agent = fleet.agent("n1", 0, &token, &[]);
    agent.wait_for_line("linked");
    wait_for_phase(&api, "n1", "Ready").await;
    let described = fleet.run(&["describe", "node", "n1"]);
    assert!(
        text(&described).contains("enrolled"),
        "{}",
        text(&described)
    );
    agent.stop();
    // Neither its zone nor its name can be changed by flags.
    let mut zoned = fleet.agent("n1", 0, "", &["--zone", "bank"]);
    zoned.wait_for_line("was not granted the zone 'bank'");
    drop(zoned);
    let mut renamed = fleet.agent_in("n1", "n9", fleet.controllers[0].link, "", &[]);
    renamed.wait_for_line("the certificate is for the node 'n1'");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_check_both_ports_as_they_do_any_server() {
    let fleet = ProtectedFleet::start(None, 1);
    let controller = &fleet.controllers[0];
    let authority = fleet.authority();
    let url = format!("https://localhost:{}/readyz", controller.http.port());
    let curl = |args: &[&str]| {
        Command::new("curl")
            .args(["-sS", "-m", "20"])
            .args(args)
            .output()
            .unwrap()
    };
    let trusted = curl(&[
        "--cacert",
        authority.to_str().unwrap(),
        "-w",
        "%{http_version}",
        &url,
    ]);
    assert!(
        text(&trusted).contains("\"ready\":true"),
        "{}",
        text(&trusted)
    );
    assert!(
        text(&trusted).ends_with('2'),
        "HTTP/2 is chosen: {}",
        text(&trusted)
    );
    assert!(!curl(&[&url]).status.success(), "nobody else trusts it");
    for address in [controller.http, controller.link] {
        let plain = curl(&["-w", "%{http_code}", &format!("http://{address}/v1/models")]);
        let answer = text(&plain);
        assert!(
            answer.contains("HTTPS") && answer.ends_with("400"),
            "{answer}"
        );
    }
    let s_client = |address: SocketAddr, args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address.to_string(), "-CAfile"]);
        let output = command
            .arg(&authority)
            .args(args)
            .stdin(std::process::Stdio::null())
            .output();
        text(&output.unwrap())
    };
    let name = ["-verify_hostname", "controller.flotilla.invalid"];
    let link = s_client(
        controller.link,
        &[&name[..], &["-alpn", "flotilla-link/1"]].concat(),
    );
    assert!(link.contains("Verify return code: 0 (ok)"), "{link}");
    assert!(link.contains("ALPN protocol: flotilla-link/1"), "{link}");
    assert!(
        link.contains("Acceptable client certificate CA names"),
        "{link}"
    );
    let old = s_client(controller.http, &["-tls1_1"]);
    assert!(old.contains("no peer certificate available"), "{old}");
    let twelve = s_client(controller.http, &["-tls1_2"]);
    assert!(
        twelve.contains("TLSv1.2") && twelve.contains("Verify return code: 0"),
        "{twelve}"
    );
    // An agent that dials the wrong port.
    let token = fleet.token(&[]);
    let mut lost = fleet.agent_in("n1", "n1", controller.http, &token, &[]);
    lost.wait_for_line("this is the HTTPS port of a controller");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_cut_off_on_every_controller_and_stays_out() {
    let fleet = ProtectedFleet::start(Some(Etcd::start()), 2);
    let (first, second) = (fleet.api(0), fleet.api(1));
    let token = fleet.token(&["--uses", "2"]);
    let mut agent = fleet.agent("n1", 1, &token, &[]);
    let _other = fleet.agent("n2", 0, &token, &[]);
    for api in [&first, &second] {
        wait_for_phase(api, "n1", "Ready").await;
        wait_for_phase(api, "n2", "Ready").await;
    }
    // What other controllers have is fetched over TLS, with the certificate of this one.
    let (status, datasets) = first.get("api/v1/datasets").await;
    assert!(
        status == 200 && !datasets.to_string().contains("does not answer"),
        "{datasets}"
    );
    let revoked = fleet.run(&["node", "revoke", "n1"]);
    assert!(revoked.status.success(), "{}", text(&revoked));
    let start = Instant::now();
    agent.wait_for_line("the node 'n1' was revoked");
    for api in [&first, &second] {
        let cut = find_in_time(async || {
            let node = node(api, "n1").await?;
            (node["status"]["phase"] != "Ready").then_some(node)
        });
        assert_eq!(cut.await.unwrap()["status"]["enrolment"], "Revoked");
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let listed = fleet.run(&["get", "nodes"]);
    assert!(text(&listed).contains("revoked"), "{}", text(&listed));
    agent.stop();
    // Another token does not help, unless it is made for the node.
    let open = fleet.token(&[]);
    let mut agent = fleet.agent("n1", 0, &open, &[]);
    agent.wait_for_line("was revoked");
    agent.stop();
    let made_for_it = fleet.token(&["--node", "n1"]);
    let mut agent = fleet.agent("n1", 0, &made_for_it, &[]);
    agent.wait_for_line("enrolled");
    wait_for_phase(&second, "n1", "Ready").await;
    assert_eq!(
        node(&second, "n2").await.unwrap()["status"]["phase"],
        "Ready"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_one_node_lets_one_in_however_many_controllers_are_dialled() {
    let fleet = ProtectedFleet::start(Some(Etcd::start()), 2);
    let token = fleet.token(&[]);
    let mut agents: Vec<_> = (0..4)
        .map(|number| fleet.agent(&format!("n{number}"), number % 2, &token, &[]))
        .collect();
    let api = fleet.api(0);
    let one_is_in = find_in_time(async || (!api.nodes().await.is_empty()).then_some(()));
    one_is_in.await.expect("one node joins");
    let (_, enrolments) = api.get("api/v1/enrolments").await;
    let enrolled: Vec<_> = enrolments.as_object().unwrap().keys().cloned().collect();
    assert_eq!(enrolled.len(), 1, "{enrolments}");
    for (number, agent) in agents.iter_mut().enumerate() {
        if enrolled[0] != format!("n{number}") {
            agent.wait_for_line("is used up");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_with_another_secret_or_none_does_not_become_part_of_the_fleet() {
    let etcd = Etcd::start();
    let store = etcd.store().to_string();
    let fleet = ProtectedFleet::start(Some(etcd), 1);
    let created = flotilla(fleet.dir.path(), &["secret", "create", "other"], None);
    assert!(created.status.success());
    let data_dir = fleet.dir.path().join("wrong");
    let args = ["--secret-file", "other"];
    let (http, link) = (free_address(), free_address());
    let mut wrong = spawn_controller(fleet.dir.path(), &data_dir, http, link, Some(store), &args);
    let (status, output) = wrong.wait();
    assert!(!status.success());
    assert!(output.contains("made with another secret"), "{output}");
    // A file that others can read is refused.
    let secret = fleet.dir.path().join("other");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let data_dir = fleet.dir.path().join("open");
    let mut open = spawn_controller(fleet.dir.path(), &data_dir, http, link, None, &args);
    let (status, output) = open.wait();
    assert!(
        !status.success() && output.contains("chmod 600"),
        "{output}"
    );
    // A token of another fleet is for another authority.
    let other_fleet = ProtectedFleet::start(None, 1);
    let token = other_fleet.token(&[]);
    let mut agent = fleet.agent("n1", 0, &token, &[]);
    agent.wait_for_line("its certificate is of another authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_reach_no_port_without_tls_unless_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], free_address().port()));
    let http = everywhere.to_string();
    let args = [
        "controller",
        "--http",
        &http,
        "--link",
        "127.0.0.1:0",
        "--data-dir",
        "c",
    ];
    let (status, output) = Process::start(dir.path(), &args).wait();
    assert!(!status.success());
    for part in ["flotilla secret create", "--secret-file", "--insecure"] {
        assert!(output.contains(part), "{output}");
    }
    let args = [
        "agent",
        "--join",
        "192.0.2.1:7070",
        "--name",
        "n1",
        "--data-dir",
        "n1",
        "--metrics",
        "off",
    ];
    let (status, output) = Process::start(dir.path(), &args).wait();
    assert!(!status.success());
    for part in ["flotilla token create", "--token-file", "--insecure"] {
        assert!(output.contains(part), "{output}");
    }
    let args = [
        "controller",
        "--http",
        &http,
        "--link",
        "127.0.0.1:0",
        "--data-dir",
        "c",
        "--insecure",
    ];
    let mut insecure = Process::start(dir.path(), &args);
    insecure.wait_for_line("INSECURE");
    insecure.wait_for_line("ready http=");
    let api = Api::new(SocketAddr::from(([127, 0, 0, 1], everywhere.port())));
    let (_, nodes) = api.get("api/v1/nodes").await;
    assert!(nodes["notes"].to_string().contains("INSECURE"), "{nodes}");
    insecure.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_cutting_links() {
    let mut fleet = ProtectedFleet::start(None, 0);
    fleet.add_controller(&["--certificate-life", "1m"]);
    let api = fleet.api(0);
    let serial = || {
        let address = fleet.controllers[0].http.to_string();
        let mut command = Command::new("sh");
        let shown = command.args(["-c", &format!(
            "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        )]);
        text(&shown.output().unwrap())
    };
    let before = serial();
    let token = fleet.token(&[]);
    let mut agent = fleet.agent("n1", 0, &token, &[]);
    wait_for_phase(&api, "n1", "Ready").await;
    serve(&api, "m").await;
    agent.wait_for_line("the node's certificate is renewed");
    let renewed = find_in_time(async || (serial() != before).then_some(()));
    renewed
        .await
        .expect("the controller's certificate is renewed");
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    assert_eq!(agent.count_lines("linked"), 1, "the link has not been cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_outside_pki_is_replaced_while_the_controller_runs() {
    let mut fleet = ProtectedFleet::start(None, 0);
    let dir = fleet.dir.path().to_owned();
    let make = |name: &str| {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args([
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .args(["-keyout", "new.key", "-out", "new.crt"])
            .current_dir(&dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made));
    };
    let install = || {
        for file in ["key", "crt"] {
            std::fs::rename(
                dir.join(format!("new.{file}")),
                dir.join(format!("tls.{file}")),
            )
            .unwrap();
        }
    };
    make("first");
    install();
    fleet.add_controller(&["--tls-cert", "tls.crt", "--tls-key", "tls.key"]);
    let subject = |fleet: &ProtectedFleet| {
        let address = fleet.controllers[0].http.to_string();
        let shown = Command::new("sh").args(["-c", &format!(
            "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -subject"
        )]).output();
        text(&shown.unwrap())
    };
    assert!(subject(&fleet).contains("first"), "{}", subject(&fleet));
    std::fs::write(dir.join("tls.key"), "broken").unwrap();
    fleet.controllers[0]
        .process
        .wait_for_line("the one before stays");
    assert!(subject(&fleet).contains("first"));
    make("second");
    install();
    let replaced = find_in_time(async || subject(&fleet).contains("second").then_some(()));
    replaced.await.expect("the new certificate is presented");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_fleet_keeps_its_authority_and_its_nodes() {
    let mut fleet = ProtectedFleet::start(None, 1);
    let api = fleet.api(0);
    let token = fleet.token(&["--zone", "clinic"]);
    let mut agent = fleet.agent("n1", 0, &token, &[]);
    wait_for_phase(&api, "n1", "Ready").await;
    let saved = fleet.run(&["backup", "--file", "backup.yaml"]);
    assert!(saved.status.success(), "{}", text(&saved));
    let backup = std::fs::read_to_string(fleet.dir.path().join("backup.yaml")).unwrap();
    assert!(
        backup.contains("kind: Authority") && backup.contains("kind: Enrolment"),
        "{backup}"
    );
    assert!(!backup.contains("PRIVATE KEY"));
    // The machine is lost; another one takes its addresses.
    let lost = fleet.controllers.remove(0);
    let (http, link) = (lost.http, lost.link);
    lost.process.stop();
    let data_dir = fleet.dir.path().join("new");
    let replacement = start_controller(fleet.dir.path(), &data_dir, http, link, None, &[]);
    fleet.controllers.push(replacement);
    agent.wait_for_line("another authority");
    let restored = fleet.run(&["restore", "backup.yaml"]);
    assert!(restored.status.success(), "{}", text(&restored));
    let api_works = find_in_time(async || {
        let authority = std::fs::read(fleet.authority()).unwrap();
        let api = Api::with_authority(http, &authority);
        let node = node(&api, "n1").await?;
        (node["status"]["phase"] == "Ready").then_some(node)
    });
    let node = api_works.await.expect("the node comes back by itself");
    assert!(node["spec"].to_string().contains("clinic"), "{node}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_node_links_to_a_controller_that_starts_while_etcd_is_away() {
    let mut fleet = ProtectedFleet::start(Some(Etcd::start()), 1);
    let token = fleet.token(&[]);
    let _agent = fleet.agent("n1", 0, &token, &[]);
    let api = fleet.api(0);
    wait_for_phase(&api, "n1", "Ready").await;
    serve(&api, "m").await;
    let lost = fleet.controllers.remove(0);
    // It saves what it knows before it ends.
    lost.process.stop();
    fleet.etcd.as_mut().unwrap().kill();
    let store = fleet.etcd.as_ref().map(|etcd| etcd.store().to_string());
    let dir = fleet.dir.path();
    let controller = start_controller(dir, &lost.data_dir, lost.http, lost.link, store, &[]);
    fleet.controllers.push(controller);
    let api = fleet.api(0);
    wait_for_phase(&api, "n1", "Ready").await;
    let answers =
        find_in_time(async || (api.chat("m", "hi", false).await.status() == 200).then_some(()));
    answers.await.expect("requests are answered");
    let refused = fleet.run(&["token", "create"]);
    assert!(!refused.status.success(), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_of_flotilla_up_enrol_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        flotilla(dir.path(), &["secret", "create", "secret"], None)
            .status
            .success()
    );
    let http = free_address();
    let (address, models) = (http.to_string(), dir.path().join("none.yaml"));
    std::fs::write(&models, simulated_model("m", 1, &json!({})).to_string()).unwrap();
    let mut args = vec!["up", "--http", &address, "--data-dir", "up", "--nodes", "2"];
    args.extend([
        "--secret-file",
        "secret",
        "--models",
        models.to_str().unwrap(),
    ]);
    for _ in 0..2 {
        let mut up = Process::start(dir.path(), &args);
        up.wait_for_line("Flotilla is up");
        up.wait_for_line(&format!("https://{http}/v1"));
        let authority = std::fs::read(dir.path().join("up/controller/authority.crt")).unwrap();
        let api = Api::with_authority(http, &authority);
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
        for node in api.nodes().await {
            assert_eq!(node["status"]["enrolment"], "Enrolled", "{node}");
        }
        up.stop();
    }
}

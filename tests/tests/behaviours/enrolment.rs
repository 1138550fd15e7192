//! Who gets into a fleet with a certificate authority, and who is cut off.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use flotilla_tests::{Api, Etcd, Process, find_in_time, free_address, simulated_model};
use serde_json::json;

use crate::protected_fleet::{
    ProtectedFleet, flotilla, node, serve, start_controller, text, wait_for_phase,
};

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

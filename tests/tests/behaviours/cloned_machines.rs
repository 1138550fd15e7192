//! Two machines with one name: the one that is linked stays, and both places say what is wrong.

use std::path::Path;

use flotilla_proto::transport;
use flotilla_proto::v1::fleet_client::FleetClient;
use flotilla_proto::v1::{Inventory, JoinRequest, NodeEnergy, StatusReport};
use flotilla_tests::{Cluster, Mode, Process};
use serde_json::json;
use tokio::net::TcpStream;

use crate::fixtures::serve;

fn copy_data_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in ["identity", "desired.json"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_machine_is_refused_and_the_first_one_keeps_its_link() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    copy_data_dir(&cluster.dir().join("n1"), &cluster.dir().join("copy"));
    let link = cluster.link_address().to_string();
    // Under another name, too: both would have one node's identity.
    for (name, reason) in [
        ("n2", "its data directory was copied"),
        ("n1", "the machine or its data directory was copied"),
    ] {
        let args = [
            "agent",
            "--join",
            &link,
            "--name",
            name,
            "--data-dir",
            "copy",
        ];
        let args = [&args[..], &["--metrics", "off"]].concat();
        let mut copy = Process::start(cluster.dir(), &args);
        let line = copy.wait_for_line(reason);
        assert!(
            line.contains("ERROR") && line.contains("is linked from 127.0.0.1:"),
            "{line}"
        );
        copy.stop();
    }
    let url = cluster.url();
    let listed = Process::start(cluster.dir(), &["get", "nodes", "--url", &url])
        .wait()
        .1;
    assert!(listed.contains("the node 'n1' at 127.0.0.1:"), "{listed}");
    assert!(listed.contains("was copied"), "{listed}");
    let nodes = api.nodes().await;
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    assert_eq!(nodes[0]["status"]["phase"], "Ready");
    let agent = cluster.agent_mut("n1");
    agent.signal(libc::SIGINT);
    let (_, output) = agent.wait();
    let links = output
        .lines()
        .filter(|line| line.contains("linked controller="));
    assert_eq!(links.count(), 1, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_was_killed_joins_again_at_once() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    cluster.kill_agent("n1");
    cluster.start_agent("n1");
    cluster.agent_mut("n1").wait_for_line("linked controller=");
    cluster.wait_until_ready(&["n1"]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_one_node_that_cannot_be_true_do_not_break_the_list_of_all() {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    let stream = TcpStream::connect(cluster.link_address()).await.unwrap();
    let timeout = transport::DEFAULT_KEEPALIVE_TIMEOUT;
    let (channel, connection) = transport::connect(stream, timeout).await.unwrap();
    tokio::spawn(connection);
    let mut agent = FleetClient::with_origin(channel, transport::origin());
    let request = |watts| JoinRequest {
        name: "odd".into(),
        identity: "odd".into(),
        inventory: Some(Inventory {
            power: Some(flotilla_proto::v1::PowerRange {
                idle_watts: watts,
                max_watts: 9.0,
                configured: true,
            }),
            ..Inventory::default()
        }),
        ..JoinRequest::default()
    };
    assert!(agent.join(request(f32::NAN)).await.is_err());
    let session = agent.join(request(1.0)).await.unwrap().into_inner().session;
    let report = StatusReport {
        session,
        energy: Some(NodeEnergy {
            watts: f32::NAN,
            joules: f64::NEG_INFINITY,
            ..NodeEnergy::default()
        }),
        ..StatusReport::default()
    };
    let reports =
        tokio_stream::StreamExt::chain(tokio_stream::once(report), tokio_stream::pending());
    let _states = agent.sync(reports).await.unwrap();
    cluster.wait_until_ready(&["odd"]).await;
    let url = cluster.url();
    let (status, listed) = Process::start(cluster.dir(), &["get", "nodes", "--url", &url]).wait();
    assert!(status.success(), "{listed}");
    assert!(listed.contains("n1") && listed.contains("odd"), "{listed}");
    cluster.stop().await;
}

//! Controllers behind a load balancer, so that all have one address for agents.

use std::net::SocketAddr;

use flotilla_tests::{
    Api, CONTROLLER_ON_FREE_PORTS, Etcd, Process, address_in_line, holds_in_time, simulated_model,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards the connections to one port to several addresses in turn. Returns the port's address, and
/// where to set the others.
async fn start_balancer() -> (SocketAddr, watch::Sender<Vec<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut targets) = watch::channel(Vec::<SocketAddr>::new());
    tokio::spawn(async move {
        targets
            .wait_for(|targets| !targets.is_empty())
            .await
            .unwrap();
        for turn in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            let target = {
                let targets = targets.borrow();
                targets[turn % targets.len()]
            };
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                // It ends with the processes of the test.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, sender)
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_links_to_all_controllers_behind_one_address() {
    let etcd = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let (balancer, targets) = start_balancer().await;
    let (store, balancer) = (etcd.store().to_string(), balancer.to_string());
    let mut controllers = Vec::new();
    let mut links = Vec::new();
    for index in 0..3 {
        let files = format!("controller-{index}");
        let advertised = ["--advertise-link", &balancer];
        let places = ["--store", &store, "--data-dir", &files];
        let args = [&CONTROLLER_ON_FREE_PORTS[..], &advertised, &places].concat();
        let mut process = Process::start(dir.path(), &args);
        let line = process.wait_for_line("ready http=");
        links.push(address_in_line(&line, "link"));
        controllers.push((process, Api::new(address_in_line(&line, "http"))));
    }
    targets.send_replace(links);
    let args = [
        "agent",
        "--join",
        &balancer,
        "--name",
        "n1",
        "--data-dir",
        "n1",
    ];
    let _agent = Process::start(dir.path(), &args);
    controllers[0]
        .1
        .apply(&simulated_model("m", 1, &json!({})))
        .await;
    for (_, api) in &controllers {
        let is_ready = async || api.ready_replicas("m").await == 1;
        assert!(holds_in_time(is_ready).await);
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    }
}

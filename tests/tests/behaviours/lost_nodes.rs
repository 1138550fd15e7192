//! What the fleet does about nodes that it does not hear from: nothing hasty.

use flotilla_tests::{AgentSettings, Cluster, Load, Mode, Proxy, free_address, simulated_model};
use serde_json::{Value, json};

use crate::fixtures::{NODE_MEMORY, fast_options, serve, sized_model};

/// Nodes behind two lines to the controller.
struct TwoLines {
    cluster: Cluster,
    /// The line of the first node.
    first: Proxy,
    /// The line of the other nodes.
    others: Proxy,
}

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

impl TwoLines {
    async fn start(grace_seconds: &str) -> Self {
        let link = free_address();
        let first = Proxy::start(link).await;
        let others = Proxy::start(link).await;
        // Agents also dial the address that the controller names, so it is one that nobody listens on.
        let nowhere = free_address().to_string();
        let arguments = [
            "--node-grace-period",
            grace_seconds,
            "--advertise-link",
            &nowhere,
        ];
        let mut cluster = Cluster::builder()
            .mode(Mode::Processes)
            .link(link)
            .controller_args(&arguments)
            .start()
            .await;
        for name in NODES {
            let line = if name == "n1" { &first } else { &others };
            let agent = AgentSettings::new(name)
                .memory(NODE_MEMORY)
                .controller(line.address());
            cluster.start_agent(agent);
        }
        cluster.wait_until_ready(&NODES).await;
        Self {
            cluster,
            first,
            others,
        }
    }

    /// Waits until exactly these nodes are in the phase.
    async fn wait_for_phase(&self, names: &[&str], phase: &str) {
        let api = self.cluster.api();
        let is_in_phase = |node: &&Value| node["status"]["phase"] == phase;
        self.cluster
            .wait_until(async || {
                let nodes = api.nodes().await;
                let found = nodes.iter().filter(is_in_phase);
                let found: Vec<_> = found.map(|node| node["metadata"]["name"].clone()).collect();
                found == names
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_whose_controller_lost_its_line_keeps_every_model_where_it_is() {
    // Longer than an agent's pause between two attempts to dial.
    let fleet = TwoLines::start("8").await;
    let api = fleet.cluster.api();
    for name in ["a", "b", "c", "d"] {
        api.apply(&simulated_model(name, 2, &json!({"outputTokens": 2})))
            .await;
        fleet.cluster.wait_for_replicas(name, 2).await;
        api.answer(name, "hi").await;
    }
    let placed = async || {
        let mut placed = Vec::new();
        for name in ["a", "b", "c", "d"] {
            placed.push(api.assigned_nodes(name).await);
        }
        placed
    };
    let before = placed().await;
    fleet.first.cut();
    fleet.others.cut();
    fleet.wait_for_phase(&NODES, "Lost").await;
    let (_, list) = api.get("api/v1/nodes").await;
    let note = list["notes"][0].as_str().unwrap_or_default().to_owned();
    assert!(
        note.starts_with("4 of 4 nodes were lost within a minute"),
        "{list}"
    );
    assert_eq!(placed().await, before);

    // The first node back does not get everything. A model that is placed afterwards shows that the
    // leader has planned again.
    fleet.first.open();
    fleet.wait_for_phase(&["n1"], "Ready").await;
    api.apply(&simulated_model("marker", 1, &json!({}))).await;
    fleet.cluster.wait_for_replicas("marker", 1).await;
    assert_eq!(placed().await, before);

    fleet.others.open();
    fleet.cluster.wait_until_ready(&NODES).await;
    for name in ["a", "b", "c", "d"] {
        fleet.cluster.wait_for_replicas(name, 2).await;
        // Nothing was loaded again: that would reset the counters.
        fleet
            .cluster
            .wait_until(async || api.counters(name).await.requests == 1)
            .await;
    }
    assert_eq!(placed().await, before);
    let (_, list) = api.get("api/v1/nodes").await;
    assert_eq!(list["notes"], Value::Null);
    fleet.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_leader_changes_replicas_only_as_fast_as_it_hears_of_them() {
    let mut fleet = TwoLines::start("60").await;
    let api = fleet.cluster.api();
    let mut options = fast_options();
    api.apply(&sized_model(&json!(4), "1", 0.7, &options)).await;
    fleet.cluster.wait_for_replicas("m", 4).await;

    // The new leader hears of one node only while the revision changes.
    fleet.others.cut();
    fleet.cluster.restart_controller().await;
    fleet.wait_for_phase(&["n1"], "Ready").await;
    options["loadMs"] = json!(500);
    api.apply(&sized_model(&json!(4), "2", 0.7, &options)).await;
    api.apply(&simulated_model("marker", 1, &json!({}))).await;
    fleet.cluster.wait_for_replicas("marker", 1).await;
    assert_eq!(
        api.ready_replicas("m").await,
        1,
        "n1 still serves the old revision"
    );

    fleet.others.open();
    fleet.cluster.wait_until_ready(&NODES).await;
    fleet.cluster.wait_for_replicas("m", 4).await;
    let load = Load::start(std::slice::from_ref(&api), "m", 4);
    fleet
        .cluster
        .wait_until(async || {
            let status = api.model("m").await["status"].clone();
            let ready = status["ready"].as_u64().unwrap();
            assert!(
                ready >= 3,
                "more than one replica changes at once: {status}"
            );
            status["phase"] == "Ready"
        })
        .await;
    let tally = load.stop("a new leader continues a rollout").await;
    assert!(tally.errors.is_empty(), "{tally}");
    fleet.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_during_a_restart_is_replaced_although_most_nodes_are_dead_for_long() {
    let node = |name: &str| AgentSettings::new(name).args(&["--label", &format!("here={name}")]);
    let dead = ["d1", "d2", "d3"];
    let alive = ["a1", "a2", "a3"];
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--node-grace-period", "1"])
        .agents(dead.iter().chain(&alive).map(|name| node(name)))
        .start()
        .await;
    let api = cluster.api();
    // Models that have no other place stay assigned to the nodes that die.
    for name in dead {
        let mut bound = simulated_model(name, 1, &json!({}));
        bound["spec"]["nodeSelector"] = json!({"here": name});
        api.apply(&bound).await;
        cluster.wait_for_replicas(name, 1).await;
    }
    for name in dead {
        cluster.kill_agent(name);
    }
    let is_lost = |node: &Value| node["status"]["phase"] == "Lost";
    let lost = async || {
        api.nodes()
            .await
            .iter()
            .filter(|node| is_lost(node))
            .count()
            == dead.len()
    };
    cluster.wait_until(lost).await;
    // The leader has planned once it places another model.
    serve(&cluster, &api, "m", &json!({})).await;
    for name in dead {
        assert_eq!(api.assigned_nodes(name).await, [name]);
    }

    // Four of six nodes are away when the controller starts: more than may be lost at once.
    let failed = api.assigned_nodes("m").await.remove(0);
    cluster.kill_controller();
    cluster.kill_agent(&failed);
    cluster.restart_controller().await;
    let has_moved = async || {
        let nodes = api.assigned_nodes("m").await;
        nodes.len() == 1 && nodes[0] != failed
    };
    cluster.wait_until(has_moved).await;
    cluster.wait_for_replicas("m", 1).await;
    let (_, list) = api.get("api/v1/nodes").await;
    assert_eq!(list["notes"], Value::Null);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn model_of_a_lost_node_without_room_elsewhere_is_refused_with_the_reason_and_returns() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .controller_args(&["--node-grace-period", "1"])
        .agent(AgentSettings::new("large").memory(NODE_MEMORY))
        .agent(AgentSettings::new("small").memory(NODE_MEMORY / 8))
        .start()
        .await;
    let api = cluster.api();
    api.apply(&sized_model(&json!(1), "1", 0.5, &fast_options()))
        .await;
    cluster.wait_for_replicas("m", 1).await;
    cluster.kill_agent("large");
    let text = async || {
        let response = api.chat("m", "hi", false).await;
        (
            response.status().as_u16(),
            response.headers().clone(),
            response.text().await.unwrap(),
        )
    };
    cluster
        .wait_until(async || text().await.2.contains("1 lost, 1 with too little memory"))
        .await;
    let (status, headers, body) = text().await;
    assert_eq!(status, 503, "{body}");
    assert!(
        !headers.contains_key("retry-after"),
        "nobody will come: {body}"
    );
    let model = api.model("m").await;
    assert_eq!(
        model["status"]["replicas"][0]["phase"], "Unreachable",
        "{model}"
    );
    let nodes = api.nodes().await;
    assert_eq!(nodes[0]["status"]["energy"], Value::Null, "{nodes:?}");
    cluster.start_agent(AgentSettings::new("large").memory(NODE_MEMORY));
    cluster.wait_for_replicas("m", 1).await;
    api.answer("m", "hi").await;
    cluster.stop().await;
}

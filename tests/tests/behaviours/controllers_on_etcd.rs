//! Fleets with their desired state in etcd, with one controller and with several.

use flotilla_tests::{Api, Cluster, Etcd, Load, Mode, Process, find_in_time, simulated_model};
use serde_json::json;

use crate::fixtures::serve;

#[tokio::test]
async fn requests_are_answered_and_changes_wait_while_etcd_is_down() {
    let mut etcd = Etcd::start();
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .store(etcd.store())
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    etcd.kill();
    for _ in 0..20 {
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    }
    // The controller reports the outage and stays ready.
    let is_reported = async || {
        let (status, answer) = api.get("readyz").await;
        let notes = answer["notes"].to_string();
        status == 200 && notes.contains("changes are refused")
    };
    cluster.wait_until(is_reported).await;
    let (_, list) = api.get("api/v1/models").await;
    assert!(
        list["notes"].to_string().contains("changes are refused"),
        "{list}"
    );
    let (status, answer) = api
        .try_apply(&simulated_model("other", 1, &json!({})))
        .await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(answer["error"]["code"], "store_unavailable");
    etcd.resume();
    let other = simulated_model("other", 1, &json!({}));
    cluster
        .wait_until(async || api.try_apply(&other).await.0 != 503)
        .await;
    cluster.wait_for_replicas("other", 1).await;
    assert_eq!(api.ready_replicas("m").await, 1);
    assert_eq!(api.get("readyz").await.1["notes"], json!([]));
    // The replica is the same as before: it has counted all requests.
    assert_eq!(api.counters("m").await.requests, 20);
    cluster.stop().await;
}

#[tokio::test]
async fn restarted_controller_reads_the_desired_state_from_etcd() {
    let etcd = Etcd::start();
    let mut cluster = Cluster::builder()
        .store(etcd.store())
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    serve(&cluster, &api, "m", &json!({})).await;
    cluster.restart_controller().await;
    cluster.wait_for_replicas("m", 1).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    cluster.stop().await;
}

#[tokio::test]
async fn confirmed_writes_of_the_embedded_store_survive_a_power_cut() {
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    for round in 0..3 {
        let api = cluster.api();
        let names: Vec<_> = (0..20).map(|i| format!("m{round}-{i}")).collect();
        for name in &names {
            api.apply(&simulated_model(name, 1, &json!({}))).await;
        }
        // Right after the last model was confirmed.
        cluster.kill_controller();
        cluster.restart_controller().await;
        let api = cluster.api();
        let last = names.last().unwrap();
        cluster.wait_for_replicas(last, 1).await;
        assert_eq!(api.models().await.len(), 20 * (round + 1));
    }
    cluster.stop().await;
}

/// Controllers on one etcd. All are processes.
struct Controllers {
    etcd: Etcd,
    dir: tempfile::TempDir,
    members: Vec<RunningController>,
}

/// A running controller.
struct RunningController {
    process: Process,
    api: Api,
    link: String,
}

impl Controllers {
    fn start(count: usize) -> Self {
        Self::start_on(Etcd::start(), count)
    }

    fn start_on(etcd: Etcd, count: usize) -> Self {
        let mut controllers = Self {
            etcd,
            dir: tempfile::tempdir().unwrap(),
            members: Vec::new(),
        };
        for _ in 0..count {
            controllers.add_controller();
        }
        controllers
    }

    /// Starts one more controller.
    fn add_controller(&mut self) -> &mut RunningController {
        let store = self.etcd.store().to_string();
        let any_port = "127.0.0.1:0";
        let files = format!("files-{}", self.members.len());
        let args = [
            "controller",
            "--http",
            any_port,
            "--link",
            any_port,
            "--store",
            &store,
            "--data-dir",
            &files,
        ];
        let mut process = Process::start(self.dir.path(), &args);
        let line = process.wait_for_line("ready http=");
        self.members.push(RunningController {
            process,
            api: Api::new(flotilla_tests::address_in_line(&line, "http")),
            link: flotilla_tests::address_in_line(&line, "link").to_string(),
        });
        self.members.last_mut().unwrap()
    }

    /// Starts an agent that knows the address of the first controller only.
    fn start_agent(&self, name: &str) -> Process {
        let data = self.dir.path().join(name).display().to_string();
        let join = &self.members[0].link;
        let args = ["agent", "--join", join, "--name", name, "--data-dir", &data];
        Process::start(self.dir.path(), &args)
    }

    /// Returns the index of the controller that leads, as the controller `observer` sees it.
    async fn leader(&self, observer: usize) -> Option<usize> {
        let controllers = self.members[observer].api.items("controllers").await;
        let leader = controllers.into_iter().find(|c| c["leader"] == true)?;
        self.members.iter().position(|m| leader["link"] == m.link)
    }

    /// Waits until a controller other than `previous` leads, as the controller `observer` sees it, and
    /// returns its index.
    async fn wait_for_leader(&self, observer: usize, previous: Option<usize>) -> usize {
        wait_for(async || {
            let leader = self.leader(observer).await?;
            (Some(leader) != previous).then_some(leader)
        })
        .await
    }

    async fn wait_until_ready(&self, model: &str, replicas: u64) {
        for member in &self.members {
            wait_until_ready(&member.api, model, replicas).await;
        }
    }
}

async fn wait_until_ready(api: &Api, model: &str, replicas: u64) {
    wait_for(async || (api.ready_replicas(model).await == replicas).then_some(())).await;
}

/// Waits until the store accepts a model.
async fn wait_until_applied(api: &Api, name: &str) {
    let model = simulated_model(name, 1, &json!({}));
    wait_for(async || (api.try_apply(&model).await.0 < 300).then_some(())).await;
}

/// Waits until `find` returns a value, and returns it.
async fn wait_for<T>(find: impl AsyncFn() -> Option<T>) -> T {
    let found = find_in_time(find).await;
    found.expect("a value before the deadline")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_controllers_serves_the_whole_api() {
    let mut controllers = Controllers::start(2);
    let _agents = [controllers.start_agent("n1"), controllers.start_agent("n2")];
    // The agents were started before this controller and join it, too.
    controllers.add_controller();
    let models = [("a", 0), ("b", 1), ("c", 2)];
    for (model, controller) in models {
        let api = &controllers.members[controller].api;
        api.apply(&simulated_model(model, 2, &json!({}))).await;
    }
    for (model, _) in models {
        controllers.wait_until_ready(model, 2).await;
        for member in &controllers.members {
            assert_eq!(member.api.chat(model, "hi", false).await.status(), 200);
        }
    }
    let leader = controllers.wait_for_leader(0, None).await;
    for observer in 0..3 {
        assert_eq!(controllers.wait_for_leader(observer, None).await, leader);
        assert_eq!(controllers.members[observer].api.nodes().await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controller_leads_when_the_leader_is_killed_and_no_replica_moves() {
    let controllers = Controllers::start(3);
    let _agents = [controllers.start_agent("n1"), controllers.start_agent("n2")];
    controllers.members[0]
        .api
        .apply(&simulated_model("m", 2, &json!({})))
        .await;
    controllers.wait_until_ready("m", 2).await;
    let leader = controllers.wait_for_leader(0, None).await;
    let other = (leader + 1) % 3;
    let api = controllers.members[other].api.clone();
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    wait_for(async || (api.counters("m").await.requests == 1).then_some(())).await;
    controllers.members[leader].process.signal(libc::SIGKILL);
    // The other controllers answer all the time.
    for _ in 0..20 {
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    }
    let next = controllers.wait_for_leader(other, Some(leader)).await;
    assert_ne!(next, leader);
    api.apply(&simulated_model("later", 1, &json!({}))).await;
    wait_until_ready(&api, "later", 1).await;
    // The replicas stayed loaded: their counters continue.
    assert!(api.counters("m").await.requests >= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_that_was_paused_for_too_long_follows_when_it_resumes() {
    let controllers = Controllers::start(2);
    let _agents = [controllers.start_agent("n1"), controllers.start_agent("n2")];
    controllers.members[0]
        .api
        .apply(&simulated_model("m", 2, &json!({})))
        .await;
    // Ready on both nodes as both controllers see it, so all agents are connected to both.
    controllers.wait_until_ready("m", 2).await;
    let paused = controllers.wait_for_leader(0, None).await;
    let other = 1 - paused;
    controllers.members[paused].process.signal(libc::SIGSTOP);
    let leader = controllers.wait_for_leader(other, Some(paused)).await;
    assert_eq!(leader, other);
    let api = &controllers.members[other].api;
    api.apply(&simulated_model("meanwhile", 2, &json!({})))
        .await;
    wait_until_ready(api, "meanwhile", 2).await;
    controllers.members[paused].process.signal(libc::SIGCONT);
    // It learns what happened meanwhile and who leads.
    controllers.wait_until_ready("meanwhile", 2).await;
    controllers.wait_until_ready("m", 2).await;
    assert_eq!(
        controllers.wait_for_leader(paused, Some(paused)).await,
        other
    );
    assert_eq!(controllers.leader(other).await, Some(other));
    let api = &controllers.members[paused].api;
    api.apply(&simulated_model("later", 1, &json!({}))).await;
    controllers.wait_until_ready("later", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_restarted_after_a_snapshot_stays_linked_when_the_snapshot_is_put_back() {
    let mut controllers = Controllers::start(2);
    let agent = controllers.start_agent("n1");
    let api = controllers.members[0].api.clone();
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    controllers.wait_until_ready("m", 1).await;
    let snapshot = controllers.dir.path().join("snapshot");
    controllers.etcd.save_snapshot(&snapshot);
    // The snapshot says that the first process of the agent is linked to both controllers.
    drop(agent);
    let _agent = controllers.start_agent("n1");
    api.apply(&simulated_model("later", 1, &json!({}))).await;
    controllers.wait_until_ready("later", 1).await;
    controllers.etcd.kill();
    controllers.etcd.restore_snapshot(&snapshot);
    controllers.etcd.resume();
    wait_until_applied(&api, "after").await;
    controllers.wait_until_ready("after", 1).await;
    controllers.wait_until_ready("m", 1).await;
    for member in &controllers.members {
        assert_eq!(member.api.chat("m", "hi", false).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_that_is_stopped_hands_over_at_once() {
    let mut controllers = Controllers::start(2);
    let leader = controllers.wait_for_leader(0, None).await;
    let other = 1 - leader;
    controllers.members[leader].process.signal(libc::SIGINT);
    let (status, output) = controllers.members[leader].process.wait();
    assert!(status.success(), "{output}");
    assert_eq!(
        controllers.wait_for_leader(other, Some(leader)).await,
        other
    );
    // The stopped controller is no longer listed.
    let api = &controllers.members[other].api;
    wait_for(async || (api.items("controllers").await.len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_leader_hands_over_at_once_while_its_answers_end() {
    let mut controllers = Controllers::start(2);
    let _agents = [controllers.start_agent("n1"), controllers.start_agent("n2")];
    let three_seconds = json!({"outputTokens": 60, "tokensPerSecond": 20});
    controllers.members[0]
        .api
        .apply(&simulated_model("m", 2, &three_seconds))
        .await;
    controllers.wait_until_ready("m", 2).await;
    let leader = controllers.wait_for_leader(0, None).await;
    let other = 1 - leader;
    let api = controllers.members[leader].api.clone();
    let mut answer = api.chat("m", "hi", true).await;
    let mut text = answer.chunk().await.unwrap().unwrap().to_vec();
    controllers.members[leader].process.signal(libc::SIGTERM);
    controllers.wait_for_leader(other, Some(leader)).await;
    let api = controllers.members[other].api.clone();
    api.apply(&simulated_model("later", 1, &json!({}))).await;
    wait_until_ready(&api, "later", 1).await;
    // The other controller works while this answer still runs.
    assert!(!text.ends_with(b"[DONE]\n\n"));
    while let Some(chunk) = answer.chunk().await.expect("the stream is not cut") {
        text.extend_from_slice(&chunk);
    }
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    let (status, output) = controllers.members[leader].process.wait();
    assert!(status.success(), "{output}");
    assert_eq!(api.ready_replicas("m").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_replica_moves_when_etcd_loses_its_quorum_and_regains_it() {
    let mut controllers = Controllers::start_on(Etcd::start_members(3), 2);
    let _agents = [controllers.start_agent("n1"), controllers.start_agent("n2")];
    let api = controllers.members[0].api.clone();
    api.apply(&simulated_model("m", 2, &json!({}))).await;
    controllers.wait_until_ready("m", 2).await;
    let apis: Vec<_> = controllers.members.iter().map(|m| m.api.clone()).collect();
    let load = Load::start(&apis, "m", 4);
    // Two members of three are a quorum.
    controllers.etcd.kill_member(0);
    wait_until_applied(&api, "one").await;
    wait_until_ready(&api, "one", 1).await;
    // Without a quorum changes are refused, for longer than any lease or grace.
    controllers.etcd.kill_member(1);
    for api in &apis {
        let is_reported = async || {
            let (status, answer) = api.get("readyz").await;
            (status == 200 && answer["notes"].to_string().contains("changes are refused"))
                .then_some(())
        };
        wait_for(is_reported).await;
    }
    let refused = api.try_apply(&simulated_model("two", 1, &json!({}))).await;
    assert_eq!(refused.0, 503, "{refused:?}");
    controllers.etcd.resume();
    wait_until_applied(&api, "two").await;
    controllers.wait_until_ready("two", 1).await;
    controllers.wait_until_ready("m", 2).await;
    let tally = load.stop("etcd lost its quorum and got it back").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    // The replicas are the same as at the start: they have counted every request.
    let are_counted = async || (api.counters("m").await.requests >= tally.requests).then_some(());
    wait_for(are_counted).await;
}

//! Fleets whose wish is kept in etcd, with one controller and with several.

use flotilla_tests::{Api, Cluster, DEADLINE, Etcd, Load, Mode, Process, simulated_model};
use serde_json::json;

#[tokio::test]
async fn while_etcd_is_away_requests_flow_and_changes_wait() {
    let mut etcd = Etcd::start();
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .store(etcd.store())
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    cluster.wait_for_replicas("m", 1).await;
    etcd.kill();
    for _ in 0..20 {
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    }
    // It says so, and is ready all the same.
    let noted = async || {
        let (status, answer) = api.get("readyz").await;
        let notes = answer["notes"].to_string();
        status == 200 && notes.contains("changes wait")
    };
    cluster.wait_until(noted).await;
    let (_, list) = api.get("api/v1/models").await;
    assert!(list["notes"].to_string().contains("changes wait"), "{list}");
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
    // The same replica as before: nothing was placed anew.
    assert_eq!(api.counters("m").await.requests, 20);
    cluster.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_finds_the_wish_in_etcd() {
    let etcd = Etcd::start();
    let mut cluster = Cluster::builder()
        .store(etcd.store())
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    cluster.wait_for_replicas("m", 1).await;
    cluster.restart_controller().await;
    cluster.wait_for_replicas("m", 1).await;
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    cluster.stop().await;
}

#[tokio::test]
async fn what_the_embedded_store_has_confirmed_survives_a_power_cut() {
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
        // At once after the last one was confirmed.
        cluster.kill_controller();
        cluster.restart_controller().await;
        let api = cluster.api();
        let last = names.last().unwrap();
        cluster.wait_for_replicas(last, 1).await;
        assert_eq!(api.models().await.len(), 20 * (round + 1));
    }
    cluster.stop().await;
}

/// Controllers on one etcd, as processes.
struct Controllers {
    etcd: Etcd,
    dir: tempfile::TempDir,
    members: Vec<Member>,
}

struct Member {
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
            controllers.add();
        }
        controllers
    }

    /// One more controller.
    fn add(&mut self) -> &mut Member {
        let store = self.etcd.store().to_string();
        let any = "127.0.0.1:0";
        let args = [
            "controller",
            "--http",
            any,
            "--link",
            any,
            "--store",
            &store,
        ];
        let mut process = Process::start(self.dir.path(), &args);
        let line = process.wait_for_line("ready http=");
        self.members.push(Member {
            process,
            api: Api::new(flotilla_tests::address_in_line(&line, "http")),
            link: flotilla_tests::address_in_line(&line, "link").to_string(),
        });
        self.members.last_mut().unwrap()
    }

    /// An agent that is told of the first controller only.
    fn agent(&self, name: &str) -> Process {
        let data = self.dir.path().join(name).display().to_string();
        let join = &self.members[0].link;
        let args = ["agent", "--join", join, "--name", name, "--data-dir", &data];
        Process::start(self.dir.path(), &args)
    }

    /// Which controller leads, as controller `asked` sees it.
    async fn leader(&self, asked: usize) -> Option<usize> {
        let controllers = self.members[asked].api.items("controllers").await;
        let leader = controllers.into_iter().find(|c| c["leader"] == true)?;
        self.members.iter().position(|m| leader["link"] == m.link)
    }

    /// Waits until a controller, asked through `asked`, leads.
    async fn until_led(&self, asked: usize, but: Option<usize>) -> usize {
        until(async || {
            let leader = self.leader(asked).await?;
            (Some(leader) != but).then_some(leader)
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
    until(async || (api.ready_replicas(model).await == replicas).then_some(())).await;
}

/// Asks until there is an answer.
async fn until<T>(answer: impl AsyncFn() -> Option<T>) -> T {
    let ask = async {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
        loop {
            if let Some(answer) = answer().await {
                return answer;
            }
            tick.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, ask)
        .await
        .expect("it comes true")
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_three_controllers_serves_the_whole_api() {
    let mut controllers = Controllers::start(2);
    let _agents = [controllers.agent("n1"), controllers.agent("n2")];
    // Joined by agents that were started before it was there.
    controllers.add();
    let models = [("a", 0), ("b", 1), ("c", 2)];
    for (model, asked) in models {
        let api = &controllers.members[asked].api;
        api.apply(&simulated_model(model, 2, &json!({}))).await;
    }
    for (model, _) in models {
        controllers.wait_until_ready(model, 2).await;
        for member in &controllers.members {
            assert_eq!(member.api.chat(model, "hi", false).await.status(), 200);
        }
    }
    let leader = controllers.until_led(0, None).await;
    for asked in 0..3 {
        assert_eq!(controllers.until_led(asked, None).await, leader);
        assert_eq!(controllers.members[asked].api.nodes().await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_another_one_leads_and_nothing_moves() {
    let controllers = Controllers::start(3);
    let _agents = [controllers.agent("n1"), controllers.agent("n2")];
    controllers.members[0]
        .api
        .apply(&simulated_model("m", 2, &json!({})))
        .await;
    controllers.wait_until_ready("m", 2).await;
    let leader = controllers.until_led(0, None).await;
    let other = (leader + 1) % 3;
    let api = controllers.members[other].api.clone();
    assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    until(async || (api.counters("m").await.requests == 1).then_some(())).await;
    controllers.members[leader].process.signal(libc::SIGKILL);
    // The other ones serve all the time.
    for _ in 0..20 {
        assert_eq!(api.chat("m", "hi", false).await.status(), 200);
    }
    let next = controllers.until_led(other, Some(leader)).await;
    assert_ne!(next, leader);
    api.apply(&simulated_model("later", 1, &json!({}))).await;
    wait_until_ready(&api, "later", 1).await;
    // What was loaded stayed: its counters go on.
    assert!(api.counters("m").await.requests >= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_too_long_follows_when_it_resumes() {
    let controllers = Controllers::start(2);
    let _agents = [controllers.agent("n1"), controllers.agent("n2")];
    controllers.members[0]
        .api
        .apply(&simulated_model("m", 2, &json!({})))
        .await;
    // On both nodes, and asked through both controllers: all are linked.
    controllers.wait_until_ready("m", 2).await;
    let paused = controllers.until_led(0, None).await;
    let other = 1 - paused;
    controllers.members[paused].process.signal(libc::SIGSTOP);
    let leader = controllers.until_led(other, Some(paused)).await;
    assert_eq!(leader, other);
    let api = &controllers.members[other].api;
    api.apply(&simulated_model("meanwhile", 2, &json!({})))
        .await;
    wait_until_ready(api, "meanwhile", 2).await;
    controllers.members[paused].process.signal(libc::SIGCONT);
    // It takes over what happened meanwhile and knows who leads.
    controllers.wait_until_ready("meanwhile", 2).await;
    controllers.wait_until_ready("m", 2).await;
    assert_eq!(controllers.until_led(paused, Some(paused)).await, other);
    assert_eq!(controllers.leader(other).await, Some(other));
    let api = &controllers.members[paused].api;
    api.apply(&simulated_model("later", 1, &json!({}))).await;
    controllers.wait_until_ready("later", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_hands_over_at_once() {
    let mut controllers = Controllers::start(2);
    let leader = controllers.until_led(0, None).await;
    let other = 1 - leader;
    controllers.members[leader].process.signal(libc::SIGINT);
    let (status, output) = controllers.members[leader].process.wait();
    assert!(status.success(), "{output}");
    assert_eq!(controllers.until_led(other, Some(leader)).await, other);
    // Nothing of it is left.
    let api = &controllers.members[other].api;
    until(async || (api.items("controllers").await.len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_loses_its_quorum_and_gets_it_back_moves_nothing() {
    let mut controllers = Controllers::start_on(Etcd::start_members(3), 2);
    let _agents = [controllers.agent("n1"), controllers.agent("n2")];
    let api = controllers.members[0].api.clone();
    api.apply(&simulated_model("m", 2, &json!({}))).await;
    controllers.wait_until_ready("m", 2).await;
    let apis: Vec<_> = controllers.members.iter().map(|m| m.api.clone()).collect();
    let load = Load::start(&apis, "m", 4);
    // One member is not missed.
    controllers.etcd.kill_member(0);
    until(async || {
        (api.try_apply(&simulated_model("one", 1, &json!({})))
            .await
            .0
            < 300)
            .then_some(())
    })
    .await;
    wait_until_ready(&api, "one", 1).await;
    // Without a quorum changes wait, for longer than any lease or grace.
    controllers.etcd.kill_member(1);
    for api in &apis {
        let noted = async || {
            let (status, answer) = api.get("readyz").await;
            (status == 200 && answer["notes"].to_string().contains("changes wait")).then_some(())
        };
        until(noted).await;
    }
    let refused = api.try_apply(&simulated_model("two", 1, &json!({}))).await;
    assert_eq!(refused.0, 503, "{refused:?}");
    controllers.etcd.resume();
    until(async || {
        (api.try_apply(&simulated_model("two", 1, &json!({})))
            .await
            .0
            < 300)
            .then_some(())
    })
    .await;
    controllers.wait_until_ready("two", 1).await;
    controllers.wait_until_ready("m", 2).await;
    let tally = load.stop("etcd lost its quorum and got it back").await;
    assert!(tally.errors.is_empty() && tally.cut_streams == 0, "{tally}");
    // The replicas are those of the beginning: they have counted every request.
    let counted = async || (api.counters("m").await.requests >= tally.requests).then_some(());
    until(counted).await;
}

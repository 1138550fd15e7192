//! What a request does when its replicas refuse it.

use std::time::{Duration, Instant};

use flotilla_core::generate::{GenerateInput, GenerateRequest, RequestError, Route, RouteTarget};
use flotilla_core::routing::{MAX_FAILED_ATTEMPTS, RejectReason};
use flotilla_core::{Joules, ModelName};
use flotilla_gateway::{Backend, BackendError};

use crate::test_fleet::{Reply, TestFleet, TestReplica};

fn replica(model: &'static str, node: &'static str, reply: Reply) -> TestReplica {
    TestReplica {
        model,
        node,
        zones: &[],
        revision: 1,
        seconds: Some(0.05),
        reply,
    }
}

fn unavailable(retry_after: Option<Duration>) -> Reply {
    Reply::Fail(RequestError::Unavailable {
        message: "maintenance".into(),
        retry_after,
    })
}

fn overloaded(seconds: u64) -> Reply {
    Reply::Fail(RequestError::Overloaded {
        message: "quota".into(),
        retry_after: Duration::from_secs(seconds),
    })
}

async fn send(fleet: &TestFleet, model: &str) -> Result<String, BackendError> {
    let route = Route::new(RouteTarget::parse(model).unwrap());
    let request = GenerateRequest::new(route, GenerateInput::Text("hi".into()));
    let answer = fleet.dispatcher.generate(request).await?;
    Ok(answer.served_by.node.to_string())
}

#[tokio::test]
async fn replica_that_is_unavailable_for_ever_gets_a_bounded_number_of_requests() {
    let replicas = [
        replica("broken", "broken", unavailable(None)),
        replica("healthy", "healthy", Reply::Answer(1.0)),
    ];
    let fleet = TestFleet::start(&replicas, Vec::new());
    let counts = fleet.pending.counts();
    let began = Instant::now();
    let broken = send(&fleet, "broken");
    let healthy = async {
        // Nobody waits behind a request that backs off, neither of its model nor of another.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(send(&fleet, "healthy").await.unwrap(), "healthy");
        assert_eq!(fleet.requests("broken"), 1);
        assert!(counts.borrow().is_empty(), "it is in no queue");
    };
    let (error, ()) = tokio::join!(broken, healthy);
    let BackendError { error, decision_id } = error.unwrap_err();
    assert_eq!(
        error,
        RequestError::Unavailable {
            message: "maintenance".into(),
            retry_after: None
        }
    );
    assert_eq!(fleet.requests("broken"), MAX_FAILED_ATTEMPTS);
    // Back-offs of 100, 200, 400 and 800 ms, with jitter.
    assert!(
        began.elapsed() > Duration::from_millis(750),
        "{:?}",
        began.elapsed()
    );
    assert!(!counts.has_changed().unwrap(), "it has been in no queue");
    let record = fleet
        .dispatcher
        .decisions()
        .get(&decision_id.unwrap())
        .unwrap();
    assert_eq!(record.decision.failed_attempts, MAX_FAILED_ATTEMPTS);
    let mut rejected = record.decision.rejected.iter();
    assert!(rejected.any(|one| one.reason == RejectReason::AttemptFailed && one.node.is_some()));

    // The model's budget lasts for a few more requests, which then fail at once.
    for _ in 0..5 {
        assert!(send(&fleet, "broken").await.is_err());
    }
    let before = fleet.requests("broken");
    let began = Instant::now();
    for _ in 0..20 {
        assert!(send(&fleet, "broken").await.is_err());
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert!(fleet.requests("broken") - before <= 22);
    assert!(before <= 20, "{before}");
    assert_eq!(send(&fleet, "healthy").await.unwrap(), "healthy");
}

#[tokio::test]
async fn upstream_server_that_cannot_be_reached_uses_the_budget_and_opens_the_breaker() {
    let unreachable = || Reply::Fail(RequestError::UpstreamUnreachable("refused".into()));
    let replicas = [
        replica("m", "dead", unreachable()),
        replica("m", "healthy", Reply::Answer(1.0)),
        replica("lost", "lost", unreachable()),
    ];
    let fleet = TestFleet::start(&replicas, Vec::new());
    for _ in 0..50 {
        assert_eq!(send(&fleet, "m").await.unwrap(), "healthy");
    }
    assert!(fleet.requests("dead") <= 3, "the breaker is open");

    let began = Instant::now();
    let error = send(&fleet, "lost").await.unwrap_err().error;
    assert_eq!(error, RequestError::UpstreamUnreachable("refused".into()));
    assert_eq!(fleet.requests("lost"), MAX_FAILED_ATTEMPTS);
    assert!(began.elapsed() > Duration::from_millis(750));
    let requests = (0..20).map(|_| send(&fleet, "lost"));
    let answers = futures::future::join_all(requests).await;
    assert!(answers.iter().all(Result::is_err));
    // Each request is sent once; of the ten tokens for retries six were left.
    let retries = fleet.requests("lost") - MAX_FAILED_ATTEMPTS - 20;
    assert!(retries <= 7, "{retries}");
}

#[tokio::test]
async fn failed_attempts_are_charged_once_what_their_nodes_have_measured() {
    let replicas = [
        replica("m", "a", Reply::FailAfter(Joules(2.5))),
        replica("m", "b", Reply::FailAfter(Joules(4.0))),
        replica("refused", "c", unavailable(None)),
    ];
    let fleet = TestFleet::start(&replicas, Vec::new());
    let outcome = async |model: &str| {
        let error = send(&fleet, model).await.unwrap_err();
        let id = error.decision_id.unwrap();
        let record = fleet.dispatcher.decisions().get(&id).unwrap();
        record.outcome.unwrap()
    };
    let failed = outcome("m").await;
    let attempts = [fleet.requests("a"), fleet.requests("b")];
    let joules = 2.5 * attempts[0] as f32 + 4.0 * attempts[1] as f32;
    assert!(joules > 0.0, "{attempts:?}");
    assert_eq!(failed.joules, Some(Joules(joules)), "{attempts:?}");
    assert_eq!(failed.joules_source.unwrap().as_str(), "nvml");
    let refused = outcome("refused").await;
    assert_eq!(refused.joules.unwrap_or_default(), Joules(0.0));
}

#[tokio::test]
async fn delay_of_the_replica_is_kept_or_given_to_the_client() {
    let second = Duration::from_secs(1);
    let replicas = [
        replica("soon", "soon", unavailable(Some(second))),
        replica("late", "late", unavailable(Some(30 * second))),
        replica("full", "full", overloaded(7)),
    ];
    let fleet = TestFleet::start(&replicas, Vec::new());
    let began = Instant::now();
    let retry_after = async |model: &str| match send(&fleet, model).await.unwrap_err().error {
        RequestError::Unavailable { retry_after, .. } => retry_after,
        RequestError::Overloaded { retry_after, .. } => Some(retry_after),
        error => panic!("{error}"),
    };
    assert_eq!(retry_after("late").await, Some(30 * second));
    assert_eq!(retry_after("full").await, Some(7 * second));
    assert_eq!((fleet.requests("late"), fleet.requests("full")), (1, 1));
    assert!(began.elapsed() < second);
    assert_eq!(retry_after("soon").await, Some(second));
    assert_eq!(fleet.requests("soon"), MAX_FAILED_ATTEMPTS);
    assert!(began.elapsed() >= 4 * second);
}

#[tokio::test]
async fn another_replica_answers_at_once_and_a_new_one_as_soon_as_it_is_there() {
    let mut replicas = vec![
        replica("m", "a", unavailable(None)),
        replica("m", "b", Reply::Answer(1.0)),
    ];
    let fleet = TestFleet::start(&replicas, Vec::new());
    for _ in 0..4 {
        assert_eq!(send(&fleet, "m").await.unwrap(), "b");
    }
    // A replica that comes while the request backs off gets it before the back-off has passed.
    replicas.pop();
    replicas[0].reply = unavailable(Some(Duration::from_secs(5)));
    let mut fleet = TestFleet::start(&replicas, Vec::new());
    replicas.push(replica("m", "c", Reply::Answer(1.0)));
    let dispatcher = fleet.dispatcher.clone();
    let began = Instant::now();
    let route = Route::new(RouteTarget::parse("m").unwrap());
    let request = GenerateRequest::new(route, GenerateInput::Text("hi".into()));
    let answer = tokio::spawn(async move { dispatcher.generate(request).await });
    while fleet.requests("a") == 0 {
        tokio::task::yield_now().await;
    }
    fleet.publish(2, &replicas, Vec::new());
    let answer = answer.await.unwrap();
    assert_eq!(answer.unwrap().served_by.node.as_str(), "c");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn node_that_is_not_connected_costs_no_budget() {
    let replicas = [
        replica("m", "away", Reply::NotConnected),
        replica("m", "there", Reply::Answer(1.0)),
    ];
    let fleet = TestFleet::start(&replicas, Vec::new());
    for _ in 0..100 {
        assert_eq!(send(&fleet, "m").await.unwrap(), "there");
    }
    assert!(fleet.requests("away") > 0);
}

#[tokio::test]
async fn first_try_on_another_replica_needs_no_budget() {
    let broken = replica("m", "broken", unavailable(None));
    let replicas = [broken.clone(), replica("m", "full", overloaded(1))];
    let mut fleet = TestFleet::start(&replicas, Vec::new());
    // Requests that only full queues refuse take nothing of it.
    fleet.publish(2, &replicas[1..], Vec::new());
    for _ in 0..50 {
        assert!(send(&fleet, "m").await.is_err());
    }
    let budget = &fleet.dispatcher.context.retries;
    let model = ModelName::new("m").unwrap();
    let remaining = || {
        let now = crate::stats_clock();
        std::iter::from_fn(|| budget.take(&model, now).then_some(())).count()
    };
    assert_eq!(remaining(), 10);
    // Now it is used up: a replica that fails is not asked again, but another one answers.
    let replicas = [broken, replica("m", "healthy", Reply::Answer(1.0))];
    fleet.publish(3, &replicas, Vec::new());
    for _ in 0..30 {
        assert_eq!(send(&fleet, "m").await.unwrap(), "healthy");
    }
    let model = ModelName::new("m").unwrap();
    while fleet
        .dispatcher
        .context
        .retries
        .take(&model, crate::stats_clock())
    {}
    fleet.publish(4, &replicas[..1], Vec::new());
    let before = fleet.requests("broken");
    assert!(send(&fleet, "m").await.is_err());
    assert_eq!(fleet.requests("broken"), before + 1);
}

#[tokio::test]
async fn connections_lost_together_end_no_request_and_processes_that_end_do() {
    let nodes = ["a", "b", "c", "d", "e", "f"];
    let lost = nodes.map(|node| replica("line", node, Reply::LoseConnection));
    let ended = || Reply::Fail(RequestError::NodeLost("the process has ended".into()));
    let ended = ["p", "q", "r", "s"].map(|node| replica("process", node, ended()));
    let answering = ["line", "process"].map(|model| TestReplica {
        // It is tried last.
        seconds: Some(5.0),
        ..replica(model, model, Reply::Answer(1.0))
    });
    let replicas: Vec<_> = lost.into_iter().chain(ended).chain(answering).collect();
    let fleet = TestFleet::start(&replicas, Vec::new());
    for _ in 0..5 {
        assert_eq!(send(&fleet, "line").await.unwrap(), "line");
    }
    for _ in 0..20 {
        // Two replicas are sampled at a time, so that the answering one may be tried before.
        if let Err(failed) = send(&fleet, "process").await {
            let error = failed.error;
            assert!(matches!(error, RequestError::NodeLost(_)), "{error}");
            return;
        }
    }
    panic!("processes that end have ended no request");
}

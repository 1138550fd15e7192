//! The encoder in the path of requests, over replicas that are plain data.

use std::time::Instant;

use flotilla_core::generate::{GenerateInput, Route, RouteTarget};
use flotilla_core::routing::{ClassificationRecord, EncoderOutcome};
use flotilla_core::spec::TaskSpec;
use flotilla_core::{ModelName, ZoneName};

use super::EncoderStatus;
use crate::test_fleet::{Reply, TestFleet, TestReplica};

fn encoder(node: &'static str, zones: &'static [&'static str], reply: Reply) -> TestReplica {
    TestReplica {
        model: "encoder",
        node,
        zones,
        revision: 1,
        seconds: None,
        reply,
    }
}

fn task(examples: &[&str], zones: &[&str]) -> TaskSpec {
    TaskSpec {
        models: vec![ModelName::new("m").unwrap()],
        examples: examples.iter().map(|&text| text.to_owned()).collect(),
        zones: zones
            .iter()
            .map(|zone| ZoneName::new(zone).unwrap())
            .collect(),
        ..TaskSpec::default()
    }
}

/// Two tasks, the first in these zones.
fn tasks(zones: &[&str]) -> Vec<(&'static str, TaskSpec)> {
    let banking = [
        "freeze my bank account",
        "why was my card declined",
        "pay my electricity bill",
        "order a new bank card",
        "how much is on my account",
    ];
    let travel = [
        "book a flight to paris",
        "is my flight on time",
        "find me a hotel in rome",
        "do i need a visa for japan",
        "cancel my hotel",
    ];
    vec![
        ("banking", task(&banking, zones)),
        ("travel", task(&travel, &[])),
    ]
}

async fn status_when(
    fleet: &TestFleet,
    condition: impl Fn(&EncoderStatus) -> bool,
) -> EncoderStatus {
    let mut latest = fleet.dispatcher.latest_encoder();
    let found = latest.wait_for(|state| state.status.as_ref().is_some_and(&condition));
    found.await.unwrap().status.clone().unwrap()
}

async fn classify(fleet: &TestFleet, text: &str, zone: Option<&str>) -> ClassificationRecord {
    let route = Route {
        zone: zone.map(|zone| ZoneName::new(zone).unwrap()),
        ..Route::new(RouteTarget::Auto)
    };
    let input = GenerateInput::Text(text.into());
    let planned = fleet.dispatcher.dry_run(&route, &input, None).await;
    planned.decision.classification.unwrap()
}

async fn outcome(fleet: &TestFleet, text: &str, zone: Option<&str>) -> EncoderOutcome {
    classify(fleet, text, zone).await.encoder.unwrap().outcome
}

#[tokio::test]
async fn unsure_request_goes_by_the_encoder_and_a_sure_one_is_not_sent_to_it() {
    let fleet =
        TestFleet::start_with_encoder(&[encoder("n1", &[], Reply::Answer(1.0))], tasks(&[]));
    let status = status_when(&fleet, |status| status.trained).await;
    assert_eq!((status.examples, status.embedded), (12, 12));
    assert_eq!(status.report.unwrap().held_out, 10);

    for (text, task) in [("zork", "banking"), ("plim", "travel")] {
        let record = classify(&fleet, text, None).await;
        assert!(record.abstained, "{record:?}");
        let found = record.classified_task();
        assert!(
            found.task.as_str() == task && !found.abstained,
            "{record:?}"
        );
        let encoder = record.encoder.clone().unwrap();
        assert_eq!(encoder.outcome, EncoderOutcome::Used);
        assert_eq!(encoder.node.unwrap().as_str(), "n1");
        assert!(encoder.joules.unwrap().0 > 0.0 && encoder.duration_ms > 0.0);
        assert!(encoder.classification.unwrap().nearest.unwrap().similarity > 0.9);
    }
    let before = fleet.requests("n1");
    let sure = classify(&fleet, "freeze my bank account card", None).await;
    assert!(sure.encoder.is_none() && !sure.abstained, "{sure:?}");
    assert_eq!(fleet.requests("n1"), before);
}

#[tokio::test]
async fn encoder_that_is_slow_or_busy_or_away_leaves_the_decision_to_the_classifier_in_time() {
    let mut fleet =
        TestFleet::start_with_encoder(&[encoder("n1", &[], Reply::Answer(1.0))], tasks(&[]));
    status_when(&fleet, |status| status.trained).await;

    fleet.publish(3, &[], tasks(&[]));
    assert_eq!(
        outcome(&fleet, "zork", None).await,
        EncoderOutcome::Unavailable
    );
    status_when(&fleet, |status| status.problem.is_some()).await;
    fleet.publish(4, &[encoder("n1", &[], Reply::Answer(1.0))], tasks(&[]));
    status_when(&fleet, |status| status.trained).await;

    let began = Instant::now();
    let slow = classify(&fleet, "zork slowly", None).await;
    assert_eq!(
        slow.encoder.as_ref().unwrap().outcome,
        EncoderOutcome::Timeout
    );
    assert!(slow.classified_task().abstained, "{slow:?}");
    let many = (0..8).map(|_| outcome(&fleet, "zork slowly", None));
    let many = futures::future::join_all(many).await;
    assert!(many.contains(&EncoderOutcome::Busy), "{many:?}");
    // Ten seconds is what each of them would take.
    assert!(began.elapsed().as_secs() < 5);
    // After three of them nobody waits for it.
    assert_eq!(
        outcome(&fleet, "zork slowly", None).await,
        EncoderOutcome::Busy
    );
}

#[tokio::test]
async fn failing_encoder_is_named_as_the_problem_and_requests_go_on_without_it() {
    let broken = Reply::Fail(flotilla_core::generate::RequestError::Engine(
        "no vectors".into(),
    ));
    let mut fleet = TestFleet::start_with_encoder(&[encoder("n1", &[], broken)], tasks(&[]));
    let status = status_when(&fleet, |status| status.problem.is_some()).await;
    assert!(status.problem.unwrap().contains("no vectors"));
    assert_eq!(
        outcome(&fleet, "zork", None).await,
        EncoderOutcome::NotTrained
    );
    // Another replica is used at once, before the back-off ends.
    let both = [
        encoder("n2", &[], Reply::Answer(1.0)),
        encoder("n3", &[], Reply::Answer(1.0)),
    ];
    fleet.publish(3, &both, tasks(&[]));
    status_when(&fleet, |status| status.trained).await;
}

#[tokio::test]
async fn texts_reach_only_nodes_in_the_zones_of_every_zoned_task() {
    let replicas = [
        encoder("outside", &[], Reply::Answer(1.0)),
        encoder("shop", &["shop"], Reply::Answer(1.0)),
    ];
    let mut fleet = TestFleet::start_with_encoder(&replicas, tasks(&["clinic"]));
    let status = status_when(&fleet, |status| status.problem.is_some()).await;
    assert!(status.problem.unwrap().contains("privacy zone"));
    assert_eq!(fleet.requests("outside") + fleet.requests("shop"), 0);

    let mut with_clinic = replicas.to_vec();
    with_clinic.push(encoder("clinic", &["clinic"], Reply::Answer(1.0)));
    fleet.publish(3, &with_clinic, tasks(&["clinic"]));
    status_when(&fleet, |status| status.trained).await;
    assert_eq!(outcome(&fleet, "zork", None).await, EncoderOutcome::Used);
    assert_eq!(
        outcome(&fleet, "zork", Some("clinic")).await,
        EncoderOutcome::Used
    );
    assert_eq!(
        outcome(&fleet, "zork", Some("shop")).await,
        EncoderOutcome::Zone
    );

    fleet.publish(4, &replicas, tasks(&["clinic"]));
    assert_eq!(outcome(&fleet, "zork", None).await, EncoderOutcome::Zone);
    assert_eq!(fleet.requests("outside") + fleet.requests("shop"), 0);
}

#[tokio::test]
async fn changed_example_costs_one_text_and_a_new_revision_all() {
    let replica = encoder("n1", &[], Reply::Answer(1.0));
    let mut fleet = TestFleet::start_with_encoder(std::slice::from_ref(&replica), tasks(&[]));
    status_when(&fleet, |status| status.trained).await;
    assert_eq!(fleet.embedded.lock().len(), 12);

    let mut changed = tasks(&[]);
    changed[0].1.examples.push("a card for my bank".into());
    fleet.publish(3, std::slice::from_ref(&replica), changed.clone());
    status_when(&fleet, |status| status.trained && status.examples == 13).await;
    let embedded = fleet.embedded.lock().clone();
    assert_eq!(embedded[12..], ["a card for my bank"]);

    let newer = TestReplica {
        revision: 2,
        ..replica
    };
    fleet.publish(4, &[newer], changed);
    status_when(&fleet, |status| {
        status.trained && fleet.embedded.lock().len() == 26
    })
    .await;
}

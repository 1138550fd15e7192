//! What is kept of requests whose tasks learn, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_core::dataset::{DatasetRecord, Feedback};
use flotilla_core::generate::{ChatMessage, GenerateInput, GenerateRequest, Route, RouteTarget};
use flotilla_core::routing::{CascadeSpec, ConfidenceMeasure, ConfidenceThreshold};
use flotilla_core::spec::{LearnSource, LearnSpec, TaskSpec};
use flotilla_core::{ModelName, TaskName, ZoneName};
use flotilla_gateway::Backend;
use futures::StreamExt;
use parking_lot::Mutex;

use crate::kept_prompt::MAX_PROMPT_BYTES;
use crate::test_fleet::{Reply, TestFleet, TestReplica};
use crate::{DatasetSink, FeedbackError};

/// A sink that remembers what it was given, or is full.
#[derive(Default)]
struct MemorySink {
    records: Mutex<Vec<(DatasetRecord, u32)>>,
    removed: Mutex<Vec<(TaskName, String)>>,
    is_full: AtomicBool,
}

impl DatasetSink for MemorySink {
    fn keep(&self, record: DatasetRecord, keep: u32) -> bool {
        self.records.lock().push((record, keep));
        !self.is_full.load(Ordering::Relaxed)
    }

    fn remove(&self, task: &TaskName, decision: &str) -> bool {
        self.removed.lock().push((task.clone(), decision.into()));
        true
    }
}

fn task_name(name: &str) -> TaskName {
    TaskName::new(name).unwrap()
}

fn learn(sources: &[LearnSource]) -> Option<LearnSpec> {
    Some(LearnSpec {
        from: sources.iter().copied().collect(),
        keep: 5,
    })
}

/// The spec of a task with a cascade of an unsure model and one that is sure.
fn cascade(learn: Option<LearnSpec>) -> TaskSpec {
    let models = ["unsure", "sure"].map(|name| ModelName::new(name).unwrap());
    TaskSpec {
        models: models.into(),
        cascade: Some(CascadeSpec {
            accept: ConfidenceThreshold {
                measure: ConfidenceMeasure::Min,
                at_least: 0.5,
            },
            ..CascadeSpec::default()
        }),
        learn,
        ..TaskSpec::default()
    }
}

/// The spec of a task that the model that is sure answers.
fn plain(learn: Option<LearnSpec>) -> TaskSpec {
    TaskSpec {
        models: vec![ModelName::new("sure").unwrap()],
        learn,
        ..TaskSpec::default()
    }
}

/// The spec of a task whose requests are held to a zone.
fn zoned() -> TaskSpec {
    TaskSpec {
        zones: [ZoneName::new("clinic").unwrap()].into(),
        ..plain(None)
    }
}

fn start(tasks: Vec<(&str, TaskSpec)>) -> (TestFleet, Arc<MemorySink>) {
    let replica = |model, reply| TestReplica {
        model,
        node: model,
        zones: &["clinic"],
        revision: 1,
        seconds: Some(0.05),
        reply,
    };
    let replicas = [
        replica("unsure", Reply::Answer(0.25)),
        replica("sure", Reply::Answer(1.0)),
    ];
    let sink = Arc::new(MemorySink::default());
    let fleet = TestFleet::start_with_datasets(&replicas, tasks, sink.clone());
    (fleet, sink)
}

fn request(model: &str, input: GenerateInput) -> GenerateRequest<Route> {
    GenerateRequest::new(Route::new(RouteTarget::parse(model).unwrap()), input)
}

/// Sends a request, reads its whole answer and returns the id of its decision.
async fn send(fleet: &TestFleet, request: GenerateRequest<Route>) -> String {
    let answer = fleet.dispatcher.generate(request).await.unwrap();
    let events: Vec<_> = answer.content.collect().await;
    assert!(events.iter().all(Result::is_ok));
    answer.served_by.decision_id
}

async fn send_text(fleet: &TestFleet, model: &str, text: &str) -> String {
    send(fleet, request(model, GenerateInput::Text(text.into()))).await
}

#[tokio::test]
async fn escalation_is_kept_with_the_users_turns_and_the_larger_models_answer() {
    let spec = cascade(learn(&[LearnSource::Escalations]));
    let (fleet, sink) = start(vec![("t", spec), ("zoned", zoned())]);
    let turn = |role: &str, content: &str| ChatMessage {
        role: role.into(),
        content: content.into(),
        ..ChatMessage::default()
    };
    let chat = GenerateInput::Chat(vec![
        turn("system", "be kind"),
        turn("user", "one"),
        turn("assistant", "two"),
        turn("user", "three"),
    ]);
    let id = send(&fleet, request("task:t", chat)).await;
    let (record, keep) = sink.records.lock().pop().unwrap();
    assert_eq!(keep, 5);
    let turns: Vec<_> = record.messages.iter().map(|m| m.content.as_str()).collect();
    assert_eq!(turns, ["one", "three"]);
    assert_eq!(record.answer.as_deref(), Some("x"));
    assert_eq!(record.source, LearnSource::Escalations);
    assert_eq!(record.model.unwrap().as_str(), "sure");
    assert!((record.confidence.unwrap() - 0.25).abs() < 1e-3);
    assert_eq!(record.decision, id);

    // No cascade answers the first of these requests; the client of the second leaves before the end.
    send_text(&fleet, "sure", "hi").await;
    let input = GenerateInput::Text("hi".into());
    let answer = fleet.dispatcher.generate(request("task:t", input)).await;
    drop(answer.unwrap());
    assert!(sink.records.lock().is_empty());
    // An escalation is no feedback.
    let error = fleet.dispatcher.give_feedback(&id, Feedback::Good(true));
    assert_eq!(error, Err(FeedbackError::NotLearning(task_name("t"))));
    // But what turns out to belong to a zone goes.
    let zoned = Feedback::Task(task_name("zoned"));
    let error = fleet.dispatcher.give_feedback(&id, zoned);
    assert_eq!(error, Err(FeedbackError::HeldToZones));
    assert_eq!(*sink.removed.lock(), [(task_name("t"), id)]);
}

#[tokio::test]
async fn feedback_while_the_answer_of_an_escalation_streams_is_not_lost() {
    let both = learn(&[LearnSource::Escalations, LearnSource::Feedback]);
    let tasks = vec![
        ("t", cascade(both)),
        ("escalations", cascade(learn(&[LearnSource::Escalations]))),
        ("zoned", zoned()),
    ];
    let (fleet, sink) = start(tasks);
    let begin = async |task| {
        let input = GenerateInput::Text("hi".into());
        let answer = fleet.dispatcher.generate(request(task, input)).await;
        let answer = answer.unwrap();
        (answer.served_by.decision_id, answer.content)
    };
    for (good, expected) in [(true, Some("x")), (false, None)] {
        let (id, content) = begin("task:t").await;
        let feedback = Feedback::Good(good);
        fleet
            .dispatcher
            .give_feedback(&id, feedback.clone())
            .unwrap();
        let (early, _) = sink.records.lock().pop().unwrap();
        assert_eq!(early.answer, None, "it is not complete yet");
        content.count().await;
        let (record, _) = sink.records.lock().pop().unwrap();
        assert_eq!(record.feedback, Some(feedback));
        assert_eq!(record.answer.as_deref(), expected);
        assert_eq!(record.decision, id);
    }
    // Nothing is left of a request that turns out to belong to a zone.
    for (task, is_recorded) in [
        ("task:t", true),
        ("task:t", false),
        ("task:escalations", false),
    ] {
        let (id, content) = begin(task).await;
        if is_recorded {
            let good = Feedback::Good(true);
            fleet.dispatcher.give_feedback(&id, good).unwrap();
        }
        sink.records.lock().clear();
        for feedback in [Feedback::Task(task_name("zoned")), Feedback::Good(true)] {
            let error = fleet.dispatcher.give_feedback(&id, feedback);
            assert_eq!(error, Err(FeedbackError::HeldToZones));
        }
        content.count().await;
        assert!(sink.records.lock().is_empty(), "{task}");
        // The disk is left alone where it has nothing.
        let removed = std::mem::take(&mut *sink.removed.lock());
        assert_eq!(removed.len(), usize::from(is_recorded), "{task}");
    }
}

#[tokio::test]
async fn nothing_is_kept_without_opt_in_or_of_requests_with_a_zone_or_too_long() {
    let both = learn(&[LearnSource::Escalations, LearnSource::Feedback]);
    let zoned = TaskSpec {
        zones: [ZoneName::new("clinic").unwrap()].into(),
        ..cascade(both.clone())
    };
    let tasks = vec![
        ("off", cascade(None)),
        ("on", cascade(both)),
        ("zoned", zoned),
    ];
    let (fleet, sink) = start(tasks);
    let off = send_text(&fleet, "task:off", "hi").await;
    let of_zoned_task = send_text(&fleet, "task:zoned", "hi").await;
    let mut with_zone = request("task:on", GenerateInput::Text("hi".into()));
    with_zone.model.zone = Some(ZoneName::new("clinic").unwrap());
    let with_zone = send(&fleet, with_zone).await;
    let long = send_text(&fleet, "task:on", &"x".repeat(MAX_PROMPT_BYTES)).await;
    let tokens = GenerateInput::Tokens(vec![1, 2]);
    let tokens = send(&fleet, request("task:on", tokens)).await;
    let of_model = send_text(&fleet, "sure", "hi").await;
    assert!(sink.records.lock().is_empty());
    let feedback = |id: &str| {
        let feedback = Feedback::Good(true);
        fleet.dispatcher.give_feedback(id, feedback).unwrap_err()
    };
    assert_eq!(feedback(&off), FeedbackError::NotLearning(task_name("off")));
    assert_eq!(feedback(&of_zoned_task), FeedbackError::HeldToZones);
    assert_eq!(feedback(&with_zone), FeedbackError::HeldToZones);
    assert_eq!(feedback(&long), FeedbackError::PromptNotHeld(long.clone()));
    assert_eq!(
        feedback(&tokens),
        FeedbackError::PromptNotHeld(tokens.clone())
    );
    assert_eq!(feedback(&of_model), FeedbackError::NoTask(of_model.clone()));
    assert!(sink.records.lock().is_empty());
}

#[tokio::test]
async fn feedback_keeps_the_prompt_and_later_feedback_replaces_it() {
    let tasks = vec![
        ("t", plain(learn(&[LearnSource::Feedback]))),
        ("other", plain(None)),
        ("zoned", zoned()),
    ];
    let (fleet, sink) = start(tasks);
    let id = send_text(&fleet, "task:t", "hi").await;
    assert!(sink.records.lock().is_empty(), "there is no feedback yet");
    let give = |feedback| fleet.dispatcher.give_feedback(&id, feedback);
    give(Feedback::Good(true)).unwrap();
    give(Feedback::Task(task_name("other"))).unwrap();
    let records = std::mem::take(&mut *sink.records.lock());
    let [(good, keep), (other, _)] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!((good.answer.as_deref(), *keep), (Some("x"), 5));
    assert_eq!(good.source, LearnSource::Feedback);
    assert!(other.is_marked_with(&task_name("other")));
    assert_eq!(other.decision, good.decision);

    let absent = Feedback::Task(task_name("absent"));
    let error = FeedbackError::TaskNotFound(task_name("absent"));
    assert_eq!(give(absent), Err(error));
    let unknown = fleet
        .dispatcher
        .give_feedback("test-99", Feedback::Good(true));
    let error = FeedbackError::DecisionNotFound("test-99".into());
    assert_eq!(unknown, Err(error));
    // One decision has one id: another spelling would make a second record of it.
    let spelled = id.replace('-', "-0");
    let other = fleet
        .dispatcher
        .give_feedback(&spelled, Feedback::Good(true));
    assert_eq!(other, Err(FeedbackError::DecisionNotFound(spelled)));

    sink.is_full.store(true, Ordering::Relaxed);
    assert_eq!(give(Feedback::Good(true)), Err(FeedbackError::Overloaded));

    // It turns out to belong where nothing may be kept: what was kept goes.
    let zoned = Feedback::Task(task_name("zoned"));
    assert_eq!(give(zoned), Err(FeedbackError::HeldToZones));
    assert_eq!(*sink.removed.lock(), [(task_name("t"), id.clone())]);
    assert_eq!(give(Feedback::Good(true)), Err(FeedbackError::HeldToZones));
}

#[tokio::test]
async fn prompts_of_a_task_are_forgotten_with_its_dataset_and_without_its_opt_in() {
    let learning = || plain(learn(&[LearnSource::Feedback]));
    let (mut fleet, sink) = start(vec![("t", learning()), ("u", learning())]);
    let of_t = send_text(&fleet, "task:t", "hi").await;
    let of_u = send_text(&fleet, "task:u", "hi").await;
    fleet.dispatcher.forget_prompts(&task_name("t"));
    let give =
        |fleet: &TestFleet, id: &str| fleet.dispatcher.give_feedback(id, Feedback::Good(true));
    let error = FeedbackError::PromptNotHeld(of_t.clone());
    assert_eq!(give(&fleet, &of_t), Err(error));
    fleet.publish(2, &[], vec![("u", plain(None))]);
    let error = FeedbackError::NotLearning(task_name("u"));
    assert_eq!(give(&fleet, &of_u), Err(error));
    assert!(sink.records.lock().is_empty());
}

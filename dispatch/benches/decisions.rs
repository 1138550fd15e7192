//! Measures the time for recording a decision and its outcome. The goal is 5 µs.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use flotilla_core::routing::{
    CandidateRecord, ClassificationRecord, Classifier, ReplicaLoad, RoutingDecision,
    SelectionReason, TaskExamples, TrainingSet,
};
use flotilla_core::spec::AbstainRule;
use flotilla_core::{Joules, ModelName, NodeName, TaskName};
use flotilla_dispatch::{DecisionLog, RequestObserver};
use flotilla_telemetry::Telemetry;
use flotilla_telemetry::server_metrics::ServerMetrics;

/// Returns the decision of a classified request with two candidates.
fn decision(classifier: &Classifier) -> RoutingDecision {
    let prompt = "why was the payment with my new card declined in the shop";
    let classification = classifier.classify([prompt].into_iter(), 8);
    let candidate = |node: &str| CandidateRecord {
        model: ModelName::new("support-intent").expect("a name"),
        node: NodeName::new(node).expect("a name"),
        load: ReplicaLoad {
            in_flight: 1,
            external_in_flight: 0,
            concurrency: 4,
            capacity: 68,
        },
        predicted_ms: Some(12.0),
        predicted_first_token_ms: Some(8.0),
        predicted_joules: Some(Joules(0.1)),
        quality: Some(0.9),
        pressure: None,
        selection: Some(SelectionReason::ShortestTime),
        score: None,
    };
    RoutingDecision {
        requested_model: "auto".into(),
        task: Some(classification.best.task.clone()),
        classification: Some(ClassificationRecord::new(
            classification,
            classifier.threshold(),
        )),
        model: Some(ModelName::new("support-intent").expect("a name")),
        node: Some(NodeName::new("shop-17").expect("a name")),
        candidates: vec![candidate("shop-17"), candidate("shop-18")],
        ..RoutingDecision::default()
    }
}

fn bench(c: &mut Criterion) {
    let task = |name: &str, text: &str| {
        let name = TaskName::new(name).expect("a name");
        TaskExamples {
            name,
            description: String::new(),
            examples: vec![text.to_owned(); 3],
        }
    };
    let examples = TrainingSet {
        tasks: vec![
            task("bank", "why was my card payment declined"),
            task("travel", "book a flight"),
        ],
        out_of_scope: Vec::new(),
    };
    let classifier =
        Classifier::train(&examples, AbstainRule::MinConfidence(0.2)).expect("two tasks");
    let decisions = DecisionLog::new(
        "bench",
        100_000,
        RequestObserver::metrics_only(Arc::new(ServerMetrics::new(&Telemetry::disabled().meter()))),
    );
    c.bench_function("record a decision and its outcome", |b| {
        b.iter_batched(
            || decision(&classifier),
            |decision| decisions.record_answered(decision),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);

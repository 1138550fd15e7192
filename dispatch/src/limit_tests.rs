//! Every limit holds on every way that a request may take to a replica.

use std::time::Duration;

use flotilla_core::generate::{
    EmbedInput, EmbedRequest, GenerateInput, GenerateRequest, RequestError, Route, RouteTarget,
};
use flotilla_core::routing::CascadeSpec;
use flotilla_core::spec::{HedgeSpec, TaskSpec};
use flotilla_core::{HumanDuration, Joules, ModelName, ZoneName};
use flotilla_gateway::Backend;
use futures::StreamExt;

use crate::test_fleet::{Reply, TestFleet, TestReplica};

/// The ways on which a request may come to the replica `bad`.
#[derive(Debug, Clone, Copy)]
enum Way {
    NamedModel,
    Embeddings,
    Task,
    Auto,
    DefaultTask,
    FallbackModel,
    FirstTier,
    LastTier,
    FallbackTier,
    Hedge,
    Retry,
}

const WAYS: [Way; 11] = [
    Way::NamedModel,
    Way::Embeddings,
    Way::Task,
    Way::Auto,
    Way::DefaultTask,
    Way::FallbackModel,
    Way::FirstTier,
    Way::LastTier,
    Way::FallbackTier,
    Way::Hedge,
    Way::Retry,
];

#[derive(Debug, Clone, Copy)]
enum Limit {
    Quality,
    Latency,
    Joules,
    Zone,
    Deadline,
}

const LIMITS: [Limit; 5] = [
    Limit::Quality,
    Limit::Latency,
    Limit::Joules,
    Limit::Zone,
    Limit::Deadline,
];

impl Limit {
    fn apply(self, route: &mut Route) {
        match self {
            Self::Quality => route.limits.min_quality = Some(0.9),
            Self::Latency => {
                route.limits.max_latency = Some(HumanDuration(Duration::from_secs(2)));
            }
            Self::Joules => route.limits.max_joules = Some(Joules(50.0)),
            Self::Zone => route.zone = Some(ZoneName::new("clinic").unwrap()),
            Self::Deadline => route.deadline = Some(Duration::from_secs(2)),
        }
    }
}

/// A replica that keeps every limit: measured, inside the zone, 0.05 s and 1 J an answer.
fn good(model: &'static str, node: &'static str, reply: Reply) -> TestReplica {
    TestReplica {
        model,
        node,
        zones: &["shop", "clinic"],
        revision: 1,
        seconds: Some(0.05),
        reply,
    }
}

/// A replica that keeps none: not measured, outside the zone, 5 s and 100 J an answer.
fn bad(model: &'static str) -> TestReplica {
    TestReplica {
        model,
        node: "bad",
        zones: &[],
        revision: 2,
        seconds: Some(5.0),
        reply: Reply::Answer(0.9),
    }
}

fn full() -> Reply {
    Reply::Fail(RequestError::Overloaded {
        message: "full".into(),
        retry_after: Duration::from_secs(1),
    })
}

impl Way {
    fn target(self) -> RouteTarget {
        let target = match self {
            Self::NamedModel | Self::Embeddings | Self::Retry => "m",
            Self::Auto | Self::DefaultTask => "auto",
            _ => "task:t",
        };
        RouteTarget::parse(target).unwrap()
    }

    fn text(self) -> &'static str {
        match self {
            Self::DefaultTask => "zzz",
            _ => "i want to travel",
        }
    }

    fn fleet(self) -> TestFleet {
        let unsure = || good("small", "good", Reply::Answer(0.1));
        let (replicas, models) = match self {
            Self::FallbackModel => (vec![good("n", "good", full()), bad("m")], vec!["n", "m"]),
            Self::FirstTier => (
                vec![bad("m"), good("large", "good", Reply::Answer(0.9))],
                vec!["m", "large"],
            ),
            Self::LastTier => (vec![unsure(), bad("m")], vec!["small", "m"]),
            // The answer of `bad` is not confident, and the larger model refuses.
            Self::FallbackTier => {
                let unsure = TestReplica {
                    reply: Reply::Answer(0.1),
                    ..bad("m")
                };
                (
                    vec![unsure, good("large", "good", full())],
                    vec!["m", "large"],
                )
            }
            Self::Hedge => {
                let slow = Reply::AnswerAfter(Duration::from_millis(500));
                (vec![good("m", "good", slow), bad("m")], vec!["m"])
            }
            Self::Retry => (vec![good("m", "good", full()), bad("m")], vec!["m"]),
            _ => (vec![bad("m")], vec!["m"]),
        };
        // Only these ways need a classifier, whose training takes a while.
        let is_classified = matches!(self, Self::Auto | Self::DefaultTask);
        let examples = |texts: [&str; 2]| match is_classified {
            true => texts.map(str::to_owned).into(),
            false => Vec::new(),
        };
        let is_cascade = matches!(self, Self::FirstTier | Self::LastTier | Self::FallbackTier);
        let spec = TaskSpec {
            models: models
                .into_iter()
                .map(|name| ModelName::new(name).unwrap())
                .collect(),
            examples: examples(["i want to travel", "a journey please"]),
            cascade: is_cascade.then(CascadeSpec::default),
            hedge: matches!(self, Self::Hedge).then_some(HedgeSpec {
                after: HumanDuration(Duration::from_millis(10)),
            }),
            ..TaskSpec::default()
        };
        let other = TaskSpec {
            examples: examples(["my money", "what is in my account"]),
            ..spec.clone()
        };
        TestFleet::start(&replicas, vec![("t", spec), ("default", other)])
    }

    /// Sends a request this way and returns how many the replica `bad` got.
    async fn requests_to_bad(self, limit: Option<Limit>) -> u32 {
        let fleet = self.fleet();
        let mut route = Route::new(self.target());
        if let Some(limit) = limit {
            limit.apply(&mut route);
        }
        if matches!(self, Self::Embeddings) {
            let request = EmbedRequest {
                model: route,
                inputs: vec![EmbedInput::Text(self.text().into())],
                queue_key: Default::default(),
                deadline: None,
            };
            let answer = fleet.dispatcher.embed(request).await;
            assert_eq!(answer.is_ok(), limit.is_none(), "{self:?} {limit:?}");
            return fleet.requests("bad");
        }
        let input = GenerateInput::Text(self.text().into());
        let dry_run = fleet.dispatcher.dry_run(&route, &input, None).await;
        let chosen = dry_run.decision.node.map(|node| node.to_string());
        if limit.is_some() {
            assert_ne!(chosen.as_deref(), Some("bad"), "{self:?} {limit:?}");
        }
        let request = GenerateRequest::new(route, input);
        if let Ok(answer) = fleet.dispatcher.generate(request).await {
            answer.content.collect::<Vec<_>>().await;
        }
        fleet.requests("bad")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_holds_on_every_way() {
    for way in WAYS {
        assert_ne!(way.requests_to_bad(None).await, 0, "{way:?}");
        for limit in LIMITS {
            let requests = way.requests_to_bad(Some(limit)).await;
            assert_eq!(requests, 0, "{way:?} {limit:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn energy_of_a_hedge_counts_together_with_that_of_the_first_replica() {
    let slow = || Reply::AnswerAfter(Duration::from_millis(500));
    let replicas = [good("m", "a", slow()), good("m", "b", slow())];
    let spec = TaskSpec {
        models: vec![ModelName::new("m").unwrap()],
        hedge: Some(HedgeSpec {
            after: HumanDuration(Duration::from_millis(10)),
        }),
        ..TaskSpec::default()
    };
    // Each answer is expected to take 1 J.
    for (max_joules, requests) in [(1.5, 1), (2.5, 2)] {
        let fleet = TestFleet::start(&replicas, vec![("t", spec.clone())]);
        let mut route = Route::new(RouteTarget::parse("task:t").unwrap());
        route.limits.max_joules = Some(Joules(max_joules));
        let request = GenerateRequest::new(route, GenerateInput::Text("hi".into()));
        assert!(fleet.dispatcher.generate(request).await.is_ok());
        let sent = fleet.requests("a") + fleet.requests("b");
        assert_eq!(sent, requests, "{max_joules} J");
    }
}

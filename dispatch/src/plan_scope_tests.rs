//! No plan leaves what the sender of its request may use, whatever the fleet, the key and the request.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use flotilla_core::access::AccessScope;
use flotilla_core::generate::{GenerateInput, RequestError, Route, RouteTarget};
use flotilla_core::routing::{ClassificationRecord, Classifier, RoutingDecision};
use flotilla_core::spec::{AbstainRule, RouterSpec, Task, TaskSpec};
use flotilla_core::{ModelName, TaskName, ZoneName};
use proptest::prelude::*;

use crate::plan::{RequestProfile, classify_in_scope, plan};
use crate::{RoutingView, TaskView};

const MODELS: [&str; 4] = ["m0", "m1", "m2", "m3"];
const TASKS: [&str; 4] = ["banking", "travel", "kitchen", "weather"];
const ZONES: [&str; 3] = ["clinic", "shop", "office"];

fn model(name: &str) -> ModelName {
    ModelName::new(name).unwrap()
}

fn task(name: &str) -> TaskName {
    TaskName::new(name).unwrap()
}

fn zone(name: &str) -> ZoneName {
    ZoneName::new(name).unwrap()
}

/// Some of the names, in their order.
fn some_of(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(names, 0..=names.len())
}

/// A restriction of a key: none, or some of the names.
fn restriction<T: Ord + std::fmt::Debug>(
    names: &'static [&'static str],
    parse: fn(&str) -> T,
) -> impl Strategy<Value = Option<BTreeSet<T>>> {
    let some = some_of(names);
    proptest::option::of(some.prop_map(move |names| names.into_iter().map(parse).collect()))
}

fn scope() -> impl Strategy<Value = AccessScope> {
    let restrictions = (
        restriction(&ZONES, zone),
        restriction(&MODELS, model),
        restriction(&TASKS, task),
    );
    restrictions.prop_map(|(zones, models, tasks)| AccessScope {
        zones,
        models,
        tasks,
    })
}

/// The models and the zones of each task that there is, and the default task.
type Fleet = (
    Vec<Option<(Vec<&'static str>, Vec<&'static str>)>>,
    Option<usize>,
);

fn fleet() -> impl Strategy<Value = Fleet> {
    let models = proptest::sample::subsequence(&MODELS[..], 1..=MODELS.len());
    let task = proptest::option::of((models, some_of(&ZONES)));
    let tasks = proptest::collection::vec(task, TASKS.len());
    (tasks, proptest::option::of(0..TASKS.len()))
}

fn routing((tasks, default): &Fleet) -> RoutingView {
    let mut routing = RoutingView::default();
    for (name, spec) in TASKS.iter().zip(tasks) {
        let Some((models, zones)) = spec else {
            continue;
        };
        let spec = TaskSpec {
            models: models.iter().map(|name| model(name)).collect(),
            zones: zones.iter().map(|name| zone(name)).collect(),
            examples: vec![format!("some {name} please"), format!("i want {name} now")],
            ..TaskSpec::default()
        };
        let view = TaskView::new(Task::new(task(name), spec), 0).unwrap();
        routing.tasks.insert(task(name), Arc::new(view));
    }
    routing.router = Some(RouterSpec {
        default_task: default.map(|at| task(TASKS[at])),
        ..RouterSpec::default()
    });
    routing
}

fn target() -> impl Strategy<Value = String> {
    let names = MODELS.iter().map(|name| (*name).to_owned());
    let tasks = TASKS.iter().map(|name| format!("task:{name}"));
    let auto = std::iter::repeat_n("auto".to_owned(), 6);
    proptest::sample::select(names.chain(tasks).chain(auto).collect::<Vec<_>>())
}

/// The classifier of all tasks. It is trained once, and knows tasks that a fleet does not have any more.
static CLASSIFIER: LazyLock<Option<Classifier>> = LazyLock::new(|| {
    let all = vec![Some((vec!["m0"], Vec::new())); TASKS.len()];
    let examples = routing(&(all, None)).examples();
    Classifier::train(&examples, AbstainRule::MinConfidence(0.5))
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_plan_leaves_what_the_key_allows(
        fleet in fleet(),
        scope in scope(),
        target in target(),
        requested in proptest::option::of(proptest::sample::select(&ZONES[..])),
        topic in proptest::sample::select(&TASKS[..]),
    ) {
        let routing = routing(&fleet);
        let classifier = CLASSIFIER.as_ref();
        let route = Route {
            zone: requested.map(zone),
            access: Arc::new(scope.clone()),
            ..Route::new(RouteTarget::parse(&target).unwrap())
        };
        let input = GenerateInput::Text(format!("i want some {topic}"));
        let request = RequestProfile { input: &input, max_tokens: None, choices: 1 };
        let mut decision = RoutingDecision::default();
        if let (RouteTarget::Auto, Some(classifier)) = (&route.target, classifier) {
            let found = classify_in_scope(&routing, classifier, &scope, &input);
            decision.classification =
                found.map(|found| ClassificationRecord::new(found, classifier.threshold()));
        }
        let planned = plan(&routing, &route, request, &mut decision);
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => {
                // Whatever is refused is refused for a reason.
                let named = RouteTarget::parse(&target).unwrap();
                if let (RouteTarget::Model(name), true) = (named, scope.is_unrestricted()) {
                    prop_assert!(false, "{name}: {error}");
                }
                let restricts = !matches!(
                    error,
                    RequestError::OutsideScope(_)
                ) || scope.models.is_some() || scope.tasks.is_some();
                prop_assert!(restricts, "{error}");
                return Ok(());
            }
        };
        prop_assert!(!plan.models.is_empty());
        prop_assert!(plan.models.iter().all(|name| scope.allows_model(name)), "{:?}", plan.models);
        if let Some(view) = &plan.task {
            prop_assert!(scope.allows_task(view.task.name()));
            let zones = &view.task.spec.zones;
            let within = plan.zones.as_ref().is_some_and(|planned| planned.is_subset(zones));
            prop_assert!(zones.is_empty() || within, "{:?}", plan.zones);
        }
        if let Some(allowed) = &scope.zones {
            let planned = plan.zones.as_ref();
            let within = planned.is_some_and(|zones| zones.is_subset(allowed) && !zones.is_empty());
            prop_assert!(within, "{:?} of {allowed:?}", plan.zones);
        }
        if let Some(requested) = requested {
            prop_assert_eq!(&plan.zones, &Some([zone(requested)].into()));
        }
        for tier in 0..plan.models.len() {
            prop_assert_eq!(&plan.tier(tier).zones, &plan.zones);
        }
    }
}

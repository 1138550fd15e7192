//! Which models may answer a request, and within which limits: the task it belongs to, the models
//! that do the task, the privacy zones it may enter, and its limits. All of it
//! stays within what the sender may use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::access::AccessScope;
use flotilla_core::admission::QueueKey;
use flotilla_core::estimate::RequestCost;
use flotilla_core::generate::{GenerateInput, RequestError, Route, RouteTarget};
use flotilla_core::routing::{
    AnswerLimits, CascadeSpec, Classification, ClassificationRecord, Classifier,
    ConversationPrefix, ObjectiveWeights, RoutingDecision, conversation_prefixes,
};
use flotilla_core::spec::{ModelSpec, TaskSpec};
use flotilla_core::{ModelName, TaskName, ZoneName};

use crate::{RoutingView, TaskView};

/// Number of n-grams that a decision record has as evidence.
const EVIDENCE: usize = 8;

/// Which models may answer a request, and what the answer must satisfy.
#[derive(Debug, Clone)]
pub(crate) struct DispatchPlan {
    /// The models, the preferred one first; never empty.
    pub(crate) models: Vec<ModelName>,
    /// The task of the request. `None` for a request that names a model.
    pub(crate) task: Option<Arc<TaskView>>,
    /// The privacy zones that the request may enter. `None`: any node, in a zone or not.
    pub(crate) zones: Option<BTreeSet<ZoneName>>,
    /// How several models are compared. `None`: the first that can answer is selected.
    pub(crate) weights: Option<ObjectiveWeights>,
    pub(crate) limits: AnswerLimits,
    pub(crate) queue_key: QueueKey,
    /// The request's own deadline for the whole answer, counted from its arrival. `None`: no deadline.
    pub(crate) deadline: Option<Duration>,
    pub(crate) cost: RequestCost,
    /// Prefixes of the conversation that a replica may have in memory, the longest first.
    pub(crate) prefixes: Vec<ConversationPrefix>,
    /// The hash of the client's session, if it names one.
    pub(crate) session: Option<u64>,
}

impl DispatchPlan {
    /// Returns the task and its cascade. `None` if the models are not the tiers of a cascade.
    pub(crate) fn cascade(&self) -> Option<(&TaskView, &CascadeSpec)> {
        let task = self.task.as_deref().filter(|_| self.models.len() > 1)?;
        Some((task, task.task.spec.cascade.as_ref()?))
    }

    /// Returns the plan for only the model at this index. Its limits are those of the whole plan: how sure a
    /// smaller model is of an answer does not replace its measured quality.
    pub(crate) fn tier(&self, tier: usize) -> Self {
        Self {
            models: vec![self.models[tier].clone()],
            ..self.clone()
        }
    }

    /// Returns the cost of the request at a model, where its nodes limit the answer.
    pub(crate) fn cost_at(&self, spec: Option<&ModelSpec>) -> RequestCost {
        let max_tokens = self.cost.max_tokens;
        RequestCost {
            max_tokens: spec.map_or(max_tokens, |spec| spec.max_answer_tokens(max_tokens)),
            ..self.cost
        }
    }

    /// The time without an answer after which the request is hedged. `None`: it is never hedged.
    pub(crate) fn hedge_after(&self) -> Option<Duration> {
        let hedge = self.task.as_ref()?.task.spec.hedge?;
        Some(hedge.after.0)
    }
}

/// The parts of a request, besides its route, that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestProfile<'a> {
    pub(crate) input: &'a GenerateInput,
    /// The most tokens that a choice may have, if the request limits them.
    pub(crate) max_tokens: Option<u32>,
    /// The number of choices, at least 1.
    pub(crate) choices: u32,
}

/// Plans a request, whose classification `decision` has if it names neither a task nor a model. Fills in `decision` as far
/// as planning gets.
///
/// # Errors
/// Why no model may answer.
pub(crate) fn plan(
    routing: &RoutingView,
    route: &Route,
    request: RequestProfile<'_>,
    decision: &mut RoutingDecision,
) -> Result<DispatchPlan, RequestError> {
    decision.requested_model = route.target.to_string();
    let access = route.access.as_ref();
    let task = match &route.target {
        RouteTarget::Model(_) => None,
        RouteTarget::Task(name) if !access.allows_task(name) => {
            return Err(RequestError::task_outside_scope(name));
        }
        RouteTarget::Task(name) => Some(find_task(routing, name)?),
        RouteTarget::Auto => {
            let name = task_of(routing, access, decision.classification.as_ref())?;
            Some(find_task(routing, &name)?)
        }
    };
    let spec = task.as_ref().map(|task| &task.task.spec);
    decision.task = task.as_ref().map(|task| task.task.name().clone());
    let allowed = spec.map(|spec| spec.zones.clone()).unwrap_or_default();
    let zones = allowed_zones(allowed, route.zone.as_ref(), decision.task.as_ref())?;
    let zones = zones_in_scope(access, zones)?;
    let objective = spec.and_then(|spec| spec.objective).unwrap_or_default();
    let default_priority = spec.map(|spec| spec.priority).unwrap_or_default();
    let plan = DispatchPlan {
        models: match (&route.target, spec) {
            (RouteTarget::Model(name), _) => vec![model_in_scope(access, name)?],
            (_, Some(spec)) => models_in_scope(access, spec, decision.task.as_ref())?,
            (_, None) => Vec::new(),
        },
        zones,
        weights: objective.weights,
        limits: objective.limits().strictest(route.limits),
        queue_key: QueueKey {
            priority: route.priority.unwrap_or(default_priority),
            fairness_key: route.fairness_key,
        },
        deadline: route.deadline,
        cost: RequestCost {
            prompt_bytes: u32::try_from(request.input.bytes()).unwrap_or(u32::MAX),
            max_tokens: request.max_tokens,
            choices: request.choices,
        },
        prefixes: conversation_prefixes(request.input),
        session: route.session,
        task,
    };
    decision.zones = plan.zones.iter().flatten().cloned().collect();
    decision.priority = plan.queue_key.priority;
    decision.limits = plan.limits;
    let millis = |deadline: Duration| u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
    decision.deadline_ms = plan.deadline.map(millis);
    Ok(plan)
}

fn find_task(routing: &RoutingView, name: &TaskName) -> Result<Arc<TaskView>, RequestError> {
    let task = routing.tasks.get(name).cloned();
    task.ok_or_else(|| RequestError::TaskNotFound(name.to_string()))
}

/// Returns a model that a request names, if its sender may use it.
fn model_in_scope(access: &AccessScope, name: &ModelName) -> Result<ModelName, RequestError> {
    match access.allows_model(name) {
        true => Ok(name.clone()),
        false => Err(RequestError::model_outside_scope(name)),
    }
}

/// Returns the models of a task that the sender of a request may use, at least one.
fn models_in_scope(
    access: &AccessScope,
    spec: &TaskSpec,
    task: Option<&TaskName>,
) -> Result<Vec<ModelName>, RequestError> {
    let models = spec.models.iter();
    let allowed: Vec<_> = models
        .filter(|model| access.allows_model(model))
        .cloned()
        .collect();
    if allowed.is_empty() && !spec.models.is_empty() {
        let task = task.map(TaskName::as_str).unwrap_or_default();
        return Err(RequestError::OutsideScope(format!(
            "The API key may use none of the models of the task '{task}': `GET /v1/models` lists what it may use."
        )));
    }
    Ok(allowed)
}

/// Narrows the zones that a request may enter to those of its sender.
fn zones_in_scope(
    access: &AccessScope,
    zones: Option<BTreeSet<ZoneName>>,
) -> Result<Option<BTreeSet<ZoneName>>, RequestError> {
    let narrowed = access.narrow_zones(zones);
    if narrowed.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(RequestError::ZoneForbidden(
            "The API key may enter none of the privacy zones that the request and its task allow."
                .into(),
        ));
    }
    Ok(narrowed)
}

/// Classifies a request among the tasks that its sender may use. `None`: there is none of the classifier's.
pub(crate) fn classify_in_scope(
    routing: &RoutingView,
    classifier: &Classifier,
    access: &AccessScope,
    input: &GenerateInput,
) -> Option<Classification> {
    let texts = classified_texts(input).into_iter();
    if access.models.is_none() && access.tasks.is_none() {
        return Some(classifier.classify(texts, EVIDENCE));
    }
    classifier.classify_among(texts, EVIDENCE, |name| is_allowed(routing, access, name))
}

/// Whether a task exists and the sender of a request may use it.
fn is_allowed(routing: &RoutingView, access: &AccessScope, name: &TaskName) -> bool {
    let task = routing.tasks.get(name);
    task.is_some_and(|view| access.allows_task_with(name, &view.task.spec.models))
}

/// Returns the task of a request that names neither a task nor a model: one that its sender may use.
fn task_of(
    routing: &RoutingView,
    access: &AccessScope,
    classification: Option<&ClassificationRecord>,
) -> Result<TaskName, RequestError> {
    // A default task that does not exist yet counts as none.
    let default = routing.default_task().cloned();
    let default = default.filter(|name| is_allowed(routing, access, name));
    let Some(classification) = classification else {
        if default.is_none() && !access.is_unrestricted() && !routing.tasks.is_empty() {
            return Err(RequestError::OutsideScope(
                "The API key may use none of the fleet's tasks: name a model that `GET /v1/models` lists."
                    .into(),
            ));
        }
        return default.ok_or_else(|| {
            RequestError::NoTask(
                "The fleet has no tasks to choose from: apply resources of the kind Task, or name a model."
                    .into(),
            )
        });
    };
    let found = classification.classified_task();
    // The classifier may be a moment older than the tasks.
    if !found.abstained && is_allowed(routing, access, found.task) {
        return Ok(found.task.clone());
    }
    default.ok_or_else(|| {
        RequestError::NoTask(format!(
            "The request fits none of the fleet's tasks well: '{}' comes first with a confidence of {:.2}, \
             {:.2} is needed. Name a task or a model, or give the router a defaultTask.",
            found.task, found.confidence, found.threshold
        ))
    })
}

/// Returns the texts that are classified: what users wrote, the newest first; other messages only
/// where there is nothing from a user.
pub(crate) fn classified_texts(input: &GenerateInput) -> Vec<&str> {
    let messages = match input {
        GenerateInput::Text(text) => return vec![text],
        GenerateInput::Tokens(_) => return Vec::new(),
        GenerateInput::Chat(messages) => messages,
    };
    let newest_first = |include: fn(&str) -> bool| -> Vec<&str> {
        let included = messages.iter().rev().filter(|m| include(&m.role));
        included.map(|message| message.content.as_str()).collect()
    };
    let users = newest_first(|role| role == "user");
    if users.is_empty() {
        newest_first(|_| true)
    } else {
        users
    }
}

/// Returns the zones that a request may enter: those of its task, narrowed to the zone that it requests.
/// `None`: any node.
fn allowed_zones(
    task_zones: BTreeSet<ZoneName>,
    requested: Option<&ZoneName>,
    task: Option<&TaskName>,
) -> Result<Option<BTreeSet<ZoneName>>, RequestError> {
    match requested {
        None if task_zones.is_empty() => Ok(None),
        None => Ok(Some(task_zones)),
        Some(zone) if task_zones.is_empty() || task_zones.contains(zone) => {
            Ok(Some(BTreeSet::from([zone.clone()])))
        }
        Some(zone) => {
            let task = task.map(TaskName::as_str).unwrap_or_default();
            Err(RequestError::ZoneForbidden(format!(
                "The task '{task}' may not enter the zone '{zone}'."
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::ChatMessage;
    use flotilla_core::spec::{AbstainRule, RouterSpec, Task};

    fn zone(name: &str) -> ZoneName {
        ZoneName::new(name).unwrap()
    }

    fn routing(default: Option<&str>) -> RoutingView {
        let mut routing = RoutingView::default();
        for (name, zones) in [("banking", vec!["clinic"]), ("travel", vec![])] {
            let name = TaskName::new(name).unwrap();
            let spec = TaskSpec {
                models: vec![ModelName::new("m").unwrap()],
                zones: zones.into_iter().map(zone).collect(),
                examples: vec![format!("some {name} please"), format!("i want {name}")],
                ..TaskSpec::default()
            };
            let task = TaskView::new(Task::new(name.clone(), spec), 0).unwrap();
            routing.tasks.insert(name, Arc::new(task));
        }
        routing.router = Some(RouterSpec {
            default_task: default.map(|name| TaskName::new(name).unwrap()),
            ..RouterSpec::default()
        });
        routing
    }

    fn plan_request(
        routing: &RoutingView,
        target: &str,
        named_zone: Option<&str>,
        text: &str,
    ) -> (Result<DispatchPlan, RequestError>, RoutingDecision) {
        let rule = AbstainRule::MinConfidence(0.6);
        let classifier = Classifier::train(&routing.examples(), rule).unwrap();
        let route = Route {
            zone: named_zone.map(zone),
            ..Route::new(RouteTarget::parse(target).unwrap())
        };
        let mut decision = RoutingDecision::default();
        let input = GenerateInput::Text(text.into());
        let request = RequestProfile {
            input: &input,
            max_tokens: None,
            choices: 1,
        };
        if route.target == RouteTarget::Auto {
            let access = route.access.as_ref();
            let found = classify_in_scope(routing, &classifier, access, &input).unwrap();
            let record = ClassificationRecord::new(found, classifier.threshold());
            decision.classification = Some(record);
        }
        let plan = plan(routing, &route, request, &mut decision);
        (plan, decision)
    }

    #[test]
    fn a_request_goes_to_its_task_or_to_the_default_task() {
        let (plan, decision) = plan_request(&routing(None), "auto", None, "i want some travel");
        assert_eq!(plan.unwrap().zones, None);
        assert_eq!(decision.task.unwrap().as_str(), "travel");
        assert!(!decision.classification.unwrap().evidence.is_empty());

        let (plan, decision) = plan_request(&routing(None), "auto", None, "zzz");
        assert!(matches!(plan, Err(RequestError::NoTask(_))), "{plan:?}");
        assert!(decision.classification.unwrap().abstained);

        let (plan, decision) = plan_request(&routing(Some("travel")), "auto", None, "zzz");
        assert!(plan.is_ok());
        assert_eq!(decision.task.unwrap().as_str(), "travel");

        let (plan, decision) = plan_request(&routing(None), "task:banking", None, "i want travel");
        assert_eq!(plan.unwrap().zones, Some([zone("clinic")].into()));
        assert!(decision.classification.is_none());
        let (plan, _) = plan_request(&routing(None), "task:absent", None, "");
        assert!(matches!(plan, Err(RequestError::TaskNotFound(_))));
    }

    #[test]
    fn a_named_zone_narrows_the_zones_of_the_task_and_never_widens_them() {
        let routing = routing(None);
        let (plan, _) = plan_request(&routing, "task:travel", Some("shop"), "");
        assert_eq!(plan.unwrap().zones, Some([zone("shop")].into()));
        let (plan, _) = plan_request(&routing, "task:banking", Some("clinic"), "");
        assert_eq!(plan.unwrap().zones, Some([zone("clinic")].into()));
        let (plan, _) = plan_request(&routing, "task:banking", Some("shop"), "");
        assert!(matches!(plan, Err(RequestError::ZoneForbidden(_))));
        let (plan, _) = plan_request(&routing, "m", Some("shop"), "");
        assert_eq!(plan.unwrap().zones, Some([zone("shop")].into()));
    }

    #[test]
    fn users_messages_are_classified_before_instructions() {
        let message = |role: &str, content: &str| ChatMessage {
            role: role.into(),
            content: content.into(),
            ..ChatMessage::default()
        };
        let mut chat = vec![
            message("system", "be kind"),
            message("user", "one"),
            message("assistant", "two"),
            message("user", "three"),
        ];
        assert_eq!(
            classified_texts(&GenerateInput::Chat(chat.clone())),
            ["three", "one"]
        );
        chat.truncate(1);
        assert_eq!(classified_texts(&GenerateInput::Chat(chat)), ["be kind"]);
        assert_eq!(classified_texts(&GenerateInput::Text("x".into())), ["x"]);
    }

    #[test]
    fn cost_has_the_token_limit_of_the_model() {
        let (plan, _) = plan_request(&routing(None), "m", None, "");
        let mut plan = plan.unwrap();
        let mut spec = ModelSpec::default();
        let limits = |plan: &DispatchPlan, spec: &ModelSpec| plan.cost_at(Some(spec)).max_tokens;
        assert_eq!(limits(&plan, &spec), Some(2_048));
        spec.max_tokens_limit = Some(100);
        plan.cost.max_tokens = Some(500);
        assert_eq!(limits(&plan, &spec), Some(100));
        assert_eq!(plan.cost_at(None).max_tokens, Some(500));
    }
}

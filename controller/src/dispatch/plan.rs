//! Which models may answer a request, and where: the task it belongs to, the models that do it,
//! the privacy zones it may enter, the limits that hold for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::admission::QueueKey;
use flotilla_core::estimate::RequestCost;
use flotilla_core::generate::{GenerateInput, RequestError, Route, RouteTarget};
use flotilla_core::routing::{
    AnswerLimits, CascadeSpec, ClassificationRecord, Classifier, ConversationPrefix,
    ObjectiveWeights, RoutingDecision, marks,
};
use flotilla_core::{ModelName, TaskName, ZoneName};

use crate::fleet::{FleetView, TaskView};

/// N-grams that a decision names.
const EVIDENCE: usize = 8;

/// Who may answer, and what the answer must keep.
#[derive(Debug, Clone)]
pub(crate) struct DispatchPlan {
    /// The preferred one first; at least one.
    pub(crate) models: Vec<ModelName>,
    /// The task that they are for.
    pub(crate) task: Option<Arc<TaskView>>,
    /// `None`: nodes of any zone and of none.
    pub(crate) zones: Option<BTreeSet<ZoneName>>,
    /// How the models are compared. `None`: they come in their order.
    pub(crate) weights: Option<ObjectiveWeights>,
    pub(crate) limits: AnswerLimits,
    pub(crate) queue_key: QueueKey,
    /// Within what time of the request's arrival the answer must be complete.
    pub(crate) deadline: Option<Duration>,
    pub(crate) work: RequestCost,
    /// The beginnings of the conversation that a replica may have in memory.
    pub(crate) marks: Vec<ConversationPrefix>,
    pub(crate) session: Option<u64>,
}

impl DispatchPlan {
    /// The task and how its models follow each other, where they do so by how sure they are.
    pub(crate) fn cascade(&self) -> Option<(&TaskView, &CascadeSpec)> {
        let task = self.task.as_deref().filter(|_| self.models.len() > 1)?;
        Some((task, task.task.spec.cascade.as_ref()?))
    }

    /// The limits that hold for one of its models.
    fn tier_limits(&self, model: &ModelName) -> AnswerLimits {
        let mut limits = self.limits;
        if self.cascade().is_some() && self.models.last() != Some(model) {
            // A smaller model's answer is kept where it is sure, whatever it does as a whole.
            limits.min_quality = None;
        }
        limits
    }

    /// The same with one of its models only.
    pub(crate) fn tier(&self, tier: usize) -> Self {
        let model = &self.models[tier];
        Self {
            models: vec![model.clone()],
            limits: self.tier_limits(model),
            ..self.clone()
        }
    }

    /// After what time a second replica is asked beside one that has not begun to answer.
    pub(crate) fn hedge(&self) -> Option<Duration> {
        let hedge = self.task.as_ref()?.task.spec.hedge?;
        Some(hedge.after.0)
    }
}

/// What a request is like, beside whom it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestProfile<'a> {
    pub(crate) input: &'a GenerateInput,
    /// Most tokens of the answer.
    pub(crate) max_tokens: Option<u32>,
}

/// What a request asks for: `decision` is filled in as far as it comes.
///
/// # Errors
/// What to tell the client where nobody may answer.
pub(crate) fn plan(
    view: &FleetView,
    classifier: Option<&Classifier>,
    route: &Route,
    asked: RequestProfile<'_>,
    decision: &mut RoutingDecision,
) -> Result<DispatchPlan, RequestError> {
    decision.requested = route.target.to_string();
    let task = match &route.target {
        RouteTarget::Model(_) => None,
        RouteTarget::Task(name) => Some(of_task(view, name)?),
        RouteTarget::Auto => {
            let name = classify(view, classifier, asked.input, decision)?;
            Some(of_task(view, &name)?)
        }
    };
    let spec = task.as_ref().map(|task| &task.task.spec);
    decision.task = task.as_ref().map(|task| task.task.name().clone());
    let allowed = spec.map(|spec| spec.zones.clone()).unwrap_or_default();
    let zones = enter(allowed, route.zone.as_ref(), decision.task.as_ref())?;
    let objective = spec.and_then(|spec| spec.objective).unwrap_or_default();
    let default = spec.map(|spec| spec.priority).unwrap_or_default();
    let plan = DispatchPlan {
        models: match (&route.target, spec) {
            (RouteTarget::Model(name), _) => vec![name.clone()],
            (_, Some(spec)) => spec.models.clone(),
            (_, None) => Vec::new(),
        },
        zones,
        weights: objective.weights,
        limits: objective.limits().and(route.limits),
        queue_key: QueueKey {
            priority: route.priority.unwrap_or(default),
            fairness_key: route.fairness_key,
        },
        deadline: route.deadline,
        work: RequestCost {
            prompt_bytes: u32::try_from(asked.input.bytes()).unwrap_or(u32::MAX),
            max_tokens: asked.max_tokens,
        },
        marks: marks(asked.input),
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

fn of_task(view: &FleetView, name: &TaskName) -> Result<Arc<TaskView>, RequestError> {
    let task = view.routing.tasks.get(name).cloned();
    task.ok_or_else(|| RequestError::TaskNotFound(name.to_string()))
}

/// The task that a request belongs to.
fn classify(
    view: &FleetView,
    classifier: Option<&Classifier>,
    input: &GenerateInput,
    decision: &mut RoutingDecision,
) -> Result<TaskName, RequestError> {
    let routing = &view.routing;
    // One that is not there yet is as good as none.
    let default = routing.default_task().cloned();
    let default = default.filter(|name| routing.tasks.contains_key(name));
    let Some(classifier) = classifier else {
        return default.ok_or_else(|| {
            RequestError::NoTask(
                "The fleet has no tasks to choose from: apply resources of the kind Task, or name a model."
                    .into(),
            )
        });
    };
    let verdict = classifier.classify(asked(input).into_iter(), EVIDENCE);
    let best = verdict.best.clone();
    let abstained = verdict.abstained;
    decision.classified = Some(ClassificationRecord::new(verdict, classifier.threshold()));
    // The classifier may be a moment older than the tasks.
    if !abstained && routing.tasks.contains_key(&best.task) {
        return Ok(best.task);
    }
    default.ok_or_else(|| {
        RequestError::NoTask(format!(
            "The request fits none of the fleet's tasks well: '{}' comes first with a confidence of {:.2}, \
             {:.2} is needed. Name a task or a model, or give the router a defaultTask.",
            best.task,
            best.confidence,
            classifier.threshold()
        ))
    })
}

/// What users said, the newest first. Instructions of the application only where there is
/// nothing else.
pub(crate) fn asked(input: &GenerateInput) -> Vec<&str> {
    let messages = match input {
        GenerateInput::Text(text) => return vec![text],
        GenerateInput::Chat(messages) => messages,
    };
    let of = |is: fn(&str) -> bool| -> Vec<&str> {
        let said = messages.iter().rev().filter(|m| is(&m.role));
        said.map(|message| message.content.as_str()).collect()
    };
    let users = of(|role| role == "user");
    if users.is_empty() {
        of(|_| true)
    } else {
        users
    }
}

/// The zones that a request may enter, given those of its task and the one it pins.
fn enter(
    allowed: BTreeSet<ZoneName>,
    pinned: Option<&ZoneName>,
    task: Option<&TaskName>,
) -> Result<Option<BTreeSet<ZoneName>>, RequestError> {
    match pinned {
        None if allowed.is_empty() => Ok(None),
        None => Ok(Some(allowed)),
        Some(zone) if allowed.is_empty() || allowed.contains(zone) => {
            Ok(Some(BTreeSet::from([zone.clone()])))
        }
        Some(zone) => {
            let task = task.map(TaskName::as_str).unwrap_or_default();
            Err(RequestError::Zone(format!(
                "The task '{task}' may not enter the zone '{zone}'."
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::ChatMessage;
    use flotilla_core::routing::TrainingSet;
    use flotilla_core::spec::{AbstainRule, RouterSpec, Task, TaskSpec};

    fn zone(name: &str) -> ZoneName {
        ZoneName::new(name).unwrap()
    }

    fn view(default: Option<&str>) -> FleetView {
        let mut view = FleetView::default();
        let routing = Arc::make_mut(&mut view.routing);
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
        view
    }

    fn planned(
        view: &FleetView,
        target: &str,
        pinned: Option<&str>,
        text: &str,
    ) -> (Result<DispatchPlan, RequestError>, RoutingDecision) {
        let examples: TrainingSet = view.routing.examples();
        let classifier = Classifier::train(&examples, AbstainRule::Below(0.6));
        let route = Route {
            zone: pinned.map(zone),
            ..Route::to(RouteTarget::parse(target).unwrap())
        };
        let mut decision = RoutingDecision::default();
        let input = GenerateInput::Text(text.into());
        let asked = RequestProfile {
            input: &input,
            max_tokens: None,
        };
        let plan = plan(view, classifier.as_ref(), &route, asked, &mut decision);
        (plan, decision)
    }

    #[test]
    fn a_request_goes_by_its_task_or_to_the_default() {
        let (plan, decision) = planned(&view(None), "auto", None, "i want some travel");
        assert_eq!(plan.unwrap().zones, None);
        assert_eq!(decision.task.unwrap().as_str(), "travel");
        assert!(!decision.classified.unwrap().evidence.is_empty());

        let (plan, decision) = planned(&view(None), "auto", None, "zzz");
        assert!(matches!(plan, Err(RequestError::NoTask(_))), "{plan:?}");
        assert!(decision.classified.unwrap().abstained);

        let (plan, decision) = planned(&view(Some("travel")), "auto", None, "zzz");
        assert!(plan.is_ok());
        assert_eq!(decision.task.unwrap().as_str(), "travel");

        let (plan, decision) = planned(&view(None), "task:banking", None, "i want travel");
        assert_eq!(plan.unwrap().zones, Some([zone("clinic")].into()));
        assert!(decision.classified.is_none());
        let (plan, _) = planned(&view(None), "task:absent", None, "");
        assert!(matches!(plan, Err(RequestError::TaskNotFound(_))));
    }

    #[test]
    fn a_pinned_zone_narrows_those_of_the_task_and_never_widens_them() {
        let view = view(None);
        let (plan, _) = planned(&view, "task:travel", Some("shop"), "");
        assert_eq!(plan.unwrap().zones, Some([zone("shop")].into()));
        let (plan, _) = planned(&view, "task:banking", Some("clinic"), "");
        assert_eq!(plan.unwrap().zones, Some([zone("clinic")].into()));
        let (plan, _) = planned(&view, "task:banking", Some("shop"), "");
        assert!(matches!(plan, Err(RequestError::Zone(_))));
        let (plan, _) = planned(&view, "m", Some("shop"), "");
        assert_eq!(plan.unwrap().zones, Some([zone("shop")].into()));
    }

    #[test]
    fn users_are_heard_before_instructions() {
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
        assert_eq!(asked(&GenerateInput::Chat(chat.clone())), ["three", "one"]);
        chat.truncate(1);
        assert_eq!(asked(&GenerateInput::Chat(chat)), ["be kind"]);
        assert_eq!(asked(&GenerateInput::Text("x".into())), ["x"]);
    }
}

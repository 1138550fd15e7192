//! Which models may answer a request, and where: the task it belongs to, the models that do it,
//! the privacy zones it may enter.

use std::collections::BTreeSet;

use flotilla_core::generate::{Input, RequestError, Route, Target};
use flotilla_core::routing::{Classified, Classifier, Decision};
use flotilla_core::{ModelName, TaskName, ZoneName};

use crate::fleet::{FleetView, TaskView};

/// N-grams that a decision names.
const EVIDENCE: usize = 8;

/// Who may answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// The preferred one first; at least one.
    pub(crate) models: Vec<ModelName>,
    /// `None`: nodes of any zone and of none.
    pub(crate) zones: Option<BTreeSet<ZoneName>>,
}

/// What a request asks for: `decision` is filled in as far as it comes.
///
/// # Errors
/// What to tell the client where nobody may answer.
pub(crate) fn plan(
    view: &FleetView,
    classifier: Option<&Classifier>,
    route: &Route,
    input: &Input,
    decision: &mut Decision,
) -> Result<Plan, RequestError> {
    decision.requested = route.target.to_string();
    let (models, allowed) = match &route.target {
        Target::Model(name) => (vec![name.clone()], BTreeSet::new()),
        Target::Task(name) => of_task(view, name, decision)?,
        Target::Auto => {
            let name = classify(view, classifier, input, decision)?;
            of_task(view, &name, decision)?
        }
    };
    let zones = enter(allowed, route.zone.as_ref(), decision.task.as_ref())?;
    decision.zones = zones.iter().flatten().cloned().collect();
    Ok(Plan { models, zones })
}

fn of_task(
    view: &FleetView,
    name: &TaskName,
    decision: &mut Decision,
) -> Result<(Vec<ModelName>, BTreeSet<ZoneName>), RequestError> {
    let task: &TaskView = view
        .routing
        .tasks
        .get(name)
        .ok_or_else(|| RequestError::TaskNotFound(name.to_string()))?;
    decision.task = Some(name.clone());
    let spec = &task.task.spec;
    Ok((spec.models.clone(), spec.zones.clone()))
}

/// The task that a request belongs to.
fn classify(
    view: &FleetView,
    classifier: Option<&Classifier>,
    input: &Input,
    decision: &mut Decision,
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
    decision.classified = Some(Classified::new(verdict, classifier.threshold()));
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
pub(crate) fn asked(input: &Input) -> Vec<&str> {
    let messages = match input {
        Input::Text(text) => return vec![text],
        Input::Chat(messages) => messages,
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
    use flotilla_core::generate::Message;
    use flotilla_core::routing::Examples;
    use flotilla_core::spec::{Abstain, RouterSpec, Task, TaskSpec};
    use std::sync::Arc;

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
            let task = TaskView {
                task: Task::new(name.clone(), spec),
                created: 0,
            };
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
    ) -> (Result<Plan, RequestError>, Decision) {
        let examples: Examples = view.routing.examples();
        let classifier = Classifier::train(&examples, Abstain::Below(0.6));
        let route = Route {
            target: Target::parse(target).unwrap(),
            zone: pinned.map(zone),
        };
        let mut decision = Decision::default();
        let input = Input::Text(text.into());
        let plan = plan(view, classifier.as_ref(), &route, &input, &mut decision);
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
        let message = |role: &str, content: &str| Message {
            role: role.into(),
            content: content.into(),
            ..Message::default()
        };
        let mut chat = vec![
            message("system", "be kind"),
            message("user", "one"),
            message("assistant", "two"),
            message("user", "three"),
        ];
        assert_eq!(asked(&Input::Chat(chat.clone())), ["three", "one"]);
        chat.truncate(1);
        assert_eq!(asked(&Input::Chat(chat)), ["be kind"]);
        assert_eq!(asked(&Input::Text("x".into())), ["x"]);
    }
}

//! `flotilla describe`.

use flotilla_controller::admin::{ModelOfTask, ModelResource, NodeResource, TaskResource};
use flotilla_core::Joules;
use flotilla_core::admission::Priority;
use flotilla_core::spec::{AbstainRule, ObjectiveSpec, TaskSpec};

use crate::args::{DescribeArgs, Described};
use crate::client::Fleet;
use crate::{get, output};

/// Shows everything about one thing.
pub(crate) async fn run(args: DescribeArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    match args.kind {
        Described::Node => {
            let node = fleet.get(&["api", "v1", "nodes", &args.name]).await?;
            print!("{}", describe_node(&node));
        }
        Described::Model => {
            let model = fleet.get(&["api", "v1", "models", &args.name]).await?;
            print!("{}", describe_model(&model)?);
        }
        Described::Task => {
            let task = fleet.get(&["api", "v1", "tasks", &args.name]).await?;
            print!("{}", describe_task(&task));
        }
    }
    Ok(())
}

/// When a router abstains.
pub(crate) fn abstains(abstain: AbstainRule) -> String {
    match abstain {
        AbstainRule::Below(confidence) => format!("below {confidence}"),
        AbstainRule::Cost(part) => format!("from {} % of what belongs to a task", part * 100.0),
    }
}

/// Examples that are shown of a task.
const SHOWN: usize = 5;

fn describe_task(task: &TaskResource) -> String {
    let spec = &task.task.spec;
    let zones: Vec<_> = spec.zones.iter().collect();
    let mut text = facts(&[
        ("Task", task.task.name().to_string()),
        ("Description", spec.description.clone()),
        (
            "Does what fits no task",
            if task.status.default { "yes" } else { "no" }.into(),
        ),
        ("Zones", join(&zones)),
        (
            "Objective",
            spec.objective.map(objective).unwrap_or_default(),
        ),
        (
            "Cascade",
            spec.cascade
                .as_ref()
                .map(|_| cascade(spec))
                .unwrap_or_default(),
        ),
        (
            "Priority",
            match spec.priority {
                Priority::Normal => String::new(),
                other => other.as_str().to_owned(),
            },
        ),
        (
            "Hedged after",
            spec.hedge
                .map(|hedge| hedge.after.to_string())
                .unwrap_or_default(),
        ),
        ("Examples", task.status.examples.to_string()),
    ]);
    for example in spec.examples.iter().take(SHOWN) {
        text += &format!("  {example}\n");
    }
    if spec.examples.len() > SHOWN {
        text += &format!("  … and {} more\n", spec.examples.len() - SHOWN);
    }
    let rows = task.status.models.iter().map(|model| {
        vec![
            model.name.to_string(),
            model.ready.to_string(),
            measured(model),
        ]
    });
    text += "\n";
    text + &output::table(&["MODEL", "READY REPLICAS", "QUALITY"], rows)
}

/// What is wanted of a task's answers.
fn objective(objective: ObjectiveSpec) -> String {
    let limits = objective.limits();
    let parts = [
        objective.weights.map(|weights| {
            format!(
                "weights quality {}, latency {}, energy {}",
                weights.quality, weights.latency, weights.energy
            )
        }),
        limits
            .min_quality
            .map(|quality| format!("quality {} % or more", quality * 100.0)),
        limits
            .max_latency
            .map(|latency| format!("at most {latency}")),
        limits
            .max_joules
            .map(|Joules(joules)| format!("at most {joules} J")),
    ];
    join(&parts.into_iter().flatten().collect::<Vec<_>>())
}

/// By what each model but the last keeps its answers.
fn cascade(spec: &TaskSpec) -> String {
    let Some((cascade, (_, smaller))) = spec.cascade.as_ref().zip(spec.models.split_last()) else {
        return String::new();
    };
    let mut parts: Vec<String> = smaller
        .iter()
        .map(|model| {
            let accept = cascade.accept(model);
            format!(
                "{model} where its {} is {} or more",
                accept.measure.as_str(),
                accept.at_least
            )
        })
        .collect();
    parts.extend(
        cascade
            .schema
            .as_ref()
            .map(|_| "only what matches the schema".to_owned()),
    );
    join(&parts)
}

/// How well a model was measured to do the task.
fn measured(model: &ModelOfTask) -> String {
    if !model.known {
        return "no such model in the fleet".into();
    }
    let Some(quality) = &model.quality else {
        return "not measured".into();
    };
    let of = &quality.measured;
    let rate = format!("{:.1} % of {}", of.rate() * 100.0, of.total);
    if quality.current {
        rate
    } else {
        format!("not measured since it changed (before: {rate})")
    }
}

/// Lines of `name: value`, the values one below the other.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{:<width$}  {value}\n", format!("{name}:")))
        .collect()
}

/// All of them in one line.
fn join(items: &[impl ToString]) -> String {
    let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// A number that is worth a line only if it is not 0.
fn some(number: u32) -> String {
    if number == 0 {
        String::new()
    } else {
        number.to_string()
    }
}

/// All that is known of a node.
pub(crate) fn describe_node(node: &NodeResource) -> String {
    let labels: Vec<_> = node
        .metadata
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let spec = &node.spec;
    let mut text = facts(&[
        ("Node", node.metadata.name.clone()),
        ("State", get::state(node)),
        ("Labels", labels.join(", ")),
        ("Taints", join(&spec.taints)),
        (
            "Zone",
            spec.zone
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        ("Memory for models", spec.memory.to_string()),
        ("Computes with", join(&spec.accelerators)),
        ("CPU", format!("{} × {}", spec.cores, spec.cpu)),
        ("Platform", spec.platform.clone()),
        ("Agent", spec.version.clone()),
    ]);
    let rows = node.status.models.iter().map(|model| {
        let counters = &model.counters;
        vec![
            model.name.clone(),
            model.phase.clone(),
            model.memory.to_string(),
            counters.active.to_string(),
            counters.queued.to_string(),
            counters.requests.to_string(),
            counters.cancelled.to_string(),
            counters.refused.to_string(),
            counters.output_tokens.to_string(),
        ]
    });
    let header = [
        "MODEL",
        "STATE",
        "MEMORY",
        "ACTIVE",
        "QUEUED",
        "REQUESTS",
        "CANCELLED",
        "REFUSED",
        "TOKENS",
    ];
    text += "\n";
    text += &output::table(&header, rows);
    text + &problems(
        node.status
            .models
            .iter()
            .map(|m| (&m.name, &m.problem, &m.remedy)),
    )
}

/// All that is known of a model.
pub(crate) fn describe_model(model: &ModelResource) -> anyhow::Result<String> {
    let status = &model.status;
    let mut text = facts(&[
        ("Model", model.model.name().to_string()),
        ("Description", model.model.spec.description.clone()),
        ("State", status.phase.clone()),
        (
            "Replicas",
            format!("{} ready of {}", status.ready, model.model.spec.replicas),
        ),
        ("Revision", status.revision.clone()),
        (
            "Rolled back",
            status.rolled_back.clone().unwrap_or_default(),
        ),
        (
            "Memory",
            status.memory.map(|m| m.to_string()).unwrap_or_default(),
        ),
        ("Files", status.fetch.clone().unwrap_or_default()),
        ("Waiting requests", some(status.waiting)),
        ("Not placed", status.unplaced.clone().unwrap_or_default()),
    ]);
    for (node, reason) in &status.refusals {
        text += &format!("  {node} {reason}\n");
    }
    text += "\nSpec:\n";
    for line in serde_yaml_ng::to_string(&model.model.spec)?.lines() {
        text += &format!("  {line}\n");
    }
    let rows = status.replicas.iter().map(|replica| {
        let counters = &replica.counters;
        vec![
            replica.node.clone(),
            replica.phase.clone(),
            replica.revision.clone(),
            counters.active.to_string(),
            counters.queued.to_string(),
            counters.requests.to_string(),
            counters.output_tokens.to_string(),
            replica.progress.clone(),
        ]
    });
    let header = [
        "NODE", "STATE", "REVISION", "ACTIVE", "QUEUED", "REQUESTS", "TOKENS", "",
    ];
    text += "\n";
    text += &output::table(&header, rows);
    text += &problems(
        status
            .replicas
            .iter()
            .map(|r| (&r.node, &r.problem, &r.remedy)),
    );
    Ok(text)
}

/// What is wrong where, and what to do.
fn problems<'a>(of: impl Iterator<Item = (&'a String, &'a String, &'a String)>) -> String {
    of.filter(|(_, problem, _)| !problem.is_empty())
        .map(|(place, problem, remedy)| format!("\n{place}: {problem}\n  → {remedy}\n"))
        .collect()
}

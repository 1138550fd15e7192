//! `flotilla describe`: the details of one node, model or task, or of the router.

use flotilla_controller::admin::{
    ClassifierStatus, ModelResource, ModelStatus, NodeResource, RouterResource, TaskModel,
    TaskResource,
};
use flotilla_core::Joules;
use flotilla_core::admission::Priority;
use flotilla_core::node::join_zones;
use flotilla_core::spec::{LearnSource, LearnSpec, ObjectiveSpec, TaskSpec};

use crate::args::{DescribableKind, DescribeArgs};
use crate::client::{FleetClient, ListResponse};
use crate::resource_text::{abstain_rule, disk, gpu_memory, node_state};
use crate::{encoder_text, output, separation_text};

/// Maximum number of a task's examples that are printed.
const MAX_EXAMPLES: usize = 5;

/// Maximum number of characters of a default value that are printed; the spec has the whole text.
const MAX_VALUE_CHARS: usize = 50;

/// Prints the details of a resource.
pub(crate) async fn run(args: DescribeArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let name = args.name.unwrap_or_default();
    match args.kind {
        DescribableKind::Node => {
            let node = fleet.get(&["api", "v1", "nodes", &name]).await?;
            print!("{}", describe_node(&node));
        }
        DescribableKind::Model => {
            let model = fleet.get(&["api", "v1", "models", &name]).await?;
            print!("{}", describe_model(&model)?);
        }
        DescribableKind::Task => {
            let task = fleet.get(&["api", "v1", "tasks", &name]).await?;
            print!("{}", describe_task(&task));
        }
        DescribableKind::Router => {
            let routers: ListResponse<RouterResource> =
                fleet.get(&["api", "v1", "routers"]).await?;
            let classifier = fleet.get(&["api", "v1", "classifier"]).await?;
            print!("{}", describe_router(routers.items.first(), &classifier));
        }
    }
    Ok(())
}

fn describe_task(task: &TaskResource) -> String {
    let spec = &task.task.spec;
    let mut text = output::fields(&[
        ("Task", task.task.name().to_string()),
        ("Description", spec.description.clone()),
        (
            "Default task",
            if task.status.default { "yes" } else { "no" }.into(),
        ),
        ("Zones", join_zones(&spec.zones)),
        (
            "Learns from",
            spec.learn.as_ref().map(learning).unwrap_or_default(),
        ),
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
            "Hedge after",
            spec.hedge
                .map(|hedge| hedge.after.to_string())
                .unwrap_or_default(),
        ),
        ("Examples", task.status.examples.to_string()),
    ]);
    for example in spec.examples.iter().take(MAX_EXAMPLES) {
        text += &format!("  {example}\n");
    }
    if spec.examples.len() > MAX_EXAMPLES {
        text += &format!("  … and {} more\n", spec.examples.len() - MAX_EXAMPLES);
    }
    let rows = task.status.models.iter().map(|model| {
        vec![
            model.name.to_string(),
            model.ready.to_string(),
            measured_quality(model),
        ]
    });
    text += "\n";
    text + &output::table(&["MODEL", "READY REPLICAS", "QUALITY"], rows)
}

fn describe_router(router: Option<&RouterResource>, classifier: &ClassifierStatus) -> String {
    let spec = router.map(|router| router.router.spec.clone());
    let applied = spec.is_some();
    let spec = spec.unwrap_or_default();
    let default_task = spec.default_task.as_ref();
    let mut text = output::fields(&[
        (
            "Router",
            if applied {
                "default"
            } else {
                "none was applied: defaults"
            }
            .into(),
        ),
        (
            "Default task",
            default_task.map_or_else(|| "none".into(), ToString::to_string),
        ),
        ("Abstains", abstain_rule(spec.abstain)),
        (
            "Below a confidence of",
            classifier
                .threshold
                .map(|threshold| format!("{threshold:.2}"))
                .unwrap_or_default(),
        ),
        ("Out-of-scope examples", spec.examples.len().to_string()),
        (
            "Classifier",
            if classifier.trained {
                "trained"
            } else {
                "being trained"
            }
            .into(),
        ),
    ]);
    if let Some(encoder) = &classifier.encoder {
        text += &encoder_text::status(encoder);
    }
    if let Some(separation) = &classifier.separation {
        text += "\n";
        text += &separation_text::report(separation);
    }
    text
}

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
            .map(|quality| format!("quality at least {} %", quality * 100.0)),
        limits
            .max_latency
            .map(|latency| format!("latency at most {latency}")),
        limits
            .max_joules
            .map(|Joules(joules)| format!("energy at most {joules} J")),
    ];
    join(&parts.into_iter().flatten().collect::<Vec<_>>())
}

/// Returns the conditions under which each model but the last keeps its answer.
/// What is kept of the task's requests: `escalations, feedback: the newest 1000 on each controller`.
fn learning(learn: &LearnSpec) -> String {
    let sources = [LearnSource::Escalations, LearnSource::Feedback];
    let sources = sources
        .into_iter()
        .filter(|source| learn.learns_from(*source));
    let sources: Vec<_> = sources.map(LearnSource::as_str).collect();
    let sources = sources.join(", ");
    format!("{sources}: the newest {} on each controller", learn.keep)
}

fn cascade(spec: &TaskSpec) -> String {
    let Some((cascade, (_, smaller))) = spec.cascade.as_ref().zip(spec.models.split_last()) else {
        return String::new();
    };
    let mut parts: Vec<String> = smaller
        .iter()
        .map(|model| {
            let threshold = cascade.threshold(model);
            format!(
                "{model} if its {} confidence is at least {}",
                threshold.measure.as_str(),
                threshold.at_least
            )
        })
        .collect();
    parts.extend(
        cascade
            .schema
            .as_ref()
            .map(|_| "only answers that match the schema".to_owned()),
    );
    join(&parts)
}

fn measured_quality(model: &TaskModel) -> String {
    if !model.exists {
        return "no such model in the fleet".into();
    }
    let Some(quality) = &model.quality else {
        return "not measured".into();
    };
    let measured = &quality.measured;
    let rate = format!("{:.1} % of {}", measured.rate() * 100.0, measured.total);
    if quality.current {
        rate
    } else {
        format!("not measured for the current revision (before: {rate})")
    }
}

fn join(items: &[impl ToString]) -> String {
    let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Returns the number as text, and an empty text for 0.
fn nonzero(number: u32) -> String {
    if number == 0 {
        String::new()
    } else {
        number.to_string()
    }
}

/// Returns the details of a node.
pub(crate) fn describe_node(node: &NodeResource) -> String {
    let labels: Vec<_> = node
        .metadata
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let spec = &node.spec;
    let gpus = spec.gpus.iter().enumerate();
    let gpus: Vec<_> = gpus
        .map(|(index, gpu)| {
            let memory = gpu_memory(node, index);
            format!("{index}: {}, {memory} for models, {}", gpu.name, gpu.uuid)
        })
        .collect();
    let mut text = output::fields(&[
        ("Node", node.metadata.name.clone()),
        ("State", node_state(node)),
        (
            "Enrolment",
            match &node.status.enrolment {
                Some(enrolment) => enrolment.to_lowercase(),
                None => "none (links without TLS need none)".to_owned(),
            },
        ),
        ("Labels", labels.join(", ")),
        ("Taints", join(&spec.taints)),
        ("Zones", join_zones(&spec.zones)),
        ("Memory for models", spec.memory.to_string()),
        ("GPUs", gpus.join("\n")),
        ("Disk for models", disk(node)),
        ("Accelerators", join(&spec.accelerators)),
        ("CPU", format!("{} × {}", spec.cores, spec.cpu)),
        ("Platform", spec.platform.clone()),
        ("Agent version", spec.version.clone()),
    ]);
    let rows = node.status.models.iter().map(|model| {
        let counters = &model.counters;
        vec![
            model.name.clone(),
            model.phase.clone(),
            match model.gpu {
                Some(gpu) => format!("{} on GPU {gpu}", model.memory),
                None => model.memory.to_string(),
            },
            model
                .concurrency
                .map_or_else(|| "-".into(), |at_once| at_once.to_string()),
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
        "AT ONCE",
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
            .map(|m| (&m.name, &m.error, &m.remedy)),
    )
}

/// Returns the details of a model.
///
/// # Errors
/// Returns an error if the spec cannot be written as YAML.
pub(crate) fn describe_model(model: &ModelResource) -> anyhow::Result<String> {
    let status = &model.status;
    let mut text = output::fields(&[
        ("Model", model.model.name().to_string()),
        ("Description", model.model.spec.description.clone()),
        (
            "Adapter of",
            model
                .model
                .spec
                .base
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        ("Adapters", status.adapters.join(", ")),
        ("State", status.phase.clone()),
        (
            "Replicas",
            format!("{} ready of {}", status.ready, model.model.spec.replicas),
        ),
        ("Revision", status.revision.clone()),
        (
            "Rolled back",
            status.rollback_reason.clone().unwrap_or_default(),
        ),
        (
            "Memory",
            status.memory.map(|m| m.to_string()).unwrap_or_default(),
        ),
        (
            "Context",
            status
                .context_length
                .map(|tokens| format!("{tokens} tokens"))
                .unwrap_or_default(),
        ),
        ("Files", status.fetch.clone().unwrap_or_default()),
        ("Pending requests", nonzero(status.waiting)),
        ("Ignored fields", status.ignored_fields.join(", ")),
        (
            "Not placed",
            status.unplaced_reason.clone().unwrap_or_default(),
        ),
        ("Last error", status.last_error.clone().unwrap_or_default()),
    ]);
    for note in &status.notes {
        text += &format!("  {note}\n");
    }
    for (node, reason) in &status.unschedulable_nodes {
        text += &format!("  {node} {reason}\n");
    }
    text += "\nSpec:\n";
    for line in serde_yaml_ng::to_string(&model.model.spec)?.lines() {
        text += &format!("  {line}\n");
    }
    text += &request_defaults(status);
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
        "NODE", "STATE", "REVISION", "ACTIVE", "QUEUED", "REQUESTS", "TOKENS", "PROGRESS",
    ];
    text += "\n";
    text += &output::table(&header, rows);
    text += &problems(
        status
            .replicas
            .iter()
            .map(|r| (&r.node, &r.error, &r.remedy)),
    );
    for replica in &status.replicas {
        if let Some(requests) = &replica.failing_requests {
            text += &format!("\n{}: {requests}\n", replica.node);
        }
        for warning in &replica.warnings {
            text += &format!("\n{}: {warning}\n", replica.node);
        }
    }
    Ok(text)
}

/// Returns the values that apply where a request names none, each with its source. Empty if they are not
/// known.
fn request_defaults(status: &ModelStatus) -> String {
    if status.defaults.is_empty() {
        return String::new();
    }
    let rows = status.defaults.iter().map(|default| {
        vec![
            default.field.clone(),
            shorten(&default.value.to_string()),
            default.source.clone(),
            if default.overridable { "yes" } else { "no" }.into(),
        ]
    });
    let header = ["DEFAULT", "VALUE", "FROM", "REQUEST OVERRIDES"];
    let mut text = format!("\n{}", output::table(&header, rows));
    if !status.defaults_differ_on.is_empty() {
        let nodes = join(&status.defaults_differ_on);
        text += &format!("The model's files say something else on {nodes}.\n");
    }
    text
}

/// Returns at most [`MAX_VALUE_CHARS`] characters of a text.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns the problems in `(name, problem, remedy)` triples, each with its remedy. Triples with an
/// empty problem are left out.
fn problems<'a>(triples: impl Iterator<Item = (&'a String, &'a String, &'a String)>) -> String {
    triples
        .filter(|(_, problem, _)| !problem.is_empty())
        .map(|(name, problem, remedy)| format!("\n{name}: {problem}\n  → {remedy}\n"))
        .collect()
}

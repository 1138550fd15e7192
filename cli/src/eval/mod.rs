//! `flotilla eval`: measures the quality of a task's models on labelled requests, stores it in the
//! fleet, and calibrates the task's cascade.

mod calibrate;
mod data;
mod journal;
mod report;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, bail};
use flotilla_controller::admin::{Quality, TaskModel, TaskResource};
use flotilla_core::quality::Scoring;
use flotilla_core::spec::{Resource, Task};
use flotilla_core::{Joules, ModelName};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::Digest;

use crate::args::{EvalArgs, OutputFormat, ScoringMethod};
use crate::client::FleetClient;
use crate::output;
use calibrate::{Calibration, ModelAnswers};
use data::{FieldNames, LabelledRequest};
use journal::AnswerJournal;
use report::ModelSummary;
use request::EvaluatedModel;

/// Number of requests below which the choice of a threshold depends much on chance.
const FEW_REQUESTS: usize = 200;
/// Length in hexadecimal digits of the digest that identifies the settings of an evaluation.
const DIGEST_LENGTH: usize = 12;

/// Measures the models, and according to `args` stores the results and calibrates the cascade.
pub(crate) async fn run(args: EvalArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let task: TaskResource = fleet.get(&["api", "v1", "tasks", &args.task]).await?;
    let file = args.data.display();
    let data = std::fs::read_to_string(&args.data);
    let data = data.with_context(|| format!("cannot read {file}"))?;
    let fields = FieldNames {
        request: args.request_field.as_deref(),
        expected: args.expected_field.as_deref(),
    };
    let limit = args.limit.map(|limit| limit as usize);
    let requests = data::parse(&data, fields, limit).with_context(|| file.to_string())?;
    let scoring = scoring(&args);
    let models = evaluated_models(&args, &task, &settings_digest(&args, &data, scoring)?)?;
    if args.calibrate && models.len() < 2 {
        bail!("a cascade needs at least two models, the smallest first");
    }
    let mut journal = open_journal(&args, &models)?;
    for evaluated in &models {
        let evaluation = Evaluation {
            fleet: &fleet,
            evaluated,
            scoring,
            concurrency: args.concurrency,
        };
        evaluation.run(&requests, &mut journal).await?;
    }
    let answers: ModelAnswers<'_> = models
        .iter()
        .map(|evaluated| {
            let answers = requests
                .iter()
                .filter_map(|request| journal.get(&evaluated.model, request.line));
            (evaluated.model.clone(), answers.collect())
        })
        .collect();
    let summaries: Vec<ModelSummary> = models
        .iter()
        .zip(&answers)
        .map(|(evaluated, (model, answers))| ModelSummary::new(model, &evaluated.revision, answers))
        .collect();
    if !output::print_serialized(args.output, &summaries)? {
        print!("{}", report::table(&summaries));
    }
    if !args.dry_run {
        for summary in &summaries {
            store_quality(&fleet, &args.task, summary, scoring).await?;
        }
    }
    if args.calibrate {
        calibrate_task(&fleet, &args, task.task, &answers).await?;
    }
    Ok(())
}

/// Calibrates the cascade of a task and prints the result. Applies it if `args.apply` is set.
async fn calibrate_task(
    fleet: &FleetClient,
    args: &EvalArgs,
    task: Task,
    answers: &ModelAnswers<'_>,
) -> anyhow::Result<()> {
    let requests = answers.first().map_or(0, |(_, answers)| answers.len());
    if requests < FEW_REQUESTS {
        eprintln!(
            "note: {requests} requests are few for a calibration; the quality on other requests can be much lower"
        );
    }
    let calibration = calibrate::calibrate(answers, args.target_quality)?;
    // Standard output must stay valid JSON or YAML.
    let print_text = |text: String| match args.output {
        OutputFormat::Table => println!("{text}"),
        OutputFormat::Json | OutputFormat::Yaml => eprintln!("{text}"),
    };
    print_text(format!("\n{}", report::calibration(&calibration)));
    if args.apply {
        let order = answers.iter().map(|(model, _)| model.clone()).collect();
        apply_cascade(fleet, &task, order, &calibration).await?;
        print_text(format!(
            "task/{} changed: it now uses this cascade",
            args.task
        ));
    } else if let Some(model) = calibration.never_kept.first() {
        print_text(format!(
            "At this quality no answer of '{model}' can be kept: leave it out of the cascade."
        ));
    } else {
        let cascade = calibration.to_spec(task.spec.cascade);
        let cascade = BTreeMap::from([("cascade", &cascade)]);
        let yaml = serde_yaml_ng::to_string(&cascade)?;
        print_text(format!(
            "To use this cascade, run the command with --apply, or add this to the task's spec:\n\n{yaml}"
        ));
    }
    Ok(())
}

/// Writes a cascade of the models in this `order` into a task.
///
/// The task is fetched again: changes during the evaluation must not be lost, and changes of its
/// models or zones are an error.
async fn apply_cascade(
    fleet: &FleetClient,
    evaluated_task: &Task,
    order: Vec<ModelName>,
    calibration: &Calibration,
) -> anyhow::Result<()> {
    let name = evaluated_task.name();
    let path = ["api", "v1", "tasks", name.as_str()];
    let current: TaskResource = fleet.get(&path).await?;
    let mut task = current.task;
    let sorted = |models: &[ModelName]| models.iter().cloned().collect::<BTreeSet<_>>();
    if sorted(&order) != sorted(&task.spec.models) || task.spec.zones != evaluated_task.spec.zones {
        bail!(
            "nothing was applied: the models or zones of the task '{name}' differ from the evaluated ones; run the command again"
        );
    }
    if let Some(model) = calibration.never_kept.first() {
        bail!(
            "nothing was applied: at this quality no answer of '{model}' can be kept; leave it out of the task"
        );
    }
    task.spec.cascade = Some(calibration.to_spec(task.spec.cascade.take()));
    task.spec.models = order;
    let _: serde_json::Value = fleet.put(&path, &Resource::Task(task)).await?;
    Ok(())
}

fn scoring(args: &EvalArgs) -> Scoring {
    match args.scoring {
        ScoringMethod::Exact => Scoring::Exact,
        ScoringMethod::Label => Scoring::Label,
        ScoringMethod::Json => Scoring::Json,
        ScoringMethod::Numeric => Scoring::Numeric {
            tolerance: args.tolerance,
        },
    }
}

/// Returns the models to evaluate: those that `args` name, or all models of the task.
fn evaluated_models(
    args: &EvalArgs,
    task: &TaskResource,
    settings_digest: &str,
) -> anyhow::Result<Vec<EvaluatedModel>> {
    let find = |name: &ModelName| task.status.models.iter().find(|model| model.name == *name);
    let models: Vec<&TaskModel> = if args.models.is_empty() {
        task.status.models.iter().collect()
    } else {
        let models = args.models.iter().map(|name| {
            find(name).with_context(|| {
                format!(
                    "the task '{}' has no model '{name}': add it to the task first",
                    args.task
                )
            })
        });
        models.collect::<Result<_, _>>()?
    };
    if let Some(model) = models.iter().find(|model| !model.exists) {
        bail!(
            "the fleet has no model '{}': add it with `flotilla apply`",
            model.name
        );
    }
    let zone = task.task.spec.zones.first();
    let zone = args.zone.clone().or(zone.map(ToString::to_string));
    let models = models.into_iter().map(|model| EvaluatedModel {
        model: model.name.clone(),
        revision: model.revision.clone(),
        settings_digest: settings_digest.to_owned(),
        zone: zone.clone(),
        max_tokens: args.max_tokens,
    });
    Ok(models.collect())
}

/// Returns a digest of the data and of all settings that change an answer or its grade.
fn settings_digest(args: &EvalArgs, data: &str, scoring: Scoring) -> anyhow::Result<String> {
    let mut digest = sha2::Sha256::new();
    digest.update(data);
    let request_settings = (&args.request_field, args.max_tokens, &args.zone);
    let settings = (request_settings, &args.expected_field, scoring);
    digest.update(serde_json::to_vec(&settings)?);
    Ok(hex::encode(digest.finalize())[..DIGEST_LENGTH].to_owned())
}

/// Opens the journal with the answers of the same revisions under the same settings.
fn open_journal(args: &EvalArgs, models: &[EvaluatedModel]) -> anyhow::Result<AnswerJournal> {
    let digest = models
        .first()
        .map_or("", |evaluated| &evaluated.settings_digest);
    let path = match &args.journal {
        Some(path) => path.clone(),
        None => PathBuf::from("flotilla-eval").join(format!("{}-{digest}.jsonl", args.task)),
    };
    AnswerJournal::open(&path, |answer| {
        let is_same = |evaluated: &EvaluatedModel| {
            evaluated.model == answer.model
                && evaluated.revision == answer.revision
                && evaluated.settings_digest == answer.settings_digest
        };
        models.iter().any(is_same)
    })
}

/// The evaluation of one model.
struct Evaluation<'a> {
    fleet: &'a FleetClient,
    evaluated: &'a EvaluatedModel,
    scoring: Scoring,
    /// Number of concurrent requests.
    concurrency: usize,
}

impl Evaluation<'_> {
    /// Sends the requests that have no answer in the journal yet, and adds the answers to it.
    async fn run(
        &self,
        requests: &[LabelledRequest],
        journal: &mut AnswerJournal,
    ) -> anyhow::Result<()> {
        let model = &self.evaluated.model;
        let unanswered: Vec<&LabelledRequest> = requests
            .iter()
            .filter(|request| journal.get(model, request.line).is_none())
            .collect();
        let bar = ProgressBar::new(requests.len() as u64);
        let style = "{msg:24} {wide_bar} {pos}/{len} {eta}";
        bar.set_style(ProgressStyle::with_template(style)?);
        bar.set_message(model.to_string());
        bar.set_position((requests.len() - unanswered.len()) as u64);
        let answers = stream::iter(unanswered).map(|labelled| {
            request::answer_and_grade(self.fleet, self.evaluated, labelled, self.scoring)
        });
        let mut answers = answers.buffer_unordered(self.concurrency);
        while let Some(answer) = answers
            .try_next()
            .await
            .context("the evaluation was interrupted; run the same command to continue it")?
        {
            journal.add(answer)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Stores the measured quality of a model in the fleet.
async fn store_quality(
    fleet: &FleetClient,
    task: &str,
    summary: &ModelSummary,
    scoring: Scoring,
) -> anyhow::Result<()> {
    let quality = Quality {
        revision: summary.revision.clone(),
        quantization: None,
        scoring,
        measured: summary.measured,
        median_ms: summary.median_ms,
        joules: summary.joules.map(Joules),
        current: true,
    };
    let model = summary.model.as_str();
    let path = ["api", "v1", "tasks", task, "quality", model];
    fleet.put_ignoring_response(&path, &quality).await
}

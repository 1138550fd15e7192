//! `flotilla eval`: how well models do a task, measured on requests whose right answers are known.

mod ask;
mod calibrate;
mod data;
mod journal;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, bail};
use flotilla_controller::admin::{ModelOfTask, Quality, TaskResource};
use flotilla_core::quality::Scoring;
use flotilla_core::spec::{Resource, Task};
use flotilla_core::{Joules, ModelName};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::Digest;

use crate::args::{EvalArgs, Format, ScoreBy};
use crate::client::Fleet;
use crate::output;
use ask::Asked;
use calibrate::{Answers, Calibration};
use data::Item;
use journal::Journal;
use report::Summary;

/// Fewer requests leave a threshold to chance.
const FEW: usize = 200;

/// Measures, stores what was measured, and calibrates the task's cascade where that is asked.
pub(crate) async fn run(args: EvalArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let task: TaskResource = fleet.get(&["api", "v1", "tasks", &args.task]).await?;
    let shown = args.data.display();
    let data = std::fs::read_to_string(&args.data);
    let data = data.with_context(|| format!("cannot read {shown}"))?;
    let fields = (args.text.as_deref(), args.expect.as_deref());
    let most = args.limit.map(|most| most as usize);
    let items = data::parse(&data, fields, most).with_context(|| shown.to_string())?;
    let scoring = scoring(&args);
    let models = models(&args, &task, &digest(&args, &data, scoring)?)?;
    if args.calibrate && models.len() < 2 {
        bail!("a cascade needs at least two models, the smallest first");
    }
    let mut journal = open_journal(&args, &models)?;
    for asked in &models {
        answer(&fleet, asked, &items, scoring, &args, &mut journal).await?;
    }
    let answers: Answers<'_> = models
        .iter()
        .map(|asked| {
            let answers = items.iter();
            let answers = answers.filter_map(|item| journal.get(&asked.model, item.line));
            (asked.model.clone(), answers.collect())
        })
        .collect();
    let summaries: Vec<Summary> = models
        .iter()
        .zip(&answers)
        .map(|(asked, (model, answers))| Summary::new(model, &asked.revision, answers))
        .collect();
    if !output::machine(args.output, &summaries)? {
        print!("{}", report::table(&summaries));
    }
    if !args.dry_run {
        for summary in &summaries {
            store(&fleet, &args.task, summary, scoring).await?;
        }
    }
    if args.calibrate {
        calibrate(&fleet, &args, task.task, &answers).await?;
    }
    Ok(())
}

/// Finds the thresholds of the task's cascade, and writes them into it where that is asked.
async fn calibrate(
    fleet: &Fleet,
    args: &EvalArgs,
    evaluated: Task,
    answers: &Answers<'_>,
) -> anyhow::Result<()> {
    let requests = answers.first().map_or(0, |(_, answers)| answers.len());
    if requests < FEW {
        eprintln!(
            "note: {requests} requests are few to choose by: other requests may do much worse"
        );
    }
    let found = calibrate::calibrate(answers, args.target)?;
    // Where a program reads the table it is told beside it.
    let tell = |text: String| match args.output {
        Format::Table => println!("{text}"),
        _ => eprintln!("{text}"),
    };
    tell(format!("\n{}", report::calibration(&found)));
    if args.apply {
        let order = answers.iter().map(|(model, _)| model.clone()).collect();
        apply(fleet, &evaluated, order, &found).await?;
        tell(format!("task/{} has this cascade now", args.task));
    } else if let Some(model) = found.useless.first() {
        tell(format!(
            "No answer of '{model}' is worth keeping: leave it out of the cascade."
        ));
    } else {
        let cascade = found.cascade(evaluated.spec.cascade);
        let cascade = BTreeMap::from([("cascade", &cascade)]);
        let yaml = serde_yaml_ng::to_string(&cascade)?;
        tell(format!("In the task's spec, or with --apply:\n\n{yaml}"));
    }
    Ok(())
}

/// Writes a cascade of the models in this `order` into the task that was `evaluated`. That took a while:
/// what else was changed meanwhile stays.
async fn apply(
    fleet: &Fleet,
    evaluated: &Task,
    order: Vec<ModelName>,
    found: &Calibration,
) -> anyhow::Result<()> {
    let name = evaluated.name();
    let path = ["api", "v1", "tasks", name.as_str()];
    let now: TaskResource = fleet.get(&path).await?;
    let mut task = now.task;
    let sorted = |models: &[ModelName]| models.iter().cloned().collect::<BTreeSet<_>>();
    if sorted(&order) != sorted(&task.spec.models) || task.spec.zones != evaluated.spec.zones {
        bail!(
            "the task '{name}' has other models or zones than were evaluated: nothing was applied"
        );
    }
    if let Some(model) = found.useless.first() {
        bail!("no answer of '{model}' is worth keeping: leave it out; nothing was applied");
    }
    task.spec.cascade = Some(found.cascade(task.spec.cascade.take()));
    task.spec.models = order;
    let _: serde_json::Value = fleet.put(&path, &Resource::Task(task)).await?;
    Ok(())
}

fn scoring(args: &EvalArgs) -> Scoring {
    match args.score {
        ScoreBy::Exact => Scoring::Exact,
        ScoreBy::Label => Scoring::Label,
        ScoreBy::Json => Scoring::Json,
        ScoreBy::Numeric => Scoring::Numeric {
            tolerance: args.tolerance,
        },
    }
}

/// Who is asked: those that are named, or all of the task.
fn models(args: &EvalArgs, task: &TaskResource, how: &str) -> anyhow::Result<Vec<Asked>> {
    let of_task = |name: &ModelName| task.status.models.iter().find(|model| model.name == *name);
    let named: Vec<&ModelOfTask> = if args.models.is_empty() {
        task.status.models.iter().collect()
    } else {
        let found = args.models.iter().map(|name| {
            of_task(name).with_context(|| {
                format!(
                    "the task '{}' has no model '{name}': add it to the task first",
                    args.task
                )
            })
        });
        found.collect::<Result<_, _>>()?
    };
    let absent = named.iter().find(|model| !model.known);
    if let Some(model) = absent {
        bail!("the fleet has no model '{}'", model.name);
    }
    let zone = task.task.spec.zones.first();
    let zone = args.zone.clone().or(zone.map(ToString::to_string));
    let asked = named.into_iter().map(|model| Asked {
        model: model.name.clone(),
        revision: model.revision.clone(),
        how: how.to_owned(),
        zone: zone.clone(),
        max_tokens: args.max_tokens,
    });
    Ok(asked.collect())
}

/// Stands for the data and for how answers are judged.
fn digest(args: &EvalArgs, data: &str, scoring: Scoring) -> anyhow::Result<String> {
    let mut digest = sha2::Sha256::new();
    digest.update(data);
    let asked = (&args.text, args.max_tokens, &args.zone);
    let how = (asked, &args.expect, scoring);
    digest.update(serde_json::to_vec(&how)?);
    Ok(hex::encode(digest.finalize())[..12].to_owned())
}

/// The answers so far to the same requests, judged in the same way, of the same revisions.
fn open_journal(args: &EvalArgs, models: &[Asked]) -> anyhow::Result<Journal> {
    let how = models.first().map_or("", |asked| &asked.how);
    let path = match &args.journal {
        Some(path) => path.clone(),
        None => PathBuf::from("flotilla-eval").join(format!("{}-{how}.jsonl", args.task)),
    };
    Journal::open(&path, |judged| {
        let same = |asked: &Asked| {
            (&asked.model, &asked.revision, &asked.how)
                == (&judged.model, &judged.revision, &judged.how)
        };
        models.iter().any(same)
    })
}

/// Has a model answer what it has not answered yet.
async fn answer(
    fleet: &Fleet,
    asked: &Asked,
    items: &[Item],
    scoring: Scoring,
    args: &EvalArgs,
    journal: &mut Journal,
) -> anyhow::Result<()> {
    let open: Vec<&Item> = items
        .iter()
        .filter(|item| journal.get(&asked.model, item.line).is_none())
        .collect();
    let bar = ProgressBar::new(items.len() as u64);
    let style = "{msg:24} {wide_bar} {pos}/{len} {eta}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.set_message(asked.model.to_string());
    bar.set_position((items.len() - open.len()) as u64);
    let answers = stream::iter(open).map(|item| ask::ask(fleet, asked, item, scoring));
    let mut answers = answers.buffer_unordered(args.concurrency);
    while let Some(judged) = answers
        .try_next()
        .await
        .context("the evaluation was broken off: called again it goes on where it is")?
    {
        journal.note(judged)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Has the fleet keep how well a model did.
async fn store(
    fleet: &Fleet,
    task: &str,
    summary: &Summary,
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
    fleet.put_only(&path, &quality).await
}

//! Measures what it costs that a model is computed in a process of its own, and how several models share
//! the cores of a node.
//!
//! First the same model answers in this process and in a runner, in turns in one run: the time of a short
//! answer, and the tokens per second of a long one. Then one, two and three runners answer at once, each
//! with as many threads as there are cores and with its share of them: processor time per token shows what
//! they lose by getting in each other's way.
//!
//! `cargo run --release --workspace --bin runner_cost [ROUNDS] [MODEL]`, where MODEL is a folder or a GGUF
//! file; a demo model by default.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_agent::{RunnerCommand, RunnerEngine};
use flotilla_core::ModelName;
use flotilla_core::generate::{
    ChatMessage, GenerateEvent, GenerateInput, GenerateRequest, SamplingParams,
};
use flotilla_core::spec::{Model, ModelSource, ModelSpec};
use flotilla_engine::{Engine, LoadControl, LoadedModel, LocalEngine};
use flotilla_tests::{flotilla_binary, repository};
use futures::StreamExt;
use futures::future::join_all;

/// Tokens of a long answer.
const LONG: u32 = 64;
/// Time for short answers in each round.
const SHORT_TIME: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(5);
    let path = args.next().map(PathBuf::from);
    let path = path.unwrap_or_else(|| repository().join("models/numbers"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    compare_with_this_process(&path, rounds, cores).await;
    share_the_cores(&path, rounds, cores).await;
}

/// The time of short answers and the speed of long ones.
#[derive(Default)]
struct Speed {
    short: Vec<Duration>,
    tokens_per_second: Vec<f64>,
}

async fn compare_with_this_process(path: &std::path::Path, rounds: usize, cores: usize) {
    let here = load(&LocalEngine::default(), path).await;
    let runner = load(&runner_engine(cores), path).await;
    let (mut in_process, mut in_runner) = (Speed::default(), Speed::default());
    for _ in 0..rounds {
        measure(&here, &mut in_process).await;
        measure(&runner, &mut in_runner).await;
    }
    runner.unload().await;
    here.unload().await;
    let micros = |speed: &Speed| median(speed.short.iter().map(|time| time.as_secs_f64() * 1e6));
    let tokens = |speed: &Speed| median(speed.tokens_per_second.iter().copied());
    println!("{:<28}{:>16}{:>14}", "", "one token, µs", "tokens/s");
    for (name, speed) in [
        ("in this process", &in_process),
        ("in a runner", &in_runner),
    ] {
        println!("{name:<28}{:>16.0}{:>14.1}", micros(speed), tokens(speed));
    }
    println!(
        "{:<28}{:>16.0}{:>14.3}\n",
        "difference; ratio",
        micros(&in_runner) - micros(&in_process),
        tokens(&in_runner) / tokens(&in_process)
    );
}

async fn measure(model: &Arc<dyn LoadedModel>, speed: &mut Speed) {
    let end = Instant::now() + SHORT_TIME;
    while Instant::now() < end {
        let began = Instant::now();
        answer(model, 1).await;
        speed.short.push(began.elapsed());
    }
    speed.tokens_per_second.push(answer(model, LONG).await);
}

/// Lets one to three runners answer at once.
async fn share_the_cores(path: &std::path::Path, rounds: usize, cores: usize) {
    println!(
        "{:<28}{:>10}{:>20}{:>22}",
        "runners at once", "threads", "tokens/s, all", "processor ms/token"
    );
    for runners in 1..=3 {
        let share = (cores / runners).max(1);
        for threads in [cores, share] {
            let engine = runner_engine(threads);
            let models = join_all((0..runners).map(|_| load(&engine, path))).await;
            // The first answers are slower.
            join_all(models.iter().map(|model| answer(model, LONG))).await;
            let processes: Vec<u32> = models.iter().filter_map(|m| m.process_id()).collect();
            let (before, began) = (processor_seconds(&processes), Instant::now());
            let answers = models.iter().map(async |model| {
                for _ in 0..rounds {
                    answer(model, LONG).await;
                }
            });
            join_all(answers).await;
            let tokens = (rounds * runners) as f64 * f64::from(LONG);
            let used = processor_seconds(&processes) - before;
            println!(
                "{runners:<28}{threads:>10}{:>20.1}{:>22.2}",
                tokens / began.elapsed().as_secs_f64(),
                used / tokens * 1e3
            );
            join_all(models.iter().map(|model| model.unload())).await;
            if threads == share && share == cores {
                break;
            }
        }
    }
}

fn runner_engine(threads: usize) -> RunnerEngine {
    RunnerEngine::new(RunnerCommand::new(flotilla_binary()), threads)
}

async fn load(engine: &dyn Engine, path: &std::path::Path) -> Arc<dyn LoadedModel> {
    let spec = ModelSpec {
        source: Some(ModelSource::Path(path.to_owned())),
        ..ModelSpec::default()
    };
    let model = Model::new(name(), spec);
    let never = LoadControl::default();
    let loaded = engine.load(&model, Arc::new(|_, _| {}), &never);
    loaded.await.expect("the model loads")
}

fn name() -> ModelName {
    ModelName::new("measured").expect("a valid name")
}

/// Lets a model write this many tokens, and returns its speed after the first one in tokens per second.
async fn answer(model: &Arc<dyn LoadedModel>, tokens: u32) -> f64 {
    let chat = vec![ChatMessage {
        role: "user".into(),
        content: "what is the sum of 3 5 7?".into(),
        ..ChatMessage::default()
    }];
    // No model ends such an answer early: its end tokens are as good as forbidden.
    let request = GenerateRequest {
        sampling: SamplingParams {
            max_tokens: Some(tokens),
            temperature: Some(0.0),
            logit_bias: (0..3).map(|token| (token, -100.0)).collect(),
            ..SamplingParams::default()
        },
        stream: true,
        ..GenerateRequest::new(name(), GenerateInput::Chat(chat))
    };
    let mut events = model.generate(request).await.expect("the model answers");
    let mut first = None;
    let mut written = 0;
    while let Some(event) = events.next().await {
        first.get_or_insert_with(Instant::now);
        if let GenerateEvent::Usage(usage) = event.expect("an event") {
            written = usage.completion_tokens;
        }
    }
    let elapsed = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
    f64::from(written.saturating_sub(1)) / elapsed.max(1e-9)
}

/// Processor time of processes so far, in core-seconds.
fn processor_seconds(processes: &[u32]) -> f64 {
    let ticks = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("the process runs");
        // Behind the name, which may contain spaces: fields 14 and 15 of the file.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields = fields.split_whitespace().skip(11).take(2);
        fields
            .map(|ticks| ticks.parse::<f64>().expect("a number"))
            .sum::<f64>()
    };
    // `/proc` counts in hundredths of a second on every architecture.
    processes.iter().map(ticks).sum::<f64>() / 100.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

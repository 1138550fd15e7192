use flotilla_core::spec::{EngineKind, EngineOptions, ModelSpec, Source};

use super::*;

fn null(name: &str, revision: u64, pace: f64) -> Desired {
    let spec = ModelSpec {
        engine: EngineKind::Null,
        options: EngineOptions {
            tokens_per_second: Some(pace),
            ..EngineOptions::default()
        },
        ..ModelSpec::default()
    };
    Desired {
        revision,
        model: Model::new(ModelName::new(name).unwrap(), spec),
    }
}

struct Bench {
    desired: watch::Sender<Vec<Desired>>,
    statuses: Statuses,
    table: Table,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        let settings = ManagerSettings {
            memory: Bytes(1 << 20),
            drain: Duration::from_secs(5),
            return_memory: || {},
        };
        let manager = Manager::new(Engines::new().unwrap(), settings);
        let (statuses, table) = (manager.statuses(), manager.table());
        let (desired, receiver) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let task = tokio::spawn(manager.run(receiver, stop.clone()));
        Self {
            desired,
            statuses,
            table,
            stop,
            task,
        }
    }

    /// Waits until what is reported is as `wanted` says.
    async fn until(&self, wanted: impl Fn(&[ModelStatus]) -> bool) -> Vec<ModelStatus> {
        let mut changes = self.statuses.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let now = self.statuses.now();
                if wanted(&now) {
                    return now;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap()
    }
}

fn phase(phase: ModelPhase) -> impl Fn(&[ModelStatus]) -> bool {
    move |models| models.len() == 1 && models[0].phase() == phase
}

#[tokio::test]
async fn a_model_comes_and_goes_as_desired() {
    let bench = Bench::new();
    let model = null("m", 1, 0.0);
    bench.desired.send_replace(vec![model.clone()]);
    bench.until(phase(ModelPhase::Ready)).await;
    assert!(bench.table.get(model.model.name()).is_some());
    bench.desired.send_replace(Vec::new());
    bench.until(<[_]>::is_empty).await;
    assert!(bench.table.get(model.model.name()).is_none());
    bench.stop.cancel();
    bench.task.await.unwrap();
}

#[tokio::test]
async fn a_new_revision_drains_the_old_one_first() {
    let bench = Bench::new();
    let model = null("m", 1, 0.0);
    bench.desired.send_replace(vec![model.clone()]);
    bench.until(phase(ModelPhase::Ready)).await;
    let old = bench.table.get(model.model.name()).unwrap();
    let request = old.enter().await.ok().unwrap();
    bench.desired.send_replace(vec![null("m", 2, 1.0)]);
    let draining = bench.until(phase(ModelPhase::Draining)).await;
    assert_eq!(draining[0].counters.unwrap().active, 1);
    assert!(bench.table.get(model.model.name()).is_none());
    drop(request);
    let ready = bench.until(phase(ModelPhase::Ready)).await;
    assert_eq!(ready[0].revision, 2);
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why_and_what_to_do() {
    let bench = Bench::new();
    let mut missing = null("m", 1, 0.0);
    missing.model.spec.engine = EngineKind::Mistral;
    missing.model.spec.source = Some(Source {
        path: "/nowhere/at/all".into(),
    });
    bench.desired.send_replace(vec![missing.clone()]);
    let failed = bench.until(phase(ModelPhase::Failed)).await;
    assert!(failed[0].problem.contains("does not exist"), "{failed:?}");
    assert!(failed[0].remedy.contains("spec.source.path"), "{failed:?}");

    missing.revision = 2;
    missing.model.spec.source = Some(Source {
        path: tempfile::tempdir().unwrap().path().to_owned(),
    });
    missing.model.spec.memory = Some(Bytes(1 << 30));
    bench.desired.send_replace(vec![missing]);
    let failed = bench
        .until(|models| models[0].revision == 2 && models[0].phase() == ModelPhase::Failed)
        .await;
    assert!(failed[0].problem.contains("1.0 GiB"), "{failed:?}");
}

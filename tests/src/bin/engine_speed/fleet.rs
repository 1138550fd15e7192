//! A controller, and an agent with one model.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use flotilla_controller::{Controller, ControllerConfig, StoreAddress};
use flotilla_core::ModelName;
use flotilla_core::generate::{GenerateInput, GenerateRequest};
use flotilla_core::spec::{EngineKind, Model, Resource};
use flotilla_proto::v1;
use flotilla_tests::{Process, any_port};
use futures::StreamExt;
use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::wave::Wave;

const MODEL: &str = "measured";
/// The longest prompt, and its answer.
const CONTEXT: u32 = 2_304;
/// Tokens that end an answer of the chat model: they are as good as forbidden, so that no answer ends early.
const ENDS: [u32; 3] = [0, 1, 2];
/// Tokens of the vocabulary of which prompts are made.
const VOCABULARY: std::ops::Range<u32> = 1_000..40_000;

/// The way of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// To the agent over gRPC.
    Grpc,
    /// Through the controller's HTTP interface.
    Http,
    /// The same, with log-probabilities: then each token is an event of its own, also one that ends inside a character.
    HttpTokens,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "agent over gRPC",
            Self::Http | Self::HttpTokens => "HTTP → controller → agent",
        })
    }
}

/// A fleet of one node with one model.
pub(crate) struct Fleet {
    controller: Controller,
    _agent: Process,
    _dir: tempfile::TempDir,
    random: Mutex<fastrand::Rng>,
    client: reqwest::Client,
    /// The number of answers that have begun, of all waves.
    begun: watch::Sender<usize>,
}

impl Fleet {
    /// Starts a fleet and waits until the model is served.
    pub(crate) async fn start(file: &Path, engine: EngineKind) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let controller = Controller::start(ControllerConfig {
            http: any_port(),
            link: any_port(),
            store: StoreAddress::Embedded(dir.path().join("store")),
            data_dir: dir.path().join("store"),
            ..ControllerConfig::default()
        });
        let controller = controller.await.expect("the controller starts");
        let link = controller.link().to_string();
        let data = dir.path().join("agent").display().to_string();
        let args = [
            "agent",
            "--join",
            &link,
            "--name",
            "n1",
            "--data-dir",
            &data,
            "--model-root",
            "/",
        ];
        let agent = Process::start(dir.path(), &args);
        let resource = Resource::from_json(json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": MODEL},
            "spec": {
                "engine": engine, "source": {"path": file}, "concurrency": 16,
                "options": {"contextLength": CONTEXT},
            },
        }));
        let resource = resource.and_then(Model::try_from).expect("a valid model");
        let desired = controller.desired_state();
        let applied = desired.apply(&Resource::Model(resource)).await;
        applied.expect("the store accepts the model");
        let mut changes = controller.fleet().changes();
        let is_served = || {
            let view = controller.fleet().view();
            let model = view.models.get(MODEL);
            model.is_some_and(|model| !model.endpoints.replicas().is_empty())
        };
        while !is_served() {
            changes.changed().await.expect("the fleet runs");
        }
        Self {
            controller,
            _agent: agent,
            _dir: dir,
            random: Mutex::new(fastrand::Rng::with_seed(7)),
            client: reqwest::Client::new(),
            begun: watch::Sender::new(0),
        }
    }

    /// A prompt of random tokens, whose first `common` ones are those of every other prompt.
    pub(crate) fn prompt(&self, length: usize, common: usize) -> Vec<u32> {
        let mut same = fastrand::Rng::with_seed(1);
        let mut own = self.random.lock();
        let token = |index| match index < common {
            true => same.u32(VOCABULARY),
            false => own.u32(VOCABULARY),
        };
        (0..length).map(token).collect()
    }

    /// Sends a request for each prompt, all at once.
    pub(crate) async fn wave(&self, way: Way, prompts: Vec<Vec<u32>>, answer: usize) -> Wave {
        let began = Instant::now();
        let answers = prompts.into_iter().map(|prompt| async move {
            match way {
                Way::Grpc => (self.ask_agent(prompt, answer, began).await, None),
                Way::Http => self.ask_controller(prompt, answer, began, None).await,
                Way::HttpTokens => self.ask_controller(prompt, answer, began, Some(0)).await,
            }
        });
        let answers = join_all(answers).await;
        let count = answers.len() as f64;
        let joules: Option<f64> = answers.iter().map(|(_, joules)| *joules).sum();
        Wave {
            tokens: answers.into_iter().map(|(tokens, _)| tokens).collect(),
            joules: joules.map(|joules| joules / count),
        }
    }

    /// Waits until this many answers more have begun.
    pub(crate) async fn first_tokens(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        let target = *begun.borrow() + count;
        let reached = begun.wait_for(|begun| *begun >= target).await;
        reached.expect("the fleet outlives its requests");
    }

    async fn ask_agent(&self, prompt: Vec<u32>, answer: usize, began: Instant) -> Vec<Duration> {
        let name = ModelName::new(MODEL).expect("a valid name");
        let mut request = GenerateRequest::new(name, GenerateInput::Tokens(prompt));
        request.stream = true;
        request.sampling.temperature = Some(0.0);
        request.sampling.max_tokens = Some(answer as u32);
        request.sampling.logit_bias = ENDS.map(|token| (token, -100.0)).into();
        let request = v1::GenerateRequest::from(&request);
        let replica = {
            let view = self.controller.fleet().view();
            view.models[MODEL].endpoints.replicas()[0].clone()
        };
        let sent = replica.transport.generate(tonic::Request::new(request));
        let mut events = sent.await.expect("the agent answers");
        let mut times = Vec::new();
        while let Some(event) = events.next().await {
            event.expect("an event");
            self.record(&mut times, answer, began);
        }
        complete(&mut times, answer);
        times
    }

    async fn ask_controller(
        &self,
        prompt: Vec<u32>,
        answer: usize,
        began: Instant,
        logprobs: Option<u32>,
    ) -> (Vec<Duration>, Option<f64>) {
        let bias = ENDS.map(|token| (token.to_string(), json!(-100)));
        let body = json!({
            "model": MODEL, "prompt": prompt, "max_tokens": answer, "temperature": 0, "stream": true,
            "logprobs": logprobs, "stream_options": {"include_usage": true}, "logit_bias": Value::Object(bias.into_iter().collect()),
        });
        let url = format!("http://{}/v1/completions", self.controller.http());
        let response = self.client.post(url).json(&body).send().await;
        let response = response.expect("the controller answers");
        assert!(
            response.status().is_success(),
            "{:?}",
            response.text().await
        );
        let mut body = response.bytes_stream();
        let (mut times, mut joules, mut text) = (Vec::new(), None, String::new());
        while let Some(bytes) = body.next().await {
            text += &String::from_utf8_lossy(&bytes.expect("an answer"));
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                let Some(data) = event.trim().strip_prefix("data: ") else {
                    continue;
                };
                let data: Value = serde_json::from_str(data).unwrap_or_default();
                joules = data["usage"]["energy"]["joules"].as_f64().or(joules);
                let is_token = data["choices"][0]["text"].is_string();
                if is_token {
                    self.record(&mut times, answer, began);
                }
            }
        }
        complete(&mut times, answer);
        (times, joules)
    }

    /// Records a token. Events beyond the tokens of the answer say that it has ended.
    fn record(&self, times: &mut Vec<Duration>, answer: usize, began: Instant) {
        if times.is_empty() {
            self.begun.send_modify(|begun| *begun += 1);
        }
        if times.len() < answer {
            times.push(began.elapsed());
        }
    }

    pub(crate) async fn stop(self) {
        self.controller.stop().await;
    }
}

/// Adds the tokens that came without text, inside a character: with the last one.
fn complete(times: &mut Vec<Duration>, answer: usize) {
    if let Some(last) = times.last().copied() {
        times.resize(answer, last);
    }
}

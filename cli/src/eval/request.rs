//! One labelled request to one model.

use std::time::{Duration, Instant};

use anyhow::Context;
use backon::{ExponentialBuilder, Retryable};
use flotilla_core::ModelName;
use flotilla_core::generate::{TokenLogprob, TopLogprob};
use flotilla_core::quality::Scoring;
use flotilla_core::routing::{AnswerConfidence, ConfidenceMeasure};
use flotilla_dispatch::DecisionRecord;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::data::LabelledRequest;
use super::journal::GradedAnswer;
use crate::client::{FleetClient, check_status, read_json};

/// Maximum number of retries while the fleet has no capacity or no replica for the request.
const MAX_RETRIES: usize = 5;
/// Pause before the first retry. It doubles before each further retry.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A model under evaluation, with the settings of its requests.
#[derive(Debug, Clone)]
pub(super) struct EvaluatedModel {
    pub(super) model: ModelName,
    pub(super) revision: String,
    /// See [`GradedAnswer::settings_digest`].
    pub(super) settings_digest: String,
    /// Privacy zone that the requests must stay in.
    pub(super) zone: Option<String>,
    /// Maximum length of an answer in tokens. `None`: the model's limit.
    pub(super) max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct AnswerCompletion {
    choices: Vec<ChatChoice>,
}

#[derive(Deserialize)]
struct ChatChoice {
    message: AnswerMessage,
    #[serde(default)]
    logprobs: Option<AnswerLogprobs>,
}

#[derive(Deserialize)]
struct AnswerMessage {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct AnswerLogprobs {
    #[serde(default)]
    content: Option<Vec<AnswerToken>>,
}

#[derive(Deserialize)]
struct AnswerToken {
    token: String,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<AlternativeToken>,
}

#[derive(Deserialize)]
struct AlternativeToken {
    token: String,
    logprob: f32,
}

/// Sends a labelled request to a model and grades the answer.
pub(super) async fn answer_and_grade(
    fleet: &FleetClient,
    evaluated: &EvaluatedModel,
    request: &LabelledRequest,
    scoring: Scoring,
) -> anyhow::Result<GradedAnswer> {
    let mut body = json!({
        "model": evaluated.model,
        "messages": request.messages,
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": 2,
        "flotilla": {"zone": evaluated.zone, "priority": "low"},
    });
    if let Some(max_tokens) = evaluated.max_tokens {
        body["max_tokens"] = max_tokens.into();
    }
    let (response, client_ms) = post_with_retries(fleet, &body)
        .await
        .with_context(|| format!("line {}, model '{}'", request.line, evaluated.model))?;
    let decision = response.headers().get("x-flotilla-decision");
    let decision = decision.and_then(|id| id.to_str().ok()).map(str::to_owned);
    let completion: AnswerCompletion = read_json(response).await?;
    let choice = completion
        .choices
        .into_iter()
        .next()
        .context("the response contains no answer")?;
    let answer = choice.message.content.unwrap_or_default();
    let outcome = match &decision {
        Some(id) => {
            let record: DecisionRecord = fleet.get(&["v1", "decisions", id]).await?;
            record.outcome
        }
        None => None,
    };
    Ok(GradedAnswer {
        settings_digest: evaluated.settings_digest.clone(),
        line: request.line,
        model: evaluated.model.clone(),
        revision: evaluated.revision.clone(),
        correct: scoring.is_correct(&request.expected, &answer),
        answer,
        latency_ms: outcome
            .as_ref()
            .map_or(client_ms, |outcome| outcome.total_ms),
        joules: outcome
            .and_then(|outcome| outcome.joules)
            .map(|joules| joules.0),
        confidence: confidence(choice.logprobs),
    })
}

/// Why an attempt failed.
enum AttemptError {
    /// The fleet has no capacity or no replica now.
    Unavailable(anyhow::Error),
    Permanent(anyhow::Error),
}

/// Sends a chat request, and again while the fleet is unavailable. Returns the response and the
/// time of the last attempt in milliseconds.
async fn post_with_retries(
    fleet: &FleetClient,
    body: &Value,
) -> anyhow::Result<(reqwest::Response, f64)> {
    let attempt = || async {
        let start = Instant::now();
        let response = fleet
            .post_unchecked(&["v1", "chat", "completions"], body)
            .await
            .map_err(AttemptError::Permanent)?;
        let status = response.status();
        let latency_ms = start.elapsed().as_secs_f64() * 1e3;
        let response = check_status(response).await.map_err(|error| match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                AttemptError::Unavailable(error)
            }
            _ => AttemptError::Permanent(error),
        })?;
        Ok((response, latency_ms))
    };
    let pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_times(MAX_RETRIES);
    attempt
        .retry(pauses)
        .when(|error| matches!(error, AttemptError::Unavailable(_)))
        .await
        .map_err(|error| match error {
            AttemptError::Unavailable(error) => {
                error.context(format!("no answer after {} attempts", MAX_RETRIES + 1))
            }
            AttemptError::Permanent(error) => error,
        })
}

/// Returns the confidence of an answer by each measure, in the order of [`ConfidenceMeasure::ALL`].
/// `None`: the model returns no log-probabilities.
fn confidence(logprobs: Option<AnswerLogprobs>) -> Option<[f32; 3]> {
    let mut confidence = AnswerConfidence::default();
    for token in logprobs?.content? {
        confidence.add_token(&TokenLogprob {
            bytes: Vec::new(),
            token: token.token,
            logprob: token.logprob,
            top: token
                .top_logprobs
                .into_iter()
                .map(|other| TopLogprob {
                    bytes: Vec::new(),
                    token: other.token,
                    logprob: other.logprob,
                })
                .collect(),
        });
    }
    confidence.value(ConfidenceMeasure::Min)?;
    Some(ConfidenceMeasure::ALL.map(|measure| confidence.value(measure).unwrap_or(0.0)))
}

//! One labelled request, asked of one model.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use flotilla_controller::decisions::DecisionRecord;
use flotilla_core::ModelName;
use flotilla_core::generate::{TokenLogprob, TopLogprob};
use flotilla_core::quality::Scoring;
use flotilla_core::routing::{AnswerConfidence, ConfidenceMeasure};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::data::Item;
use super::journal::Judged;
use crate::client::Fleet;

/// Times that a request is asked in all, where the fleet has no room or no replica for it.
const TRIES: u32 = 6;
/// Pause before the second one; twice as long before each that follows.
const PAUSE: Duration = Duration::from_millis(250);

/// A model as it is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) model: ModelName,
    pub(super) revision: String,
    /// See [`Judged::how`].
    pub(super) how: String,
    pub(super) zone: Option<String>,
    pub(super) max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    #[serde(default)]
    content: Option<Vec<Token>>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<Alternative>,
}

#[derive(Deserialize)]
struct Alternative {
    token: String,
    logprob: f32,
}

/// Asks a model, and judges its answer.
pub(super) async fn ask(
    fleet: &Fleet,
    asked: &Asked,
    item: &Item,
    scoring: Scoring,
) -> anyhow::Result<Judged> {
    let mut body = json!({
        "model": asked.model,
        "messages": item.messages,
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": 2,
        "flotilla": {"zone": asked.zone, "priority": "low"},
    });
    if let Some(most) = asked.max_tokens {
        body["max_tokens"] = most.into();
    }
    let (response, ms) = patiently(fleet, &body)
        .await
        .with_context(|| format!("line {}, model '{}'", item.line, asked.model))?;
    let decision = response.headers().get("x-flotilla-decision");
    let decision = decision.and_then(|id| id.to_str().ok()).map(str::to_owned);
    let completion: Completion = response.json().await?;
    let choice = completion.choices.into_iter().next().context("no answer")?;
    let answer = choice.message.content.unwrap_or_default();
    let outcome = match &decision {
        Some(id) => {
            let record: DecisionRecord = fleet.get(&["v1", "decisions", id]).await?;
            record.outcome
        }
        None => None,
    };
    Ok(Judged {
        how: asked.how.clone(),
        line: item.line,
        model: asked.model.clone(),
        revision: asked.revision.clone(),
        right: scoring.is_right(&item.expected, &answer),
        answer,
        ms: outcome.as_ref().map_or(ms, |outcome| outcome.total_ms),
        joules: outcome
            .and_then(|outcome| outcome.joules)
            .map(|joules| joules.0),
        confidence: confidence(choice.logprobs),
    })
}

/// Asks until there is room. Returns with the response how long the last try took, in milliseconds.
async fn patiently(fleet: &Fleet, body: &Value) -> anyhow::Result<(reqwest::Response, f64)> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        let begun = Instant::now();
        let response = fleet.try_post(&["v1", "chat", "completions"], body).await?;
        let again = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if !again.contains(&response.status()) {
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            return Ok((crate::client::checked(response).await?, ms));
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    let last = fleet.post(&["v1", "chat", "completions"], body).await;
    last.map(|response| (response, 0.0))
        .map_err(|error| anyhow!("{error:#} (asked {TRIES} times)"))
}

/// How sure it was, by each measure.
fn confidence(logprobs: Option<Logprobs>) -> Option<[f32; 3]> {
    let mut confidence = AnswerConfidence::default();
    for token in logprobs?.content? {
        confidence.take(&TokenLogprob {
            token: token.token,
            logprob: token.logprob,
            top: token
                .top_logprobs
                .into_iter()
                .map(|other| TopLogprob {
                    token: other.token,
                    logprob: other.logprob,
                })
                .collect(),
        });
    }
    confidence.value(ConfidenceMeasure::Min)?;
    Some(ConfidenceMeasure::ALL.map(|measure| confidence.value(measure).unwrap_or(0.0)))
}

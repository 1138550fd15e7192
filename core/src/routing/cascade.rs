//! When a small model's answer is good enough: how sure the model was of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ModelName;
use crate::generate::TokenLogprob;

/// A small model answers first; where it is not sure, the next one does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CascadeSpec {
    /// What every model but the last has to be sure by.
    pub accept: ConfidenceThreshold,
    /// The same for single models, as `flotilla eval --calibrate` finds them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<ModelName, ConfidenceThreshold>,
    /// A JSON schema that an answer must match to be kept, beside that it is sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Map<String, serde_json::Value>>,
}

/// How sure an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfidenceThreshold {
    /// By which measure.
    #[serde(default)]
    pub measure: ConfidenceMeasure,
    /// 0 to 1.
    pub at_least: f32,
}

impl Default for ConfidenceThreshold {
    fn default() -> Self {
        Self {
            measure: ConfidenceMeasure::default(),
            at_least: 0.5,
        }
    }
}

impl ConfidenceThreshold {
    /// Whether an answer of this confidence is sure enough. One of which nothing is known is not.
    #[must_use]
    pub fn keeps(self, confidence: Option<f32>) -> bool {
        confidence.is_some_and(|confidence| confidence >= self.at_least)
    }
}

/// A measure of how sure a model was of its answer, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfidenceMeasure {
    /// The geometric mean of the tokens' probabilities: `exp` of the mean log-probability.
    Mean,
    /// The smallest probability of a token.
    #[default]
    Min,
    /// The smallest lead of a token over the next best one, in probability.
    Margin,
}

impl ConfidenceMeasure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Min, Self::Margin];

    /// Its word in specs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Margin => "margin",
        }
    }

    /// Alternatives of each token that it needs beside the token.
    #[must_use]
    pub fn alternatives(self) -> u32 {
        match self {
            Self::Mean | Self::Min => 0,
            Self::Margin => 2,
        }
    }
}

impl CascadeSpec {
    /// What an answer of a model has to be sure by.
    #[must_use]
    pub fn accept(&self, model: &ModelName) -> ConfidenceThreshold {
        self.tiers.get(model).copied().unwrap_or(self.accept)
    }
}

/// How sure a model is of an answer, token by token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerConfidence {
    tokens: u32,
    /// Of log-probabilities.
    sum: f32,
    min: f32,
    margin: f32,
}

impl Default for AnswerConfidence {
    fn default() -> Self {
        Self {
            tokens: 0,
            sum: 0.0,
            min: 1.0,
            margin: 1.0,
        }
    }
}

impl AnswerConfidence {
    /// One more token of the answer.
    pub fn take(&mut self, token: &TokenLogprob) {
        let probability = token.logprob.exp().clamp(0.0, 1.0);
        self.tokens += 1;
        self.sum += token.logprob.min(0.0);
        self.min = self.min.min(probability);
        // The token itself may be among the best ones, under its own text.
        let others = token.top.iter().filter(|other| other.token != token.token);
        let next = others.map(|other| other.logprob.exp()).fold(0.0, f32::max);
        self.margin = self.margin.min((probability - next).max(0.0));
    }

    /// How sure it was. `None` where nothing is known of its tokens.
    #[must_use]
    pub fn value(&self, measure: ConfidenceMeasure) -> Option<f32> {
        (self.tokens > 0).then(|| match measure {
            ConfidenceMeasure::Mean => (self.sum / self.tokens as f32).exp(),
            ConfidenceMeasure::Min => self.min,
            ConfidenceMeasure::Margin => self.margin,
        })
    }

    /// Whether the answer is not sure enough whatever follows, where at most `most` tokens are to
    /// be.
    #[must_use]
    pub fn is_lost(&self, accept: ConfidenceThreshold, most: Option<u32>) -> bool {
        match accept.measure {
            ConfidenceMeasure::Min => self.min < accept.at_least,
            ConfidenceMeasure::Margin => self.margin < accept.at_least,
            // At best all that follow are certain.
            ConfidenceMeasure::Mean => most.is_some_and(|most| {
                let tokens = most.max(self.tokens).max(1);
                (self.sum / tokens as f32).exp() < accept.at_least
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::TopLogprob;
    use proptest::prelude::*;

    fn token(probability: f32, next: f32) -> TokenLogprob {
        let alternative = |token: &str, probability: f32| TopLogprob {
            token: token.into(),
            logprob: probability.ln(),
        };
        TokenLogprob {
            token: "a".into(),
            logprob: probability.ln(),
            top: vec![alternative("a", probability), alternative("b", next)],
        }
    }

    fn of(tokens: &[(f32, f32)]) -> AnswerConfidence {
        let mut confidence = AnswerConfidence::default();
        for (probability, next) in tokens {
            confidence.take(&token(*probability, *next));
        }
        confidence
    }

    fn accept(measure: ConfidenceMeasure, at_least: f32) -> ConfidenceThreshold {
        ConfidenceThreshold { measure, at_least }
    }

    #[test]
    fn each_measure_says_what_it_is() {
        let confidence = of(&[(0.9, 0.05), (0.4, 0.3)]);
        let value = |measure| confidence.value(measure).unwrap();
        assert!((value(ConfidenceMeasure::Mean) - 0.6).abs() < 1e-6);
        assert!((value(ConfidenceMeasure::Min) - 0.4).abs() < 1e-6);
        assert!((value(ConfidenceMeasure::Margin) - 0.1).abs() < 1e-6);
        assert_eq!(
            AnswerConfidence::default().value(ConfidenceMeasure::Min),
            None
        );
        // A token that was drawn although another one was likelier leads by nothing.
        assert_eq!(
            of(&[(0.2, 0.7)]).value(ConfidenceMeasure::Margin),
            Some(0.0)
        );
    }

    #[test]
    fn an_answer_is_lost_once_nothing_can_save_it() {
        let confidence = of(&[(0.9, 0.05), (0.4, 0.3)]);
        assert!(confidence.is_lost(accept(ConfidenceMeasure::Min, 0.5), None));
        assert!(!confidence.is_lost(accept(ConfidenceMeasure::Min, 0.3), None));
        assert!(confidence.is_lost(accept(ConfidenceMeasure::Margin, 0.2), None));
        let mean = accept(ConfidenceMeasure::Mean, 0.7);
        assert!(!confidence.is_lost(mean, None), "more may follow");
        assert!(!confidence.is_lost(mean, Some(20)));
        assert!(confidence.is_lost(mean, Some(2)));
    }

    #[test]
    fn a_tier_may_have_a_measure_of_its_own() {
        let small = ModelName::new("small").unwrap();
        let cascade = CascadeSpec {
            accept: accept(ConfidenceMeasure::Mean, 0.8),
            tiers: [(small.clone(), accept(ConfidenceMeasure::Min, 0.6))].into(),
            schema: None,
        };
        assert_eq!(cascade.accept(&small), accept(ConfidenceMeasure::Min, 0.6));
        let other = ModelName::new("other").unwrap();
        assert_eq!(cascade.accept(&other), accept(ConfidenceMeasure::Mean, 0.8));
    }

    proptest! {
        #[test]
        fn what_is_lost_would_not_have_been_kept(
            probabilities in proptest::collection::vec(0.01f32..1.0, 1..20),
            at in 0usize..20, at_least in 0.0f32..1.0, which in 0usize..3,
        ) {
            let tokens: Vec<_> = probabilities.iter().map(|p| (*p, (1.0 - p) / 2.0)).collect();
            let accept = accept(ConfidenceMeasure::ALL[which], at_least);
            let early = of(&tokens[..at.min(tokens.len())]);
            if early.is_lost(accept, Some(tokens.len() as u32)) {
                let value = of(&tokens).value(accept.measure).unwrap();
                prop_assert!(value < at_least + 1e-5);
            }
        }
    }
}

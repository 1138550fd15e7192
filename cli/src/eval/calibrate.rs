//! Calibration of a cascade: chooses its confidence thresholds from graded answers and measures them
//! on other answers.

use anyhow::{Context, bail};
use flotilla_core::ModelName;
use flotilla_core::routing::threshold_tradeoff::{
    AnswerSummary, FinalAnswer, ScoredAnswer, ThresholdPoint, apply_threshold, choose_threshold,
    count_accepted, threshold_curve,
};
use flotilla_core::routing::{CascadeSpec, ConfidenceMeasure, ConfidenceThreshold};

use super::journal::GradedAnswer;

/// Quality that a cascade may lose against its largest model by default. It is half of a loss that
/// is not noticeable, since the thresholds do a little worse on new requests.
const DEFAULT_QUALITY_LOSS: f32 = 0.0025;

/// The answers of each model to the same requests, from the smallest model to the largest.
pub(super) type ModelAnswers<'a> = Vec<(ModelName, Vec<&'a GradedAnswer>)>;

/// The result of a calibration.
pub(super) struct Calibration {
    /// The threshold of each model but the last.
    pub(super) tiers: Vec<(ModelName, ConfidenceThreshold)>,
    /// Models without any answer that their threshold keeps.
    pub(super) never_kept: Vec<ModelName>,
    /// The quality that the thresholds reach on all answers.
    pub(super) target_quality: f32,
    /// Quality and cost of each threshold of the smallest model, on all requests.
    pub(super) curve: Vec<ThresholdPoint>,
    /// Fraction of the answers that the smallest model keeps. Cross-validated: each half of the
    /// requests is measured with the thresholds from the other half.
    pub(super) kept_fraction: f32,
    /// Quality and cost of the cascade, also cross-validated.
    pub(super) cascade: AnswerSummary,
    /// Quality and cost of each model without the cascade.
    pub(super) alone: Vec<(ModelName, AnswerSummary)>,
}

impl Calibration {
    /// Returns `previous`, the task's cascade so far, with the new thresholds.
    pub(super) fn to_spec(&self, previous: Option<CascadeSpec>) -> CascadeSpec {
        CascadeSpec {
            tiers: self.tiers.iter().cloned().collect(),
            ..previous.unwrap_or_default()
        }
    }
}

/// Converts answers for the choice of a threshold.
fn scored_answers(answers: &[&GradedAnswer], measure: ConfidenceMeasure) -> Vec<ScoredAnswer> {
    let answers = answers.iter().map(|answer| ScoredAnswer {
        confidence: answer
            .confidence
            .map(|confidence| confidence[measure as usize]),
        correct: answer.correct,
        cost: answer.joules.unwrap_or(0.0),
    });
    answers.collect()
}

fn final_answers(answers: &[&GradedAnswer]) -> Vec<FinalAnswer> {
    let answers = answers.iter().map(|answer| FinalAnswer {
        correct: answer.correct,
        cost: answer.joules.unwrap_or(0.0),
    });
    answers.collect()
}

/// Returns the answers to every other request, from the first (`offset` 0) or the second (1).
fn half<'a>(answers: &ModelAnswers<'a>, offset: usize) -> ModelAnswers<'a> {
    let models = answers.iter().map(|(model, answers)| {
        let half = answers.iter().skip(offset).step_by(2).copied();
        (model.clone(), half.collect())
    });
    models.collect()
}

/// Returns the final answers of the part of the cascade that starts with the model `first`.
fn cascade_answers(
    answers: &ModelAnswers<'_>,
    tiers: &[ConfidenceThreshold],
    first: usize,
) -> Vec<FinalAnswer> {
    let last = answers.len() - 1;
    let rest = final_answers(&answers[last].1);
    (first..last).rev().fold(rest, |rest, tier| {
        let small = scored_answers(&answers[tier].1, tiers[tier].measure);
        apply_threshold(tiers[tier], &small, &rest)
    })
}

/// Returns the quality to reach: the configured one, or that of the largest model minus
/// [`DEFAULT_QUALITY_LOSS`].
fn target_quality(answers: &ModelAnswers<'_>, configured: Option<f32>) -> f32 {
    let largest = answers
        .last()
        .map(|(_, answers)| AnswerSummary::new(&final_answers(answers)));
    configured.unwrap_or(largest.map_or(0.0, |largest| largest.quality) - DEFAULT_QUALITY_LOSS)
}

/// Returns the thresholds that reach the quality `target` at the lowest energy. They are chosen one
/// by one, from the second largest model down.
fn fit_thresholds(
    answers: &ModelAnswers<'_>,
    target: f32,
) -> anyhow::Result<Vec<ConfidenceThreshold>> {
    let last = answers.len() - 1;
    let mut tiers = vec![ConfidenceThreshold::default(); last];
    for tier in (0..last).rev() {
        let rest = cascade_answers(answers, &tiers, tier + 1);
        let best = ConfidenceMeasure::ALL.into_iter().filter_map(|measure| {
            let small = scored_answers(&answers[tier].1, measure);
            choose_threshold(&threshold_curve(measure, &small, &rest), target)
        });
        // Prefers points that reach the target, then the one with the lowest energy.
        let best = best.min_by(|a, b| {
            let misses_target = |point: &ThresholdPoint| point.quality < target;
            misses_target(a)
                .cmp(&misses_target(b))
                .then(a.cost.total_cmp(&b.cost))
        });
        tiers[tier] = best
            .context("there are no answers to calibrate with")?
            .threshold;
    }
    Ok(tiers)
}

/// Returns the number of a model's answers that its threshold keeps.
fn count_kept(answers: &[&GradedAnswer], threshold: ConfidenceThreshold) -> usize {
    count_accepted(threshold, &scored_answers(answers, threshold.measure))
}

/// Chooses the thresholds that reach the target quality at the lowest energy, and measures them by
/// cross-validation on two halves of the requests.
///
/// # Errors
/// Returns an error if there are fewer than two models or requests, if a model returns no
/// log-probabilities, or if the last model has no correct answer.
pub(super) fn calibrate(
    answers: &ModelAnswers<'_>,
    configured_target: Option<f32>,
) -> anyhow::Result<Calibration> {
    if answers.len() < 2 {
        bail!("a cascade needs at least two models, the smallest first: name them with --models");
    }
    let last = answers.len() - 1;
    let without_logprobs = answers[..last]
        .iter()
        .find(|(_, answers)| answers.iter().all(|answer| answer.confidence.is_none()));
    if let Some((model, _)) = without_logprobs {
        bail!(
            "the model '{model}' returns no log-probabilities, which a confidence threshold needs: leave it out of the cascade"
        );
    }
    let target = target_quality(answers, configured_target);
    if target <= 0.0 {
        bail!("the last model has no correct answer: check --scoring and --expected-field");
    }
    let tiers = fit_thresholds(answers, target)?;
    let (mut kept, mut validated) = (0, Vec::new());
    for (training_half, validation_half) in [(0, 1), (1, 0)] {
        let training = half(answers, training_half);
        if training[0].1.is_empty() {
            bail!("one request is too few to calibrate with");
        }
        let thresholds = fit_thresholds(&training, target_quality(&training, configured_target))?;
        let validation = half(answers, validation_half);
        kept += count_kept(&validation[0].1, thresholds[0]);
        validated.extend(cascade_answers(&validation, &thresholds, 0));
    }
    let small = scored_answers(&answers[0].1, tiers[0].measure);
    Ok(Calibration {
        target_quality: target,
        never_kept: answers[..last]
            .iter()
            .zip(&tiers)
            .filter(|((_, answers), threshold)| count_kept(answers, **threshold) == 0)
            .map(|((model, _), _)| model.clone())
            .collect(),
        curve: threshold_curve(
            tiers[0].measure,
            &small,
            &cascade_answers(answers, &tiers, 1),
        ),
        kept_fraction: kept as f32 / validated.len().max(1) as f32,
        cascade: AnswerSummary::new(&validated),
        alone: answers
            .iter()
            .map(|(model, answers)| (model.clone(), AnswerSummary::new(&final_answers(answers))))
            .collect(),
        tiers: answers[..last]
            .iter()
            .map(|(model, _)| model.clone())
            .zip(tiers)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(
        model: &str,
        count: usize,
        joules: f32,
        correct_and_confidence: impl Fn(usize) -> (bool, f32),
    ) -> Vec<GradedAnswer> {
        let model = ModelName::new(model).unwrap();
        (0..count)
            .map(|line| {
                let (correct, confidence) = correct_and_confidence(line);
                GradedAnswer {
                    settings_digest: String::new(),
                    line,
                    model: model.clone(),
                    revision: String::new(),
                    answer: String::new(),
                    correct,
                    latency_ms: 1.0,
                    joules: Some(joules),
                    confidence: Some([confidence; 3]),
                }
            })
            .collect()
    }

    #[test]
    fn calibrated_cascade_reaches_the_larger_models_quality_at_lower_energy() {
        // The small model is correct exactly where it is confident: in three of four cases.
        let small = answers("s", 400, 1.0, |n| {
            (n % 4 != 0, if n % 4 == 0 { 0.3 } else { 0.9 })
        });
        let large = answers("l", 400, 10.0, |n| (n % 10 != 1, 0.9));
        let both: ModelAnswers<'_> = vec![
            (small[0].model.clone(), small.iter().collect()),
            (large[0].model.clone(), large.iter().collect()),
        ];
        let calibration = calibrate(&both, None).unwrap();
        assert!(
            calibration.tiers[0].1.at_least > 0.3,
            "{:?}",
            calibration.tiers
        );
        assert!(calibration.cascade.quality >= calibration.target_quality);
        assert!(calibration.cascade.cost < 7.0, "{:?}", calibration.cascade);
        assert!(calibration.kept_fraction > 0.4);
        assert_eq!(calibration.alone.len(), 2);
        assert_eq!(calibration.alone[1].1.cost, 10.0);
        let spec = calibration.to_spec(None);
        assert_eq!(spec.threshold(&small[0].model), calibration.tiers[0].1);
    }

    #[test]
    fn single_model_and_model_without_logprobs_are_rejected() {
        let mut small = answers("s", 4, 1.0, |_| (true, 0.9));
        let single: ModelAnswers<'_> = vec![(small[0].model.clone(), small.iter().collect())];
        assert!(calibrate(&single, None).is_err());
        small.iter_mut().for_each(|answer| answer.confidence = None);
        let without_logprobs: ModelAnswers<'_> = ["s", "l"]
            .map(|name| (ModelName::new(name).unwrap(), small.iter().collect()))
            .into();
        assert!(calibrate(&without_logprobs, None).is_err());
    }
}

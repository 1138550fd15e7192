//! The thresholds of a cascade, chosen by judged answers, and what they bring on others.

use anyhow::{Context, bail};
use flotilla_core::ModelName;
use flotilla_core::routing::tradeoff::{
    AnswerSummary, FinalAnswer, ScoredAnswer, ThresholdPoint, choose, curve, kept, with,
};
use flotilla_core::routing::{CascadeSpec, ConfidenceMeasure, ConfidenceThreshold};

use super::journal;

/// How much less than the largest model's quality is good enough unless told otherwise: half of what
/// is not noticed, as what was chosen does a little worse on other requests.
const LOSS: f32 = 0.0025;

/// The answers of a cascade's models to the same requests, the smallest first.
pub(super) type Answers<'a> = Vec<(ModelName, Vec<&'a journal::Judged>)>;

/// What a calibration came to.
pub(super) struct Calibration {
    /// What each model but the last has to be sure by.
    pub(super) tiers: Vec<(ModelName, ConfidenceThreshold)>,
    /// Models of which no threshold keeps an answer at that quality.
    pub(super) useless: Vec<ModelName>,
    /// The quality that was to be reached.
    pub(super) target: f32,
    /// Of the smallest model's thresholds, on all requests: what each would bring.
    pub(super) curve: Vec<ThresholdPoint>,
    /// On answers that its thresholds were not chosen by: the part that the first model keeps, and
    /// what all are like.
    pub(super) kept: f32,
    pub(super) cascade: AnswerSummary,
    /// Each model alone.
    pub(super) alone: Vec<(ModelName, AnswerSummary)>,
}

impl Calibration {
    /// As it is written into a task.
    pub(super) fn cascade(&self, before: Option<CascadeSpec>) -> CascadeSpec {
        CascadeSpec {
            tiers: self.tiers.iter().cloned().collect(),
            ..before.unwrap_or_default()
        }
    }
}

/// The answers of a model as the choice of a threshold sees them.
fn judged(answers: &[&journal::Judged], measure: ConfidenceMeasure) -> Vec<ScoredAnswer> {
    let answers = answers.iter().map(|answer| ScoredAnswer {
        confidence: answer.confidence.map(|sure| sure[measure as usize]),
        right: answer.right,
        cost: answer.joules.unwrap_or(0.0),
    });
    answers.collect()
}

fn given(answers: &[&journal::Judged]) -> Vec<FinalAnswer> {
    let answers = answers.iter().map(|answer| FinalAnswer {
        right: answer.right,
        cost: answer.joules.unwrap_or(0.0),
    });
    answers.collect()
}

/// One of the halves: every other request.
fn half<'a>(answers: &Answers<'a>, which: usize) -> Answers<'a> {
    let models = answers.iter().map(|(model, answers)| {
        let half = answers.iter().skip(which).step_by(2).copied();
        (model.clone(), half.collect())
    });
    models.collect()
}

/// What the cascade gives, from the model number `from` on.
fn results(answers: &Answers<'_>, tiers: &[ConfidenceThreshold], from: usize) -> Vec<FinalAnswer> {
    let last = answers.len() - 1;
    let rest = given(&answers[last].1);
    (from..last).rev().fold(rest, |rest, tier| {
        let small = judged(&answers[tier].1, tiers[tier].measure);
        with(tiers[tier], &small, &rest)
    })
}

/// The quality that is good enough.
fn goal(answers: &Answers<'_>, target: Option<f32>) -> f32 {
    let largest = answers
        .last()
        .map(|(_, answers)| AnswerSummary::of(&given(answers)));
    target.unwrap_or(largest.map_or(0.0, |largest| largest.quality) - LOSS)
}

/// The thresholds that reach the quality `target` at the least joules, from the largest model down.
fn fit(answers: &Answers<'_>, target: f32) -> anyhow::Result<Vec<ConfidenceThreshold>> {
    let last = answers.len() - 1;
    let mut tiers = vec![ConfidenceThreshold::default(); last];
    for tier in (0..last).rev() {
        let rest = results(answers, &tiers, tier + 1);
        let best = ConfidenceMeasure::ALL.into_iter().filter_map(|measure| {
            let small = judged(&answers[tier].1, measure);
            choose(&curve(measure, &small, &rest), target)
        });
        // What is good enough goes before what is not; then the cheapest.
        let best = best.min_by(|a, b| {
            let misses = |point: &ThresholdPoint| point.quality < target;
            misses(a).cmp(&misses(b)).then(a.cost.total_cmp(&b.cost))
        });
        tiers[tier] = best.context("there are no answers to choose by")?.accept;
    }
    Ok(tiers)
}

/// How many of a model's answers are kept.
fn kept_of(answers: &[&journal::Judged], accept: ConfidenceThreshold) -> usize {
    kept(accept, &judged(answers, accept.measure))
}

/// Chooses the thresholds that reach the quality `target` at the least joules, and tells what they
/// bring on answers that they were not chosen by: each half is tried with what the other one chooses.
pub(super) fn calibrate(answers: &Answers<'_>, target: Option<f32>) -> anyhow::Result<Calibration> {
    if answers.len() < 2 {
        bail!("a cascade needs at least two models, the smallest first: name them with --models");
    }
    let last = answers.len() - 1;
    let silent = answers[..last]
        .iter()
        .find(|(_, answers)| answers.iter().all(|answer| answer.confidence.is_none()));
    if let Some((model, _)) = silent {
        bail!("the model '{model}' tells no log-probabilities: it cannot be told how sure it is");
    }
    let goal_of_all = goal(answers, target);
    if goal_of_all <= 0.0 {
        bail!("no answer of the last model is right: see how it is scored (--score, --expect)");
    }
    let tiers = fit(answers, goal_of_all)?;
    let (mut kept, mut unseen) = (0, Vec::new());
    for (chosen_by, tried_on) in [(0, 1), (1, 0)] {
        let chosen_by = half(answers, chosen_by);
        if chosen_by[0].1.is_empty() {
            bail!("one request is too few to choose by");
        }
        let thresholds = fit(&chosen_by, goal(&chosen_by, target))?;
        let tried_on = half(answers, tried_on);
        kept += kept_of(&tried_on[0].1, thresholds[0]);
        unseen.extend(results(&tried_on, &thresholds, 0));
    }
    let small = judged(&answers[0].1, tiers[0].measure);
    Ok(Calibration {
        target: goal_of_all,
        useless: answers[..last]
            .iter()
            .zip(&tiers)
            .filter(|((_, answers), accept)| kept_of(answers, **accept) == 0)
            .map(|((model, _), _)| model.clone())
            .collect(),
        curve: curve(tiers[0].measure, &small, &results(answers, &tiers, 1)),
        kept: kept as f32 / unseen.len().max(1) as f32,
        cascade: AnswerSummary::of(&unseen),
        alone: answers
            .iter()
            .map(|(model, answers)| (model.clone(), AnswerSummary::of(&given(answers))))
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
        of: impl Fn(usize) -> (bool, f32),
    ) -> Vec<journal::Judged> {
        let model = ModelName::new(model).unwrap();
        (0..count)
            .map(|line| {
                let (right, sure) = of(line);
                journal::Judged {
                    how: String::new(),
                    line,
                    model: model.clone(),
                    revision: String::new(),
                    answer: String::new(),
                    right,
                    ms: 1.0,
                    joules: Some(joules),
                    confidence: Some([sure; 3]),
                }
            })
            .collect()
    }

    #[test]
    fn a_threshold_is_found_that_reaches_the_larger_models_quality_for_less() {
        // The small one is right where it is sure, which is in three of four cases.
        let small = answers("s", 400, 1.0, |n| {
            (n % 4 != 0, if n % 4 == 0 { 0.3 } else { 0.9 })
        });
        let large = answers("l", 400, 10.0, |n| (n % 10 != 1, 0.9));
        let both: Answers<'_> = vec![
            (small[0].model.clone(), small.iter().collect()),
            (large[0].model.clone(), large.iter().collect()),
        ];
        let found = calibrate(&both, None).unwrap();
        assert!(found.tiers[0].1.at_least > 0.3, "{:?}", found.tiers);
        assert!(found.cascade.quality >= found.target);
        assert!(found.cascade.cost < 7.0, "{:?}", found.cascade);
        assert!(found.kept > 0.4);
        assert_eq!(found.alone.len(), 2);
        assert_eq!(found.alone[1].1.cost, 10.0);
        let cascade = found.cascade(None);
        assert_eq!(cascade.accept(&small[0].model), found.tiers[0].1);
    }

    #[test]
    fn one_model_is_no_cascade_and_a_silent_one_no_tier() {
        let mut small = answers("s", 4, 1.0, |_| (true, 0.9));
        let one: Answers<'_> = vec![(small[0].model.clone(), small.iter().collect())];
        assert!(calibrate(&one, None).is_err());
        small.iter_mut().for_each(|answer| answer.confidence = None);
        let two: Answers<'_> = ["s", "l"]
            .map(|name| (ModelName::new(name).unwrap(), small.iter().collect()))
            .into();
        assert!(calibrate(&two, None).is_err());
    }
}

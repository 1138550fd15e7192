//! The router's encoder, as people read it.

use flotilla_core::routing::{EncoderOutcome, EncoderRecord};
use flotilla_dispatch::EncoderStatus;

use crate::decision_text::joules;
use crate::output;

/// Returns how far the encoder is.
pub(crate) fn status(encoder: &EncoderStatus) -> String {
    let state = match (&encoder.problem, encoder.trained) {
        (Some(problem), _) => format!("not trained: {problem}"),
        (None, true) => "trained".to_owned(),
        (None, false) => "being trained".to_owned(),
    };
    let mut fields = vec![
        ("Encoder", format!("{}, {state}", encoder.model)),
        (
            "Embedded examples",
            format!("{} of {}", encoder.embedded, encoder.examples),
        ),
    ];
    if let Some(report) = encoder.report.as_ref().filter(|report| report.held_out > 0) {
        let share = |count: usize| {
            let share = 100.0 * count as f64 / report.held_out as f64;
            format!("{share:.1} %")
        };
        fields.push(("Held-out examples for the encoder", share(report.unsure)));
        fields.push((
            "Right with the encoder",
            format!(
                "{} ({} without it)",
                share(report.correct),
                share(report.correct_without)
            ),
        ));
    }
    output::fields(&fields)
}

/// Returns how the encoder was used for a request.
pub(crate) fn record(encoder: &EncoderRecord) -> String {
    let outcome = match encoder.outcome {
        EncoderOutcome::Used => "used",
        EncoderOutcome::Timeout => "not used: it did not answer in time",
        EncoderOutcome::Busy => "not used: it was busy",
        EncoderOutcome::Unavailable => "not used: no replica was ready",
        EncoderOutcome::Zone => "not used: no replica is in the zones that the text may enter",
        EncoderOutcome::NotTrained => "not used: it is not trained on the tasks as they are",
        EncoderOutcome::Failed => "not used: it failed",
    };
    let detail = match encoder.detail.as_str() {
        "" => String::new(),
        detail => format!(" ({detail})"),
    };
    let node = encoder.node.as_ref();
    let node = node.map(|node| format!(" on {node}")).unwrap_or_default();
    let energy = encoder.joules.map(|energy| format!(", {}", joules(energy)));
    let mut fields = vec![(
        "Encoder",
        format!(
            "{}{node}, {outcome}{detail}; {:.1} ms{}",
            encoder.model,
            encoder.duration_ms,
            energy.unwrap_or_default()
        ),
    )];
    if let Some(found) = &encoder.classification {
        let comparison = if found.abstained { "below" } else { "at least" };
        fields.push((
            "By the encoder",
            format!(
                "{} (confidence {:.3}, {comparison} the threshold {:.3})",
                found.best_task, found.confidence, found.threshold
            ),
        ));
        fields.extend(found.nearest.as_ref().map(|nearest| {
            let text = &*nearest.text;
            (
                "Nearest by the encoder",
                format!("'{text}' (cosine {:.2})", nearest.similarity),
            )
        }));
    }
    format!("\n{}", output::fields(&fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::routing::{EncoderTask, NearestExample};
    use flotilla_core::{Joules, ModelName, NodeName, TaskName};

    #[test]
    fn record_says_what_the_encoder_found_or_why_it_was_not_used() {
        let mut encoder = EncoderRecord {
            model: ModelName::new("minilm").unwrap(),
            node: Some(NodeName::new("n1").unwrap()),
            outcome: EncoderOutcome::Used,
            duration_ms: 7.31,
            joules: Some(Joules(0.5)),
            joules_source: None,
            classification: Some(EncoderTask {
                best_task: TaskName::new("banking").unwrap(),
                confidence: 0.9,
                threshold: 0.2,
                abstained: false,
                nearest: Some(NearestExample {
                    text: "freeze my card".to_owned().into(),
                    similarity: 0.812,
                }),
            }),
            detail: String::new(),
        };
        let text = record(&encoder);
        for part in [
            "minilm on n1, used; 7.3 ms",
            "banking (confidence 0.900, at least the threshold 0.200)",
            "'freeze my card' (cosine 0.81)",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        (encoder.node, encoder.classification) = (None, None);
        encoder.outcome = EncoderOutcome::Busy;
        assert!(record(&encoder).contains("minilm, not used: it was busy"));
    }

    #[test]
    fn status_says_how_far_it_is_and_what_is_in_the_way() {
        let mut encoder = EncoderStatus {
            model: ModelName::new("minilm").unwrap(),
            examples: 40,
            embedded: 16,
            trained: false,
            problem: Some("no replica of the model is ready".into()),
            report: None,
        };
        let text = status(&encoder);
        assert!(
            text.contains("not trained: no replica") && text.contains("16 of 40"),
            "{text}"
        );
        encoder.problem = None;
        assert!(status(&encoder).contains("minilm, being trained"));
    }
}

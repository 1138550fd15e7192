//! Why a replica was chosen among the replicas of its model, or why not.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Why a replica was chosen among the compared replicas of its model, or why not. Times and joules
/// are the figures that the choice was made by: they include what the replica has in memory and the
/// pressure of its node, old knowledge counts less, and similar figures count as equal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum SelectionReason {
    /// Chosen: it was the only candidate.
    OnlyReplica,
    /// Chosen: it answers soonest, and no candidate within the slack saves enough energy.
    ShortestTime,
    /// Chosen: it has a free slot, is within the slack of the soonest candidate and has the least
    /// time × √joules.
    LowestEnergy {
        /// Its time as a multiple of the soonest candidate's time.
        time: f32,
        /// Its energy as a multiple of the soonest candidate's energy.
        joules: f32,
    },
    /// Chosen: it has the best score by the task's weights, or the least time among similar scores.
    BestScore,
    /// Chosen: it takes longer by its estimate, but the estimate is old or rests on few answers, so that it
    /// is tried again.
    TriedAgain {
        /// Its time as a multiple of the soonest candidate's, by the estimates as they stand.
        time: f32,
    },
    /// Not chosen: all its slots are busy, and another candidate is sooner.
    NoFreeSlot,
    /// Not chosen: it takes longer than the slack allows.
    TooSlow {
        /// Its time as a multiple of the soonest candidate's time.
        time: f32,
        /// The longest acceptable time, as a multiple of the soonest candidate's time.
        max_time: f32,
    },
    /// Not chosen: its time × √joules is higher.
    HigherCost {
        /// Its time × √joules as a multiple of the chosen candidate's.
        product: f32,
    },
    /// Not chosen: its score is similar to the chosen candidate's, but it takes longer.
    Slower {
        /// Its time as a multiple of the chosen candidate's time.
        time: f32,
    },
    /// Not chosen: its score by the task's weights is lower.
    LowerScore {
        /// The difference from the chosen candidate's score.
        difference: f32,
    },
    /// Not chosen: it is sooner by the estimates, but the chosen candidate is tried again.
    OtherTriedAgain {
        /// The chosen candidate's time as a multiple of its own, by the estimates as they stand.
        time: f32,
    },
    /// Not chosen: it is as good as the chosen candidate, which came first.
    Equivalent,
}

impl SelectionReason {
    /// Whether this is the reason of the chosen replica.
    #[must_use]
    pub fn is_chosen(self) -> bool {
        matches!(
            self,
            Self::OnlyReplica
                | Self::ShortestTime
                | Self::LowestEnergy { .. }
                | Self::BestScore
                | Self::TriedAgain { .. }
        )
    }
}

impl fmt::Display for SelectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyReplica => f.write_str("the only replica of its model"),
            Self::ShortestTime => f.write_str("soonest of its model"),
            Self::LowestEnergy { time, joules } => {
                write!(
                    f,
                    "{time:.2} × the time of the soonest, {joules:.2} × its energy"
                )
            }
            Self::BestScore => f.write_str("best score of its model by the task's weights"),
            Self::TriedAgain { time } => write!(
                f,
                "tried again: its estimate of {time:.2} × the time of the soonest is old or rests on few answers"
            ),
            Self::NoFreeSlot => f.write_str("no free slot, and another replica is sooner"),
            Self::TooSlow { time, max_time } => {
                write!(
                    f,
                    "{time:.2} × the time of the soonest, at most {max_time:.2} × is accepted"
                )
            }
            Self::HigherCost { product } => {
                write!(f, "{product:.2} × the time × √joules of the chosen replica")
            }
            Self::Slower { time } => write!(f, "{time:.2} × the time of the chosen replica"),
            Self::LowerScore { difference } => {
                write!(f, "score {difference:.2} below the chosen replica's")
            }
            Self::OtherTriedAgain { time } => write!(
                f,
                "sooner by its estimate, but the chosen replica, {time:.2} × its time so far, is tried again"
            ),
            Self::Equivalent => f.write_str("as good as the chosen replica, which came first"),
        }
    }
}

/// Serializes a reason together with its text, for readers of the record that lack this program.
pub(super) fn with_text<S: Serializer>(
    selection: &Option<SelectionReason>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct ReasonWithText<'a> {
        #[serde(flatten)]
        selection: &'a SelectionReason,
        text: String,
    }
    let with_text = selection.as_ref().map(|selection| ReasonWithText {
        selection,
        text: selection.to_string(),
    });
    with_text.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        #[serde(serialize_with = "with_text")]
        selection: Option<SelectionReason>,
    }

    #[test]
    fn reason_is_serialized_with_its_text_and_deserialized() {
        let all = [
            SelectionReason::OnlyReplica,
            SelectionReason::ShortestTime,
            SelectionReason::LowestEnergy {
                time: 1.25,
                joules: 0.5,
            },
            SelectionReason::BestScore,
            SelectionReason::TriedAgain { time: 4.0 },
            SelectionReason::OtherTriedAgain { time: 4.0 },
            SelectionReason::NoFreeSlot,
            SelectionReason::TooSlow {
                time: 3.0,
                max_time: 1.5,
            },
            SelectionReason::HigherCost { product: 2.0 },
            SelectionReason::Slower { time: 2.0 },
            SelectionReason::LowerScore { difference: 0.25 },
            SelectionReason::Equivalent,
        ];
        for selection in all {
            let row = Row {
                selection: Some(selection),
            };
            let json = serde_json::to_value(&row).unwrap();
            assert_eq!(json["selection"]["text"], selection.to_string());
            assert_eq!(serde_json::from_value::<Row>(json).unwrap(), row);
        }
        let json = serde_json::to_string(&all[7]).unwrap();
        assert_eq!(json, r#"{"reason":"too_slow","time":3.0,"max_time":1.5}"#);
    }
}

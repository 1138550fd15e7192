//! How a replica stood beside the others of its model: why it was chosen, or why not.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// How a replica stood beside the others of its model that were compared. The one that came first was
/// picked. Times and joules are as they count for that: with what is in memory, with strain, with what
/// is old counted less, and alike where they are hardly apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum SelectionReason {
    /// First: there was no other of its model.
    OnlyReplica,
    /// First: it is the soonest, and none that is hardly later saves enough energy.
    ShortestTime,
    /// First: it has room and is hardly later than the soonest, with the least time × √joules. How many
    /// times the time and the joules of the soonest it counts as.
    LowestEnergy { time: f32, joules: f32 },
    /// First: it comes nearest to what the task weighs.
    BestScore,
    /// It has no room, and another one is sooner.
    NoCapacity,
    /// So many times as long as the soonest, and so many are the most.
    TooSlow { time: f32, most: f32 },
    /// Its time × √joules is so many times that of the first.
    HigherCost { product: f32 },
    /// So many times as long as the first.
    Slower { time: f32 },
    /// It scores so much less than the first.
    LowerScore { by: f32 },
    /// Nothing tells it from the first by more than it takes to be picked instead.
    Equivalent,
}

impl SelectionReason {
    /// Whether it came first.
    #[must_use]
    pub fn is_first(self) -> bool {
        matches!(
            self,
            Self::OnlyReplica | Self::ShortestTime | Self::LowestEnergy { .. } | Self::BestScore
        )
    }
}

impl fmt::Display for SelectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyReplica => f.write_str("the only one of its model"),
            Self::ShortestTime => f.write_str("soonest of its model"),
            Self::LowestEnergy { time, joules } => {
                write!(
                    f,
                    "{time:.2} × the soonest's time, {joules:.2} × its joules"
                )
            }
            Self::BestScore => f.write_str("nearest of its model to what the task weighs"),
            Self::NoCapacity => f.write_str("no room, and another one is sooner"),
            Self::TooSlow { time, most } => {
                write!(f, "{time:.2} × the soonest's time, {most:.2} at most")
            }
            Self::HigherCost { product } => {
                write!(f, "{product:.2} × the time × √joules of the first")
            }
            Self::Slower { time } => write!(f, "{time:.2} × the time of the first"),
            Self::LowerScore { by } => write!(f, "scores {by:.2} less than the first of its model"),
            Self::Equivalent => f.write_str("nothing that counts tells it from the first"),
        }
    }
}

/// Writes a selection with its words, for those who read the record without this program.
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
    let told = selection.as_ref().map(|selection| ReasonWithText {
        selection,
        text: selection.to_string(),
    });
    told.serialize(serializer)
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
    fn a_standing_is_written_with_its_words_and_read_again() {
        let all = [
            SelectionReason::OnlyReplica,
            SelectionReason::ShortestTime,
            SelectionReason::LowestEnergy {
                time: 1.25,
                joules: 0.5,
            },
            SelectionReason::BestScore,
            SelectionReason::NoCapacity,
            SelectionReason::TooSlow {
                time: 3.0,
                most: 1.5,
            },
            SelectionReason::HigherCost { product: 2.0 },
            SelectionReason::Slower { time: 2.0 },
            SelectionReason::LowerScore { by: 0.25 },
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
        let json = serde_json::to_string(&all[5]).unwrap();
        assert_eq!(json, r#"{"reason":"too_slow","time":3.0,"most":1.5}"#);
    }
}

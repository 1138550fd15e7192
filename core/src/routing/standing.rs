//! How a replica stood beside the others of its model: why it was chosen, or why not.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// How a replica stood beside the others of its model that were compared. The one that came first was
/// picked. Times and joules are as they count for that: with what is in memory, with strain, with what
/// is old counted less, and alike where they are hardly apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Standing {
    /// First: there was no other of its model.
    Only,
    /// First: it is the soonest, and none that is hardly later saves enough energy.
    Soonest,
    /// First: it has room and is hardly later than the soonest, with the least time × √joules. How many
    /// times the time and the joules of the soonest it counts as.
    Thriftiest { time: f32, joules: f32 },
    /// First: it comes nearest to what the task weighs.
    Nearest,
    /// It has no room, and another one is sooner.
    Busy,
    /// So many times as long as the soonest, and so many are the most.
    Late { time: f32, most: f32 },
    /// Its time × √joules is so many times that of the first.
    Costlier { product: f32 },
    /// So many times as long as the first.
    Slower { time: f32 },
    /// It scores so much less than the first.
    Further { by: f32 },
    /// Nothing tells it from the first by more than it takes to be picked instead.
    Alike,
}

impl Standing {
    /// Whether it came first.
    #[must_use]
    pub fn is_first(self) -> bool {
        matches!(
            self,
            Self::Only | Self::Soonest | Self::Thriftiest { .. } | Self::Nearest
        )
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("the only one of its model"),
            Self::Soonest => f.write_str("soonest of its model"),
            Self::Thriftiest { time, joules } => {
                write!(
                    f,
                    "{time:.2} × the soonest's time, {joules:.2} × its joules"
                )
            }
            Self::Nearest => f.write_str("nearest of its model to what the task weighs"),
            Self::Busy => f.write_str("no room, and another one is sooner"),
            Self::Late { time, most } => {
                write!(f, "{time:.2} × the soonest's time, {most:.2} at most")
            }
            Self::Costlier { product } => {
                write!(f, "{product:.2} × the time × √joules of the first")
            }
            Self::Slower { time } => write!(f, "{time:.2} × the time of the first"),
            Self::Further { by } => write!(f, "scores {by:.2} less than the first of its model"),
            Self::Alike => f.write_str("nothing that counts tells it from the first"),
        }
    }
}

/// Writes a standing with its words, for those who read the record without this program.
pub(super) fn told<S: Serializer>(
    standing: &Option<Standing>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Told<'a> {
        #[serde(flatten)]
        standing: &'a Standing,
        says: String,
    }
    let told = standing.as_ref().map(|standing| Told {
        standing,
        says: standing.to_string(),
    });
    told.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        #[serde(serialize_with = "told")]
        standing: Option<Standing>,
    }

    #[test]
    fn a_standing_is_written_with_its_words_and_read_again() {
        let all = [
            Standing::Only,
            Standing::Soonest,
            Standing::Thriftiest {
                time: 1.25,
                joules: 0.5,
            },
            Standing::Nearest,
            Standing::Busy,
            Standing::Late {
                time: 3.0,
                most: 1.5,
            },
            Standing::Costlier { product: 2.0 },
            Standing::Slower { time: 2.0 },
            Standing::Further { by: 0.25 },
            Standing::Alike,
        ];
        for standing in all {
            let row = Row {
                standing: Some(standing),
            };
            let json = serde_json::to_value(&row).unwrap();
            assert_eq!(json["standing"]["says"], standing.to_string());
            assert_eq!(serde_json::from_value::<Row>(json).unwrap(), row);
        }
        let json = serde_json::to_string(&all[5]).unwrap();
        assert_eq!(json, r#"{"is":"late","time":3.0,"most":1.5}"#);
    }
}

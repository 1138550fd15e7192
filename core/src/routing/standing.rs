//! How a replica stood beside the others of its model: why it was chosen, or why not.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::prefer::SLACK;

/// How a replica stood beside the others of its model that were compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Standing {
    /// First: there was no other.
    Only,
    /// First: it is expected to answer soonest, and none that is hardly later saves enough energy.
    Soonest,
    /// First: it has room and is hardly later than the soonest, with the least time × √joules. How many
    /// times the time and the joules of the soonest it counts as.
    Thriftiest { time: f32, joules: f32 },
    /// First: it comes nearest to what the task weighs.
    Nearest,
    /// It has no room, and another one is sooner.
    Busy,
    /// So many times as long as the soonest, which is too long.
    Late { time: f32 },
    /// Its time × √joules is so many times that of the first.
    Costlier { product: f32 },
    /// So many times as long as the first.
    Slower { time: f32 },
    /// It misses what the task weighs by so much more than the first.
    Further { by: f32 },
    /// Nothing tells it from the first but the order, which is drawn.
    Equal,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("no other could be asked"),
            Self::Soonest => f.write_str("answers soonest"),
            Self::Thriftiest { time, joules } => {
                write!(
                    f,
                    "{time:.2} × the soonest's time, {joules:.2} × its joules"
                )
            }
            Self::Nearest => f.write_str("nearest of its model to what the task weighs"),
            Self::Busy => f.write_str("has no room, and another one is sooner"),
            Self::Late { time } => write!(f, "{time:.2} × the soonest's time: {SLACK} is the most"),
            Self::Costlier { product } => {
                write!(f, "{product:.2} × the time × √joules of the first")
            }
            Self::Slower { time } => write!(f, "{time:.2} × the time of the first"),
            Self::Further { by } => write!(f, "scores {by:.2} less than the first of its model"),
            Self::Equal => f.write_str("as good as the first: their order is drawn"),
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

//! The record of routing decisions: the last so many, in memory, each under an id that says
//! which controller made it.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use flotilla_core::Joules;
use flotilla_core::generate::{Event, RequestError, Usage};
use flotilla_core::routing::{Decision, End, Outcome};
use serde::{Deserialize, Serialize};

/// Where joules come from that no meter has told: the time that was computed for, and what the node
/// draws.
const ESTIMATED: &str = "estimated";

/// Keeps the last decisions. Cheap to clone.
#[derive(Clone)]
pub struct Decisions {
    inner: Arc<Inner>,
}

struct Inner {
    /// Of the controller.
    id: String,
    next: AtomicU64,
    /// The decision of number n is in slot n modulo their number, until another takes it.
    slots: Box<[ArcSwapOption<Kept>]>,
}

struct Kept {
    number: u64,
    at: u64,
    decision: Decision,
    outcome: OnceLock<Outcome>,
}

/// A decision as it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Under which name it is on record. `None`: nothing was asked of a model.
    pub id: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub at: u64,
    #[serde(flatten)]
    pub decision: Decision,
    /// What became of the request. `None`: it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

impl Decisions {
    /// Room for `kept` decisions of the controller `id`.
    #[must_use]
    pub fn new(id: &str, kept: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                id: id.to_owned(),
                next: AtomicU64::new(0),
                slots: (0..kept.max(1)).map(|_| ArcSwapOption::empty()).collect(),
            }),
        }
    }

    /// Puts a decision on record. The outcome is told to what is returned.
    pub(crate) fn keep(&self, decision: Decision, begun: Instant) -> Recorder {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let kept = Arc::new(Kept {
            number,
            at: unix_millis(),
            decision,
            outcome: OnceLock::new(),
        });
        let slot = (number % self.inner.slots.len() as u64) as usize;
        self.inner.slots[slot].store(Some(kept.clone()));
        let mut recorder = Recorder {
            id: self.id(number),
            outcome: Outcome::default(),
            kept: kept.clone(),
            begun,
        };
        // What smaller models took that were asked before is part of what the answer takes.
        for tier in &kept.decision.tiers {
            if let Some(joules) = tier.joules {
                recorder.joules(joules);
            }
        }
        recorder
    }

    /// Puts a decision on record whose request ends at once.
    pub fn note(&self, decision: Decision, begun: Instant) {
        self.keep(decision, begun).answered();
    }

    /// The decision of an id that [`Decisions::owner`] says is of this controller.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<DecisionRecord> {
        let (controller, number) = id.split_once('-')?;
        if controller != self.inner.id {
            return None;
        }
        let number = u64::from_str_radix(number, 16).ok()?;
        let slot = (number % self.inner.slots.len() as u64) as usize;
        let kept = self.inner.slots[slot].load_full()?;
        (kept.number == number).then(|| DecisionRecord {
            id: Some(self.id(number)),
            at: kept.at,
            decision: kept.decision.clone(),
            outcome: kept.outcome.get().cloned(),
        })
    }

    /// Which controller made the decision of an id.
    #[must_use]
    pub fn owner(id: &str) -> Option<&str> {
        Some(id.split_once('-')?.0)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number:x}", self.inner.id)
    }
}

/// Writes down what becomes of a request, once: as soon as it is known, so that whoever has seen the
/// end of an answer finds it on record.
pub(crate) struct Recorder {
    id: String,
    kept: Arc<Kept>,
    /// When the request arrived.
    begun: Instant,
    outcome: Outcome,
}

impl Recorder {
    /// Under which name the decision is on record.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The first events are there.
    pub(crate) fn first_events(&mut self) {
        self.outcome.first_token_ms = Some(millis(self.begun));
    }

    /// Events go to the client. Returns what the answer took, once that is known: it is complete
    /// then, as whoever has that may not wait for the end of the stream.
    pub(crate) fn events(&mut self, events: &[Event]) -> Option<Usage> {
        let Some(Event::Usage(usage)) = events.last() else {
            return None;
        };
        self.usage(*usage);
        Some(*usage)
    }

    /// What the answer took.
    pub(crate) fn usage(&mut self, usage: Usage) {
        self.outcome.prompt_tokens = Some(usage.prompt_tokens);
        self.outcome.completion_tokens = Some(usage.completion_tokens);
        let queued = usage.timing.map(|timing| timing.queued);
        self.outcome.queued_ms = queued.map(|queued| queued.as_secs_f64() * 1e3);
    }

    /// What energy it took, on top of what is known.
    pub(crate) fn joules(&mut self, joules: Joules) {
        let before = self.outcome.joules.unwrap_or_default();
        self.outcome.joules = Some(before + joules);
        self.outcome.joules_source = Some(Cow::Borrowed(ESTIMATED));
    }

    /// The answer is complete.
    pub(crate) fn answered(&mut self) {
        self.outcome.end = End::Answered;
        self.write_down();
    }

    /// There is no answer, or only a part of it.
    pub(crate) fn failed(&mut self, error: &RequestError) {
        self.outcome.end = End::Failed;
        self.outcome.error = Some(error.to_string());
        self.write_down();
    }

    fn write_down(&mut self) {
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.total_ms = millis(self.begun);
        // What was written down first holds.
        let _ = self.kept.outcome.set(outcome);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.write_down();
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(requested: &str) -> Decision {
        Decision {
            requested: requested.into(),
            ..Decision::default()
        }
    }

    #[test]
    fn the_last_ones_are_kept_with_what_became_of_them() {
        let decisions = Decisions::new("abc", 2);
        let mut first = decisions.keep(named("one"), Instant::now());
        let id = first.id().to_owned();
        assert_eq!(Decisions::owner(&id), Some("abc"));
        assert_eq!(decisions.get(&id).unwrap().outcome, None);
        first.first_events();
        first.usage(Usage {
            prompt_tokens: 3,
            completion_tokens: 4,
            timing: None,
        });
        first.joules(Joules(2.0));
        first.answered();
        let told = decisions.get(&id).unwrap();
        assert_eq!(told.decision.requested, "one");
        let outcome = told.outcome.unwrap();
        assert_eq!(
            (outcome.end, outcome.completion_tokens),
            (End::Answered, Some(4))
        );
        assert_eq!(outcome.joules, Some(Joules(2.0)));
        assert!(outcome.first_token_ms.unwrap() <= outcome.total_ms);

        drop(first);
        drop(decisions.keep(named("two"), Instant::now()));
        let third = decisions.keep(named("three"), Instant::now());
        assert!(decisions.get(&id).is_none(), "its slot was taken");
        for other in ["", "abc", "abc-zz", "abd-0", "abc-999"] {
            assert!(decisions.get(other).is_none(), "{other}");
        }
        let id = third.id().to_owned();
        drop(third);
        let outcome = decisions.get(&id).unwrap().outcome.unwrap();
        assert_eq!(outcome.end, End::Abandoned);
    }
}

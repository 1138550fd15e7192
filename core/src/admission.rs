//! Who is next where requests wait: by priority, then fairly between those who ask.
//!
//! A higher priority goes first, but one place in so many goes to the next lower one that waits, so
//! that nobody waits for ever. Within a priority the flows (one for each API key, say) take
//! turns by start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing", 1996) with
//! requests of equal weight: a flow that floods waits behind itself, not before the others. Where
//! the queue is full, a newcomer takes the place of a request of lower priority, or of the flow
//! that has most of those of its own priority.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How urgent a request is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// May wait: batches.
    Low,
    #[default]
    Normal,
    /// Somebody waits for it.
    High,
}

impl Priority {
    /// All of them, the least urgent first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Its word in requests and specs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// A word that is no priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 'low', 'normal' or 'high', is '{0}'")]
pub struct ParsePriorityError(String);

impl FromStr for Priority {
    type Err = ParsePriorityError;
    fn from_str(word: &str) -> Result<Self, ParsePriorityError> {
        let mut all = Self::ALL.into_iter();
        all.find(|priority| priority.as_str() == word)
            .ok_or_else(|| ParsePriorityError(word.to_owned()))
    }
}

/// Whom requests are of that share a turn; 0 for those of nobody in particular.
pub type FairnessKey = u64;

/// How a request stands in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueKey {
    pub priority: Priority,
    pub fairness_key: FairnessKey,
}

/// After so many requests in a row that went before a lower priority, one of the next lower one
/// that waits is next.
const PATIENCE: u32 = 8;

/// Flows without a waiting request that are remembered, and as many again as there are with two.
const REMEMBERED: usize = 64;

/// By how many waiting requests a flow must be ahead of a newcomer's to lose a place to it.
const AHEAD: usize = 2;

/// A place in a [`FairQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueEntryId {
    queue_key: QueueKey,
    turn: QueuePosition,
}

/// Turns of a priority come in this order: by start tag, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueuePosition {
    start: u64,
    arrival: u64,
}

#[derive(Debug)]
struct FlowQueue<T> {
    waiting: BTreeMap<QueuePosition, (FairnessKey, T)>,
    /// For each flow that waits: how many, and the start tag of its next one.
    flows: HashMap<FairnessKey, (usize, u64)>,
    /// The start tag of what was next last.
    time: u64,
}

impl<T> Default for FlowQueue<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            flows: HashMap::new(),
            time: 0,
        }
    }
}

impl<T> FlowQueue<T> {
    fn take(&mut self, turn: QueuePosition) -> Option<T> {
        let (flow, item) = self.waiting.remove(&turn)?;
        if let Some((waiting, _)) = self.flows.get_mut(&flow) {
            *waiting -= 1;
        }
        Some(item)
    }

    fn next(&mut self) -> Option<T> {
        let turn = *self.waiting.first_key_value()?.0;
        self.time = turn.start;
        let item = self.take(turn);
        // One that had its turn is remembered until the others had theirs: it would be first again
        // otherwise. Forgetting costs as much as there is to forget.
        if self.flows.len() > 2 * self.waiting.len() + REMEMBERED {
            let (time, before) = (self.time, self.flows.len());
            self.flows
                .retain(|_, (waiting, next)| *waiting > 0 || *next > time);
            if 2 * self.flows.len() > before {
                self.flows.retain(|_, (waiting, _)| *waiting > 0);
            }
        }
        item
    }

    /// Takes a request back that did not have its turn.
    fn withdraw(&mut self, turn: QueuePosition) -> Option<T> {
        let (flow, _) = self.waiting.get(&turn)?;
        if let Some((_, next)) = self.flows.get_mut(flow) {
            *next = next.saturating_sub(1).max(self.time);
        }
        self.take(turn)
    }

    fn of(&self, fairness_key: FairnessKey) -> usize {
        self.flows
            .get(&fairness_key)
            .map_or(0, |(waiting, _)| *waiting)
    }

    /// The flow that has most, and the last turn of it.
    fn longest(&self) -> Option<(FairnessKey, usize)> {
        let waiting = self.flows.iter().filter(|(_, (n, _))| *n > 0);
        let flows = waiting.map(|(flow, (n, _))| (*flow, *n));
        // The number breaks ties, so that it is the same one every time.
        flows.max_by_key(|(flow, waiting)| (*waiting, *flow))
    }

    fn last_of(&self, of: Option<FairnessKey>) -> Option<QueuePosition> {
        let mut turns = self.waiting.iter().rev();
        let last = turns.find(|(_, (flow, _))| of.is_none_or(|of| of == *flow));
        last.map(|(turn, _)| *turn)
    }
}

/// Requests that wait, each with what there is to tell it. Costs no more than the logarithm of
/// their number, but for a full queue, where it costs their number.
#[derive(Debug)]
pub struct FairQueue<T> {
    lines: [FlowQueue<T>; Priority::ALL.len()],
    arrivals: u64,
    /// For each priority: requests in a row that went before one of lower priority.
    overtaken: [u32; Priority::ALL.len()],
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            lines: Default::default(),
            arrivals: 0,
            overtaken: Default::default(),
        }
    }
}

impl<T> FairQueue<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    /// Joins the queue.
    pub fn push(&mut self, queue_key: QueueKey, item: T) -> QueueEntryId {
        let line = &mut self.lines[queue_key.priority as usize];
        let (waiting, next) = line
            .flows
            .entry(queue_key.fairness_key)
            .or_insert((0, line.time));
        let start = (*next).max(line.time);
        *waiting += 1;
        *next = start + 1;
        let turn = QueuePosition {
            start,
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        line.waiting.insert(turn, (queue_key.fairness_key, item));
        QueueEntryId { queue_key, turn }
    }

    /// Who is next leaves the queue.
    pub fn pop(&mut self) -> Option<T> {
        let waits = |line: &FlowQueue<T>| !line.waiting.is_empty();
        let mut first = self.lines.iter().rposition(waits)?;
        // What each priority gives up goes to the next lower one, which may give it up in turn.
        while let Some(below) = self.lines[..first].iter().rposition(waits) {
            if self.overtaken[first] < PATIENCE {
                self.overtaken[first] += 1;
                break;
            }
            self.overtaken[first] = 0;
            first = below;
        }
        self.lines[first].next()
    }

    /// Leaves the queue before its turn. `None`: its turn came.
    pub fn remove(&mut self, place: QueueEntryId) -> Option<T> {
        self.lines[place.queue_key.priority as usize].withdraw(place.turn)
    }

    /// Makes room in a full queue for a newcomer. Who has to leave for it is returned; `None`: it
    /// is the newcomer that has to go.
    pub fn displace(&mut self, newcomer: QueueKey) -> Option<T> {
        let own = newcomer.priority as usize;
        for line in &mut self.lines[..own] {
            // Of the least urgent ones the one that would wait longest.
            let longest = line.longest().map(|(flow, _)| flow);
            if let Some(turn) = longest.and_then(|flow| line.last_of(Some(flow))) {
                return line.withdraw(turn);
            }
        }
        let line = &mut self.lines[own];
        let (flow, waiting) = line.longest()?;
        if flow == newcomer.fairness_key || waiting < line.of(newcomer.fairness_key) + AHEAD {
            return None;
        }
        let turn = line.last_of(Some(flow))?;
        line.withdraw(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue_key(priority: Priority, fairness_key: FairnessKey) -> QueueKey {
        QueueKey {
            priority,
            fairness_key,
        }
    }

    fn drain<T>(queue: &mut FairQueue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn one_flow_of_one_priority_is_first_come_first_served() {
        let mut queue = FairQueue::default();
        for n in 0..20 {
            queue.push(QueueKey::default(), n);
        }
        assert_eq!(drain(&mut queue), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_flow_that_floods_waits_behind_itself() {
        let mut queue = FairQueue::default();
        for _ in 0..50 {
            queue.push(queue_key(Priority::Normal, 1), 1);
        }
        queue.pop();
        for _ in 0..3 {
            queue.push(queue_key(Priority::Normal, 2), 2);
        }
        let order = drain(&mut queue);
        let of_two: Vec<_> = (0..order.len()).filter(|i| order[*i] == 2).collect();
        assert!(of_two[2] <= 6, "{of_two:?}");
    }

    #[test]
    fn two_requests_at_a_time_do_not_starve_a_backlog() {
        let mut queue = FairQueue::default();
        for _ in 0..10 {
            queue.push(queue_key(Priority::Normal, 2), 2);
        }
        let mut order = Vec::new();
        queue.push(queue_key(Priority::Normal, 1), 1);
        for _ in 0..16 {
            let next = queue.pop().unwrap();
            order.push(next);
            if next == 1 {
                queue.push(queue_key(Priority::Normal, 1), 1);
            }
        }
        let of_two = order.iter().filter(|flow| **flow == 2).count();
        assert!((7..=9).contains(&of_two), "{order:?}");
    }

    #[test]
    fn who_leaves_loses_no_turns() {
        let mut queue = FairQueue::default();
        let places: Vec<_> = (0..50)
            .map(|_| queue.push(queue_key(Priority::Normal, 1), 1))
            .collect();
        for place in places {
            queue.remove(place);
        }
        for _ in 0..10 {
            queue.push(queue_key(Priority::Normal, 2), 2);
        }
        queue.push(queue_key(Priority::Normal, 1), 1);
        let order = drain(&mut queue);
        let place = order.iter().position(|flow| *flow == 1).unwrap();
        assert!(place <= 1, "{order:?}");
    }

    #[test]
    fn a_thousand_flows_that_had_their_turns_are_forgotten() {
        let mut queue = FairQueue::default();
        for flow in 0..1_000 {
            queue.push(queue_key(Priority::Normal, flow), flow);
            queue.pop();
        }
        let remembered = queue.lines[Priority::Normal as usize].flows.len();
        assert!(remembered <= 2 * REMEMBERED, "{remembered}");
    }

    #[test]
    fn a_flow_that_was_silent_saves_up_nothing() {
        let mut queue = FairQueue::default();
        for _ in 0..10 {
            queue.push(queue_key(Priority::Normal, 1), 1);
            queue.pop();
        }
        for _ in 0..4 {
            queue.push(queue_key(Priority::Normal, 1), 1);
            queue.push(queue_key(Priority::Normal, 2), 2);
        }
        let order = drain(&mut queue);
        assert_eq!(order, [2, 1, 2, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn the_urgent_go_first_and_the_others_are_not_forgotten() {
        let mut queue = FairQueue::default();
        for _ in 0..30 {
            queue.push(queue_key(Priority::Low, 0), Priority::Low);
            queue.push(queue_key(Priority::High, 0), Priority::High);
        }
        let order = drain(&mut queue);
        let first_low = order.iter().position(|p| *p == Priority::Low).unwrap();
        assert_eq!(first_low, PATIENCE as usize);
        let high = order[..18].iter().filter(|p| **p == Priority::High);
        assert_eq!(high.count(), 16);
    }

    #[test]
    fn the_least_urgent_have_turns_below_two_backlogs() {
        let mut queue = FairQueue::default();
        for _ in 0..200 {
            queue.push(queue_key(Priority::High, 0), Priority::High);
            queue.push(queue_key(Priority::Normal, 0), Priority::Normal);
        }
        queue.push(queue_key(Priority::Low, 0), Priority::Low);
        let order: Vec<_> = (0..100).filter_map(|_| queue.pop()).collect();
        assert!(order.contains(&Priority::Low), "{order:?}");
        let high = order.iter().filter(|p| **p == Priority::High).count();
        assert!(high > 85, "{high}");
    }

    #[test]
    fn a_full_queue_makes_room_for_the_urgent_and_for_the_modest() {
        let mut queue = FairQueue::default();
        queue.push(queue_key(Priority::Normal, 1), "a1");
        queue.push(queue_key(Priority::Normal, 1), "a2");
        queue.push(queue_key(Priority::Low, 1), "low");
        assert_eq!(queue.displace(queue_key(Priority::High, 1)), Some("low"));
        assert_eq!(queue.displace(queue_key(Priority::High, 1)), Some("a2"));
        queue.push(queue_key(Priority::Normal, 1), "a3");
        assert_eq!(queue.displace(queue_key(Priority::Normal, 1)), None);
        assert_eq!(queue.displace(queue_key(Priority::Low, 2)), None);
        assert_eq!(queue.displace(queue_key(Priority::Normal, 2)), Some("a3"));
        assert_eq!(queue.displace(queue_key(Priority::Normal, 2)), None);
        assert_eq!(drain(&mut queue), ["a1"]);
    }

    #[test]
    fn who_leaves_is_not_next() {
        let mut queue = FairQueue::default();
        let first = queue.push(QueueKey::default(), 1);
        queue.push(QueueKey::default(), 2);
        assert_eq!(queue.remove(first), Some(1));
        assert_eq!(queue.remove(first), None);
        assert_eq!(queue.pop(), Some(2));
        assert!(queue.is_empty());
    }

    #[test]
    fn priorities_are_read_from_their_words() {
        for priority in Priority::ALL {
            assert_eq!(priority.as_str().parse(), Ok(priority));
        }
        assert!("urgent".parse::<Priority>().is_err());
    }

    proptest! {
        #[test]
        fn nobody_is_lost_and_nobody_is_next_twice(
            pushed in proptest::collection::vec((0usize..3, 0u64..5), 1..80),
            leaves in proptest::collection::vec(any::<bool>(), 80),
        ) {
            let mut queue = FairQueue::default();
            let places: Vec<_> = pushed
                .iter()
                .enumerate()
                .map(|(n, (priority, flow))| queue.push(queue_key(Priority::ALL[*priority], *flow), n))
                .collect();
            let mut seen: Vec<usize> = places
                .iter()
                .zip(&leaves)
                .filter_map(|(place, leaves)| leaves.then(|| queue.remove(*place)).flatten())
                .collect();
            prop_assert_eq!(queue.len() + seen.len(), pushed.len());
            seen.extend(drain(&mut queue));
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..pushed.len()).collect::<Vec<_>>());
        }

        #[test]
        fn flows_that_all_wait_get_equal_parts(flows in 2u64..6, each in 5usize..20) {
            let mut queue = FairQueue::default();
            for flow in 0..flows {
                for _ in 0..each {
                    queue.push(queue_key(Priority::Normal, flow), flow);
                }
            }
            let part: Vec<_> = (0..flows as usize * 4).filter_map(|_| queue.pop()).collect();
            for flow in 0..flows {
                prop_assert_eq!(part.iter().filter(|f| **f == flow).count(), 4);
            }
        }
    }
}

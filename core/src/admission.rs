//! The order of waiting requests: by priority, then fairly between flows.
//!
//! Requests of a higher priority go first. After a number of them in a row, one of the next lower
//! priority goes, so that no request waits forever. Within a priority the flows (usually one per API
//! key) take turns by start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing",
//! 1996) with requests of equal weight: a flow with many requests delays itself and not the others.
//! In a full queue, a new request displaces one of a lower priority, or one of the flow with the
//! most requests of its own priority.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The priority of a request.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// For batch work that may wait.
    Low,
    /// The default.
    #[default]
    Normal,
    /// For interactive work.
    High,
}

impl Priority {
    /// All priorities, lowest first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Returns the name of the priority in requests and specs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// The error returned when a text is not a priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 'low', 'normal' or 'high', is '{0}'")]
pub struct ParsePriorityError(String);

impl FromStr for Priority {
    type Err = ParsePriorityError;
    fn from_str(name: &str) -> Result<Self, ParsePriorityError> {
        let mut all = Self::ALL.into_iter();
        all.find(|priority| priority.as_str() == name)
            .ok_or_else(|| ParsePriorityError(name.to_owned()))
    }
}

/// The key of a flow (usually a hash of the API key); 0 for anonymous requests.
pub type FairnessKey = u64;

/// The values that decide the order of a request in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueKey {
    /// Priority of the request.
    pub priority: Priority,
    /// Flow of the request.
    pub fairness_key: FairnessKey,
}

/// Number of requests in a row that may go before waiting ones of a lower priority.
const MAX_OVERTAKES: u32 = 8;

/// Number of flows without waiting requests that are kept, in addition to two per waiting request.
const MAX_IDLE_FLOWS: usize = 64;

/// Number of waiting requests by which a flow must exceed the flow of a new request to be displaced
/// by it.
const DISPLACEMENT_LEAD: usize = 2;

/// Identifies a waiting request in a [`FairQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueEntryId {
    queue_key: QueueKey,
    position: QueuePosition,
}

/// The position of a request within its priority: by start tag, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueuePosition {
    start: u64,
    arrival: u64,
}

/// The waiting requests of one priority.
#[derive(Debug)]
struct PriorityLevel<T> {
    waiting: BTreeMap<QueuePosition, (FairnessKey, T)>,
    /// By flow: the number of waiting requests, and the start tag of the next request to arrive.
    flows: HashMap<FairnessKey, (usize, u64)>,
    /// The virtual time: the start tag of the request that left the queue last.
    virtual_time: u64,
}

impl<T> Default for PriorityLevel<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            flows: HashMap::new(),
            virtual_time: 0,
        }
    }
}

impl<T> PriorityLevel<T> {
    fn remove(&mut self, position: QueuePosition) -> Option<T> {
        let (flow, item) = self.waiting.remove(&position)?;
        if let Some((waiting, _)) = self.flows.get_mut(&flow) {
            *waiting -= 1;
        }
        Some(item)
    }

    fn next(&mut self) -> Option<T> {
        let position = *self.waiting.first_key_value()?.0;
        self.virtual_time = position.start;
        let item = self.remove(position);
        // A flow is kept until the virtual time reaches its next start tag; without it the flow
        // would go first again. The cost of removing flows is proportional to their number.
        if self.flows.len() > 2 * self.waiting.len() + MAX_IDLE_FLOWS {
            let (time, before) = (self.virtual_time, self.flows.len());
            self.flows
                .retain(|_, (waiting, next)| *waiting > 0 || *next > time);
            if 2 * self.flows.len() > before {
                self.flows.retain(|_, (waiting, _)| *waiting > 0);
            }
        }
        item
    }

    /// Removes a request before its turn and gives its start tag back to the flow.
    fn withdraw(&mut self, position: QueuePosition) -> Option<T> {
        let (flow, _) = self.waiting.get(&position)?;
        if let Some((_, next)) = self.flows.get_mut(flow) {
            *next = next.saturating_sub(1).max(self.virtual_time);
        }
        self.remove(position)
    }

    fn waiting_of(&self, fairness_key: FairnessKey) -> usize {
        self.flows
            .get(&fairness_key)
            .map_or(0, |(waiting, _)| *waiting)
    }

    /// Returns the flow with the most waiting requests, and their number.
    fn longest_flow(&self) -> Option<(FairnessKey, usize)> {
        let waiting = self.flows.iter().filter(|(_, (n, _))| *n > 0);
        let flows = waiting.map(|(flow, (n, _))| (*flow, *n));
        // The key breaks ties, so that the result is deterministic.
        flows.max_by_key(|(flow, waiting)| (*waiting, *flow))
    }

    /// Returns the position of the last request of a flow.
    fn last_position(&self, fairness_key: FairnessKey) -> Option<QueuePosition> {
        let mut positions = self.waiting.iter().rev();
        let last = positions.find(|(_, (flow, _))| fairness_key == *flow);
        last.map(|(position, _)| *position)
    }
}

/// A queue of waiting requests, each with an item of type `T`. Operations take logarithmic time,
/// except [`FairQueue::displace`], which takes linear time.
#[derive(Debug)]
pub struct FairQueue<T> {
    levels: [PriorityLevel<T>; Priority::ALL.len()],
    /// Number of requests that arrived so far.
    arrivals: u64,
    /// By priority: number of requests in a row that went before waiting ones of a lower priority.
    overtakes: [u32; Priority::ALL.len()],
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            levels: Default::default(),
            arrivals: 0,
            overtakes: Default::default(),
        }
    }
}

impl<T> FairQueue<T> {
    /// Returns the number of waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels.iter().map(|level| level.waiting.len()).sum()
    }

    /// Returns whether no request waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.iter().all(|level| level.waiting.is_empty())
    }

    /// Adds a request to the queue.
    pub fn push(&mut self, queue_key: QueueKey, item: T) -> QueueEntryId {
        let level = &mut self.levels[queue_key.priority as usize];
        let (waiting, next) = level
            .flows
            .entry(queue_key.fairness_key)
            .or_insert((0, level.virtual_time));
        let start = (*next).max(level.virtual_time);
        *waiting += 1;
        *next = start + 1;
        let position = QueuePosition {
            start,
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        level
            .waiting
            .insert(position, (queue_key.fairness_key, item));
        QueueEntryId {
            queue_key,
            position,
        }
    }

    /// Removes the next request and returns its item.
    pub fn pop(&mut self) -> Option<T> {
        let waits = |level: &PriorityLevel<T>| !level.waiting.is_empty();
        let mut first = self.levels.iter().rposition(waits)?;
        // A priority that yields does so to the next lower one, which may yield in turn.
        while let Some(below) = self.levels[..first].iter().rposition(waits) {
            if self.overtakes[first] < MAX_OVERTAKES {
                self.overtakes[first] += 1;
                break;
            }
            self.overtakes[first] = 0;
            first = below;
        }
        self.levels[first].next()
    }

    /// Removes a request before its turn. Returns `None` if it has left the queue already.
    pub fn remove(&mut self, id: QueueEntryId) -> Option<T> {
        self.levels[id.queue_key.priority as usize].withdraw(id.position)
    }

    /// Makes room in a full queue for a new request. Returns the item of the request that was removed
    /// for it, or `None` if the new request must be rejected.
    pub fn displace(&mut self, new_request: QueueKey) -> Option<T> {
        let own = new_request.priority as usize;
        for level in &mut self.levels[..own] {
            // The last request of the longest flow would wait longest.
            let longest = level.longest_flow().map(|(flow, _)| flow);
            if let Some(position) = longest.and_then(|flow| level.last_position(flow)) {
                return level.withdraw(position);
            }
        }
        let level = &mut self.levels[own];
        let (flow, waiting) = level.longest_flow()?;
        if flow == new_request.fairness_key
            || waiting < level.waiting_of(new_request.fairness_key) + DISPLACEMENT_LEAD
        {
            return None;
        }
        let position = level.last_position(flow)?;
        level.withdraw(position)
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
    fn single_flow_is_first_come_first_served() {
        let mut queue = FairQueue::default();
        for n in 0..20 {
            queue.push(QueueKey::default(), n);
        }
        assert_eq!(drain(&mut queue), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn flow_with_many_requests_does_not_delay_others() {
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
    fn steady_flow_does_not_starve_a_backlog() {
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
    fn removed_requests_cost_their_flow_no_turns() {
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
    fn idle_flows_are_removed() {
        let mut queue = FairQueue::default();
        for flow in 0..1_000 {
            queue.push(queue_key(Priority::Normal, flow), flow);
            queue.pop();
        }
        let remembered = queue.levels[Priority::Normal as usize].flows.len();
        assert!(remembered <= 2 * MAX_IDLE_FLOWS, "{remembered}");
    }

    #[test]
    fn idle_flow_gains_no_credit() {
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
    fn high_priority_goes_first_without_starving_low_priority() {
        let mut queue = FairQueue::default();
        for _ in 0..30 {
            queue.push(queue_key(Priority::Low, 0), Priority::Low);
            queue.push(queue_key(Priority::High, 0), Priority::High);
        }
        let order = drain(&mut queue);
        let first_low = order.iter().position(|p| *p == Priority::Low).unwrap();
        assert_eq!(first_low, MAX_OVERTAKES as usize);
        let high = order[..18].iter().filter(|p| **p == Priority::High);
        assert_eq!(high.count(), 16);
    }

    #[test]
    fn low_priority_is_not_starved_by_two_higher_ones() {
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
    fn full_queue_displaces_lower_priorities_and_longer_flows() {
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
    fn removed_request_is_not_popped() {
        let mut queue = FairQueue::default();
        let first = queue.push(QueueKey::default(), 1);
        queue.push(QueueKey::default(), 2);
        assert_eq!(queue.remove(first), Some(1));
        assert_eq!(queue.remove(first), None);
        assert_eq!(queue.pop(), Some(2));
        assert!(queue.is_empty());
    }

    #[test]
    fn priorities_are_parsed_from_their_names() {
        for priority in Priority::ALL {
            assert_eq!(priority.as_str().parse(), Ok(priority));
        }
        assert!("urgent".parse::<Priority>().is_err());
    }

    proptest! {
        #[test]
        fn every_request_leaves_the_queue_exactly_once(
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
        fn backlogged_flows_get_equal_shares(flows in 2u64..6, each in 5usize..20) {
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

//! The order of waiting requests: by priority, then fairly between flows.
//!
//! Requests of a higher priority go first. After a number of them in a row, one of the next lower
//! priority goes, so that no request waits forever. Within a priority the flows (usually one per API
//! key) take turns by start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing",
//! 1996) with requests of equal weight: a flow with many requests delays itself and not the others.
//! In a full queue, a new request displaces one of a lower priority, or one of the flow with the
//! most requests of its own priority. The owner of the queue says which requests may be displaced.

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
        self.forget_idle_flows();
        item
    }

    /// Takes the start tag of the next request of a flow. `waiting` is the number of its waiting requests
    /// that this adds.
    fn take_start_tag(&mut self, fairness_key: FairnessKey, waiting: usize) -> u64 {
        let time = self.virtual_time;
        let flow = self.flows.entry(fairness_key).or_insert((0, time));
        let start = flow.1.max(time);
        *flow = (flow.0 + waiting, start + 1);
        start
    }

    /// Removes flows without waiting requests once there are many. A flow is kept until the virtual time
    /// reaches its next start tag; without it the flow would go first again. The cost of removing flows is
    /// proportional to their number.
    fn forget_idle_flows(&mut self) {
        if self.flows.len() > 2 * self.waiting.len() + MAX_IDLE_FLOWS {
            let (time, before) = (self.virtual_time, self.flows.len());
            self.flows
                .retain(|_, (waiting, next)| *waiting > 0 || *next > time);
            if 2 * self.flows.len() > before {
                self.flows.retain(|_, (waiting, _)| *waiting > 0);
            }
        }
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

    /// Returns the last displaceable request of the flow that has the most of them: its flow, the number
    /// of the flow's displaceable requests, and its position.
    fn last_of_longest_flow(
        &self,
        is_displaceable: impl Fn(&T) -> bool,
    ) -> Option<(FairnessKey, usize, QueuePosition)> {
        let mut flows = HashMap::<FairnessKey, (usize, QueuePosition)>::new();
        for (position, (flow, item)) in &self.waiting {
            if is_displaceable(item) {
                let (waiting, last) = flows.entry(*flow).or_insert((0, *position));
                *waiting += 1;
                *last = *position;
            }
        }
        let flows = flows.into_iter();
        let flows = flows.map(|(flow, (waiting, last))| (flow, waiting, last));
        // The key breaks ties, so that the result is deterministic.
        flows.max_by_key(|(flow, waiting, _)| (*waiting, *flow))
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
        let position = QueuePosition {
            start: level.take_start_tag(queue_key.fairness_key, 1),
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

    /// Counts a request that goes at once, without waiting, as a turn of its flow, so that the flow's next
    /// request goes after those of other flows.
    pub fn count_turn(&mut self, queue_key: QueueKey) {
        let level = &mut self.levels[queue_key.priority as usize];
        level.virtual_time = level.take_start_tag(queue_key.fairness_key, 0);
        level.forget_idle_flows();
    }

    /// Removes all requests whose items fulfil a condition, and returns the items in no order.
    pub fn remove_where(&mut self, condition: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for level in &mut self.levels {
            let waiting = level.waiting.iter();
            let positions: Vec<_> = waiting
                .filter(|(_, (_, item))| condition(item))
                .map(|(position, _)| *position)
                .collect();
            removed.extend(positions.into_iter().filter_map(|p| level.withdraw(p)));
        }
        removed
    }

    /// Makes room in a full queue for a new request. Returns the item of the request that was removed
    /// for it, or `None` if none of those that are displaceable may be removed.
    pub fn displace(
        &mut self,
        new_request: QueueKey,
        is_displaceable: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let own = new_request.priority as usize;
        for level in &mut self.levels[..own] {
            // The last request of the longest flow would wait longest.
            if let Some((_, _, position)) = level.last_of_longest_flow(&is_displaceable) {
                return level.withdraw(position);
            }
        }
        let level = &mut self.levels[own];
        let (flow, waiting, position) = level.last_of_longest_flow(&is_displaceable)?;
        if flow == new_request.fairness_key
            || waiting < level.waiting_of(new_request.fairness_key) + DISPLACEMENT_LEAD
        {
            return None;
        }
        level.withdraw(position)
    }
}

#[cfg(test)]
mod tests;

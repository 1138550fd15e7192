//! The state of the fleet, as the events of the live feed describe it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use flotilla_controller::admin::{
    ControllerResource, ModelResource, NodeResource, RequestSummary, TrafficPoint, UsageTotal,
};

use super::connection::FeedUpdate;
use super::feed::{DeltaEvent, FeedController, FeedEvent, SnapshotEvent};

/// Maximum number of decisions that are kept.
const MAX_DECISIONS: usize = 500;
/// Time for which traffic is kept, in milliseconds: the same as in a controller.
const TRAFFIC_RETENTION_MS: u64 = 900_000;

/// The last known state of the fleet and of the connection.
#[derive(Debug, Clone)]
pub(super) struct LiveState {
    /// URL of the fleet, as the user wrote it.
    pub(super) url: String,
    pub(super) connection: ConnectionState,
    /// Time of the last data from the controller.
    pub(super) last_data_at: Option<Instant>,
    /// `None`: no data has arrived yet.
    pub(super) controller: Option<FeedController>,
    pub(super) controllers: Vec<ControllerResource>,
    pub(super) notes: Vec<String>,
    pub(super) nodes: BTreeMap<String, NodeResource>,
    pub(super) models: BTreeMap<String, ModelResource>,
    /// Traffic of the last seconds, the oldest first.
    pub(super) traffic: VecDeque<TrafficPoint>,
    /// Usage of each model since the controller started.
    pub(super) totals: HashMap<String, UsageTotal>,
    /// Whether all initial events have arrived. Decisions are the last of them.
    pub(super) is_complete: bool,
    /// The last completed requests, the newest first.
    pub(super) decisions: VecDeque<RequestSummary>,
    /// Number of completed requests that the controller left out of the feed because there were too
    /// many.
    pub(super) omitted_decisions: u64,
}

/// The state of the connection to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionState {
    Connecting,
    Live,
    Lost {
        problem: String,
        /// Time of the next attempt. `None`: an attempt is in progress.
        retry_at: Option<Instant>,
    },
}

impl LiveState {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connection: ConnectionState::Connecting,
            last_data_at: None,
            controller: None,
            controllers: Vec::new(),
            notes: Vec::new(),
            nodes: BTreeMap::new(),
            models: BTreeMap::new(),
            traffic: VecDeque::new(),
            totals: HashMap::new(),
            is_complete: false,
            decisions: VecDeque::new(),
            omitted_decisions: 0,
        }
    }

    /// Applies an update that arrived at `now`.
    pub(super) fn apply(&mut self, update: FeedUpdate, now: Instant) {
        match update {
            FeedUpdate::Events(events) => {
                self.connection = ConnectionState::Live;
                self.last_data_at = Some(now);
                for event in events {
                    self.apply_event(event);
                }
            }
            FeedUpdate::Lost { problem, pause } => {
                self.connection = ConnectionState::Lost {
                    problem,
                    retry_at: Some(now + pause),
                };
            }
            FeedUpdate::Reconnecting => {
                if let ConnectionState::Lost { retry_at, .. } = &mut self.connection {
                    *retry_at = None;
                }
            }
        }
    }

    fn apply_event(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Snapshot(fleet) => self.replace_fleet(*fleet),
            FeedEvent::Delta(delta) => self.apply_delta(*delta),
            FeedEvent::Traffic(points) => self.add_traffic(points),
            FeedEvent::Usage(usage) => {
                let totals = usage.models.into_iter();
                self.totals = totals.map(|total| (total.name.clone(), total)).collect();
            }
            FeedEvent::Decisions(decisions) => self.add_decisions(decisions),
        }
    }

    fn replace_fleet(&mut self, fleet: SnapshotEvent) {
        let previous = self.controller.replace(fleet.controller);
        if previous != self.controller {
            // Another controller, or a restarted one, cannot explain the decisions listed so far.
            self.decisions.clear();
            self.omitted_decisions = 0;
        }
        self.controllers = fleet.controllers;
        self.notes = fleet.notes;
        self.nodes = fleet.nodes.into_iter().map(node_by_name).collect();
        self.models = fleet.models.into_iter().map(model_by_name).collect();
    }

    fn apply_delta(&mut self, delta: DeltaEvent) {
        for name in &delta.removed_nodes {
            self.nodes.remove(name);
        }
        for name in &delta.removed_models {
            self.models.remove(name);
        }
        self.nodes.extend(delta.nodes.into_iter().map(node_by_name));
        self.models
            .extend(delta.models.into_iter().map(model_by_name));
        if let Some(notes) = delta.notes {
            self.notes = notes;
        }
        if let Some(controllers) = delta.controllers {
            self.controllers = controllers;
        }
    }

    /// Adds seconds of traffic. They replace the recorded seconds from the first of them on.
    fn add_traffic(&mut self, points: Vec<TrafficPoint>) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return;
        };
        let (start, oldest) = (first.at, last.at.saturating_sub(TRAFFIC_RETENTION_MS));
        self.traffic.retain(|point| point.at < start);
        self.traffic.extend(points);
        self.traffic.retain(|point| point.at > oldest);
    }

    fn add_decisions(&mut self, decisions: Vec<RequestSummary>) {
        self.is_complete = true;
        for decision in decisions {
            // The controller repeats the last decisions after a reconnection.
            if self.decisions.iter().any(|listed| listed.id == decision.id) {
                continue;
            }
            self.omitted_decisions += decision.omitted;
            self.decisions.push_front(decision);
        }
        self.decisions.truncate(MAX_DECISIONS);
    }

    /// Returns the time since the last data arrived. `None`: none has arrived yet.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.last_data_at?))
    }

    /// Returns the traffic of the last complete second.
    pub(super) fn newest_point(&self) -> Option<&TrafficPoint> {
        self.traffic.back()
    }

    /// Returns the traffic of the last `seconds`, the oldest first.
    pub(super) fn last_points(&self, seconds: u64) -> impl Iterator<Item = &TrafficPoint> + Clone {
        let newest = self.newest_point().map_or(0, |point| point.at);
        let start = newest.saturating_sub(seconds * 1_000);
        let first = self.traffic.partition_point(|point| point.at <= start);
        self.traffic.range(first..)
    }
}

fn node_by_name(node: NodeResource) -> (String, NodeResource) {
    (node.metadata.name.clone(), node)
}

fn model_by_name(model: ModelResource) -> (String, ModelResource) {
    (model.model.name().to_string(), model)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{decision, fleet_event, model, node, point};
    use super::*;

    fn apply(state: &mut LiveState, event: FeedEvent) {
        state.apply(FeedUpdate::Events(vec![event]), Instant::now());
    }

    #[test]
    fn delta_updates_and_removes_nodes_and_models() {
        let mut state = LiveState::new("u");
        let fleet = fleet_event(1, vec![node("a"), node("b")], vec![model("m")]);
        apply(&mut state, fleet);
        let mut lost = node("b");
        lost.status.phase = "Lost".into();
        let change = DeltaEvent {
            nodes: vec![lost, node("c")],
            removed_nodes: vec!["a".into()],
            removed_models: vec!["m".into()],
            notes: Some(vec!["the store does not answer".into()]),
            ..DeltaEvent::default()
        };
        apply(&mut state, FeedEvent::Delta(Box::new(change)));
        let nodes = state.nodes.iter();
        let nodes: Vec<_> = nodes.map(|(n, s)| (n.as_str(), &*s.status.phase)).collect();
        assert_eq!(nodes, [("b", "Lost"), ("c", "Ready")]);
        assert!(state.models.is_empty());
        assert_eq!(state.notes.len(), 1);
    }

    #[test]
    fn repeated_seconds_of_traffic_are_not_duplicated() {
        let mut state = LiveState::new("u");
        apply(&mut state, FeedEvent::Traffic((1..=5).map(point).collect()));
        apply(&mut state, FeedEvent::Traffic((3..=7).map(point).collect()));
        let seconds =
            |state: &LiveState| -> Vec<_> { state.traffic.iter().map(|p| p.at / 1_000).collect() };
        assert_eq!(seconds(&state), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(state.last_points(3).count(), 3);
        apply(&mut state, FeedEvent::Traffic(vec![point(905)]));
        assert_eq!(
            seconds(&state),
            [6, 7, 905],
            "traffic is kept for a quarter of an hour"
        );
    }

    #[test]
    fn decisions_are_listed_once_the_newest_first() {
        let mut state = LiveState::new("u");
        apply(&mut state, fleet_event(1, vec![], vec![]));
        apply(
            &mut state,
            FeedEvent::Decisions(vec![decision("1"), decision("2")]),
        );
        apply(
            &mut state,
            FeedEvent::Decisions(vec![decision("2"), decision("3")]),
        );
        let ids = |state: &LiveState| -> Vec<_> {
            state
                .decisions
                .iter()
                .map(|decision| decision.id.clone())
                .collect()
        };
        assert_eq!(ids(&state), ["3", "2", "1"]);
        apply(&mut state, fleet_event(1, vec![], vec![]));
        assert_eq!(ids(&state).len(), 3, "the same controller again");
        apply(&mut state, fleet_event(2, vec![], vec![]));
        assert!(ids(&state).is_empty(), "a restarted controller");
        let many = (0..MAX_DECISIONS + 9)
            .map(|n| decision(&n.to_string()))
            .collect();
        apply(&mut state, FeedEvent::Decisions(many));
        assert_eq!(state.decisions.len(), MAX_DECISIONS);
    }

    #[test]
    fn state_is_kept_while_the_connection_is_lost() {
        let (mut state, now) = (LiveState::new("u"), Instant::now());
        state.apply(
            FeedUpdate::Events(vec![fleet_event(1, vec![node("a")], vec![])]),
            now,
        );
        let pause = Duration::from_secs(2);
        let problem = "it does not answer".to_owned();
        state.apply(FeedUpdate::Lost { problem, pause }, now + pause);
        assert_eq!(
            (state.nodes.len(), state.age(now + pause)),
            (1, Some(pause))
        );
        let ConnectionState::Lost { retry_at, .. } = &state.connection else {
            panic!("{:?}", state.connection)
        };
        assert_eq!(*retry_at, Some(now + pause + pause));
        state.apply(FeedUpdate::Events(vec![]), now + pause * 2);
        assert_eq!(state.connection, ConnectionState::Live);
    }
}

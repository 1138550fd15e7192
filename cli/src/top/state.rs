//! What is known of the fleet: events change it part by part.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use flotilla_controller::admin::{
    ControllerResource, ModelResource, NodeResource, RequestSummary, TrafficPoint, UsageTotal,
};

use super::feed::{Change, Controller, Event, Whole};
use super::link::News;

/// Decisions that are kept.
const DECISIONS: usize = 500;
/// How long seconds are kept: as long as a controller keeps them.
const KEPT_MS: u64 = 900_000;

/// The fleet, as far as the controller has told it.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Where the fleet is, as the user wrote it.
    pub(super) url: String,
    pub(super) connection: Connection,
    /// When the controller said something last.
    pub(super) heard: Option<Instant>,
    /// `None`: nothing is known yet.
    pub(super) controller: Option<Controller>,
    pub(super) controllers: Vec<ControllerResource>,
    pub(super) notes: Vec<String>,
    pub(super) nodes: BTreeMap<String, NodeResource>,
    pub(super) models: BTreeMap<String, ModelResource>,
    /// The last seconds, the oldest first.
    pub(super) traffic: VecDeque<TrafficPoint>,
    /// What each model did since the controller started.
    pub(super) totals: HashMap<String, UsageTotal>,
    /// Whether requests that ended have been told: the last thing that a controller begins with.
    pub(super) complete: bool,
    /// The last requests, the newest first.
    pub(super) decisions: VecDeque<RequestSummary>,
    /// Requests that there were too many of to tell one by one.
    pub(super) omitted: u64,
}

/// Whether the controller is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Connection {
    Connecting,
    Live,
    Lost {
        problem: String,
        /// When it is tried again. `None`: that is under way.
        retry: Option<Instant>,
    },
}

impl State {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connection: Connection::Connecting,
            heard: None,
            controller: None,
            controllers: Vec::new(),
            notes: Vec::new(),
            nodes: BTreeMap::new(),
            models: BTreeMap::new(),
            traffic: VecDeque::new(),
            totals: HashMap::new(),
            complete: false,
            decisions: VecDeque::new(),
            omitted: 0,
        }
    }

    /// Takes news in.
    pub(super) fn apply(&mut self, news: News, now: Instant) {
        match news {
            News::Heard(events) => {
                self.connection = Connection::Live;
                self.heard = Some(now);
                for event in events {
                    self.take(event);
                }
            }
            News::Lost { problem, wait } => {
                self.connection = Connection::Lost {
                    problem,
                    retry: Some(now + wait),
                };
            }
            News::Trying => {
                if let Connection::Lost { retry, .. } = &mut self.connection {
                    *retry = None;
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Fleet(whole) => self.begin(*whole),
            Event::Change(change) => self.change(*change),
            Event::Traffic(points) => self.go_on(points),
            Event::Usage(usage) => {
                let totals = usage.models.into_iter();
                self.totals = totals.map(|total| (total.name.clone(), total)).collect();
            }
            Event::Decisions(briefs) => self.decide(briefs),
        }
    }

    fn begin(&mut self, whole: Whole) {
        let before = self.controller.replace(whole.controller);
        if before != self.controller {
            // A controller that was started anew knows nothing of what was decided before.
            self.decisions.clear();
            self.omitted = 0;
        }
        self.controllers = whole.controllers;
        self.notes = whole.notes;
        self.nodes = whole.nodes.into_iter().map(named).collect();
        self.models = whole.models.into_iter().map(model_named).collect();
    }

    fn change(&mut self, change: Change) {
        for name in &change.removed_nodes {
            self.nodes.remove(name);
        }
        for name in &change.removed_models {
            self.models.remove(name);
        }
        self.nodes.extend(change.nodes.into_iter().map(named));
        self.models
            .extend(change.models.into_iter().map(model_named));
        if let Some(notes) = change.notes {
            self.notes = notes;
        }
        if let Some(controllers) = change.controllers {
            self.controllers = controllers;
        }
    }

    /// Goes on with more seconds; of one that both know the newer word holds.
    fn go_on(&mut self, points: Vec<TrafficPoint>) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return;
        };
        let (from, oldest) = (first.at, last.at.saturating_sub(KEPT_MS));
        self.traffic.retain(|point| point.at < from);
        self.traffic.extend(points);
        self.traffic.retain(|point| point.at > oldest);
    }

    fn decide(&mut self, briefs: Vec<RequestSummary>) {
        self.complete = true;
        for brief in briefs {
            // After a reconnection the last ones are told again.
            if self.decisions.iter().any(|known| known.id == brief.id) {
                continue;
            }
            self.omitted += brief.omitted;
            self.decisions.push_front(brief);
        }
        self.decisions.truncate(DECISIONS);
    }

    /// How old what is shown is. `None`: there is nothing yet.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.heard?))
    }

    /// The second that ended last.
    pub(super) fn newest(&self) -> Option<&TrafficPoint> {
        self.traffic.back()
    }

    /// The last `seconds`, the oldest first.
    pub(super) fn last(&self, seconds: u64) -> impl Iterator<Item = &TrafficPoint> + Clone {
        let newest = self.newest().map_or(0, |point| point.at);
        let from = newest.saturating_sub(seconds * 1_000);
        let known = self.traffic.partition_point(|point| point.at <= from);
        self.traffic.range(known..)
    }
}

fn named(node: NodeResource) -> (String, NodeResource) {
    (node.metadata.name.clone(), node)
}

fn model_named(model: ModelResource) -> (String, ModelResource) {
    (model.model.name().to_string(), model)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{brief, model, node, point, whole};
    use super::*;

    fn told(state: &mut State, event: Event) {
        state.apply(News::Heard(vec![event]), Instant::now());
    }

    #[test]
    fn changes_are_put_in_and_what_is_gone_is_taken_out() {
        let mut state = State::new("u");
        let fleet = whole(1, vec![node("a"), node("b")], vec![model("m")]);
        told(&mut state, fleet);
        let mut lost = node("b");
        lost.status.phase = "Lost".into();
        let change = Change {
            nodes: vec![lost, node("c")],
            removed_nodes: vec!["a".into()],
            removed_models: vec!["m".into()],
            notes: Some(vec!["the store does not answer".into()]),
            ..Change::default()
        };
        told(&mut state, Event::Change(Box::new(change)));
        let nodes = state.nodes.iter();
        let nodes: Vec<_> = nodes.map(|(n, s)| (n.as_str(), &*s.status.phase)).collect();
        assert_eq!(nodes, [("b", "Lost"), ("c", "Ready")]);
        assert!(state.models.is_empty());
        assert_eq!(state.notes.len(), 1);
    }

    #[test]
    fn seconds_that_are_told_again_are_not_there_twice() {
        let mut state = State::new("u");
        told(&mut state, Event::Traffic((1..=5).map(point).collect()));
        told(&mut state, Event::Traffic((3..=7).map(point).collect()));
        let seconds =
            |state: &State| -> Vec<_> { state.traffic.iter().map(|p| p.at / 1_000).collect() };
        assert_eq!(seconds(&state), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(state.last(3).count(), 3);
        told(&mut state, Event::Traffic(vec![point(905)]));
        assert_eq!(seconds(&state), [6, 7, 905], "a quarter of an hour is kept");
    }

    #[test]
    fn decisions_are_kept_once_the_newest_first() {
        let mut state = State::new("u");
        told(&mut state, whole(1, vec![], vec![]));
        told(&mut state, Event::Decisions(vec![brief("1"), brief("2")]));
        told(&mut state, Event::Decisions(vec![brief("2"), brief("3")]));
        let ids =
            |state: &State| -> Vec<_> { state.decisions.iter().map(|b| b.id.clone()).collect() };
        assert_eq!(ids(&state), ["3", "2", "1"]);
        told(&mut state, whole(1, vec![], vec![]));
        assert_eq!(ids(&state).len(), 3, "the same controller again");
        told(&mut state, whole(2, vec![], vec![]));
        assert!(ids(&state).is_empty(), "a controller that was started anew");
        let many = (0..DECISIONS + 9).map(|n| brief(&n.to_string())).collect();
        told(&mut state, Event::Decisions(many));
        assert_eq!(state.decisions.len(), DECISIONS);
    }

    #[test]
    fn what_is_known_stays_while_the_controller_is_lost() {
        let (mut state, now) = (State::new("u"), Instant::now());
        state.apply(News::Heard(vec![whole(1, vec![node("a")], vec![])]), now);
        let wait = Duration::from_secs(2);
        let problem = "it does not answer".to_owned();
        state.apply(News::Lost { problem, wait }, now + wait);
        assert_eq!((state.nodes.len(), state.age(now + wait)), (1, Some(wait)));
        let Connection::Lost { retry, .. } = &state.connection else {
            panic!("{:?}", state.connection)
        };
        assert_eq!(*retry, Some(now + wait + wait));
        state.apply(News::Heard(vec![]), now + wait * 2);
        assert_eq!(state.connection, Connection::Live);
    }
}

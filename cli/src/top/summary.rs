//! The fleet in a few numbers: the header of the screen.

use std::time::Duration;

use flotilla_controller::admin::TrafficPoint;

use super::column::Tone;
use super::format::{UNKNOWN, count, duration, mark_estimate, millis, number, sanitize, si};
use super::state::LiveState;

/// Seconds over which rates are averaged. Rates of single seconds change too fast to be read.
const RATE_SECONDS: u64 = 5;
/// Seconds over which errors are counted.
const ERROR_SECONDS: u64 = 60;

/// A named value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) tone: Tone,
}

fn field(name: &'static str, value: impl AsRef<str>) -> Field {
    Field {
        name,
        value: sanitize(value.as_ref()).into_owned(),
        tone: Tone::Plain,
    }
}

impl Field {
    /// Sets the tone if `condition` holds.
    fn tone_if(self, condition: bool, tone: Tone) -> Self {
        match condition {
            true => Self { tone, ..self },
            false => self,
        }
    }
}

/// Returns the URL of the fleet, and the id, version and uptime of the controller.
pub(super) fn identity(state: &LiveState) -> Vec<Field> {
    let mut fields = vec![field("fleet", &state.url)];
    let Some(controller) = &state.controller else {
        return fields;
    };
    let serving = state.controllers.iter().find(|listed| listed.local);
    let role = match (
        state.controllers.len(),
        serving.is_some_and(|serving| serving.leader),
    ) {
        (0 | 1, _) => String::new(),
        (total, true) => format!(", leader of {total}"),
        (total, false) => format!(", one of {total}"),
    };
    fields.push(field("controller", format!("{}{role}", controller.id)));
    fields.push(field("version", &controller.version));
    if let Some(newest) = state.newest_point() {
        // Both times are from the controller's clock.
        let up = Duration::from_millis(newest.at.saturating_sub(controller.started_at));
        fields.push(field("up", duration(up)));
    }
    fields
}

/// Returns the condition and the traffic of the fleet, the most important numbers first.
pub(super) fn metrics(state: &LiveState) -> Vec<Field> {
    let nodes = state.nodes.len() as u64;
    let ready_nodes = state.nodes.values().filter(|n| n.status.phase == "Ready");
    let ready_nodes = ready_nodes.count() as u64;
    let models = state.models.values();
    // As many replicas as the model should have answer; one that sleeps has what it should.
    let is_ready = |phase: &str| ["Ready", "Updating", "Asleep"].contains(&phase);
    let ready_models = models.clone().filter(|m| is_ready(&m.status.phase));
    let ready_models = ready_models.count();
    let failed = models.filter(|m| m.status.phase == "Failed").count();
    let failures = match failed {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let mut fields = vec![
        field(
            "nodes",
            format!("{} of {} ready", count(ready_nodes), count(nodes)),
        )
        .tone_if(ready_nodes < nodes, Tone::Warning),
        field(
            "models",
            format!("{ready_models} of {} ready{failures}", state.models.len()),
        )
        .tone_if(failed > 0, Tone::Bad),
    ];
    fields.extend(traffic(state));
    fields
}

fn traffic(state: &LiveState) -> Vec<Field> {
    let seconds = state.last_points(RATE_SECONDS);
    let recorded = seconds.clone().count();
    let mean = |value: fn(&TrafficPoint) -> f64| {
        let sum: f64 = seconds.clone().map(value).sum();
        (recorded > 0).then(|| sum / recorded as f64)
    };
    let rate = |value: fn(&TrafficPoint) -> f64| {
        mean(value).map_or_else(|| UNKNOWN.into(), |mean| format!("{}/s", number(mean)))
    };
    // The maximum over the seconds: a mean of percentiles has no meaning.
    let max_ms = |value: fn(&TrafficPoint) -> Option<f64>| {
        let max = seconds.clone().filter_map(value).reduce(f64::max);
        max.map_or_else(|| UNKNOWN.to_owned(), millis)
    };
    let p50 = max_ms(|point| point.first_token_ms.map(|ms| ms.p50));
    let p95 = max_ms(|point| point.first_token_ms.map(|ms| ms.p95));
    let errors: u64 = state
        .last_points(ERROR_SECONDS)
        .map(|point| point.errors)
        .sum();
    let newest = state.newest_point();
    let queued = newest.map(|point| point.queued);
    let count_text = |number: Option<u64>| number.map_or_else(|| UNKNOWN.into(), count);
    let joules = mean(|point| point.energy.joules);
    let joules = joules.map_or_else(|| UNKNOWN.into(), |joules| format!("{}/s", si(joules, "J")));
    let estimated = seconds
        .clone()
        .any(|point| point.energy.estimated_joules > 0.0);
    let mut fields = vec![
        field("requests", rate(|point| point.requests as f64)),
        field("tokens", rate(|point| point.output_tokens as f64)),
        field("in flight", count_text(newest.map(|point| point.in_flight))),
        field("queued", count_text(queued)).tone_if(queued > Some(0), Tone::Warning),
        field("errors", format!("{}/min", count(errors))).tone_if(errors > 0, Tone::Bad),
        field("power", power(newest)),
        field("first token", format!("p50 {p50}, p95 {p95}")),
        field("request energy", mark_estimate(joules, estimated)),
    ];
    // Unknown unless the router's spec has the carbon intensity of the grid.
    if state
        .traffic
        .iter()
        .any(|point| point.energy.co2_grams.is_some())
    {
        let grams = mean(|point| point.energy.co2_grams.unwrap_or(0.0) * 3_600.0);
        let grams = grams.unwrap_or(0.0);
        fields.push(field("CO2", format!("{}/h", si(grams, "g"))));
    }
    fields
}

fn power(newest: Option<&TrafficPoint>) -> String {
    let Some((point, watts)) = newest.and_then(|point| Some((point, point.watts?))) else {
        return UNKNOWN.into();
    };
    mark_estimate(si(watts, "W"), point.estimated_watts > 0.0)
}

/// Returns instructions for adding a node.
pub(super) fn join_instructions(state: &LiveState) -> Vec<String> {
    vec![
        "The fleet has no nodes yet. On each machine that should run models, run".into(),
        String::new(),
        format!(
            "  flotilla agent --name NAME --join {}",
            join_address(state)
        ),
        String::new(),
        "with the address at which the machine reaches this controller.".into(),
    ]
}

/// Returns the link address of the controller for agents on other machines. If the controller reports
/// a local address, its host is replaced by that of the fleet's URL.
fn join_address(state: &LiveState) -> String {
    let serving = state.controllers.iter().find(|listed| listed.local);
    let link = serving.map_or("HOST:7070", |serving| serving.record.link.as_str());
    let (host, port) = link.rsplit_once(':').unwrap_or((link, "7070"));
    let local_prefixes = ["127.", "0.", "localhost", "["];
    if !local_prefixes.iter().any(|prefix| host.starts_with(prefix)) {
        return link.to_owned();
    }
    let url = reqwest::Url::parse(&state.url).ok();
    let url_host = url.as_ref().and_then(|url| url.host_str());
    format!("{}:{port}", url_host.unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn value(state: &LiveState, name: &str) -> Option<String> {
        let mut fields = metrics(state).into_iter();
        fields.find(|f| f.name == name).map(|f| f.value)
    }

    #[test]
    fn models_are_ready_when_all_their_replicas_answer_or_they_sleep() {
        let mut state = fixtures::busy();
        for (phase, expected) in [
            ("Ready", "1 of 2 ready, 1 failed"),
            ("Updating", "1 of 2 ready, 1 failed"),
            ("Asleep", "1 of 2 ready, 1 failed"),
            ("Partial", "0 of 2 ready, 1 failed"),
        ] {
            let model = state
                .models
                .values_mut()
                .find(|m| m.status.phase != "Failed");
            model.unwrap().status.phase = phase.into();
            assert_eq!(value(&state, "models").unwrap(), expected, "{phase}");
        }
    }

    #[test]
    fn estimated_and_unknown_values_are_marked() {
        let mut state = fixtures::busy();
        assert_eq!(value(&state, "power").unwrap(), "≈42.5 W");
        assert_eq!(value(&state, "CO2"), None);
        let last = state.traffic.back_mut().unwrap();
        last.estimated_watts = 0.0;
        last.energy.co2_grams = Some(0.01);
        assert_eq!(value(&state, "power").unwrap(), "42.5 W");
        assert_eq!(value(&state, "CO2").unwrap(), "7.2 g/h");
        let state = LiveState::new("http://fleet:8080");
        assert_eq!(value(&state, "first token").unwrap(), "p50 –, p95 –");
        assert_eq!(value(&state, "power").unwrap(), "–");
    }

    #[test]
    fn join_address_is_reachable_from_other_machines() {
        let mut state = fixtures::empty();
        assert_eq!(
            join_address(&state),
            "fleet.example:7070",
            "the host of the fleet's URL"
        );
        state.controllers[0].record.link = "10.0.0.1:7070".into();
        assert_eq!(join_address(&state), "10.0.0.1:7070");
    }
}

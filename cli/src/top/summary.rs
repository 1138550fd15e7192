//! The fleet in a few numbers.

use std::time::Duration;

use flotilla_controller::admin::TrafficPoint;

use super::state::State;
use super::table::Tone;
use super::words::{NONE, clean, count, duration, measured, millis, number, si};

/// Seconds that rates are taken over: one alone jumps too much to be read.
const RATES_OVER: u64 = 5;
/// Seconds that errors are counted over.
const ERRORS_OVER: u64 = 60;

/// A number with its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) tone: Tone,
}

fn field(name: &'static str, value: impl AsRef<str>) -> Field {
    toned(name, value, false, Tone::Plain)
}

fn toned(name: &'static str, value: impl AsRef<str>, wrong: bool, tone: Tone) -> Field {
    Field {
        name,
        value: clean(value.as_ref()).into_owned(),
        tone: if wrong { tone } else { Tone::Plain },
    }
}

/// Who tells: the fleet's address, the controller, how long it has run.
pub(super) fn who(state: &State) -> Vec<Field> {
    let mut fields = vec![field("fleet", &state.url)];
    let Some(controller) = &state.controller else {
        return fields;
    };
    let this = state.controllers.iter().find(|known| known.local);
    let role = match (
        state.controllers.len(),
        this.is_some_and(|this| this.leader),
    ) {
        (0 | 1, _) => String::new(),
        (all, true) => format!(", leads {all}"),
        (all, false) => format!(", one of {all}"),
    };
    fields.push(field("controller", format!("{}{role}", controller.id)));
    fields.push(field("version", &controller.version));
    if let Some(newest) = state.newest() {
        // Both by the controller's own clock.
        let up = Duration::from_millis(newest.at.saturating_sub(controller.started_at));
        fields.push(field("up", duration(up)));
    }
    fields
}

/// How the fleet is and what it does, the most important first.
pub(super) fn numbers(state: &State) -> Vec<Field> {
    let ready = |phase: &str| phase == "Ready";
    let here = state.nodes.values().filter(|n| ready(&n.status.phase));
    let here = here.count() as u64;
    let models = state.models.values();
    let answering = models.clone().filter(|m| m.status.ready > 0).count();
    let failed = models.filter(|m| m.status.phase == "Failed").count();
    let answer = match failed {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let mut fields = vec![
        toned(
            "nodes",
            format!(
                "{} of {} ready",
                count(here),
                count(state.nodes.len() as u64)
            ),
            here < state.nodes.len() as u64,
            Tone::Warn,
        ),
        toned(
            "models",
            format!("{answering} of {} answer{answer}", state.models.len()),
            failed > 0,
            Tone::Bad,
        ),
    ];
    fields.extend(traffic(state));
    fields
}

fn traffic(state: &State) -> Vec<Field> {
    let seconds = state.last(RATES_OVER);
    let known = seconds.clone().count();
    let rate = |of: fn(&TrafficPoint) -> f64| {
        let sum: f64 = seconds.clone().map(of).sum();
        (known > 0).then(|| sum / known as f64)
    };
    let text = |rate: Option<f64>| rate.map_or_else(|| NONE.into(), |r| format!("{}/s", number(r)));
    // Percentiles of several seconds have no mean: the worst second stands for them.
    let worst = |of: fn(&TrafficPoint) -> Option<f64>| {
        let worst = seconds.clone().filter_map(of).reduce(f64::max);
        worst.map_or_else(|| NONE.to_owned(), millis)
    };
    let p50 = worst(|point| point.first_token_ms.map(|ms| ms.p50));
    let p95 = worst(|point| point.first_token_ms.map(|ms| ms.p95));
    let errors: u64 = state.last(ERRORS_OVER).map(|point| point.errors).sum();
    let now = state.newest();
    let queued = now.map_or(0, |now| now.queued);
    let whole = |number: Option<u64>| number.map_or_else(|| NONE.into(), count);
    let joules = rate(|point| point.energy.joules);
    let joules = joules.map_or_else(|| NONE.into(), |joules| format!("{}/s", si(joules, "J")));
    let estimated = seconds.clone().any(|p| p.energy.estimated_joules > 0.0);
    let mut fields = vec![
        field("requests", text(rate(|point| point.requests as f64))),
        field("tokens", text(rate(|point| point.output_tokens as f64))),
        field("in flight", whole(now.map(|now| now.in_flight))),
        toned(
            "queued",
            whole(now.map(|now| now.queued)),
            queued > 0,
            Tone::Warn,
        ),
        toned(
            "errors",
            format!("{}/min", count(errors)),
            errors > 0,
            Tone::Bad,
        ),
        field("power", watts(now)),
        field("first token", format!("p50 {p50}, p95 {p95}")),
        field("requests' energy", measured(joules, estimated)),
    ];
    // Only where the grid's intensity is known.
    if state
        .traffic
        .iter()
        .any(|point| point.energy.co2_grams.is_some())
    {
        let grams = rate(|point| point.energy.co2_grams.unwrap_or(0.0) * 3_600.0);
        let grams = grams.unwrap_or(0.0);
        fields.push(field("CO2", format!("{}/h", si(grams, "g"))));
    }
    fields
}

fn watts(now: Option<&TrafficPoint>) -> String {
    let Some((now, watts)) = now.and_then(|now| Some((now, now.watts?))) else {
        return NONE.into();
    };
    measured(si(watts, "W"), now.estimated_watts > 0.0)
}

/// What is to be done where there is no node yet.
pub(super) fn how_to_join(state: &State) -> Vec<String> {
    vec![
        "No node has joined yet. On each machine that is to run models, type".into(),
        String::new(),
        format!("  flotilla agent --name NAME --join {}", link(state)),
        String::new(),
        "with the address under which it reaches this controller. It shows up here by itself."
            .into(),
    ]
}

/// Where agents reach the controller. An address that only its own machine knows is of no use on
/// another one: there the one under which it is reached from here says more.
fn link(state: &State) -> String {
    let this = state.controllers.iter().find(|known| known.local);
    let link = this.map_or("HOST:7070", |this| this.record.link.as_str());
    let (host, port) = link.rsplit_once(':').unwrap_or((link, "7070"));
    let own = ["127.", "0.", "localhost", "["];
    if !own.iter().any(|own| host.starts_with(own)) {
        return link.to_owned();
    }
    let reached = reqwest::Url::parse(&state.url).ok();
    let reached = reached.as_ref().and_then(|url| url.host_str());
    format!("{}:{port}", reached.unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn value(state: &State, name: &str) -> Option<String> {
        let mut fields = numbers(state).into_iter();
        fields.find(|f| f.name == name).map(|f| f.value)
    }

    #[test]
    fn numbers_say_where_they_are_estimated_and_where_nothing_is_known() {
        let mut state = fixture::busy();
        assert_eq!(value(&state, "power").unwrap(), "≈42.5 W");
        assert_eq!(value(&state, "CO2"), None);
        let last = state.traffic.back_mut().unwrap();
        last.estimated_watts = 0.0;
        last.energy.co2_grams = Some(0.01);
        assert_eq!(value(&state, "power").unwrap(), "42.5 W");
        assert_eq!(value(&state, "CO2").unwrap(), "7.2 g/h");
        let state = State::new("http://fleet:8080");
        assert_eq!(value(&state, "first token").unwrap(), "p50 –, p95 –");
        assert_eq!(value(&state, "power").unwrap(), "–");
    }

    #[test]
    fn a_node_is_told_an_address_that_it_can_reach() {
        let mut state = fixture::empty();
        assert_eq!(
            link(&state),
            "fleet.example:7070",
            "as it is reached from here"
        );
        state.controllers[0].record.link = "10.0.0.1:7070".into();
        assert_eq!(link(&state), "10.0.0.1:7070");
    }
}

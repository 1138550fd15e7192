//! The table of nodes.

use flotilla_controller::admin::{ModelOnNode, NodeResource};
use flotilla_core::Bytes;

use super::state::State;
use super::table::{Cell, Column, Key, Tone, fits};
use super::words::{NONE, measured, si};
use crate::output::fields;
use crate::resource_text::node_state;

/// How full a battery is that is nearly empty.
const LOW: f32 = 0.2;

pub(super) type Row<'a> = &'a NodeResource;

/// The nodes that fit a filter: by name, state, zone, labels, hardware and models.
pub(super) fn rows<'a>(state: &'a State, filter: &str) -> Vec<Row<'a>> {
    let fits = |node: &&NodeResource| {
        let zone = node.spec.zone.as_ref().map(|zone| zone.as_str());
        let own = [&*node.metadata.name, &*node.status.phase, &*node.spec.cpu];
        let labels = node.metadata.labels.iter();
        let labels = labels.flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        let models = node.status.models.iter().map(|model| model.name.as_str());
        fits(
            filter,
            own.into_iter().chain(zone).chain(labels).chain(models),
        )
    };
    state.nodes.values().filter(fits).collect()
}

pub(super) fn columns<'a>() -> Vec<Column<Row<'a>>> {
    vec![
        Column::text("NODE", 10, |node: &Row<'_>| {
            node.metadata.name.as_str().into()
        })
        .holds(28)
        .grows(1)
        .sorted(|node| Key::text(&node.metadata.name)),
        Column::text("STATE", 10, |node: &Row<'_>| {
            Cell::toned(&state(node), tone(node))
        })
        .holds(20)
        .sorted(|node| Key::Number(trouble(node))),
        Column::text("ZONE", 8, zone)
            .holds(16)
            .rank(6)
            .used(|node| node.spec.zone.is_some())
            .sorted(|node| match &node.spec.zone {
                Some(zone) => Key::text(zone.as_str()),
                None => Key::Unknown,
            }),
        Column::number("MODELS", 7, |node: &Row<'_>| {
            node.status.models.len().to_string().into()
        })
        .rank(4)
        .sorted(|node| Key::Number(node.status.models.len() as f64)),
        Column::number("LOAD", 6, |node: &Row<'_>| load(active(node), queued(node)))
            .sorted(|node| Key::Number(f64::from(active(node) + queued(node)))),
        Column::number("MEMORY", 17, memory).rank(3).sorted(|node| {
            let part = used(node).0 as f64 / node.spec.memory.0 as f64;
            Key::number(Some(part).filter(|part| part.is_finite()))
        }),
        Column::number("WATTS", 8, watts).rank(1).sorted(|node| {
            let energy = node.status.energy.as_ref();
            Key::number(energy.map(|energy| f64::from(energy.watts)))
        }),
        Column::text("BY", 8, source).holds(18).rank(5),
        Column::text("BATTERY, HEAT", 14, condition)
            .rank(2)
            .holds(30)
            .used(|node| {
                let energy = node.status.energy.as_ref();
                energy.is_some_and(|e| e.battery.is_some() || !e.throttled.is_empty())
            }),
        Column::text("RUNS", 14, |node: &Row<'_>| {
            let names: Vec<_> = node.status.models.iter().map(|m| m.name.as_str()).collect();
            Cell::toned(&names.join(", "), Tone::Dim)
        })
        .rank(7)
        .grows(5),
    ]
}

/// What people want of a node that is ready says more than that it is.
fn state(node: &NodeResource) -> String {
    let state = node_state(node);
    match state.strip_prefix("Ready, ") {
        Some(more) => more.to_owned(),
        None => state,
    }
}

fn tone(node: &NodeResource) -> Tone {
    let status = &node.status;
    match status.phase.as_str() {
        "Lost" => Tone::Bad,
        "Ready" if !status.operation.cordoned && !status.operation.draining && !status.flapping => {
            Tone::Good
        }
        _ => Tone::Warn,
    }
}

/// Nodes in trouble come first.
fn trouble(node: &NodeResource) -> f64 {
    match (node.status.phase.as_str(), tone(node)) {
        ("Lost", _) => 0.0,
        ("Suspect", _) => 1.0,
        ("Joining", _) => 2.0,
        (_, Tone::Good) => 4.0,
        _ => 3.0,
    }
}

fn zone(node: &Row<'_>) -> Cell {
    let zone = node.spec.zone.as_ref();
    zone.map_or(NONE, |zone| zone.as_str()).into()
}

fn active(node: &NodeResource) -> u32 {
    node.status.models.iter().map(|m| m.counters.active).sum()
}

fn queued(node: &NodeResource) -> u32 {
    node.status.models.iter().map(|m| m.counters.queued).sum()
}

/// Requests that are computed, and those that wait.
pub(super) fn load(active: u32, queued: u32) -> Cell {
    match (active, queued) {
        (0, 0) => Cell::toned("idle", Tone::Dim),
        (active, 0) => active.to_string().into(),
        (active, queued) => Cell::toned(&format!("{active}+{queued}"), Tone::Warn),
    }
}

/// Bytes that the models on a node take, with those that are to replace them.
fn used(node: &NodeResource) -> Bytes {
    let of = |model: &ModelOnNode| {
        let next = model.next.as_ref().map_or(0, |next| next.memory.0);
        model.memory.0.saturating_add(next)
    };
    let sum = |sum: u64, model| sum.saturating_add(of(model));
    Bytes(node.status.models.iter().fold(0, sum))
}

fn memory(node: &Row<'_>) -> Cell {
    let (used, all) = (used(node), node.spec.memory);
    let tight = used.0 as f64 > 0.9 * all.0 as f64;
    let tone = if tight { Tone::Warn } else { Tone::Plain };
    Cell::toned(&format!("{used}/{all}"), tone)
}

fn watts(node: &Row<'_>) -> Cell {
    let Some(energy) = &node.status.energy else {
        return NONE.into();
    };
    measured(si(f64::from(energy.watts), "W"), !energy.measured).into()
}

fn source(node: &Row<'_>) -> Cell {
    let energy = node.status.energy.as_ref();
    let source = energy.map_or("", |energy| energy.source.as_str());
    Cell::toned(source, Tone::Dim)
}

/// Whether heat slows it down, and how full its battery is.
fn condition(node: &Row<'_>) -> Cell {
    let Some(energy) = &node.status.energy else {
        return "".into();
    };
    let low = energy
        .battery
        .is_some_and(|b| b.discharging && b.charge < LOW);
    let hot = (!energy.throttled.is_empty()).then(|| "hot".to_owned());
    let tone = match low || hot.is_some() {
        true => Tone::Warn,
        false => Tone::Plain,
    };
    let both: Vec<_> = hot
        .into_iter()
        .chain(energy.battery.map(|b| charge(b.charge, b.discharging)))
        .collect();
    Cell::toned(&both.join(", "), tone)
}

fn charge(part: f32, discharging: bool) -> String {
    let drains = if discharging { " draining" } else { "" };
    format!("{:.0} %{drains}", part * 100.0)
}

/// What a node draws, in words.
pub(super) fn energy(node: &NodeResource) -> String {
    let Some(energy) = &node.status.energy else {
        return fields(&[("Power", "it has not told".into())]);
    };
    let watts = |watts: f32| si(f64::from(watts), "W");
    let battery = energy.battery.map(|b| charge(b.charge, b.discharging));
    fields(&[
        (
            "Power",
            format!(
                "{}, {} idle to {} at full work, by {}",
                measured(watts(energy.watts), !energy.measured),
                watts(energy.idle_watts),
                watts(energy.max_watts),
                energy.source
            ),
        ),
        ("Told so because", energy.hint.clone()),
        ("Battery", battery.unwrap_or_default()),
        ("Slowed by heat", energy.throttled.clone()),
    ])
}

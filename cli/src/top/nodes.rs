//! The table of nodes.

use flotilla_controller::admin::NodeResource;
use flotilla_core::ZoneName;
use flotilla_core::node::join_zones;

use super::column::{Cell, Column, SortKey, Tone};
use super::format::{UNKNOWN, mark_estimate, si};
use super::state::LiveState;
use super::table::matches_filter;
use crate::output::fields;
use crate::resource_text::{node_state, used_memory};

/// Charge, 0 to 1, below which a discharging battery is marked.
const LOW_CHARGE: f32 = 0.2;

pub(super) type NodeRow<'a> = &'a NodeResource;

/// Returns the nodes whose name, state, CPU, zone, labels or models match the filter.
pub(super) fn rows<'a>(state: &'a LiveState, filter: &str) -> Vec<NodeRow<'a>> {
    let matches = |node: &&NodeResource| {
        let required = [&*node.metadata.name, &*node.status.phase, &*node.spec.cpu];
        let zones = node.spec.zones.iter().map(ZoneName::as_str);
        let labels = node.metadata.labels.iter();
        let labels = labels.flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        let models = node.status.models.iter().map(|model| model.name.as_str());
        let texts = required
            .into_iter()
            .chain(zones)
            .chain(labels)
            .chain(models);
        matches_filter(filter, texts)
    };
    state.nodes.values().filter(matches).collect()
}

pub(super) fn columns<'a>() -> Vec<Column<NodeRow<'a>>> {
    vec![
        Column::text("NODE", 10, |node: &NodeRow<'_>| {
            node.metadata.name.as_str().into()
        })
        .max_width(28)
        .grow_weight(1)
        .sort_by(|node| SortKey::text(&node.metadata.name)),
        Column::text("STATE", 10, |node: &NodeRow<'_>| {
            Cell::new(&state(node), tone(node))
        })
        .max_width(20)
        .sort_by(|node| SortKey::Number(severity(node))),
        Column::text("ZONES", 8, zones)
            .max_width(16)
            .drop_priority(6)
            .only_if(|node| !node.spec.zones.is_empty())
            .sort_by(|node| match node.spec.zones.first() {
                Some(zone) => SortKey::text(zone.as_str()),
                None => SortKey::Unknown,
            }),
        Column::number("MODELS", 7, |node: &NodeRow<'_>| {
            node.status.models.len().to_string().into()
        })
        .drop_priority(4)
        .sort_by(|node| SortKey::Number(node.status.models.len() as f64)),
        Column::number("LOAD", 6, |node: &NodeRow<'_>| {
            load(active(node), queued(node))
        })
        .sort_by(|node| SortKey::Number(f64::from(active(node) + queued(node)))),
        Column::number("MEMORY", 17, memory)
            .drop_priority(3)
            .sort_by(|node| {
                let fraction = used_memory(node).0 as f64 / node.spec.memory.0 as f64;
                SortKey::number(Some(fraction).filter(|fraction| fraction.is_finite()))
            }),
        Column::number("POWER", 8, power)
            .drop_priority(1)
            .sort_by(|node| {
                let energy = node.status.energy.as_ref();
                SortKey::number(energy.map(|energy| f64::from(energy.watts)))
            }),
        Column::text("SOURCE", 8, source)
            .max_width(18)
            .drop_priority(5),
        Column::text("BATTERY, HEAT", 14, condition)
            .drop_priority(2)
            .max_width(30)
            .only_if(|node| {
                let energy = node.status.energy.as_ref();
                energy.is_some_and(|e| e.battery.is_some() || !e.throttle_reason.is_empty())
            }),
        Column::text("RUNNING", 14, |node: &NodeRow<'_>| {
            let names: Vec<_> = node.status.models.iter().map(|m| m.name.as_str()).collect();
            Cell::new(&names.join(", "), Tone::Dim)
        })
        .drop_priority(7)
        .grow_weight(5),
    ]
}

/// Returns the state of a node, without `Ready` if there is more to say.
fn state(node: &NodeResource) -> String {
    let state = node_state(node);
    match state.strip_prefix("Ready, ") {
        Some(rest) => rest.to_owned(),
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
        _ => Tone::Warning,
    }
}

/// Returns the sort key of the state: nodes with problems come first.
fn severity(node: &NodeResource) -> f64 {
    match (node.status.phase.as_str(), tone(node)) {
        ("Lost", _) => 0.0,
        ("Suspect", _) => 1.0,
        ("Joining", _) => 2.0,
        (_, Tone::Good) => 4.0,
        _ => 3.0,
    }
}

fn zones(node: &NodeRow<'_>) -> Cell {
    match join_zones(&node.spec.zones) {
        none if none.is_empty() => UNKNOWN.into(),
        zones => Cell::from(zones),
    }
}

fn active(node: &NodeResource) -> u32 {
    node.status.models.iter().map(|m| m.counters.active).sum()
}

fn queued(node: &NodeResource) -> u32 {
    node.status.models.iter().map(|m| m.counters.queued).sum()
}

/// Returns the numbers of active and of queued requests as `active+queued`.
pub(super) fn load(active: u32, queued: u32) -> Cell {
    match (active, queued) {
        (0, 0) => Cell::new("idle", Tone::Dim),
        (active, 0) => active.to_string().into(),
        (active, queued) => Cell::new(&format!("{active}+{queued}"), Tone::Warning),
    }
}

fn memory(node: &NodeRow<'_>) -> Cell {
    let (used, total) = (used_memory(node), node.spec.memory);
    let is_nearly_full = used.0 as f64 > 0.9 * total.0 as f64;
    let tone = match is_nearly_full {
        true => Tone::Warning,
        false => Tone::Plain,
    };
    Cell::new(&format!("{used}/{total}"), tone)
}

fn power(node: &NodeRow<'_>) -> Cell {
    let Some(energy) = &node.status.energy else {
        return UNKNOWN.into();
    };
    mark_estimate(si(f64::from(energy.watts), "W"), !energy.measured).into()
}

fn source(node: &NodeRow<'_>) -> Cell {
    let energy = node.status.energy.as_ref();
    let source = energy.map_or("", |energy| energy.source.as_str());
    Cell::new(source, Tone::Dim)
}

/// Returns whether the node is throttled, and the charge of its battery.
fn condition(node: &NodeRow<'_>) -> Cell {
    let Some(energy) = &node.status.energy else {
        return "".into();
    };
    let has_low_battery = energy
        .battery
        .is_some_and(|b| b.discharging && b.charge < LOW_CHARGE);
    let hot = (!energy.throttle_reason.is_empty()).then(|| "hot".to_owned());
    let tone = match has_low_battery || hot.is_some() {
        true => Tone::Warning,
        false => Tone::Plain,
    };
    let texts: Vec<_> = hot
        .into_iter()
        .chain(energy.battery.map(|b| charge(b.charge, b.discharging)))
        .collect();
    Cell::new(&texts.join(", "), tone)
}

fn charge(fraction: f32, is_discharging: bool) -> String {
    let suffix = if is_discharging { " discharging" } else { "" };
    format!("{:.0} %{suffix}", fraction * 100.0)
}

/// Returns the details of a node's power, battery and heat.
pub(super) fn power_details(node: &NodeResource) -> String {
    let Some(energy) = &node.status.energy else {
        let text = match node.status.phase.as_str() {
            "Lost" | "Suspect" => "not known: the node is not connected",
            _ => "not reported yet",
        };
        return fields(&[("Power", text.into())]);
    };
    let watts = |watts: f32| si(f64::from(watts), "W");
    let battery = energy.battery.map(|b| charge(b.charge, b.discharging));
    fields(&[
        (
            "Power",
            format!(
                "{}, from {} idle to {} at full load, source {}",
                mark_estimate(watts(energy.watts), !energy.measured),
                watts(energy.idle_watts),
                watts(energy.max_watts),
                energy.source
            ),
        ),
        ("Hint", energy.hint.clone()),
        ("Battery", battery.unwrap_or_default()),
        ("Throttled by", energy.throttle_reason.clone()),
    ])
}

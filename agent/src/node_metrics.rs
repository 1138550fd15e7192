//! What this node tells of itself in metrics: its models' requests, its watts and joules.

use std::sync::Arc;

use flotilla_core::energy::EnergySources;
use flotilla_core::generate::AnswerTiming;
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::v1::ModelCounters;
use flotilla_telemetry::KeyValue;
use flotilla_telemetry::instruments::{RecordValue, histogram, observe_amounts, observe_counts};
use flotilla_telemetry::metrics::{BoundHistogram, Histogram, Meter};
use flotilla_telemetry::names::{self, MetricDefinition, attr};

use crate::energy_accounting::{
    ComponentReading, EnergyAccounting, LedgerEntry, ModelRate, NodeReading,
};
use crate::models::ServingTable;
use crate::power::ComponentKind;

/// What the requests of all models are told to.
#[derive(Clone)]
pub(crate) struct NodeMetrics {
    energy_accounting: EnergyAccounting,
    queue: Histogram<f64>,
    prefill: Histogram<f64>,
    decode: Histogram<f64>,
}

/// What the requests of one model are told to.
pub(crate) struct ModelMetrics {
    energy_accounting: EnergyAccounting,
    queue: BoundHistogram<f64>,
    prefill: BoundHistogram<f64>,
    decode: BoundHistogram<f64>,
}

impl NodeMetrics {
    pub(crate) fn new(energy_accounting: EnergyAccounting, meter: &Meter) -> Self {
        Self {
            energy_accounting,
            queue: histogram(meter, &names::QUEUE_DURATION),
            prefill: histogram(meter, &names::PREFILL_DURATION),
            decode: histogram(meter, &names::DECODE_DURATION),
        }
    }

    /// What the requests of this model are told to.
    pub(crate) fn for_model(&self, model: &ModelName) -> ModelMetrics {
        let attributes = [of_model(model)];
        ModelMetrics {
            energy_accounting: self.energy_accounting.clone(),
            queue: self.queue.bind(&attributes),
            prefill: self.prefill.bind(&attributes),
            decode: self.decode.bind(&attributes),
        }
    }
}

impl ModelMetrics {
    /// A request is computed from now on.
    pub(crate) fn open_ledger_entry(&self, rate: Arc<ModelRate>) -> LedgerEntry {
        self.energy_accounting.open_entry(rate)
    }

    /// An answer is complete.
    pub(crate) fn record_timing(&self, timing: AnswerTiming) {
        self.queue.record(timing.queued.as_secs_f64());
        self.prefill.record(timing.prefill.as_secs_f64());
        self.decode.record(timing.decode.as_secs_f64());
    }
}

fn of_model(model: &ModelName) -> KeyValue {
    KeyValue::new(attr::MODEL, model.to_string())
}

/// A sort of what is counted, and how it is read.
type CounterColumn = (&'static str, fn(&ModelCounters) -> u64);

/// Tells what there is to count already, whenever somebody asks.
pub(crate) fn register(
    meter: &Meter,
    node: &NodeName,
    table: &ServingTable,
    energy_accounting: &EnergyAccounting,
) {
    let states: [CounterColumn; 4] = [
        ("begun", |counters| counters.requests),
        ("failed", |counters| counters.failed),
        ("cancelled", |counters| counters.cancelled),
        ("refused", |counters| counters.refused),
    ];
    counters(meter, &names::REPLICA_REQUESTS, table, attr::STATE, &states);
    let tokens: [CounterColumn; 2] = [
        ("input", |counters| counters.prompt_tokens),
        ("output", |counters| counters.output_tokens),
    ];
    counters(
        meter,
        &names::REPLICA_TOKENS,
        table,
        attr::TOKEN_TYPE,
        &tokens,
    );
    requests(meter, &names::REPLICA_ACTIVE, table, |counters| {
        counters.active
    });
    requests(meter, &names::REPLICA_QUEUED, table, |counters| {
        counters.queued
    });
    energy(meter, node, energy_accounting);
}

/// A counter of every model, told apart by one more attribute.
fn counters(
    meter: &Meter,
    metric: &MetricDefinition,
    table: &ServingTable,
    attribute: &'static str,
    of: &[CounterColumn],
) {
    let (table, of) = (table.clone(), of.to_vec());
    observe_counts(meter, metric, move |tell| {
        for (model, hosted) in table.all().iter() {
            let counts = hosted.counters();
            for (value, read) in &of {
                let attributes = [of_model(model), KeyValue::new(attribute, *value)];
                tell(read(&counts), &attributes);
            }
        }
    });
}

/// How many requests every model has.
fn requests(
    meter: &Meter,
    metric: &MetricDefinition,
    table: &ServingTable,
    read: fn(&ModelCounters) -> u32,
) {
    let table = table.clone();
    observe_counts(meter, metric, move |tell| {
        for (model, hosted) in table.all().iter() {
            tell(u64::from(read(&hosted.counters())), &[of_model(model)]);
        }
    });
}

/// What the node draws and drew, and how it is.
fn energy(meter: &Meter, node: &NodeName, energy_accounting: &EnergyAccounting) {
    let host = KeyValue::new(attr::HW_ID, node.to_string());
    let of_host = |sources: EnergySources, host: &KeyValue| {
        let source = KeyValue::new(attr::ENERGY_SOURCE, sources.as_str());
        [host.clone(), source]
    };
    let one = |is: bool| f64::from(u8::from(is));
    let (of_power, of_energy, of_battery) = (host.clone(), host.clone(), host);
    let observe = ObserveReading {
        meter,
        energy_accounting,
    };
    observe.amounts(&names::HOST_POWER, move |reading, tell| {
        tell(reading.watts, &of_host(reading.sources, &of_power));
    });
    observe.amounts(&names::HOST_ENERGY, move |reading, tell| {
        for (sources, joules) in &reading.joules_by_source {
            tell(*joules, &of_host(*sources, &of_energy));
        }
    });
    observe.amounts(&names::HW_POWER, |reading, tell| {
        parts(reading, |part| part.watts, tell);
    });
    observe.amounts(&names::HW_ENERGY, |reading, tell| {
        parts(reading, |part| part.joules, tell);
    });
    observe.amounts(&names::ENERGY_ATTRIBUTED, |reading, tell| {
        tell(reading.attributed_joules, &[]);
    });
    observe.amounts(&names::ENERGY_IDLE, |reading, tell| {
        tell(reading.idle_joules, &[])
    });
    observe.amounts(&names::NODE_THROTTLED, move |reading, tell| {
        tell(one(reading.condition.throttled.is_some()), &[]);
    });
    observe.amounts(&names::BATTERY_CHARGE, move |reading, tell| {
        if let Some(battery) = reading.condition.battery {
            tell(f64::from(battery.charge), std::slice::from_ref(&of_battery));
        }
    });
    observe.amounts(&names::ON_BATTERY, move |reading, tell| {
        if let Some(battery) = reading.condition.battery {
            tell(one(battery.discharging), &[]);
        }
    });
}

/// Has the node's reading told.
struct ObserveReading<'a> {
    meter: &'a Meter,
    energy_accounting: &'a EnergyAccounting,
}

impl ObserveReading<'_> {
    fn amounts(
        &self,
        metric: &MetricDefinition,
        read: impl Fn(&NodeReading, RecordValue<'_, f64>) + Send + Sync + 'static,
    ) {
        let energy_accounting = self.energy_accounting.clone();
        observe_amounts(self.meter, metric, move |tell| {
            read(&energy_accounting.latest_reading(), tell)
        });
    }
}

/// Tells a value of each part. What the whole node draws is told as that.
fn parts(reading: &NodeReading, value: fn(&ComponentReading) -> f64, tell: RecordValue<'_, f64>) {
    let parts = reading.components.iter();
    for part in parts.filter(|part| part.channel.kind != ComponentKind::Host) {
        let channel = &part.channel;
        let mut attributes = vec![
            KeyValue::new(attr::HW_ID, channel.id.clone()),
            KeyValue::new(attr::HW_TYPE, channel.kind.as_str()),
            KeyValue::new(attr::HW_NAME, channel.name.clone()),
            KeyValue::new(attr::ENERGY_SOURCE, channel.source.as_str()),
        ];
        let parent = channel.parent.clone();
        attributes.extend(parent.map(|id| KeyValue::new(attr::HW_PARENT, id)));
        tell(value(part), &attributes);
    }
}

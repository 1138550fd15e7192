//! The metrics that are read when metrics are exported: the counters of the models, and the node's
//! energy, condition, disk space and device memory.

use flotilla_core::energy::EnergySources;
use flotilla_core::{Bytes, NodeName};
use flotilla_proto::v1::ModelCounters;
use flotilla_telemetry::KeyValue;
use flotilla_telemetry::instruments::{RecordValue, observe_amounts, observe_counts};
use flotilla_telemetry::metrics::Meter;
use flotilla_telemetry::names::{self, MetricDefinition, attr};

use crate::artifacts::ArtifactStore;
use crate::energy_accounting::{ComponentReading, EnergyAccounting, NodeReading};
use crate::models::{ModelStatuses, ServingTable};
use crate::power::{ComponentKind, NVML_CHANNEL};
use crate::request_metrics::model_attribute;

/// An attribute value, and the counter that is exported with it.
type CounterColumn = (&'static str, fn(&ModelCounters) -> u64);

/// Registers the metrics: the counters of each model, and the node's energy and condition.
pub(crate) fn register(
    meter: &Meter,
    node: &NodeName,
    table: &ServingTable,
    energy_accounting: &EnergyAccounting,
) {
    let states: [CounterColumn; 4] = [
        ("started", |counters| counters.requests),
        ("failed", |counters| counters.failed),
        ("cancelled", |counters| counters.cancelled),
        ("refused", |counters| counters.refused),
    ];
    register_counters(meter, &names::REPLICA_REQUESTS, table, attr::STATE, &states);
    let tokens: [CounterColumn; 2] = [
        ("input", |counters| counters.prompt_tokens),
        ("output", |counters| counters.output_tokens),
    ];
    register_counters(
        meter,
        &names::REPLICA_TOKENS,
        table,
        attr::TOKEN_TYPE,
        &tokens,
    );
    register_requests(meter, &names::REPLICA_ACTIVE, table, |counters| {
        counters.active
    });
    register_requests(meter, &names::REPLICA_QUEUED, table, |counters| {
        counters.queued
    });
    register_energy(meter, node, energy_accounting);
}

/// Registers the disk space of models' files.
pub(crate) fn register_disk(meter: &Meter, artifacts: &ArtifactStore) {
    let store = artifacts.clone();
    observe_counts(meter, &names::DISK_USED, move |record| {
        record(store.usage().used, &[]);
    });
    let store = artifacts.clone();
    observe_counts(meter, &names::DISK_BUDGET, move |record| {
        if let Some(budget) = store.budget() {
            record(budget.0, &[]);
        }
    });
}

/// Registers the memory of the node's GPUs, by their UUIDs.
pub(crate) fn register_device_memory(
    meter: &Meter,
    gpus: Vec<(String, Bytes)>,
    statuses: &ModelStatuses,
) {
    if gpus.is_empty() {
        return;
    }
    let attribute = |uuid: &str| {
        // As the channel that meters its energy.
        [KeyValue::new(attr::HW_ID, format!("{NVML_CHANNEL}{uuid}"))]
    };
    let (statuses, budgets) = (statuses.clone(), gpus.clone());
    observe_counts(meter, &names::DEVICE_MEMORY_USED, move |record| {
        let models = statuses.now();
        let replacements = models
            .iter()
            .filter_map(|model| model.replacement.as_deref());
        let all: Vec<_> = models.iter().chain(replacements).collect();
        for (index, (uuid, _)) in (0_u32..).zip(&gpus) {
            let here = all.iter().filter(|model| model.on_device);
            let here = here.filter(|model| model.gpu == Some(index));
            let used = here.map(|model| model.memory_bytes).sum();
            record(used, &attribute(uuid));
        }
    });
    observe_counts(meter, &names::DEVICE_MEMORY_BUDGET, move |record| {
        for (uuid, budget) in &budgets {
            record(budget.0, &attribute(uuid));
        }
    });
}

/// Registers a counter of each model with one value per column, distinguished by `attribute`.
fn register_counters(
    meter: &Meter,
    metric: &MetricDefinition,
    table: &ServingTable,
    attribute: &'static str,
    columns: &[CounterColumn],
) {
    let (table, columns) = (table.clone(), columns.to_vec());
    observe_counts(meter, metric, move |record| {
        for (model, served) in table.all().iter() {
            let counts = served.counters();
            for (value, read) in &columns {
                let attributes = [model_attribute(model), KeyValue::new(attribute, *value)];
                record(read(&counts), &attributes);
            }
        }
    });
}

/// Registers a gauge of each model's requests.
fn register_requests(
    meter: &Meter,
    metric: &MetricDefinition,
    table: &ServingTable,
    read: fn(&ModelCounters) -> u32,
) {
    let table = table.clone();
    observe_counts(meter, metric, move |record| {
        for (model, served) in table.all().iter() {
            record(
                u64::from(read(&served.counters())),
                &[model_attribute(model)],
            );
        }
    });
}

/// Registers the node's energy and condition.
fn register_energy(meter: &Meter, node: &NodeName, energy_accounting: &EnergyAccounting) {
    let host = KeyValue::new(attr::HW_ID, node.to_string());
    let host_attributes = |sources: EnergySources, host: &KeyValue| {
        let source = KeyValue::new(attr::ENERGY_SOURCE, sources.as_str());
        [host.clone(), source]
    };
    let from_bool = |value: bool| f64::from(u8::from(value));
    let (power_host, energy_host, battery_host) = (host.clone(), host.clone(), host);
    let metrics = ReadingMetrics {
        meter,
        energy_accounting,
    };
    metrics.register(&names::HOST_POWER, move |reading, record| {
        record(
            reading.watts,
            &host_attributes(reading.sources, &power_host),
        );
    });
    metrics.register(&names::HOST_ENERGY, move |reading, record| {
        for (sources, joules) in &reading.joules_by_source {
            record(*joules, &host_attributes(*sources, &energy_host));
        }
    });
    metrics.register(&names::HW_POWER, |reading, record| {
        record_components(reading, |component| component.watts, record);
    });
    metrics.register(&names::HW_ENERGY, |reading, record| {
        record_components(reading, |component| component.joules, record);
    });
    metrics.register(&names::ENERGY_ATTRIBUTED, |reading, record| {
        record(reading.attributed_joules, &[]);
    });
    metrics.register(&names::ENERGY_IDLE, |reading, record| {
        record(reading.idle_joules, &[])
    });
    metrics.register(&names::NODE_THROTTLED, move |reading, record| {
        record(from_bool(reading.condition.throttled.is_some()), &[]);
    });
    metrics.register(&names::BATTERY_CHARGE, move |reading, record| {
        if let Some(battery) = reading.condition.battery {
            record(
                f64::from(battery.charge),
                std::slice::from_ref(&battery_host),
            );
        }
    });
    metrics.register(&names::ON_BATTERY, move |reading, record| {
        if let Some(battery) = reading.condition.battery {
            record(from_bool(battery.discharging), &[]);
        }
    });
}

/// Registers metrics that are read from the node's latest reading.
struct ReadingMetrics<'a> {
    meter: &'a Meter,
    energy_accounting: &'a EnergyAccounting,
}

impl ReadingMetrics<'_> {
    /// Registers a metric whose values `read` records.
    fn register(
        &self,
        metric: &MetricDefinition,
        read: impl Fn(&NodeReading, RecordValue<'_, f64>) + Send + Sync + 'static,
    ) {
        let energy_accounting = self.energy_accounting.clone();
        observe_amounts(self.meter, metric, move |record| {
            read(&energy_accounting.latest_reading(), record)
        });
    }
}

/// Records a value of each component. A channel of the whole host is left out, because the host has
/// metrics of its own.
fn record_components(
    reading: &NodeReading,
    value: fn(&ComponentReading) -> f64,
    record: RecordValue<'_, f64>,
) {
    let components = reading.components.iter();
    for component in components.filter(|c| c.channel.kind != ComponentKind::Host) {
        let channel = &component.channel;
        let mut attributes = vec![
            KeyValue::new(attr::HW_ID, channel.id.clone()),
            KeyValue::new(attr::HW_TYPE, channel.kind.as_str()),
            KeyValue::new(attr::HW_NAME, channel.name.clone()),
            KeyValue::new(attr::ENERGY_SOURCE, channel.source.as_str()),
        ];
        let parent = channel.parent.clone();
        attributes.extend(parent.map(|id| KeyValue::new(attr::HW_PARENT, id)));
        record(value(component), &attributes);
    }
}

//! What this node tells of itself in metrics: its models' requests, its watts and joules.

use std::sync::Arc;

use flotilla_core::energy::Sources;
use flotilla_core::generate::Timing;
use flotilla_core::{ModelName, NodeName};
use flotilla_proto::v1::Counters;
use flotilla_telemetry::KeyValue;
use flotilla_telemetry::front::histogram;
use flotilla_telemetry::metrics::{BoundHistogram, Histogram, Meter};
use flotilla_telemetry::names::{self, Metric, attr};

use crate::accounts::{Accounts, Entry, Rate, Reading};
use crate::models::Table;
use crate::power::Kind;

/// What the requests of all models are told to.
#[derive(Clone)]
pub(crate) struct Observer {
    accounts: Accounts,
    queue: Histogram<f64>,
    prefill: Histogram<f64>,
    decode: Histogram<f64>,
}

/// What the requests of one model are told to.
pub(crate) struct OfModel {
    accounts: Accounts,
    queue: BoundHistogram<f64>,
    prefill: BoundHistogram<f64>,
    decode: BoundHistogram<f64>,
}

impl Observer {
    pub(crate) fn new(accounts: Accounts, meter: &Meter) -> Self {
        Self {
            accounts,
            queue: histogram(meter, &names::QUEUE_DURATION),
            prefill: histogram(meter, &names::PREFILL_DURATION),
            decode: histogram(meter, &names::DECODE_DURATION),
        }
    }

    /// What the requests of this model are told to.
    pub(crate) fn of(&self, model: &ModelName) -> OfModel {
        let attributes = [of_model(model)];
        OfModel {
            accounts: self.accounts.clone(),
            queue: self.queue.bind(&attributes),
            prefill: self.prefill.bind(&attributes),
            decode: self.decode.bind(&attributes),
        }
    }
}

impl OfModel {
    /// A request is computed from now on.
    pub(crate) fn enter(&self, rate: Arc<Rate>) -> Entry {
        self.accounts.enter(rate)
    }

    /// An answer is complete.
    pub(crate) fn answered(&self, timing: Timing) {
        self.queue.record(timing.queued.as_secs_f64());
        self.prefill.record(timing.prefill.as_secs_f64());
        self.decode.record(timing.decode.as_secs_f64());
    }
}

fn of_model(model: &ModelName) -> KeyValue {
    KeyValue::new(attr::MODEL, model.to_string())
}

/// A sort of what is counted, and how it is read.
type Sort = (&'static str, fn(&Counters) -> u64);

/// Tells what there is to count already, whenever somebody asks.
pub(crate) fn register(meter: &Meter, node: &NodeName, table: &Table, accounts: &Accounts) {
    let states: [Sort; 4] = [
        ("begun", |counters| counters.requests),
        ("failed", |counters| counters.failed),
        ("cancelled", |counters| counters.cancelled),
        ("refused", |counters| counters.refused),
    ];
    counters(meter, &names::REPLICA_REQUESTS, table, attr::STATE, &states);
    let tokens: [Sort; 2] = [
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
    energy(meter, node, accounts);
}

/// A counter of every model, told apart by one more attribute.
fn counters(meter: &Meter, metric: &Metric, table: &Table, attribute: &'static str, of: &[Sort]) {
    let (table, of) = (table.clone(), of.to_vec());
    meter
        .u64_observable_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.description)
        .with_callback(move |counter| {
            for (model, hosted) in table.all().iter() {
                let counts = hosted.counts();
                for (value, read) in &of {
                    let attributes = [of_model(model), KeyValue::new(attribute, *value)];
                    counter.observe(read(&counts), &attributes);
                }
            }
        })
        .build();
}

/// How many requests every model has.
fn requests(meter: &Meter, metric: &Metric, table: &Table, read: fn(&Counters) -> u32) {
    let table = table.clone();
    meter
        .u64_observable_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.description)
        .with_callback(move |gauge| {
            for (model, hosted) in table.all().iter() {
                gauge.observe(u64::from(read(&hosted.counts())), &[of_model(model)]);
            }
        })
        .build();
}

/// What is read of the node: values with their attributes.
type Values = Vec<(f64, Vec<KeyValue>)>;
type Read = Box<dyn Fn(&Reading) -> Values + Send + Sync>;

fn energy(meter: &Meter, node: &NodeName, accounts: &Accounts) {
    let host = node.to_string();
    let of_host = move |sources: Sources| {
        vec![
            KeyValue::new(attr::HW_ID, host.clone()),
            KeyValue::new(attr::ENERGY_SOURCE, sources.as_str()),
        ]
    };
    let battery = of_host.clone();
    let watts = of_host.clone();
    let gauges: Vec<(&Metric, Read)> = vec![
        (
            &names::HOST_POWER,
            Box::new(move |r| vec![(r.watts, watts(r.sources))]),
        ),
        (&names::HW_POWER, Box::new(|r| parts(r, |part| part.watts))),
        (
            &names::NODE_THROTTLED,
            Box::new(|r| vec![(f64::from(u8::from(r.condition.throttled.is_some())), vec![])]),
        ),
        (
            &names::BATTERY_CHARGE,
            Box::new(move |r| {
                let charge = r.condition.battery.map(|battery| f64::from(battery.charge));
                let id = || battery(r.sources).into_iter().take(1).collect();
                charge.map(|charge| (charge, id())).into_iter().collect()
            }),
        ),
        (
            &names::ON_BATTERY,
            Box::new(|r| {
                let battery = r.condition.battery;
                let on = battery.map(|battery| f64::from(u8::from(battery.discharging)));
                on.map(|on| (on, vec![])).into_iter().collect()
            }),
        ),
    ];
    for (metric, read) in gauges {
        let accounts = accounts.clone();
        meter
            .f64_observable_gauge(metric.name)
            .with_unit(metric.unit)
            .with_description(metric.description)
            .with_callback(move |gauge| {
                for (value, attributes) in read(&accounts.reading()) {
                    gauge.observe(value, &attributes);
                }
            })
            .build();
    }
    let sums: Vec<(&Metric, Read)> = vec![
        (
            &names::HOST_ENERGY,
            Box::new(move |r| {
                let by_sources = r.by_sources.iter();
                by_sources
                    .map(|(sources, joules)| (*joules, of_host(*sources)))
                    .collect()
            }),
        ),
        (
            &names::HW_ENERGY,
            Box::new(|r| parts(r, |part| part.joules)),
        ),
        (
            &names::ENERGY_ATTRIBUTED,
            Box::new(|r| vec![(r.attributed, vec![])]),
        ),
        (&names::ENERGY_IDLE, Box::new(|r| vec![(r.idle, vec![])])),
    ];
    for (metric, read) in sums {
        let accounts = accounts.clone();
        meter
            .f64_observable_counter(metric.name)
            .with_unit(metric.unit)
            .with_description(metric.description)
            .with_callback(move |counter| {
                for (value, attributes) in read(&accounts.reading()) {
                    counter.observe(value, &attributes);
                }
            })
            .build();
    }
}

fn parts(reading: &Reading, value: fn(&crate::accounts::Metered) -> f64) -> Values {
    // What the whole node draws is told as that.
    let parts = reading.parts.iter();
    parts
        .filter(|part| part.channel.kind != Kind::Host)
        .map(|part| {
            let channel = &part.channel;
            let mut attributes = vec![
                KeyValue::new(attr::HW_ID, channel.id.clone()),
                KeyValue::new(attr::HW_TYPE, channel.kind.as_str()),
                KeyValue::new(attr::HW_NAME, channel.name.clone()),
                KeyValue::new(attr::ENERGY_SOURCE, channel.source.as_str()),
            ];
            let parent = channel.parent.clone();
            attributes.extend(parent.map(|id| KeyValue::new(attr::HW_PARENT, id)));
            (value(part), attributes)
        })
        .collect()
}

//! Instruments made of the table's rows: the name, unit, description and buckets are the row's.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::names::{InstrumentKind, MetricDefinition};

/// What every instrument takes of its row.
macro_rules! described {
    ($builder:expr, $metric:expr) => {
        $builder
            .with_unit($metric.unit)
            .with_description($metric.description)
    };
}

/// A histogram of amounts.
#[must_use]
pub fn histogram(meter: &Meter, metric: &MetricDefinition) -> Histogram<f64> {
    described!(meter.f64_histogram(metric.name), metric)
        .with_boundaries(metric.buckets.to_vec())
        .build()
}

/// A histogram of whole numbers.
pub(crate) fn histogram_of_counts(meter: &Meter, metric: &MetricDefinition) -> Histogram<u64> {
    described!(meter.u64_histogram(metric.name), metric)
        .with_boundaries(metric.buckets.to_vec())
        .build()
}

/// A counter.
pub(crate) fn counter(meter: &Meter, metric: &MetricDefinition) -> Counter<u64> {
    described!(meter.u64_counter(metric.name), metric).build()
}

/// A counter of amounts.
pub(crate) fn sum(meter: &Meter, metric: &MetricDefinition) -> Counter<f64> {
    described!(meter.f64_counter(metric.name), metric).build()
}

/// Takes a value and what it is told under.
pub type RecordValue<'a, T> = &'a mut dyn FnMut(T, &[KeyValue]);

/// Has `read` tell a counter or a gauge of whole numbers, whenever somebody asks.
pub fn observe_counts(
    meter: &Meter,
    metric: &MetricDefinition,
    read: impl Fn(RecordValue<'_, u64>) + Send + Sync + 'static,
) {
    match metric.kind {
        InstrumentKind::Counter => drop(
            described!(meter.u64_observable_counter(metric.name), metric)
                .with_callback(move |to| read(&mut |value, under| to.observe(value, under)))
                .build(),
        ),
        InstrumentKind::Gauge => drop(
            described!(meter.u64_observable_gauge(metric.name), metric)
                .with_callback(move |to| read(&mut |value, under| to.observe(value, under)))
                .build(),
        ),
        // What falls into its buckets is recorded when it happens.
        InstrumentKind::Histogram => {}
    }
}

/// The same of amounts.
pub fn observe_amounts(
    meter: &Meter,
    metric: &MetricDefinition,
    read: impl Fn(RecordValue<'_, f64>) + Send + Sync + 'static,
) {
    match metric.kind {
        InstrumentKind::Counter => drop(
            described!(meter.f64_observable_counter(metric.name), metric)
                .with_callback(move |to| read(&mut |value, under| to.observe(value, under)))
                .build(),
        ),
        InstrumentKind::Gauge => drop(
            described!(meter.f64_observable_gauge(metric.name), metric)
                .with_callback(move |to| read(&mut |value, under| to.observe(value, under)))
                .build(),
        ),
        InstrumentKind::Histogram => {}
    }
}

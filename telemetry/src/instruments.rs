//! Creates instruments from the definitions in [`names`](crate::names): name, unit, description and
//! buckets come from there.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::names::{InstrumentKind, MetricDefinition};

/// Sets the unit and description of an instrument builder. A macro, because the SDK's builders have
/// no common trait.
macro_rules! described {
    ($builder:expr, $metric:expr) => {
        $builder
            .with_unit($metric.unit)
            .with_description($metric.description)
    };
}

/// Creates a histogram of floating-point values.
#[must_use]
pub fn histogram(meter: &Meter, metric: &MetricDefinition) -> Histogram<f64> {
    described!(meter.f64_histogram(metric.name), metric)
        .with_boundaries(metric.buckets.to_vec())
        .build()
}

/// Creates a histogram of integers.
pub(crate) fn integer_histogram(meter: &Meter, metric: &MetricDefinition) -> Histogram<u64> {
    described!(meter.u64_histogram(metric.name), metric)
        .with_boundaries(metric.buckets.to_vec())
        .build()
}

/// Creates a counter of integers.
pub(crate) fn counter(meter: &Meter, metric: &MetricDefinition) -> Counter<u64> {
    described!(meter.u64_counter(metric.name), metric).build()
}

/// Creates a counter of floating-point values.
pub(crate) fn float_counter(meter: &Meter, metric: &MetricDefinition) -> Counter<f64> {
    described!(meter.f64_counter(metric.name), metric).build()
}

/// A callback that records one value with its attributes.
pub type RecordValue<'a, T> = &'a mut dyn FnMut(T, &[KeyValue]);

/// Creates a counter or gauge of integers whose values are read at each export: `observe` is called
/// with a callback and records every value with it.
pub fn observe_counts(
    meter: &Meter,
    metric: &MetricDefinition,
    observe: impl Fn(RecordValue<'_, u64>) + Send + Sync + 'static,
) {
    match metric.kind {
        InstrumentKind::Counter => drop(
            described!(meter.u64_observable_counter(metric.name), metric)
                .with_callback(move |to| {
                    observe(&mut |value, attributes| to.observe(value, attributes))
                })
                .build(),
        ),
        InstrumentKind::Gauge => drop(
            described!(meter.u64_observable_gauge(metric.name), metric)
                .with_callback(move |to| {
                    observe(&mut |value, attributes| to.observe(value, attributes))
                })
                .build(),
        ),
        // A histogram cannot be observed: its values are recorded when they occur.
        InstrumentKind::Histogram => {}
    }
}

/// Creates a counter or gauge of floating-point values, like [`observe_counts`].
pub fn observe_amounts(
    meter: &Meter,
    metric: &MetricDefinition,
    observe: impl Fn(RecordValue<'_, f64>) + Send + Sync + 'static,
) {
    match metric.kind {
        InstrumentKind::Counter => drop(
            described!(meter.f64_observable_counter(metric.name), metric)
                .with_callback(move |to| {
                    observe(&mut |value, attributes| to.observe(value, attributes))
                })
                .build(),
        ),
        InstrumentKind::Gauge => drop(
            described!(meter.f64_observable_gauge(metric.name), metric)
                .with_callback(move |to| {
                    observe(&mut |value, attributes| to.observe(value, attributes))
                })
                .build(),
        ),
        InstrumentKind::Histogram => {}
    }
}

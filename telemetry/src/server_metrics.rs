//! Metrics of requests as clients see them. A request is recorded where it ends: on the
//! controller.

mod bound_instruments;
mod drop_reason;
mod request_stats;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram, Meter};
use parking_lot::{Mutex, RwLock};

use crate::instruments::{counter, float_counter, histogram, integer_histogram, observe_counts};
use crate::names::{self, OTHER, attr};
use bound_instruments::BoundInstruments;

pub use drop_reason::DropReason;
pub use request_stats::{RequestLabels, RequestStats};

/// Maximum number of API keys with a time series of their own. The others share one.
const MAX_API_KEYS: usize = 100;
/// Maximum number of label combinations whose bound instruments are cached. Requests beyond it
/// bind them again, which takes a few times as long.
const MAX_CACHED_INSTRUMENTS: usize = 10_000;

/// The instruments for requests as clients see them.
#[derive(Debug)]
pub struct ServerMetrics {
    duration: Histogram<f64>,
    time_to_first_token: Histogram<f64>,
    time_per_output_token: Histogram<f64>,
    tokens: Histogram<u64>,
    energy: Histogram<f64>,
    emissions: Counter<f64>,
    cost: Counter<f64>,
    node_energy: Counter<f64>,
    api_key_energy: Counter<f64>,
    dispatch_duration: BoundHistogram<f64>,
    classifications: Counter<u64>,
    encoder_requests: Counter<u64>,
    encoder_duration: Histogram<f64>,
    cascade_answers: Counter<u64>,
    hedges: Counter<u64>,
    retries: Counter<u64>,
    failed_attempts: Counter<u64>,
    dropped_records: Counter<u64>,
    in_flight: Arc<AtomicU64>,
    /// Bound instruments, by the hash of their labels.
    cached_instruments: RwLock<HashMap<u64, Arc<BoundInstruments>>>,
    /// Bound counters of `node_energy`, by node.
    node_counters: RwLock<HashMap<String, BoundCounter<f64>>>,
    /// Hashes of the API keys that have a time series of their own.
    api_keys: Mutex<HashSet<u64>>,
}

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub struct InFlightGuard(Arc<AtomicU64>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ServerMetrics {
    /// Creates the instruments with `meter`.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let in_flight = Arc::new(AtomicU64::new(0));
        let observed = in_flight.clone();
        observe_counts(meter, &names::REQUESTS_IN_FLIGHT, move |record| {
            record(observed.load(Ordering::Relaxed), &[]);
        });
        let hedges = counter(meter, &names::HEDGES);
        let retries = counter(meter, &names::RETRIES);
        // Rare events are exported as 0 from the start: Prometheus sees no increase in a counter
        // that first appears with the value 1.
        retries.add(0, &[]);
        for won in [true, false] {
            hedges.add(0, &[KeyValue::new(attr::HEDGE_WON, won)]);
        }
        Self {
            duration: histogram(meter, &names::REQUEST_DURATION),
            time_to_first_token: histogram(meter, &names::TIME_TO_FIRST_TOKEN),
            time_per_output_token: histogram(meter, &names::TIME_PER_OUTPUT_TOKEN),
            tokens: integer_histogram(meter, &names::TOKEN_USAGE),
            energy: histogram(meter, &names::REQUEST_ENERGY),
            emissions: float_counter(meter, &names::REQUEST_EMISSIONS),
            cost: float_counter(meter, &names::REQUEST_COST),
            node_energy: float_counter(meter, &names::NODE_REQUEST_ENERGY),
            api_key_energy: float_counter(meter, &names::API_KEY_ENERGY),
            dispatch_duration: histogram(meter, &names::DISPATCH_DURATION).bind(&[]),
            classifications: counter(meter, &names::CLASSIFICATIONS),
            encoder_requests: counter(meter, &names::ENCODER_REQUESTS),
            encoder_duration: histogram(meter, &names::ENCODER_DURATION),
            cascade_answers: counter(meter, &names::CASCADE_ANSWERS),
            hedges,
            retries,
            failed_attempts: counter(meter, &names::FAILED_ATTEMPTS),
            dropped_records: counter(meter, &names::DATASET_RECORDS_DROPPED),
            in_flight,
            cached_instruments: RwLock::default(),
            node_counters: RwLock::default(),
            api_keys: Mutex::default(),
        }
    }

    /// Counts a request that arrives. It is in flight until the guard is dropped.
    #[must_use]
    pub fn start_request(&self) -> InFlightGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self.in_flight.clone())
    }

    /// Returns the number of requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Records a request that has ended. A request that failed counts only with its duration and
    /// the energy it used.
    pub fn record_request(&self, labels: RequestLabels<'_>, stats: &RequestStats) {
        let Some(error_type) = stats.error_type else {
            self.instruments(labels).record(self, stats);
            return;
        };
        let mut attributes = labels.gen_ai_attributes();
        attributes.push(KeyValue::new(attr::ERROR_TYPE, error_type));
        self.duration
            .record(stats.duration.as_secs_f64(), &attributes);
        if stats.joules > 0.0 {
            self.instruments(labels).record_energy(self, stats);
        }
    }

    /// Records the energy of a request by node and by API key. `api_key_hash` is 0 for anonymous
    /// requests, which have no time series.
    pub fn record_energy(&self, node: &str, api_key_hash: u64, joules: f64) {
        let recorded = self
            .node_counters
            .read()
            .get(node)
            .map(|counter| counter.add(joules));
        if recorded.is_none() {
            let counter = self
                .node_energy
                .bind(&[KeyValue::new(attr::NODE, node.to_owned())]);
            counter.add(joules);
            self.node_counters.write().insert(node.to_owned(), counter);
        }
        if api_key_hash == 0 {
            return;
        }
        let has_own_series = {
            let mut keys = self.api_keys.lock();
            keys.contains(&api_key_hash) || (keys.len() < MAX_API_KEYS && keys.insert(api_key_hash))
        };
        let label = if has_own_series {
            format!("{:08x}", api_key_hash >> 32)
        } else {
            OTHER.to_owned()
        };
        self.api_key_energy
            .add(joules, &[KeyValue::new(attr::API_KEY_HASH, label)]);
    }

    /// Records the time it took to choose a replica.
    pub fn record_dispatch(&self, duration: Duration) {
        self.dispatch_duration.record(duration.as_secs_f64());
    }

    /// Records a classification. `task` is the result, or `None` if there was none; `abstained` is
    /// true when the classifier was not confident enough.
    pub fn record_classification(&self, task: Option<&str>, abstained: bool) {
        let task = task.unwrap_or(OTHER).to_owned();
        let attributes = [
            KeyValue::new(attr::TASK, task),
            KeyValue::new(attr::CLASSIFY_ABSTAINED, abstained),
        ];
        self.classifications.add(1, &attributes);
    }

    /// Records a request that the classifier was unsure of, with whether the encoder was used and how long the
    /// request waited for it.
    pub fn record_encoder(&self, outcome: &'static str, duration: Duration) {
        let attributes = [KeyValue::new(attr::ENCODER_OUTCOME, outcome)];
        self.encoder_requests.add(1, &attributes);
        self.encoder_duration
            .record(duration.as_secs_f64(), &attributes);
    }

    /// Records what became of the answer of one model of a cascade.
    pub fn record_cascade_answer(&self, task: &str, model: &str, outcome: &'static str) {
        let attributes = [
            KeyValue::new(attr::TASK, task.to_owned()),
            KeyValue::new(attr::MODEL, model.to_owned()),
            KeyValue::new(attr::CASCADE_OUTCOME, outcome),
        ];
        self.cascade_answers.add(1, &attributes);
    }

    /// Records a hedged request: one that was also sent to a second replica. `won` is true when the
    /// second replica answered first.
    pub fn record_hedge(&self, won: bool) {
        self.hedges.add(1, &[KeyValue::new(attr::HEDGE_WON, won)]);
    }

    /// Records the number of retries of a request.
    pub fn record_retries(&self, retries: u64) {
        self.retries.add(retries, &[]);
    }

    /// Records an attempt of a replica of `model` that failed with an error of this type.
    pub fn record_failed_attempt(&self, model: &str, error_type: &'static str) {
        let attributes = [
            KeyValue::new(attr::MODEL, model.to_owned()),
            KeyValue::new(attr::ERROR_TYPE, error_type),
        ];
        self.failed_attempts.add(1, &attributes);
    }

    /// Records that a prompt or an answer that `task` learns from was not kept.
    pub fn record_dropped_record(&self, task: &str, reason: DropReason) {
        let attributes = [
            KeyValue::new(attr::TASK, task.to_owned()),
            KeyValue::new(attr::ERROR_TYPE, reason.as_str()),
        ];
        self.dropped_records.add(1, &attributes);
    }

    fn instruments(&self, labels: RequestLabels<'_>) -> Arc<BoundInstruments> {
        let mut hasher = DefaultHasher::new();
        labels.hash(&mut hasher);
        let key = hasher.finish();
        let cached = self.cached_instruments.read().get(&key).cloned();
        cached.unwrap_or_else(|| {
            let instruments = Arc::new(BoundInstruments::new(self, labels));
            let mut cache = self.cached_instruments.write();
            if cache.len() < MAX_CACHED_INSTRUMENTS {
                cache.insert(key, instruments.clone());
            }
            instruments
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prometheus::PrometheusRegistry;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    #[test]
    fn requests_are_recorded_and_api_key_series_are_limited() {
        let registry = PrometheusRegistry::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(registry.reader().unwrap())
            .build();
        let metrics = ServerMetrics::new(&provider.meter("flotilla"));
        let labels = RequestLabels {
            operation: "chat",
            requested_model: Some("auto"),
            model: Some("m"),
            task: Some("t"),
            energy_source: "rapl",
            currency: Some("EUR"),
        };
        let stats = RequestStats {
            duration: Duration::from_millis(600),
            time_to_first_token: Some(Duration::from_millis(100)),
            input_tokens: 5,
            output_tokens: 11,
            joules: 2.0,
            co2_grams: Some(0.5),
            cost: Some(0.25),
            ..RequestStats::default()
        };
        assert_eq!(
            stats.time_per_output_token(),
            Some(Duration::from_millis(50))
        );
        let in_flight = metrics.start_request();
        metrics.record_request(labels, &stats);
        metrics.record_request(
            RequestLabels {
                requested_model: None,
                ..labels
            },
            &RequestStats {
                error_type: Some("timeout"),
                ..stats
            },
        );
        for key in 1..=2 * MAX_API_KEYS as u64 {
            metrics.record_energy("n1", key << 32, 1.0);
        }
        let text = registry.encode_text();
        drop(in_flight);
        for line in [
            r#"gen_ai_server_request_duration_seconds_sum{error_type="timeout",gen_ai_operation_name="chat",gen_ai_provider_name="flotilla",gen_ai_request_model="_OTHER",gen_ai_response_model="m"} 0.6"#,
            r#"gen_ai_server_time_per_output_token_seconds_sum{gen_ai_operation_name="chat",gen_ai_provider_name="flotilla",gen_ai_request_model="auto",gen_ai_response_model="m"} 0.05"#,
            r#"flotilla_request_energy_joules_sum{flotilla_energy_source="rapl",flotilla_model="m",flotilla_task="t"} 4"#,
            r#"flotilla_request_cost_total{flotilla_currency="EUR",flotilla_model="m",flotilla_task="t"} 0.5"#,
            r#"flotilla_api_key_request_energy_joules_total{flotilla_api_key_hash="_OTHER"} 100"#,
            r#"flotilla_node_request_energy_joules_total{flotilla_node="n1"} 200"#,
            "flotilla_requests_in_flight 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(metrics.in_flight(), 0);
    }
}

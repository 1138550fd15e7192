//! Requests as their clients see them, counted where they end.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram, Meter};
use parking_lot::{Mutex, RwLock};

use crate::instruments::{counter, histogram, histogram_of_counts, observe_counts, sum};
use crate::names::{self, OTHER, PROVIDER, attr};

/// Keys that are told apart: each is a time series.
const KEYS: usize = 100;
/// Combinations of labels whose instruments are kept at hand. Beyond that they are looked up anew
/// each time, which costs a few times as much.
const AT_HAND: usize = 10_000;

/// What a request is told under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestLabels<'a> {
    /// `chat`, `text_completion` or `embeddings`.
    pub operation: &'static str,
    /// What the client asked for, where the fleet has that.
    pub requested_model: Option<&'a str>,
    /// The model that answered.
    pub model: Option<&'a str>,
    pub task: Option<&'a str>,
    /// Where the joules come from.
    pub energy_source: &'a str,
    /// ISO 4217 code of the price, where there is one.
    pub currency: Option<&'a str>,
}

/// What a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestStats {
    /// To its end.
    pub duration: Duration,
    /// Why it failed, in a word, if it did.
    pub error_type: Option<&'static str>,
    /// To its first token, if there was one.
    pub time_to_first_token: Option<Duration>,
    /// How long its node wrote after that, where it says so.
    pub decode_time: Option<Duration>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub joules: f64,
    /// Of CO2 equivalent.
    pub co2_grams: Option<f64>,
    pub cost: Option<f64>,
}

impl RequestStats {
    /// Time per token after the first one. `None` where there is none.
    #[must_use]
    pub fn time_per_output_token(&self) -> Option<Duration> {
        let more = self.output_tokens.checked_sub(1).filter(|more| *more > 0)?;
        let since_first = || self.duration.checked_sub(self.time_to_first_token?);
        let writing = self.decode_time.or_else(since_first)?;
        Some(writing.div_f64(more as f64))
    }
}

/// The instruments for what clients see.
#[derive(Debug)]
pub struct ServerMetrics {
    duration: Histogram<f64>,
    first_token: Histogram<f64>,
    per_token: Histogram<f64>,
    tokens: Histogram<u64>,
    energy: Histogram<f64>,
    emissions: Counter<f64>,
    cost: Counter<f64>,
    node_energy: Counter<f64>,
    key_energy: Counter<f64>,
    dispatch: BoundHistogram<f64>,
    classified: Counter<u64>,
    cascade: Counter<u64>,
    hedges: Counter<u64>,
    retries: Counter<u64>,
    in_flight: Arc<AtomicU64>,
    at_hand: RwLock<HashMap<u64, Arc<BoundInstruments>>>,
    nodes: RwLock<HashMap<String, BoundCounter<f64>>>,
    keys: Mutex<HashSet<u64>>,
}

/// The instruments of one combination of labels.
#[derive(Debug)]
struct BoundInstruments {
    duration: BoundHistogram<f64>,
    first_token: BoundHistogram<f64>,
    per_token: BoundHistogram<f64>,
    input: BoundHistogram<u64>,
    output: BoundHistogram<u64>,
    energy: BoundHistogram<f64>,
    /// Only where there is a grid: what is bound is told, if only as 0.
    emissions: OnceLock<BoundCounter<f64>>,
    cost: OnceLock<BoundCounter<f64>>,
    /// What emissions and cost are told under.
    own: Vec<KeyValue>,
    priced: Vec<KeyValue>,
}

impl BoundInstruments {
    fn spent(&self, front: &ServerMetrics, took: &RequestStats) {
        self.energy.record(took.joules);
        if let Some(grams) = took.co2_grams {
            let bind = || front.emissions.bind(&self.own);
            self.emissions.get_or_init(bind).add(grams);
        }
        if let Some(cost) = took.cost {
            let bind = || front.cost.bind(&self.priced);
            self.cost.get_or_init(bind).add(cost);
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct InFlightGuard(Arc<AtomicU64>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ServerMetrics {
    /// The instruments, made of `meter`.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let in_flight = Arc::new(AtomicU64::new(0));
        let seen = in_flight.clone();
        observe_counts(meter, &names::REQUESTS_IN_FLIGHT, move |tell| {
            tell(seen.load(Ordering::Relaxed), &[]);
        });
        let (hedges, retries) = (
            counter(meter, &names::HEDGES),
            counter(meter, &names::RETRIES),
        );
        // What happens seldom is told from the beginning on, or its first time would be no increase.
        retries.add(0, &[]);
        for won in [true, false] {
            hedges.add(0, &[KeyValue::new(attr::HEDGE_WON, won)]);
        }
        Self {
            duration: histogram(meter, &names::REQUEST_DURATION),
            first_token: histogram(meter, &names::TIME_TO_FIRST_TOKEN),
            per_token: histogram(meter, &names::TIME_PER_OUTPUT_TOKEN),
            tokens: histogram_of_counts(meter, &names::TOKEN_USAGE),
            energy: histogram(meter, &names::REQUEST_ENERGY),
            emissions: sum(meter, &names::REQUEST_EMISSIONS),
            cost: sum(meter, &names::REQUEST_COST),
            node_energy: sum(meter, &names::NODE_REQUEST_ENERGY),
            key_energy: sum(meter, &names::API_KEY_ENERGY),
            dispatch: histogram(meter, &names::DISPATCH_DURATION).bind(&[]),
            classified: counter(meter, &names::CLASSIFICATIONS),
            cascade: counter(meter, &names::CASCADE_ANSWERS),
            hedges,
            retries,
            in_flight,
            at_hand: RwLock::default(),
            nodes: RwLock::default(),
            keys: Mutex::default(),
        }
    }

    /// A request arrives.
    #[must_use]
    pub fn start_request(&self) -> InFlightGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self.in_flight.clone())
    }

    /// Requests that are being answered.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A request has ended.
    pub fn record_request(&self, labels: RequestLabels<'_>, took: &RequestStats) {
        let seconds = took.duration.as_secs_f64();
        if let Some(error) = took.error_type {
            let mut attributes = labels.of_gen_ai();
            attributes.push(KeyValue::new(attr::ERROR_TYPE, error));
            self.duration.record(seconds, &attributes);
            if took.joules > 0.0 {
                self.instruments(labels).spent(self, took);
            }
            return;
        }
        let instruments = self.instruments(labels);
        instruments.duration.record(seconds);
        if let Some(first) = took.time_to_first_token {
            instruments.first_token.record(first.as_secs_f64());
        }
        if let Some(per_token) = took.time_per_output_token() {
            instruments.per_token.record(per_token.as_secs_f64());
        }
        instruments.input.record(took.input_tokens);
        if took.output_tokens > 0 {
            instruments.output.record(took.output_tokens);
        }
        instruments.spent(self, took);
    }

    /// A node, and whoever asked, used energy for a request. `key`: a hash of who asked, 0 for
    /// nobody in particular.
    pub fn record_energy(&self, node: &str, key: u64, joules: f64) {
        let known = self
            .nodes
            .read()
            .get(node)
            .map(|counter| counter.add(joules));
        if known.is_none() {
            let counter = self
                .node_energy
                .bind(&[KeyValue::new(attr::NODE, node.to_owned())]);
            counter.add(joules);
            self.nodes.write().insert(node.to_owned(), counter);
        }
        if key == 0 {
            return;
        }
        let told = {
            let mut keys = self.keys.lock();
            keys.contains(&key) || (keys.len() < KEYS && keys.insert(key))
        };
        let name = if told {
            format!("{:08x}", key >> 32)
        } else {
            OTHER.to_owned()
        };
        self.key_energy
            .add(joules, &[KeyValue::new(attr::API_KEY_HASH, name)]);
    }

    /// A decision took so long.
    pub fn record_dispatch(&self, took: Duration) {
        self.dispatch.record(took.as_secs_f64());
    }

    /// A request's task was looked for.
    pub fn record_classification(&self, task: Option<&str>, abstained: bool) {
        let task = task.unwrap_or(OTHER).to_owned();
        let attributes = [
            KeyValue::new(attr::TASK, task),
            KeyValue::new(attr::CLASSIFY_ABSTAINED, abstained),
        ];
        self.classified.add(1, &attributes);
    }

    /// A smaller model has answered, or not.
    pub fn record_cascade_answer(&self, task: &str, model: &str, verdict: &'static str) {
        let attributes = [
            KeyValue::new(attr::TASK, task.to_owned()),
            KeyValue::new(attr::MODEL, model.to_owned()),
            KeyValue::new(attr::CASCADE_OUTCOME, verdict),
        ];
        self.cascade.add(1, &attributes);
    }

    /// A second replica was asked.
    pub fn record_hedge(&self, won: bool) {
        self.hedges.add(1, &[KeyValue::new(attr::HEDGE_WON, won)]);
    }

    /// So many replicas were asked after one had failed.
    pub fn record_retries(&self, tries: u64) {
        self.retries.add(tries, &[]);
    }

    fn instruments(&self, labels: RequestLabels<'_>) -> Arc<BoundInstruments> {
        let mut hasher = DefaultHasher::new();
        labels.hash(&mut hasher);
        let key = hasher.finish();
        let known = self.at_hand.read().get(&key).cloned();
        known.unwrap_or_else(|| {
            let made = Arc::new(self.bind(labels));
            let mut at_hand = self.at_hand.write();
            if at_hand.len() < AT_HAND {
                at_hand.insert(key, made.clone());
            }
            made
        })
    }

    fn bind(&self, labels: RequestLabels<'_>) -> BoundInstruments {
        let gen_ai = labels.of_gen_ai();
        let of = |kind: &'static str| {
            let mut attributes = gen_ai.clone();
            attributes.push(KeyValue::new(attr::TOKEN_TYPE, kind));
            attributes
        };
        let own = vec![
            KeyValue::new(attr::MODEL, labels.model.unwrap_or(OTHER).to_owned()),
            KeyValue::new(attr::TASK, labels.task.unwrap_or_default().to_owned()),
        ];
        let mut priced = own.clone();
        let currency = labels.currency.unwrap_or_default().to_owned();
        priced.push(KeyValue::new(attr::CURRENCY, currency));
        let mut sourced = own.clone();
        sourced.push(KeyValue::new(
            attr::ENERGY_SOURCE,
            labels.energy_source.to_owned(),
        ));
        BoundInstruments {
            duration: self.duration.bind(&gen_ai),
            first_token: self.first_token.bind(&gen_ai),
            per_token: self.per_token.bind(&gen_ai),
            input: self.tokens.bind(&of("input")),
            output: self.tokens.bind(&of("output")),
            energy: self.energy.bind(&sourced),
            emissions: OnceLock::new(),
            cost: OnceLock::new(),
            own,
            priced,
        }
    }
}

impl RequestLabels<'_> {
    fn of_gen_ai(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(attr::OPERATION, self.operation),
            KeyValue::new(attr::PROVIDER, PROVIDER),
            KeyValue::new(
                attr::REQUEST_MODEL,
                self.requested_model.unwrap_or(OTHER).to_owned(),
            ),
        ];
        if let Some(model) = self.model {
            attributes.push(KeyValue::new(attr::RESPONSE_MODEL, model.to_owned()));
        }
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prometheus::PrometheusRegistry;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    #[test]
    fn what_a_request_took_is_told_and_keys_are_bounded() {
        let exposition = PrometheusRegistry::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(exposition.reader().unwrap())
            .build();
        let front = ServerMetrics::new(&provider.meter("flotilla"));
        let labels = RequestLabels {
            operation: "chat",
            requested_model: Some("auto"),
            model: Some("m"),
            task: Some("t"),
            energy_source: "rapl",
            currency: Some("EUR"),
        };
        let took = RequestStats {
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
            took.time_per_output_token(),
            Some(Duration::from_millis(50))
        );
        let under_way = front.start_request();
        front.record_request(labels, &took);
        front.record_request(
            RequestLabels {
                requested_model: None,
                ..labels
            },
            &RequestStats {
                error_type: Some("timeout"),
                ..took
            },
        );
        for key in 1..=2 * KEYS as u64 {
            front.record_energy("n1", key << 32, 1.0);
        }
        let text = exposition.encode_text();
        drop(under_way);
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
        assert_eq!(front.in_flight(), 0);
    }
}

//! Metrics for Prometheus: of this process, and of a fleet's nodes that no scraper can reach.

use std::collections::BTreeMap;

use opentelemetry_prometheus::{PrometheusExporter, exporter};
use opentelemetry_sdk::error::OTelSdkError;
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{Encoder, ProtobufEncoder, Registry, TextEncoder};
use protobuf::{CodedInputStream, Message};

/// `Content-Type` of [`PrometheusRegistry::text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The label that says which node a metric is of.
const NODE_LABEL: &str = "flotilla_node";

/// What tells of a process as a whole: it is of no use in what is put together from many.
const TARGET_INFO: &str = "target_info";

/// The metrics of one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PrometheusRegistry {
    registry: Registry,
}

impl PrometheusRegistry {
    /// What fills it.
    pub(crate) fn reader(&self) -> Result<PrometheusExporter, OTelSdkError> {
        exporter()
            .with_registry(self.registry.clone())
            .scope_info_enabled(false)
            .build()
    }

    /// The metrics in Prometheus' text format.
    #[must_use]
    pub fn encode_text(&self) -> String {
        encode(&self.registry.gather())
    }

    /// The metrics as they travel from a node to a controller: protobuf messages, each with its
    /// length before it.
    #[must_use]
    pub fn encode_protobuf(&self) -> Vec<u8> {
        let mut families = self.registry.gather();
        families.retain(|family| family.name() != TARGET_INFO);
        let mut packed = Vec::new();
        // It writes to memory, and families that were gathered are well formed.
        if let Err(error) = ProtobufEncoder::new().encode(&families, &mut packed) {
            tracing::warn!(%error, "metrics cannot be told");
        }
        packed
    }

    /// The metrics in text format with those of nodes, which get a label that says whose they are.
    #[must_use]
    pub fn encode_text_with_nodes(
        &self,
        nodes: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> String {
        let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
        for family in self.registry.gather() {
            families.insert(family.name().to_owned(), family);
        }
        for (node, packed) in nodes {
            let told = match unpack(&packed) {
                Ok(told) => told,
                Err(error) => {
                    tracing::warn!(%node, %error, "the node's metrics make no sense");
                    continue;
                }
            };
            for family in told {
                add(&mut families, &node, family);
            }
        }
        encode(&families.into_values().collect::<Vec<_>>())
    }
}

/// Adds a node's family to what there is. Of one name and two kinds the first is kept: Prometheus
/// would refuse all.
fn add(families: &mut BTreeMap<String, MetricFamily>, node: &str, mut family: MetricFamily) {
    for metric in family.mut_metric() {
        let mut labels = metric.take_label();
        if labels.iter().all(|label| label.name() != NODE_LABEL) {
            let mut label = LabelPair::default();
            label.set_name(NODE_LABEL.to_owned());
            label.set_value(node.to_owned());
            labels.push(label);
        }
        metric.set_label(labels);
    }
    match families.get_mut(family.name()) {
        Some(known) if known.get_field_type() == family.get_field_type() => {
            known.mut_metric().append(&mut family.take_metric());
        }
        Some(_) => {}
        None => {
            families.insert(family.name().to_owned(), family);
        }
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<MetricFamily>, protobuf::Error> {
    let mut input = CodedInputStream::from_bytes(packed);
    let mut families = Vec::new();
    while !input.eof()? {
        let length = input.read_raw_varint32()?;
        let bytes = input.read_raw_bytes(length)?;
        families.push(MetricFamily::parse_from_bytes(&bytes)?);
    }
    Ok(families)
}

fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(families, &mut text) {
        tracing::warn!(%error, "metrics cannot be told");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::KeyValue;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    fn exposition(requests: u64) -> (PrometheusRegistry, SdkMeterProvider) {
        let exposition = PrometheusRegistry::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(exposition.reader().unwrap())
            .build();
        let meter = provider.meter("test");
        let counter = meter.u64_counter("a.requests").build();
        counter.add(requests, &[KeyValue::new("flotilla.model", "m")]);
        let histogram = meter.f64_histogram("a.time").with_unit("s").build();
        histogram.record(0.5, &[]);
        (exposition, provider)
    }

    #[test]
    fn nodes_metrics_stand_beside_the_own_under_one_head() {
        let (own, _provider) = exposition(1);
        let (node, _other) = exposition(7);
        let text = own.encode_text_with_nodes([
            ("n1".to_owned(), node.encode_protobuf()),
            ("n2".to_owned(), node.encode_protobuf()),
            ("broken".to_owned(), vec![9, 1, 2]),
        ]);
        assert_eq!(text.matches("# TYPE a_requests_total counter").count(), 1);
        assert_eq!(text.matches("# TYPE a_time_seconds histogram").count(), 1);
        let lines: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with("a_requests_total"))
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1].contains(r#"flotilla_node="n1""#) && lines[1].ends_with(" 7"),
            "{text}"
        );
        assert_eq!(text.matches("target_info{").count(), 1, "{text}");
    }
}

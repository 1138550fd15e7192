//! Metrics for Prometheus: those of this process, and those of nodes that Prometheus cannot reach.

use std::collections::BTreeMap;

use opentelemetry_prometheus::{PrometheusExporter, exporter};
use opentelemetry_sdk::error::OTelSdkError;
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{Encoder, ProtobufEncoder, Registry, TextEncoder};
use protobuf::{CodedInputStream, Message};

/// `Content-Type` of [`PrometheusRegistry::encode_text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The label with the node of a metric.
const NODE_LABEL: &str = "flotilla_node";

/// A family that describes one process. It is meaningless in the combined metrics of several.
const TARGET_INFO: &str = "target_info";

/// The metrics of one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PrometheusRegistry {
    registry: Registry,
}

impl PrometheusRegistry {
    /// Creates the metric reader that fills the registry.
    pub(crate) fn reader(&self) -> Result<PrometheusExporter, OTelSdkError> {
        exporter()
            .with_registry(self.registry.clone())
            .scope_info_enabled(false)
            .build()
    }

    /// Returns the metrics in Prometheus' text format.
    #[must_use]
    pub fn encode_text(&self) -> String {
        encode(&self.registry.gather())
    }

    /// Returns the metrics as a node sends them to a controller: Prometheus `MetricFamily` messages,
    /// each prefixed by its length as a varint.
    #[must_use]
    pub fn encode_protobuf(&self) -> Vec<u8> {
        let mut families = self.registry.gather();
        families.retain(|family| family.name() != TARGET_INFO);
        let mut encoded = Vec::new();
        // Not expected: it writes to memory, and gathered families are well-formed.
        if let Err(error) = ProtobufEncoder::new().encode(&families, &mut encoded) {
            tracing::warn!(%error, "metrics cannot be encoded");
        }
        encoded
    }

    /// Returns the metrics in text format together with those of `nodes`: the name of each node and
    /// its result of [`encode_protobuf`](Self::encode_protobuf). Metrics of nodes get the label
    /// `flotilla_node`.
    #[must_use]
    pub fn encode_text_with_nodes(
        &self,
        nodes: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> String {
        let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
        for family in self.registry.gather() {
            families.insert(family.name().to_owned(), family);
        }
        for (node, encoded) in nodes {
            let node_families = match decode(&encoded) {
                Ok(decoded) => decoded,
                Err(error) => {
                    tracing::warn!(%node, %error, "the node's metrics cannot be decoded");
                    continue;
                }
            };
            for family in node_families {
                add_family(&mut families, &node, family);
            }
        }
        encode(&families.into_values().collect::<Vec<_>>())
    }
}

/// Adds a metric family of a node. A family whose type differs from an earlier one of the same name
/// is dropped, because Prometheus would reject the whole response.
fn add_family(families: &mut BTreeMap<String, MetricFamily>, node: &str, mut family: MetricFamily) {
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
        Some(existing) if existing.get_field_type() == family.get_field_type() => {
            existing.mut_metric().append(&mut family.take_metric());
        }
        Some(_) => {}
        None => {
            families.insert(family.name().to_owned(), family);
        }
    }
}

fn decode(encoded: &[u8]) -> Result<Vec<MetricFamily>, protobuf::Error> {
    let mut input = CodedInputStream::from_bytes(encoded);
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
        tracing::warn!(%error, "metrics cannot be encoded");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::KeyValue;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    fn registry(requests: u64) -> (PrometheusRegistry, SdkMeterProvider) {
        let registry = PrometheusRegistry::default();
        let provider = SdkMeterProvider::builder()
            .with_reader(registry.reader().unwrap())
            .build();
        let meter = provider.meter("test");
        let counter = meter.u64_counter("a.requests").build();
        counter.add(requests, &[KeyValue::new("flotilla.model", "m")]);
        let histogram = meter.f64_histogram("a.time").with_unit("s").build();
        histogram.record(0.5, &[]);
        (registry, provider)
    }

    #[test]
    fn node_metrics_are_merged_into_the_families_of_the_controller() {
        let (controller, _provider) = registry(1);
        let (node, _other) = registry(7);
        let text = controller.encode_text_with_nodes([
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

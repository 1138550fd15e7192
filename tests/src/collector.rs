//! A telemetry collector that keeps what it receives, over OTLP and gRPC as OpenTelemetry's own.

use std::net::SocketAddr;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::DEADLINE;

/// Everything that a collector has received.
#[derive(Default)]
pub struct ReceivedTelemetry {
    /// Spans, each with the `service.name` that sent it.
    pub spans: Vec<(String, Span)>,
    /// Metrics, each with the `service.name` that sent it.
    pub metrics: Vec<(String, Metric)>,
}

#[derive(Clone)]
struct Receiver {
    received: Arc<Mutex<ReceivedTelemetry>>,
    /// How many exports were received.
    exports: Arc<watch::Sender<u64>>,
}

/// A running collector. It stops when dropped.
pub struct Collector {
    address: SocketAddr,
    receiver: Receiver,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    /// Starts a collector at this address.
    ///
    /// # Panics
    /// Panics if the address is in use.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let receiver = Receiver {
            received: Arc::default(),
            exports: Arc::new(watch::channel(0).0),
        };
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.expect("it serves") });
        Self {
            address,
            receiver,
            task,
        }
    }

    /// Returns the value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until `find` returns a value for what was received, and returns that value. `find` is called
    /// after every export.
    ///
    /// # Panics
    /// Panics if `find` returns none before the deadline.
    pub async fn wait_for<T>(&self, mut find: impl FnMut(&ReceivedTelemetry) -> Option<T>) -> T {
        let mut exports = self.receiver.exports.subscribe();
        let wait = async {
            loop {
                exports.borrow_and_update();
                if let Some(value) = find(&self.receiver.received.lock()) {
                    return value;
                }
                exports.changed().await.expect("the receiver lives");
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(value) => value,
            Err(_) => {
                let received = self.receiver.received.lock();
                let spans = received.spans.iter();
                let spans: Vec<_> = spans.map(|(service, span)| (service, &span.name)).collect();
                let metrics = received.metrics.iter();
                let metrics: Vec<_> = metrics.map(|(_, metric)| &metric.name).collect();
                panic!("not received; spans: {spans:?}; metrics: {metrics:?}");
            }
        }
    }
}

impl Receiver {
    fn record(&self, add: impl FnOnce(&mut ReceivedTelemetry)) {
        add(&mut self.received.lock());
        self.exports.send_modify(|exports| *exports += 1);
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.record(|received| {
            for resource in request.into_inner().resource_spans {
                let service = service_name(resource.resource.as_ref());
                let spans = resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans);
                received
                    .spans
                    .extend(spans.map(|span| (service.clone(), span)));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.record(|received| {
            for resource in request.into_inner().resource_metrics {
                let service = service_name(resource.resource.as_ref());
                let scopes = resource.scope_metrics.into_iter();
                let metrics = scopes.flat_map(|scope| scope.metrics);
                received
                    .metrics
                    .extend(metrics.map(|metric| (service.clone(), metric)));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

/// Returns the `service.name` of a resource, empty if it has none.
fn service_name(resource: Option<&Resource>) -> String {
    let name = resource.and_then(|resource| attribute_text(&resource.attributes, "service.name"));
    name.unwrap_or_default()
}

/// Returns the value of an attribute as text, `None` if there is no such attribute.
#[must_use]
pub fn attribute_text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    })
}

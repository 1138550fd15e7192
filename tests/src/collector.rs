//! A collector that keeps what it is told: OTLP over gRPC, as OpenTelemetry's own collector takes it.

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
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::DEADLINE;

/// What was told, with the service that told it.
#[derive(Default)]
pub struct Told {
    pub spans: Vec<(String, Span)>,
    pub metrics: Vec<(String, Metric)>,
}

#[derive(Clone)]
struct Receiver {
    told: Arc<Mutex<Told>>,
    changes: Arc<watch::Sender<u64>>,
}

/// A running collector. Dropping it ends it.
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
    /// When the address is taken.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let receiver = Receiver {
            told: Arc::default(),
            changes: Arc::new(watch::channel(0).0),
        };
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.expect("a collector") });
        Self {
            address,
            receiver,
            task,
        }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until what was told is as `wanted` finds it, and returns what that returns.
    ///
    /// # Panics
    /// When it is not before the deadline.
    pub async fn until<T>(&self, mut wanted: impl FnMut(&Told) -> Option<T>) -> T {
        let mut changes = self.receiver.changes.subscribe();
        let wait = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = wanted(&self.receiver.told.lock()) {
                    return found;
                }
                changes.changed().await.expect("a collector");
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(found) => found,
            Err(_) => {
                let told = self.receiver.told.lock();
                let spans: Vec<_> = told
                    .spans
                    .iter()
                    .map(|(of, span)| (of, &span.name))
                    .collect();
                let metrics: Vec<_> = told
                    .metrics
                    .iter()
                    .map(|(_, metric)| &metric.name)
                    .collect();
                panic!("it was not told; spans: {spans:?}; metrics: {metrics:?}");
            }
        }
    }
}

impl Receiver {
    fn take(&self, put: impl FnOnce(&mut Told)) {
        put(&mut self.told.lock());
        self.changes.send_modify(|changes| *changes += 1);
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(|told| {
            for resource in request.into_inner().resource_spans {
                let of = resource.resource.unwrap_or_default();
                let of = text(&of.attributes, "service.name").unwrap_or_default();
                let spans = resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans);
                told.spans.extend(spans.map(|span| (of.clone(), span)));
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
        self.take(|told| {
            for resource in request.into_inner().resource_metrics {
                let of = resource.resource.unwrap_or_default();
                let of = text(&of.attributes, "service.name").unwrap_or_default();
                let scopes = resource.scope_metrics.into_iter();
                let metrics = scopes.flat_map(|scope| scope.metrics);
                told.metrics
                    .extend(metrics.map(|metric| (of.clone(), metric)));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

/// What an attribute says, as a text.
#[must_use]
pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    })
}

//! The runner: a process that computes one model instance.
//!
//! The agent that starts it talks to it over one connection: `RunnerService` loads the model,
//! `InferenceService` computes its requests. A runner knows neither queue nor permits: it computes
//! what it is sent. It ends when the agent closes the connection, and when its model can never answer
//! again, so that the agent starts another one.

mod inference;
mod load;
mod models;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use flotilla_proto::transport::{self, LinkStream};
use flotilla_proto::v1::inference_server::InferenceServer;
use flotilla_proto::v1::runner_server::{RunnerServer, SERVICE_NAME};
use hyper::body::Incoming;
use tonic::body::Body;
use tower_service::Service;

use self::inference::InferenceService;
use self::load::RunnerService;
use self::models::RunnerModels;
use crate::engine::first_fault;

/// The largest message between an agent and a runner, in bytes: a request is as large as the one that
/// the agent received.
pub const MAX_MESSAGE: usize = 256 << 20;
/// The exit code of a runner whose model can never answer again. Its last log line says why.
pub const FAULT_EXIT_CODE: i32 = 70;

/// Why a runner ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The connection to the agent failed.
    #[error("the connection to the agent failed: {0}")]
    Connection(#[from] hyper::Error),
    /// The model can never answer again; the text says why.
    #[error("{0}")]
    Fault(String),
}

/// The key of a request's metadata that has the id of the adapter to compute it with. Without it the model itself
/// computes it.
pub const ADAPTER_KEY: &str = "flotilla-adapter";

/// Serves one agent on `stream` until it closes the connection or the model can never answer again.
/// `return_memory` makes the process's memory allocator return free memory to the operating system; it is
/// called after the load, which takes more than the loaded model.
///
/// # Errors
/// [`RunnerError`].
pub async fn serve(stream: impl LinkStream, return_memory: fn()) -> Result<(), RunnerError> {
    let models = Arc::new(RunnerModels::default());
    let inference = InferenceServer::new(InferenceService(models.clone()));
    let services = Services {
        runner: RunnerServer::new(RunnerService::new(models.clone(), return_memory)),
        inference: inference
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
    };
    let never = std::future::pending();
    tokio::select! {
        // The kernel closes the socket when the agent ends. One that is only stopped goes on later.
        served = transport::serve(stream, services, None, never) => Ok(served?),
        fault = first_fault(|| models.base()?.fault()) => Err(RunnerError::Fault(fault)),
    }
}

/// The two services of a runner.
#[derive(Clone)]
struct Services {
    runner: RunnerServer<RunnerService>,
    inference: InferenceServer<InferenceService>,
}

type Response = http::Response<Body>;

impl Service<http::Request<Incoming>> for Services {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        // The path is `/SERVICE/METHOD`.
        match request.uri().path().split('/').nth(1) {
            Some(SERVICE_NAME) => self.runner.call(request),
            _ => self.inference.call(request),
        }
    }
}

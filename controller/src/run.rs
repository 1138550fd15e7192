//! Starting and stopping a controller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use flotilla_dispatch::{
    DecisionLog, DispatchConfig, Dispatcher, DispatcherParts, PendingQueue, RequestObserver,
    train_classifiers,
};
use flotilla_gateway::RequestLimits;
use flotilla_telemetry::server_metrics::ServerMetrics;
use flotilla_telemetry::{ServiceIdentity, Telemetry, TelemetrySettings};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, DesiredStateWriter};
use crate::artifacts::{ArtifactReplicator, BlobStore};
use crate::config::{ControllerConfig, advertised_address};
use crate::fleet::{ControllerRecord, FleetEvent, FleetHandle};
use crate::registrar::Registrar;
use crate::store::{self, Store, StoreError, WatchEvent, keys};
use crate::traffic::TrafficLog;
use crate::{dashboard, leader, link, pending, reconcile, scrape};

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerStartError {
    /// A port cannot be opened.
    #[error("cannot listen on {address} for {purpose}: {problem}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the port is for.
        purpose: &'static str,
        /// The reason, and what to do about it.
        problem: String,
    },
    /// The telemetry configuration is wrong.
    #[error(transparent)]
    Telemetry(#[from] flotilla_telemetry::TelemetryError),
    /// The store cannot be opened or reached.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A running controller.
pub struct Controller {
    http: SocketAddr,
    link: SocketAddr,
    fleet: FleetHandle,
    desired_state: DesiredStateWriter,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    telemetry: Telemetry,
}

impl Controller {
    /// Opens the store and the ports, and starts all tasks. Returns once both ports accept
    /// connections.
    ///
    /// # Errors
    /// [`ControllerStartError`], which says what to do about it; nothing is left running then.
    pub async fn start(config: ControllerConfig) -> Result<Self, ControllerStartError> {
        let store = store::open(&config.store).await?;
        let http = listen(config.http, "the API", "--http").await?;
        let link = listen(config.link, "agents", "--link").await?;
        let addresses = (
            local_address(&http, config.http),
            local_address(&link, config.link),
        );
        let id = format!("{:012x}", fastrand::u64(..) >> 16);
        let telemetry = start_telemetry(&id, &config.telemetry)?;
        let metrics = Arc::new(ServerMetrics::new(&telemetry.meter()));
        let traffic = TrafficLog::new(metrics.clone());
        let observer = RequestObserver::new(metrics, Arc::new(traffic.clone()));
        let record = ControllerRecord {
            http: advertised_address(config.advertise_http.as_deref(), addresses.0),
            link: advertised_address(config.advertise_link.as_deref(), addresses.1),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let (fleet, run_fleet) = FleetHandle::new(&id, config.node_grace, stop.clone());
        tasks.spawn(run_fleet);
        tasks.spawn(follow_store(store.clone(), fleet.clone(), stop.clone()));
        let (leading, leadership) = watch::channel(None);
        tasks.spawn(leader::run(
            store.clone(),
            id.clone(),
            leading,
            stop.clone(),
        ));
        let blobs = BlobStore::new(config.data_dir.join("blobs"));
        let replicator = ArtifactReplicator {
            id: id.clone(),
            fleet: fleet.clone(),
            store: store.clone(),
            leader: leadership.clone(),
            blobs: blobs.clone(),
            scratch: config.data_dir.join("fetching"),
        };
        tasks.spawn(replicator.run(stop.clone()));
        tasks.spawn(reconcile::run(
            fleet.clone(),
            store.clone(),
            leadership,
            stop.clone(),
        ));
        let (pending_queue, wake_ups) = PendingQueue::new();
        let registrar = Registrar {
            id: id.clone(),
            record,
            fleet: fleet.clone(),
            waiting: pending_queue.counts(),
            store: store.clone(),
        };
        tasks.spawn(registrar.run(stop.clone()));
        tasks.spawn(pending::run(
            fleet.clone(),
            pending_queue.clone(),
            wake_ups,
            stop.clone(),
        ));
        let link_config = link::LinkConfig {
            connections: config.connections.max(1),
            silence: config.link_timeout,
        };
        tasks.spawn(link::serve(
            link,
            fleet.clone(),
            id.clone(),
            blobs.clone(),
            link_config,
            stop.clone(),
        ));

        let (trained, classifier) = watch::channel(None);
        tasks.spawn(train_classifiers(
            fleet.dispatch_view(),
            trained,
            stop.clone(),
        ));
        let dispatch = Dispatcher::new(
            DispatcherParts {
                view: fleet.dispatch_view(),
                pending: pending_queue,
                classifier: classifier.clone(),
                decisions: DecisionLog::new(&id, config.decisions, observer.clone()),
                observer,
            },
            DispatchConfig {
                first_token_timeout: config.first_token_timeout,
                record_prompts: config.record_prompts,
            },
        );
        let limits = RequestLimits {
            max_body_bytes: config.max_body,
        };
        tasks.spawn(traffic.clone().run(fleet.clone(), stop.clone()));
        scrape::register(&telemetry.meter(), &fleet, &id);
        let decisions = admin::decisions::router(dispatch.clone(), fleet.clone(), config.max_body);
        let live = admin::live::router(fleet.clone(), traffic, id.clone(), stop.clone());
        let api = flotilla_gateway::router(dispatch, limits, telemetry.tracer())
            .merge(scrape::router(telemetry.prometheus(), fleet.clone()))
            .merge(live)
            .merge(dashboard::router())
            .merge(admin::router(
                fleet.clone(),
                store.clone(),
                blobs,
                classifier,
                id,
            ))
            .merge(decisions);
        tasks.spawn(serve_api(http, api, config.stop_grace, stop.clone()));
        Ok(Self {
            http: addresses.0,
            link: addresses.1,
            fleet,
            desired_state: DesiredStateWriter::new(store),
            stop,
            tasks,
            telemetry,
        })
    }

    /// The address that the API listens on.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The address that agents connect to.
    #[must_use]
    pub fn link(&self) -> SocketAddr {
        self.link
    }

    /// The controller's view of the fleet.
    #[must_use]
    pub fn fleet(&self) -> &FleetHandle {
        &self.fleet
    }

    /// Changes the desired state.
    #[must_use]
    pub fn desired_state(&self) -> &DesiredStateWriter {
        &self.desired_state
    }

    /// Waits until a task of the controller has failed.
    pub async fn failed(&mut self) {
        self.tasks.join_next().await;
    }

    /// Stops the controller: it accepts no new requests, and open streams have the configured grace
    /// to finish.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.telemetry.shutdown().await;
    }
}

fn start_telemetry(
    id: &str,
    settings: &TelemetrySettings,
) -> Result<Telemetry, flotilla_telemetry::TelemetryError> {
    let identity = ServiceIdentity {
        name: "flotilla-controller",
        instance: id.to_owned(),
        attributes: Vec::new(),
    };
    Telemetry::start(&identity, settings)
}

async fn listen(
    address: SocketAddr,
    purpose: &'static str,
    flag: &str,
) -> Result<TcpListener, ControllerStartError> {
    TcpListener::bind(address).await.map_err(|error| {
        let problem = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("the port is taken; stop the process that uses it, or choose another with {flag}")
            }
            _ => format!("{error}; choose another address with {flag}"),
        };
        ControllerStartError::Listen {
            address,
            purpose,
            problem,
        }
    })
}

/// The listener's address with its actual port, which differs when port 0 was configured.
fn local_address(listener: &TcpListener, configured: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(configured)
}

/// Serves the API until `stop`; then open streams have `grace` to finish.
async fn serve_api(
    listener: TcpListener,
    api: axum::Router,
    grace: Duration,
    stop: CancellationToken,
) {
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, api).with_graceful_shutdown(stop.clone().cancelled_owned());
    let grace_over = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        served = server.into_future() => if let Err(error) = served {
            tracing::error!(%error, "the API server has failed");
        },
        () = grace_over => tracing::warn!("streams that did not finish in time were cut off"),
    }
}

/// Passes every change of the store on to the fleet state.
async fn follow_store(store: Arc<dyn Store>, fleet: FleetHandle, stop: CancellationToken) {
    let follow = async {
        let mut watch = store.watch(keys::ROOT).await?;
        loop {
            let event = match watch.next().await? {
                WatchEvent::Snapshot { entries, revision } => {
                    FleetEvent::StoreSnapshot { entries, revision }
                }
                WatchEvent::Change(change) => FleetEvent::StoreChanged(change),
                WatchEvent::Unavailable(problem) => FleetEvent::StoreUnavailable(problem),
                WatchEvent::Available => FleetEvent::StoreAvailable,
            };
            fleet.send(event).await;
        }
    };
    let ended: Result<(), StoreError> = tokio::select! {
        () = stop.cancelled() => return,
        ended = follow => ended,
    };
    if let Err(error) = ended {
        tracing::error!(%error, "the watch of the store has failed");
    }
}

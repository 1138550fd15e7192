//! Starts the tasks of a controller and assembles its API.

use std::sync::Arc;
use std::time::Duration;

use flotilla_dispatch::{
    DecisionLog, DispatchConfig, Dispatcher, DispatcherParts, LatestClassifier, PendingQueue,
    RequestObserver, WakeUpReceiver, train_classifiers,
};
use flotilla_gateway::ApiConfig;
use flotilla_identity::authority::FleetSecret;
use flotilla_telemetry::Telemetry;
use flotilla_telemetry::server_metrics::ServerMetrics;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::{AllowedHosts, ControllerAccess};
use crate::admin;
use crate::admin::OtherControllers;
use crate::admin::datasets::DatasetsState;
use crate::artifacts::{ArtifactReplicator, BLOBS_DIR, BlobStore, SourceAccess};
use crate::audit::{AuditFiles, AuditLog};
use crate::config::ControllerConfig;
use crate::connections::{Acceptor, AdminSocket, ConnectionTable};
use crate::cut_off_backend::CutOffBackend;
use crate::datasets::{DATASETS_DIR, DatasetKeeper};
use crate::fleet::{ControllerRecord, FleetEvent, FleetHandle};
use crate::kept_state::KeptStateFile;
use crate::link::{LinkProtection, LinkServer};
use crate::registrar::Registrar;
use crate::store::{MonitoredStore, Store};
use crate::store_follower::StoreFollower;
use crate::tls::{ControllerClient, ServerTls, TlsError, TlsHandle, TlsKeeper};
use crate::traffic::TrafficLog;
use crate::{dashboard, epoch, leader, login, pending, reconcile, scrape};

/// Longest wait for the authority and the certificates at the start.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// A controller while it starts: its tasks, and what they share.
pub(crate) struct Startup {
    config: ControllerConfig,
    id: String,
    store: Arc<dyn Store>,
    pub(crate) fleet: FleetHandle,
    /// The fleet's secret. `None`: links have no TLS.
    secret: Option<FleetSecret>,
    blobs: BlobStore,
    sources: SourceAccess,
    /// The client for the APIs of other controllers.
    controllers: ControllerClient,
    /// When cancelled, the controller accepts no new requests and gives its duties up; running
    /// requests may end.
    pub(crate) drain: CancellationToken,
    /// When cancelled, running requests end with an error.
    pub(crate) cut: CancellationToken,
    /// When cancelled, everything ends.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
}

impl Startup {
    /// Starts the task that owns the fleet's state and the tasks that feed it from the store.
    pub(crate) fn new(
        id: String,
        config: ControllerConfig,
        store: Arc<MonitoredStore>,
        sources: SourceAccess,
        controllers: ControllerClient,
    ) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (fleet, run_fleet) = FleetHandle::new(&id, config.node_grace, stop.clone());
        tasks.spawn(run_fleet);
        tasks.spawn(store.clone().run(stop.clone()));
        let kept = KeptStateFile::in_dir(&config.data_dir);
        let follower = StoreFollower::new(store.clone(), fleet.clone(), kept);
        tasks.spawn(follower.run(config.init_store, stop.clone()));
        Self {
            blobs: BlobStore::new(config.data_dir.join(BLOBS_DIR)),
            sources,
            controllers,
            secret: None,
            config,
            id,
            store,
            fleet,
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            stop,
            tasks,
        }
    }

    /// Starts the leader election and the tasks that depend on it: the replicator and the reconcile
    /// loop; and the task that keeps the store's epoch.
    pub(crate) fn start_leader_tasks(&mut self) {
        let (sender, leadership) = watch::channel(None);
        self.tasks.spawn(leader::run(
            self.store.clone(),
            self.id.clone(),
            sender,
            self.drain.clone(),
        ));
        let replicator = ArtifactReplicator {
            id: self.id.clone(),
            fleet: self.fleet.clone(),
            store: self.store.clone(),
            leader: leadership.clone(),
            blobs: self.blobs.clone(),
            sources: self.sources.clone(),
            controllers: self.controllers.clone(),
        };
        self.tasks.spawn(replicator.run(self.drain.clone()));
        self.tasks.spawn(epoch::run(
            self.fleet.clone(),
            self.store.clone(),
            self.stop.clone(),
        ));
        self.tasks.spawn(reconcile::run(
            self.fleet.clone(),
            self.store.clone(),
            leadership,
            self.drain.clone(),
        ));
    }

    /// Starts the task that publishes this controller's `record` and its pending requests.
    pub(crate) fn start_registrar(&mut self, record: ControllerRecord, pending: &PendingQueue) {
        let registrar = Registrar {
            id: self.id.clone(),
            record,
            fleet: self.fleet.clone(),
            waiting: pending.counts(),
            store: self.store.clone(),
        };
        self.tasks.spawn(registrar.run(self.drain.clone()));
    }

    /// Starts the task that wakes sleeping models up and rejects requests that no replica can answer.
    pub(crate) fn start_wake_ups(&mut self, pending: &PendingQueue, wake_ups: WakeUpReceiver) {
        self.tasks.spawn(pending::run(
            self.fleet.clone(),
            pending.clone(),
            wake_ups,
            self.stop.clone(),
        ));
    }

    /// Notes for people that other machines reach a port without TLS.
    pub(crate) async fn note_open_ports(&self) {
        tracing::warn!(
            "INSECURE: other machines reach this controller without TLS, and whoever reaches it can read and change everything; use --secret-file instead of --insecure"
        );
        self.fleet.send(FleetEvent::RunsInsecurely).await;
    }

    /// Starts the task that keeps the authority and the certificates, if there is a secret or an outside certificate,
    /// and waits until they are known. While the store is away and nothing of it was kept, they are not: then
    /// connections wait for them.
    ///
    /// # Errors
    /// [`TlsError`] if they cannot be used.
    pub(crate) async fn start_tls(
        &mut self,
        secret: Option<FleetSecret>,
        hosts: Vec<String>,
    ) -> Result<Option<TlsHandle>, TlsError> {
        if !self.config.tls.protects_http() {
            return Ok(None);
        }
        self.secret.clone_from(&secret);
        let keeper = TlsKeeper {
            fleet: self.fleet.clone(),
            store: self.store.clone(),
            id: self.id.clone(),
            hosts,
            secret,
            outside: self.config.tls.outside.clone(),
            life: self.config.tls.certificate_life,
            data_dir: self.config.data_dir.clone(),
            client: self.controllers.clone(),
        };
        let (configs, first, run) = keeper.start(self.stop.clone());
        self.tasks.spawn(run);
        match tokio::time::timeout(TLS_TIMEOUT, first).await {
            Ok(Ok(first)) => first?,
            // The task ends without a result only while the controller stops.
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!(
                "the fleet's certificate authority is not known yet, since the store does not answer: connections wait for it"
            ),
        }
        Ok(Some(configs))
    }

    /// Starts the server for agents.
    pub(crate) fn start_links(
        &mut self,
        listener: TcpListener,
        connections: ConnectionTable,
        tls: Option<TlsHandle>,
    ) {
        let settings = &self.config.tls;
        let tls = tls.filter(|_| settings.protects_links());
        let protection = tls.map(|configs| LinkProtection {
            tls: ServerTls::link(configs),
            store: self.store.clone(),
            life: settings.certificate_life,
        });
        let server = LinkServer {
            fleet: self.fleet.clone(),
            id: self.id.clone(),
            blobs: self.blobs.clone(),
            connections: self.config.connections.max(1),
            silence: self.config.link_timeout,
            protection,
            drain: self.drain.clone(),
            stop: self.stop.clone(),
        };
        self.tasks
            .spawn(server.run(Acceptor::new(listener, connections)));
    }

    /// Starts the request path and returns the routes of the whole API.
    pub(crate) fn start_api(
        &mut self,
        pending: PendingQueue,
        telemetry: &Telemetry,
    ) -> axum::Router {
        let metrics = Arc::new(ServerMetrics::new(&telemetry.meter()));
        let traffic = TrafficLog::new(metrics.clone());
        let dir = self.config.data_dir.join(DATASETS_DIR);
        let (keeper, datasets) = DatasetKeeper::new(dir, metrics.clone());
        self.tasks.spawn(keeper.run(self.stop.clone()));
        let observer = RequestObserver::new(metrics, Arc::new(traffic.clone()))
            .with_datasets(Arc::new(datasets.clone()));
        let (dispatcher, classifier) = self.start_dispatcher(pending, observer);
        let encoder = dispatcher.latest_encoder();
        let (fleet, stop) = (&self.fleet, &self.stop);
        self.tasks
            .spawn(traffic.clone().run(fleet.clone(), stop.clone()));
        scrape::register(&telemetry.meter(), fleet, &self.id);
        let max_body = self.config.max_body;
        let config = ApiConfig {
            max_body_bytes: max_body,
            stream_keep_alive: self.config.http_api.stream_keep_alive,
            list_tasks: self.config.http_api.list_tasks,
        };
        let others = OtherControllers {
            id: self.id.clone(),
            fleet: fleet.clone(),
            client: self.controllers.clone(),
        };
        let decisions = admin::decisions::router(dispatcher.clone(), others.clone(), max_body);
        let datasets = admin::datasets::router(DatasetsState {
            datasets,
            others: others.clone(),
            dispatcher: dispatcher.clone(),
            classifier: classifier.clone(),
        });
        let live = admin::live::router(fleet.clone(), traffic, self.id.clone(), self.drain.clone());
        let files = AuditFiles::in_dir(&self.config.data_dir);
        let (audit, write_audit) = AuditLog::new(files.clone(), self.stop.clone());
        self.tasks.spawn(write_audit);
        let audit_routes = admin::audit::router(files, others);
        let backend = CutOffBackend {
            inner: dispatcher,
            cut: self.cut.clone(),
        };
        let routes = flotilla_gateway::router(backend, config, telemetry.tracer())
            .merge(scrape::router(telemetry.prometheus(), fleet.clone()))
            .merge(live)
            .merge(dashboard::router())
            .merge(login::router(fleet.clone()))
            .merge(admin::router(
                fleet.clone(),
                self.store.clone(),
                self.blobs.clone(),
                admin::TrainedClassifiers {
                    classifier,
                    encoder,
                },
                self.id.clone(),
                self.secret.clone(),
                self.drain.clone(),
            ))
            .merge(decisions)
            .merge(audit_routes)
            .merge(datasets);
        let http_api = &self.config.http_api;
        let access = ControllerAccess {
            fleet: fleet.clone(),
            controller: self.id.as_str().into(),
            audit,
            require_keys: self.config.requires_keys(),
            hosts: Arc::new(self.allowed_hosts()),
            origins: http_api.cors_origins.as_slice().into(),
        };
        flotilla_gateway::add_edge(routes, &http_api.cors_origins, access)
    }

    /// The host names that clients may reach the API by.
    fn allowed_hosts(&self) -> AllowedHosts {
        let machine = sysinfo::System::host_name().ok();
        let advertised = self.config.advertise_http.iter();
        let configured = self.config.http_api.hosts.iter();
        let hosts = machine.iter().chain(advertised).chain(configured);
        AllowedHosts::new(hosts.map(String::as_str))
    }

    /// Opens the admin socket, and starts its server. A controller that cannot open it serves without.
    pub(crate) fn start_admin_socket(&mut self, api: axum::Router, connections: ConnectionTable) {
        match AdminSocket::open(&self.config.data_dir) {
            Ok(socket) => {
                self.tasks
                    .spawn(socket.run(api, connections, self.drain.clone()));
            }
            Err(error) => tracing::warn!(
                %error,
                data_dir = %self.config.data_dir.display(),
                "the admin socket admin.sock cannot be opened in the data directory: `flotilla --url unix:` does not work here"
            ),
        }
    }

    /// Starts the training of the classifiers and creates the dispatcher.
    fn start_dispatcher(
        &mut self,
        pending: PendingQueue,
        observer: RequestObserver,
    ) -> (Dispatcher, LatestClassifier) {
        let (sender, classifier) = watch::channel(None);
        self.tasks.spawn(train_classifiers(
            self.fleet.dispatch_view(),
            sender,
            self.stop.clone(),
        ));
        let dispatcher = Dispatcher::new(
            DispatcherParts {
                view: self.fleet.dispatch_view(),
                pending,
                classifier: classifier.clone(),
                decisions: DecisionLog::new(&self.id, self.config.decisions, observer.clone()),
                observer,
            },
            DispatchConfig {
                first_token_timeout: self.config.first_token_timeout,
                answer_timeout: self.config.answer_timeout,
                record_prompts: self.config.record_prompts,
            },
        );
        let (encoder, stop) = (dispatcher.clone(), self.stop.clone());
        self.tasks
            .spawn(async move { encoder.train_encoder(stop).await });
        (dispatcher, classifier)
    }
}

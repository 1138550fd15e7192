//! Starting and stopping a controller.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_dispatch::PendingQueue;
use flotilla_durable::{DirError, DirLock};
use flotilla_identity::random_id;
use flotilla_telemetry::{ServiceIdentity, Telemetry, TelemetrySettings};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::DesiredStateWriter;
use crate::advertised_address;
use crate::artifacts::{SourceAccess, SourceClient};
use crate::config::{ControllerConfig, EtcdAddress, StoreAddress};
use crate::connections::{ConnectionLimits, HttpServer};
use crate::fleet::{ControllerRecord, FleetHandle};
use crate::pem_files::{self, PemFileError};
use crate::server_names;
use crate::startup::Startup;
use crate::store::{self, MonitoredStore, StoreCreation, StoreError};
use crate::tls::{ControllerClient, ServerTls, TlsError, UnprotectedError, read_secret};

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
    /// A file for TLS with etcd cannot be used.
    #[error(transparent)]
    EtcdFile(#[from] PemFileError),
    /// The certificates for fetches cannot be used.
    #[error("cannot use the certificates in {path}: {problem}; give a PEM file with --ca-file")]
    CaFile {
        /// The configured file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] reqwest::Error),
    /// A port that other machines reach would be without TLS.
    #[error(transparent)]
    Unprotected(#[from] UnprotectedError),
    /// The fleet's secret, its authority or a certificate cannot be used.
    #[error(transparent)]
    Certificates(#[from] TlsError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DirError),
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
    drain: CancellationToken,
    stop: CancellationToken,
    /// The server of the API, which ends before the other tasks.
    api: JoinSet<()>,
    tasks: JoinSet<()>,
    telemetry: Telemetry,
    /// The lock of the data directory, held as long as the controller uses it.
    _data_dir_lock: DirLock,
}

impl Controller {
    /// Opens the store and the ports, and starts all tasks. Returns once both ports accept
    /// connections.
    ///
    /// # Errors
    /// [`ControllerStartError`], which says what to do about it; nothing is left running then.
    pub async fn start(config: ControllerConfig) -> Result<Self, ControllerStartError> {
        let is_open = config.tls.check(config.http, config.link)?;
        let secret = config.tls.secret_file.as_deref().map(read_secret);
        let secret = secret.transpose().map_err(TlsError::from)?;
        let data_dir_lock = DirLock::acquire(&config.data_dir)?;
        let creation = StoreCreation {
            data_dirs: vec![config.data_dir.clone()],
            forced: config.init_store,
        };
        if let StoreAddress::Etcd(EtcdAddress { tls: Some(tls), .. }) = &config.store {
            pem_files::check_etcd_files(tls).await?;
        }
        let store = store::open_or_create(&config.store, creation).await?;
        let store = Arc::new(MonitoredStore::new(store));
        let http = listen(config.http, "the API", "--http").await?;
        let link = listen(config.link, "agents", "--link").await?;
        let addresses = (
            local_address(&http, config.http),
            local_address(&link, config.link),
        );
        let id = random_id()[..12].to_owned();
        let telemetry = start_telemetry(&id, &config.telemetry)?;
        let record = ControllerRecord {
            http: advertised_address::choose(
                config.advertise_http.as_deref(),
                addresses.0,
                "--advertise-http",
            ),
            link: advertised_address::choose(
                config.advertise_link.as_deref(),
                addresses.1,
                "--advertise-link",
            ),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let ca = read_ca_file(config.ca_file.as_deref()).await?;
        let sources = SourceAccess {
            client: source_client(&config, ca.as_deref())?,
            model_roots: config.model_roots.clone().into(),
        };
        let is_https = config.tls.protects_http();
        let controllers = ControllerClient::new(is_https, ca.as_deref())?;
        let hosts = server_names::of_controller(&record, [addresses.0, addresses.1]);
        let stop_grace = config.stop_grace;
        let (pending, wake_ups) = PendingQueue::new();
        let mut startup = Startup::new(id, config, store.clone(), sources, controllers);
        startup.start_leader_tasks();
        startup.start_registrar(record, &pending);
        if is_open {
            startup.note_open_ports().await;
        }
        let tls = startup.start_tls(secret, hosts).await?;
        startup.start_wake_ups(&pending, wake_ups);
        let connections = ConnectionLimits::of_this_process();
        startup.start_links(link, connections.table("link"), tls.clone());
        let api = startup.start_api(pending, &telemetry);
        startup.start_admin_socket(api.clone(), connections.table("admin"));
        let Startup {
            fleet,
            drain,
            cut,
            stop,
            tasks,
            ..
        } = startup;
        let mut api_task = JoinSet::new();
        let server = HttpServer {
            listener: http,
            connections: connections.table("http"),
            api,
            tls: tls.map(ServerTls::http),
            drain: drain.clone(),
        };
        api_task.spawn(serve_api(server, stop_grace, cut));
        Ok(Self {
            http: addresses.0,
            link: addresses.1,
            fleet,
            desired_state: DesiredStateWriter::new(store),
            drain,
            stop,
            api: api_task,
            tasks,
            telemetry,
            _data_dir_lock: data_dir_lock,
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
        tokio::select! {
            _ = self.api.join_next() => {}
            _ = self.tasks.join_next() => {}
        }
    }

    /// Stops the controller. It accepts no new requests and hands its duties over to the other
    /// controllers at once; running requests have the configured grace to end. Until then the agents
    /// stay linked.
    pub async fn stop(mut self) {
        self.drain.cancel();
        while self.api.join_next().await.is_some() {}
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

/// Reads the certificates of further authorities.
async fn read_ca_file(ca_file: Option<&Path>) -> Result<Option<Vec<u8>>, ControllerStartError> {
    let Some(path) = ca_file else {
        return Ok(None);
    };
    let content = tokio::fs::read(path).await;
    let content = content.map_err(|error| ca_file_error(path, error.to_string()))?;
    if !pem_files::has_block(&content) {
        return Err(ca_file_error(path, "it has no certificate".into()));
    }
    Ok(Some(content))
}

fn ca_file_error(path: &Path, problem: String) -> ControllerStartError {
    ControllerStartError::CaFile {
        path: path.display().to_string(),
        problem,
    }
}

/// The client for the sources of models, which reaches the hosts of the configuration and trusts the authorities `ca` of
/// its `ca_file`, too.
fn source_client(
    config: &ControllerConfig,
    ca: Option<&[u8]>,
) -> Result<SourceClient, ControllerStartError> {
    let path = config.ca_file.as_deref().unwrap_or(Path::new(""));
    SourceClient::new(config.source_hosts.clone(), ca)
        .map_err(|error| ca_file_error(path, error.to_string()))
}

async fn listen(
    address: SocketAddr,
    purpose: &'static str,
    flag: &str,
) -> Result<TcpListener, ControllerStartError> {
    TcpListener::bind(address).await.map_err(|error| {
        let problem = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("the port is in use; stop the process that uses it, or choose another with {flag}")
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

/// Time in which the errors of requests that were cut reach the clients.
const CUT_TIME: Duration = Duration::from_secs(1);

/// Serves the API until the server drains; then running requests have `grace` to end. Those that have
/// not are `cut`.
async fn serve_api(server: HttpServer, grace: Duration, cut: CancellationToken) {
    let drain = server.drain.clone();
    let grace_over = async {
        drain.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    let mut running = std::pin::pin!(server.run());
    tokio::select! {
        () = &mut running => {}
        () = grace_over => {
            tracing::warn!("requests that did not end in time were cut off");
            cut.cancel();
            let _ = tokio::time::timeout(CUT_TIME, running).await;
        }
    }
}

//! TLS of both ports: the fleet's certificate authority, this controller's certificate, and an outside PKI's.
//!
//! `TlsKeeper` makes the authority once, opens it with the fleet's secret, and issues this
//! controller's certificate anew before it expires. Everybody else holds a `TlsHandle`, which has the newest
//! configurations: a connection uses those that are there when it begins, and none is cut when they change.

mod controller_client;
mod handshake;
mod keeper;
mod outside_files;
mod secret_file;
mod settings;

use std::sync::Arc;

use flotilla_identity::authority::Authority;
use rustls::ServerConfig;
use tokio::sync::watch;

pub(crate) use controller_client::ControllerClient;
pub(crate) use handshake::ServerTls;
pub(crate) use keeper::TlsKeeper;
pub use outside_files::OutsideFileError;
pub use secret_file::SecretFileError;
pub(crate) use secret_file::read_secret;
pub use settings::{OutsideCertificate, TlsSettings, UnprotectedError};

/// The configurations of TLS at one time.
pub(crate) struct TlsConfigs {
    /// The authority. `None` without a secret.
    pub(crate) authority: Option<Arc<Authority>>,
    /// The port of the HTTP API.
    pub(crate) http: Arc<ServerConfig>,
    /// The port for links. `None` without a secret.
    pub(crate) link: Option<Arc<ServerConfig>>,
}

/// The newest configurations of TLS; `None` until they are known. Cheap to clone.
pub(crate) type TlsHandle = watch::Receiver<Option<Arc<TlsConfigs>>>;

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with the fleet's secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The authority in the store cannot be opened.
    #[error(transparent)]
    Authority(#[from] flotilla_identity::authority::OpenAuthorityError),
    /// A certificate cannot be issued.
    #[error(transparent)]
    Issue(#[from] flotilla_identity::authority::AuthorityError),
    /// The files of an outside PKI cannot be used.
    #[error(transparent)]
    Outside(#[from] OutsideFileError),
    /// A certificate cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Config(#[from] rustls::Error),
    /// The client for other controllers cannot be set up.
    #[error("cannot set up TLS to other controllers: {0}")]
    Client(#[from] reqwest::Error),
}

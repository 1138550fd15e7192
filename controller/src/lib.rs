//! Flotilla's controller.
//!
//! This crate owns the desired state in the [`store`], the view of the [`fleet`], the reconcile
//! loop that makes the fleet follow the desired state, the [`link`]s to agents, the files of models
//! ([`artifacts`]) and the [`admin`] API behind the CLI and the page.
//!
//! It knows nothing of engines, and nothing of how a request is answered: the request path is the
//! crate `flotilla-dispatch`, which works on the part of the view that [`fleet`] publishes for it.
//! Start reading at [`Controller::start`].

mod access;
pub mod admin;
mod advertised_address;
pub mod artifacts;
mod audit;
mod config;
mod connections;
mod cut_off_backend;
mod dashboard;
mod datasets;
mod epoch;
pub mod fleet;
mod kept_state;
mod leader;
pub mod link;
mod login;
mod pem_files;
mod pending;
mod reconcile;
mod registrar;
mod run;
mod scrape;
mod server_names;
mod startup;
mod state_keeper;
pub mod store;
mod store_follower;
pub mod tls;
mod traffic;
mod waiting_levels;

pub use config::{
    ControllerConfig, DEFAULT_MODEL_ROOT, EtcdAddress, EtcdTls, HttpApiConfig, StoreAddress,
    StoreAddressError,
};
pub use flotilla_gateway::CorsOrigin;
pub use pem_files::PemFileError;
pub use run::{Controller, ControllerStartError};
pub use tls::{OutsideCertificate, TlsSettings};

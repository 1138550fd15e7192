//! Flotilla's controller.
//!
//! Owns the wish ([`store`]), the view of the fleet ([`fleet`]), the loop that makes one
//! follow the other ([`reconcile`]), the links to agents ([`link`]), the way of a request
//! ([`dispatch`]) and the API behind the CLI ([`admin`]). Knows nothing of engines: what a
//! model *does* is the agents' business.
//!
//! The data plane ([`dispatch`]) reads one immutable [`fleet::FleetView`] and talks to
//! agents; it never touches the store. Start reading at [`Controller::start`].

pub mod admin;
mod arrival;
pub mod artifacts;
mod clock;
mod config;
mod dashboard;
pub mod decisions;
pub mod dispatch;
pub mod fleet;
mod leader;
pub mod link;
mod reconcile;
mod registrar;
mod run;
mod scrape;
pub mod store;
mod traffic;
mod trainer;

pub use arrival::RequestObserver;
pub use config::{ControllerConfig, EtcdAddress, EtcdTls, StoreAddress, StoreAddressError};
pub use run::{Controller, ControllerStartError};

//! The controllers that model files are fetched from.

use flotilla_proto::transport::LinkChannel;
use flotilla_proto::v1::fleet_client::FleetClient;
use tokio::sync::watch;

/// The linked controllers as sources of files.
pub(crate) trait BlobSources: Send + Sync {
    /// Returns a client for each linked controller.
    fn clients(&self) -> Vec<FleetClient<LinkChannel>>;

    /// Returns a receiver that is notified of every new link.
    fn new_links(&self) -> watch::Receiver<()>;
}

/// No controllers, for tests.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct NoSources {
    new_links: watch::Sender<()>,
}

#[cfg(test)]
impl BlobSources for NoSources {
    fn clients(&self) -> Vec<FleetClient<LinkChannel>> {
        Vec::new()
    }

    fn new_links(&self) -> watch::Receiver<()> {
        self.new_links.subscribe()
    }
}

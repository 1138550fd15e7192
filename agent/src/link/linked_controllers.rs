//! The linked controllers, and the addresses of further controllers that they name.

use std::collections::BTreeMap;

use flotilla_proto::transport::LinkChannel;
use flotilla_proto::v1::fleet_client::FleetClient;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::artifacts::BlobSources;

/// The linked controllers, shared by all links.
#[derive(Default)]
pub(crate) struct LinkedControllers {
    /// The linked controllers by id.
    links: Mutex<BTreeMap<String, ControllerLink>>,
    /// Notified with every new link.
    new_links: watch::Sender<()>,
    /// The link addresses that any linked controller names, with the number of controllers there.
    addresses: watch::Sender<BTreeMap<String, usize>>,
}

/// A linked controller.
struct ControllerLink {
    /// The link addresses that it names, with the number of controllers there.
    addresses: BTreeMap<String, usize>,
    client: FleetClient<LinkChannel>,
}

impl LinkedControllers {
    /// Returns the link addresses that linked controllers name, with the number of controllers at each
    /// of them: several may be behind one load balancer. While none is linked, the last ones
    /// stay, so that the agent can reconnect.
    pub(super) fn addresses(&self) -> watch::Receiver<BTreeMap<String, usize>> {
        self.addresses.subscribe()
    }

    /// Registers a link to a controller until the guard is dropped. `None` if the controller is linked
    /// already.
    pub(super) fn register(
        &self,
        id: &str,
        client: FleetClient<LinkChannel>,
    ) -> Option<LinkGuard<'_>> {
        let mut links = self.lock();
        if links.contains_key(id) {
            return None;
        }
        let link = ControllerLink {
            addresses: BTreeMap::new(),
            client,
        };
        links.insert(id.to_owned(), link);
        drop(links);
        self.new_links.send_replace(());
        Some(LinkGuard {
            controllers: self,
            id: id.to_owned(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ControllerLink>> {
        self.links.lock()
    }
}

impl BlobSources for LinkedControllers {
    fn clients(&self) -> Vec<FleetClient<LinkChannel>> {
        self.lock()
            .values()
            .map(|link| link.client.clone())
            .collect()
    }

    fn new_links(&self) -> watch::Receiver<()> {
        self.new_links.subscribe()
    }
}

/// The registration of a linked controller. Dropping it removes the link.
pub(super) struct LinkGuard<'a> {
    controllers: &'a LinkedControllers,
    id: String,
}

impl LinkGuard<'_> {
    /// Sets the link addresses that this controller names, one for each controller.
    pub(super) fn set_addresses(&self, addresses: Vec<String>) {
        let mut links = self.controllers.lock();
        if let Some(link) = links.get_mut(&self.id) {
            link.addresses.clear();
            for address in addresses {
                *link.addresses.entry(address).or_default() += 1;
            }
        }
        let mut all: BTreeMap<String, usize> = BTreeMap::new();
        for (address, controllers) in links.values().flat_map(|link| &link.addresses) {
            let most = all.entry(address.clone()).or_default();
            *most = (*most).max(*controllers);
        }
        drop(links);
        self.controllers.addresses.send_if_modified(|addresses| {
            let has_changed = *addresses != all;
            *addresses = all;
            has_changed
        });
    }
}

impl Drop for LinkGuard<'_> {
    fn drop(&mut self) {
        self.controllers.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::transport;

    #[tokio::test]
    async fn a_controller_is_linked_once_and_all_named_addresses_are_known() {
        let (near, far) = tokio::io::duplex(1_024);
        let handshake = tokio::spawn(async move {
            transport::connect(far, transport::DEFAULT_KEEPALIVE_TIMEOUT)
                .await
                .map(drop)
        });
        let (channel, _connection) = transport::connect(near, transport::DEFAULT_KEEPALIVE_TIMEOUT)
            .await
            .unwrap();
        handshake.await.unwrap().unwrap();
        let client = FleetClient::with_origin(channel, transport::origin());
        let controllers = LinkedControllers::default();
        let addresses = controllers.addresses();
        let first = controllers.register("1", client.clone()).unwrap();
        assert!(controllers.register("1", client.clone()).is_none());
        let second = controllers.register("2", client.clone()).unwrap();
        first.set_addresses(vec!["a".into(), "b".into()]);
        second.set_addresses(vec!["b".into(), "c".into()]);
        let set = |names: &[&str]| {
            let names = names.iter().map(|name| ((*name).to_owned(), 1));
            names.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(*addresses.borrow(), set(&["a", "b", "c"]));
        first.set_addresses(vec!["b".into(), "b".into(), "b".into()]);
        assert_eq!(
            addresses.borrow()["b"],
            3,
            "three controllers at one address"
        );
        drop(first);
        second.set_addresses(vec!["c".into()]);
        assert_eq!(*addresses.borrow(), set(&["c"]));
        drop(second);
        assert_eq!(*addresses.borrow(), set(&["c"]), "kept without a link");
        assert!(controllers.register("1", client).is_some());
    }
}

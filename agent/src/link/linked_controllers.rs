//! Which controllers there are, and which are linked.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::transport::LinkChannel;
use flotilla_proto::v1::fleet_client::FleetClient;
use parking_lot::Mutex;
use tokio::sync::watch;

/// The controllers, as the links know them.
#[derive(Default)]
pub(crate) struct LinkedControllers {
    /// The controllers that are linked, by id.
    linked: Mutex<BTreeMap<String, ControllerLink>>,
    /// Told when one is linked.
    came: watch::Sender<()>,
    /// All addresses that any of them names.
    named: watch::Sender<BTreeSet<String>>,
}

impl LinkedControllers {
    /// The link addresses that linked controllers name. What was named last stays while none
    /// is linked: it is all there is to go by.
    pub(super) fn named(&self) -> watch::Receiver<BTreeSet<String>> {
        self.named.subscribe()
    }

    /// Notes a link to a controller. `None` where there is one already.
    pub(super) fn link(&self, id: &str, client: FleetClient<LinkChannel>) -> Option<LinkGuard<'_>> {
        let mut linked = self.lock();
        if linked.contains_key(id) {
            return None;
        }
        let peer = ControllerLink {
            names: BTreeSet::new(),
            client,
        };
        linked.insert(id.to_owned(), peer);
        drop(linked);
        self.came.send_replace(());
        Some(LinkGuard {
            peers: self,
            id: id.to_owned(),
        })
    }

    /// The controllers that can be asked now.
    pub(crate) fn clients(&self) -> Vec<FleetClient<LinkChannel>> {
        self.lock()
            .values()
            .map(|peer| peer.client.clone())
            .collect()
    }

    /// Told when one more can be asked.
    pub(crate) fn came(&self) -> watch::Receiver<()> {
        self.came.subscribe()
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, BTreeMap<String, ControllerLink>> {
        self.linked.lock()
    }
}

/// A linked controller.
struct ControllerLink {
    /// The addresses that it names.
    names: BTreeSet<String>,
    client: FleetClient<LinkChannel>,
}

/// A linked controller, until dropped.
pub(super) struct LinkGuard<'a> {
    peers: &'a LinkedControllers,
    id: String,
}

impl LinkGuard<'_> {
    /// It names these.
    pub(super) fn names(&self, addresses: Vec<String>) {
        let mut linked = self.peers.lock();
        if let Some(peer) = linked.get_mut(&self.id) {
            peer.names = addresses.into_iter().collect();
        }
        let all: BTreeSet<String> = linked.values().flat_map(|p| &p.names).cloned().collect();
        drop(linked);
        self.peers.named.send_if_modified(|named| {
            let news = *named != all;
            *named = all;
            news
        });
    }
}

impl Drop for LinkGuard<'_> {
    fn drop(&mut self) {
        self.peers.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::transport;

    #[tokio::test]
    async fn a_controller_is_linked_once_and_all_that_any_names_are_known() {
        let (near, far) = tokio::io::duplex(1_024);
        let shaken = tokio::spawn(async move {
            transport::connect(far, transport::DEFAULT_KEEPALIVE_TIMEOUT)
                .await
                .map(drop)
        });
        let (channel, _connection) = transport::connect(near, transport::DEFAULT_KEEPALIVE_TIMEOUT)
            .await
            .unwrap();
        shaken.await.unwrap().unwrap();
        let client = FleetClient::with_origin(channel, transport::origin());
        let peers = LinkedControllers::default();
        let named = peers.named();
        let one = peers.link("1", client.clone()).unwrap();
        assert!(peers.link("1", client.clone()).is_none());
        let two = peers.link("2", client.clone()).unwrap();
        one.names(vec!["a".into(), "b".into()]);
        two.names(vec!["b".into(), "c".into()]);
        let all = |names: &[&str]| {
            names
                .iter()
                .map(|n| (*n).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(*named.borrow(), all(&["a", "b", "c"]));
        drop(one);
        two.names(vec!["c".into()]);
        assert_eq!(*named.borrow(), all(&["c"]));
        drop(two);
        assert_eq!(*named.borrow(), all(&["c"]), "all there is to go by");
        assert!(peers.link("1", client).is_some());
    }
}

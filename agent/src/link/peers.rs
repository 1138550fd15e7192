//! Which controllers there are, and which are linked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// The controllers, as the links know them.
#[derive(Default)]
pub(super) struct Peers {
    /// The controllers that are linked, by id, with the addresses that each names.
    linked: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// All addresses that any of them names.
    named: watch::Sender<BTreeSet<String>>,
}

impl Peers {
    /// The link addresses that linked controllers name. What was named last stays while none
    /// is linked: it is all there is to go by.
    pub(super) fn named(&self) -> watch::Receiver<BTreeSet<String>> {
        self.named.subscribe()
    }

    /// Notes a link to a controller. `None` where there is one already.
    pub(super) fn link(&self, id: &str) -> Option<Linked<'_>> {
        let mut linked = self.lock();
        if linked.contains_key(id) {
            return None;
        }
        linked.insert(id.to_owned(), BTreeSet::new());
        Some(Linked {
            peers: self,
            id: id.to_owned(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        // Nothing panics while it is held.
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A linked controller, until dropped.
pub(super) struct Linked<'a> {
    peers: &'a Peers,
    id: String,
}

impl Linked<'_> {
    /// It names these.
    pub(super) fn names(&self, addresses: Vec<String>) {
        let mut linked = self.peers.lock();
        linked.insert(self.id.clone(), addresses.into_iter().collect());
        let all: BTreeSet<String> = linked.values().flatten().cloned().collect();
        drop(linked);
        self.peers.named.send_if_modified(|named| {
            let news = *named != all;
            *named = all;
            news
        });
    }
}

impl Drop for Linked<'_> {
    fn drop(&mut self) {
        self.peers.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_linked_once_and_all_that_any_names_are_known() {
        let peers = Peers::default();
        let named = peers.named();
        let one = peers.link("1").unwrap();
        assert!(peers.link("1").is_none());
        let two = peers.link("2").unwrap();
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
        assert!(peers.link("1").is_some());
    }
}

//! The behaviours of both stores, and those that only the store in etcd has.

use std::sync::Arc;
use std::time::Duration;

use flotilla_controller::StoreAddress;
use flotilla_controller::store::{
    self, LEASE_TTL, MAX_CHUNK_BYTES, MAX_VALUE_BYTES, MAX_WRITES, Precondition, Store,
    StoreChange, StoreError, StoreRevision, StoreWatch, StoreWrite, WatchEvent,
};
use flotilla_tests::{DEADLINE, Etcd};
use futures::FutureExt;

/// Declares each behaviour as a test of each store.
macro_rules! on_both_stores {
    ($($behaviour:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $behaviour() {
                let dir = tempfile::tempdir().unwrap();
                let address = super::StoreAddress::Embedded(dir.path().to_owned());
                super::$behaviour(super::store::open(&address).await.unwrap()).await;
            })*
        }
        mod etcd {
            $(#[tokio::test]
            async fn $behaviour() {
                let etcd = super::Etcd::start();
                super::$behaviour(super::store::open(&etcd.store()).await.unwrap()).await;
            })*
        }
    };
}

on_both_stores!(
    written_entries_are_read_back_and_revisions_grow,
    failed_precondition_writes_nothing_and_names_the_key,
    requirement_guards_a_transaction_without_writing,
    one_of_many_conflicting_writers_wins,
    watch_starts_with_a_snapshot_and_reports_changes_in_order,
    transaction_with_too_many_writes_is_refused,
    leased_keys_are_deleted_with_their_lease,
    leader_key_holds_the_id_of_the_leader,
    writes_beyond_the_limits_of_a_transaction_are_split,
    failed_fence_stops_every_transaction_of_a_split_write,
    value_that_is_too_large_is_refused_and_holds_up_no_other,
    more_than_a_message_holds_is_read_and_watched,
);

fn put(key: &str, value: &str, precondition: Precondition) -> StoreWrite {
    StoreWrite::put_if(key.into(), value.into(), precondition)
}

/// Writes an entry again and again until the store confirms it.
async fn write_when_available(store: &dyn Store, key: &str) {
    let write = async {
        while store
            .write(vec![put(key, "", Precondition::Any)])
            .await
            .is_err()
        {}
    };
    let written = tokio::time::timeout(DEADLINE, write).await;
    written.expect("the store becomes available before the deadline");
}

async fn written_entries_are_read_back_and_revisions_grow(store: Arc<dyn Store>) {
    let writes = vec![
        put("/a/1", "x", Precondition::Absent),
        put("/b", "y", Precondition::Any),
    ];
    let first = store.write(writes).await.unwrap();
    let entry = store.get("/a/1").await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.revision), (&b"x"[..], first));
    let second = store
        .write(vec![put("/a/2", "z", Precondition::Any)])
        .await
        .unwrap();
    assert!(second > first);
    let keys = async |prefix| {
        let entries = store.list(prefix).await.unwrap();
        entries.into_iter().map(|e| e.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("/a/").await, ["/a/1", "/a/2"]);
    let delete = |key: &str| StoreWrite::Delete { key: key.into() };
    let deletes = vec![delete("/a/1"), delete("/never/there")];
    assert!(store.write(deletes).await.unwrap() > second);
    assert_eq!(keys("/").await, ["/a/2", "/b"]);
    assert_eq!(store.get("/a").await.unwrap(), None);
}

async fn failed_precondition_writes_nothing_and_names_the_key(store: Arc<dyn Store>) {
    let revision = store
        .write(vec![put("/a", "x", Precondition::Any)])
        .await
        .unwrap();
    for precondition in [
        Precondition::Absent,
        Precondition::Revision(StoreRevision(revision.0 + 7)),
    ] {
        let writes = vec![
            put("/b", "y", Precondition::Any),
            put("/c", "y", Precondition::Absent),
            put("/a", "z", precondition),
        ];
        let refused = store.write(writes).await;
        assert!(
            matches!(&refused, Err(StoreError::Conflict(key)) if key == "/a"),
            "{refused:?}"
        );
    }
    assert_eq!(store.list("/").await.unwrap().len(), 1);
    let allowed = vec![put("/a", "z", Precondition::Revision(revision))];
    store.write(allowed).await.unwrap();
}

async fn requirement_guards_a_transaction_without_writing(store: Arc<dyn Store>) {
    let revision = store
        .write(vec![put("/guard", "", Precondition::Any)])
        .await
        .unwrap();
    let guarded = |revision, value| {
        let require = StoreWrite::Require {
            key: "/guard".into(),
            precondition: Precondition::Revision(revision),
        };
        vec![require, put("/a", value, Precondition::Any)]
    };
    store.write(guarded(revision, "x")).await.unwrap();
    assert_eq!(
        store.get("/guard").await.unwrap().unwrap().revision,
        revision
    );
    store
        .write(vec![put("/guard", "", Precondition::Any)])
        .await
        .unwrap();
    let refused = store.write(guarded(revision, "y")).await;
    assert!(matches!(refused, Err(StoreError::Conflict(key)) if key == "/guard"));
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, b"x");
}

async fn one_of_many_conflicting_writers_wins(store: Arc<dyn Store>) {
    let writers = (0..16).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let write = put("/a", &i.to_string(), Precondition::Absent);
            store.write(vec![write]).await.is_ok()
        })
    });
    let won = futures::future::join_all(writers).await;
    assert_eq!(
        won.into_iter().filter(|won| *won.as_ref().unwrap()).count(),
        1
    );
}

/// Waits for this many events of a watch and returns the keys that changed: `-` stands before a deleted
/// one.
async fn next_changes(watch: &mut dyn StoreWatch, count: usize) -> Vec<String> {
    let mut changes = Vec::new();
    while changes.len() < count {
        changes.push(match watch.next().await.unwrap() {
            WatchEvent::Change(StoreChange::Put(entry)) => entry.key,
            WatchEvent::Change(StoreChange::Delete { key, .. }) => format!("-{key}"),
            WatchEvent::Snapshot { .. } => "snapshot".to_owned(),
            WatchEvent::PutBack | WatchEvent::Unavailable(_) | WatchEvent::Available => continue,
        });
    }
    changes
}

async fn watch_starts_with_a_snapshot_and_reports_changes_in_order(store: Arc<dyn Store>) {
    store
        .write(vec![put("/a/1", "x", Precondition::Any)])
        .await
        .unwrap();
    let mut watch = store.watch("/a/").await.unwrap();
    let WatchEvent::Snapshot { entries, .. } = watch.next().await.unwrap() else {
        panic!("no snapshot");
    };
    assert_eq!(entries.len(), 1);
    store
        .write(vec![put("/b/1", "", Precondition::Any)])
        .await
        .unwrap();
    let delete = StoreWrite::Delete { key: "/a/1".into() };
    let writes = vec![put("/a/2", "", Precondition::Any), delete];
    store.write(writes).await.unwrap();
    store
        .write(vec![put("/a/3", "", Precondition::Any)])
        .await
        .unwrap();
    let mut seen = next_changes(watch.as_mut(), 3).await;
    // etcd does not order the changes of a transaction.
    seen[..2].sort();
    assert_eq!(seen, ["-/a/1", "/a/2", "/a/3"]);
}

async fn leased_keys_are_deleted_with_their_lease(store: Arc<dyn Store>) {
    let ttl = Duration::from_secs(2);
    let [one, other] = [
        store.grant_lease(ttl).await.unwrap(),
        store.grant_lease(ttl).await.unwrap(),
    ];
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    for (key, lease) in [("/1", &one), ("/2", &other)] {
        let write = StoreWrite::put_leased(key.into(), Vec::new(), lease.id());
        store.write(vec![write]).await.unwrap();
    }
    assert!(one.lost().now_or_never().is_none());
    one.revoke().await;
    assert_eq!(next_changes(watch.as_mut(), 3).await, ["/1", "/2", "-/1"]);
    let keys = store.list("/").await.unwrap();
    assert_eq!(keys.len(), 1);
    assert!(other.lost().now_or_never().is_none());
}

async fn leader_key_holds_the_id_of_the_leader(store: Arc<dyn Store>) {
    let leadership = store
        .try_lead("me")
        .await
        .unwrap()
        .expect("there is no leader");
    let leader = store.get(store::keys::LEADER).await.unwrap().unwrap();
    assert_eq!(leader.value, b"me");
    assert!(leadership.lost().now_or_never().is_none());
}

async fn transaction_with_too_many_writes_is_refused(store: Arc<dyn Store>) {
    let writes = |count| {
        (0..count)
            .map(|i| put(&format!("/{i}"), "", Precondition::Any))
            .collect()
    };
    store.write(writes(MAX_WRITES)).await.unwrap();
    let refused = store.write(writes(MAX_WRITES + 1)).await;
    assert!(matches!(refused, Err(StoreError::TooManyWrites(_))));
}

/// Returns more writes than a transaction may have, with more bytes in all than etcd accepts at once.
fn large_writes() -> Vec<StoreWrite> {
    let count = 3 * MAX_WRITES;
    let bytes = 3 * MAX_CHUNK_BYTES / count;
    let put = |i| StoreWrite::put(format!("/large/{i:03}"), vec![b'x'; bytes]);
    (0..count).map(put).collect()
}

async fn writes_beyond_the_limits_of_a_transaction_are_split(store: Arc<dyn Store>) {
    store.write_all(None, large_writes()).await.unwrap();
    assert_eq!(store.list("/large/").await.unwrap().len(), 3 * MAX_WRITES);
    // Few writes, each with half of the bytes of a transaction.
    let put = |i| StoreWrite::put(format!("/few/{i}"), vec![b'x'; MAX_CHUNK_BYTES / 2]);
    store
        .write_all(None, (0..5).map(put).collect())
        .await
        .unwrap();
    assert_eq!(store.list("/few/").await.unwrap().len(), 5);
}

async fn failed_fence_stops_every_transaction_of_a_split_write(store: Arc<dyn Store>) {
    let fence = StoreWrite::Require {
        key: "/fence".into(),
        precondition: Precondition::Absent,
    };
    store
        .write_all(Some(fence.clone()), large_writes())
        .await
        .unwrap();
    let written = store.get("/large/000").await.unwrap().unwrap().revision;
    store
        .write(vec![put("/fence", "", Precondition::Any)])
        .await
        .unwrap();
    let refused = store.write_all(Some(fence), large_writes()).await;
    assert!(matches!(refused, Err(StoreError::Conflict(key)) if key == "/fence"));
    let entries = store.list("/large/").await.unwrap();
    assert_eq!(entries[0].revision, written);
    assert_eq!(entries.len(), 3 * MAX_WRITES);
}

async fn value_that_is_too_large_is_refused_and_holds_up_no_other(store: Arc<dyn Store>) {
    let put = |key: &str, bytes| StoreWrite::put(key.into(), vec![b'x'; bytes]);
    store
        .write(vec![put("/largest", MAX_VALUE_BYTES)])
        .await
        .unwrap();
    let too_large = put("/larger", MAX_VALUE_BYTES + 1);
    let is_refused = |result: Result<(), StoreError>| matches!(result, Err(StoreError::TooLarge { key, .. }) if key == "/larger");
    assert!(is_refused(
        store.write(vec![too_large.clone()]).await.map(drop)
    ));
    let writes = vec![put("/first", 1), too_large, put("/last", 1)];
    assert!(is_refused(store.write_all(None, writes).await));
    let entries = store.list("/").await.unwrap();
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["/first", "/largest", "/last"]);
}

async fn more_than_a_message_holds_is_read_and_watched(store: Arc<dyn Store>) {
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    // More than a client of etcd reads in one message by default, and more than one page.
    let small = |i| StoreWrite::put(format!("/small/{i:04}"), vec![b'x'; 64]);
    store
        .write_all(None, (0..1_500).map(small).collect())
        .await
        .unwrap();
    let large = |i| StoreWrite::put(format!("/large/{i:02}"), vec![b'x'; 1 << 20]);
    for i in 0..24 {
        store.write(vec![large(i)]).await.unwrap();
    }
    let entries = store.list("/").await.unwrap();
    assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(entries.len(), 1_524);
    assert_eq!(store.list("/small/").await.unwrap().len(), 1_500);
    let mut second = store.watch("/").await.unwrap();
    let WatchEvent::Snapshot { entries, .. } = second.next().await.unwrap() else {
        panic!("no snapshot");
    };
    assert_eq!(entries.len(), 1_524);
    // The first watch has read none of the changes yet. One that is behind may get a snapshot instead.
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 1_524 {
        match watch.next().await.unwrap() {
            WatchEvent::Change(StoreChange::Put(entry)) => {
                assert!(seen.insert(entry.key), "a change is reported once");
            }
            WatchEvent::Snapshot { entries, .. } => {
                seen = entries.into_iter().map(|entry| entry.key).collect();
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_on_etcd_outlive_a_member_that_stops_answering() {
    let etcd = Etcd::start_members(3);
    for member in 0..3 {
        // Enough that each member is the one that some of the stores use.
        let mut leases = Vec::new();
        for i in 0..12 {
            let store = store::open(&etcd.store()).await.unwrap();
            // The members elect a leader anew after one of them has hung.
            let grant = async {
                loop {
                    let Ok(lease) = store.grant_lease(LEASE_TTL).await else {
                        continue;
                    };
                    let key = format!("/{member}/{i}");
                    let put = StoreWrite::put_leased(key, Vec::new(), lease.id());
                    if store.write(vec![put]).await.is_ok() {
                        return lease;
                    }
                }
            };
            let lease = tokio::time::timeout(DEADLINE, grant).await.unwrap();
            leases.push((store, lease));
        }
        etcd.signal_member(member, libc::SIGSTOP);
        // Only time proves that a lease is renewed: longer than it lives.
        tokio::time::sleep(LEASE_TTL + Duration::from_secs(3)).await;
        let lost = leases
            .iter()
            .filter(|(_, lease)| lease.lost().now_or_never().is_some());
        assert_eq!(lost.count(), 0);
        let prefix = format!("/{member}/");
        let keys = leases[0].0.list(&prefix).await;
        assert_eq!(keys.map_or(0, |keys| keys.len()), 12);
        // Once it resumes, a former leader of an old etcd may revoke leases that it believes to have
        // expired, which no client can prevent.
        etcd.signal_member(member, libc::SIGCONT);
    }
}

#[tokio::test]
async fn watch_on_etcd_continues_after_an_outage() {
    let mut etcd = Etcd::start();
    let store = store::open(&etcd.store()).await.unwrap();
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    store
        .write(vec![put("/1", "", Precondition::Any)])
        .await
        .unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["/1"]);
    etcd.kill();
    let result = store.write(vec![put("/2", "", Precondition::Any)]).await;
    assert!(matches!(result, Err(StoreError::Etcd(_))), "{result:?}");
    etcd.resume();
    // The client reconnects by itself.
    write_when_available(store.as_ref(), "/3").await;
    let delete = StoreWrite::Delete { key: "/1".into() };
    store.write(vec![delete]).await.unwrap();
    let mut seen = next_changes(watch.as_mut(), 2).await;
    // A write without an answer may have been stored.
    if seen[0] == "/2" {
        seen.remove(0);
        seen.extend(next_changes(watch.as_mut(), 1).await);
    }
    // So may those that were retried.
    while seen[1] == "/3" {
        seen.remove(1);
        seen.extend(next_changes(watch.as_mut(), 1).await);
    }
    assert_eq!(seen, ["/3", "-/1"]);
}

#[tokio::test]
async fn watch_on_etcd_restarts_with_a_snapshot_after_a_compaction() {
    let etcd = Etcd::start();
    let store = store::open(&etcd.store()).await.unwrap();
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    // The watch is not read meanwhile, so it has not reached these revisions.
    store
        .write(vec![put("/1", "", Precondition::Any)])
        .await
        .unwrap();
    let last = store
        .write(vec![put("/2", "", Precondition::Any)])
        .await
        .unwrap();
    etcd.compact(last.0);
    let WatchEvent::Snapshot { entries, .. } = watch.next().await.unwrap() else {
        panic!("no snapshot");
    };
    assert_eq!(entries.len(), 2);
    store
        .write(vec![put("/3", "", Precondition::Any)])
        .await
        .unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["/3"]);
}

#[tokio::test]
async fn watch_on_etcd_reads_anew_what_was_put_back_although_its_revision_was_overtaken() {
    let mut etcd = Etcd::start();
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot.db");
    let store = store::open(&etcd.store()).await.unwrap();
    for _ in 0..50 {
        store
            .write(vec![put("/before", "", Precondition::Any)])
            .await
            .unwrap();
    }
    etcd.save_snapshot(&snapshot);
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    let lost = store
        .write(vec![put("/lost", "", Precondition::Any)])
        .await
        .unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["/lost"]);
    store.check_health().await.unwrap();
    etcd.kill();
    etcd.restore_snapshot(&snapshot);
    etcd.resume();
    // Another client is faster than the watch.
    let other = store::open(&etcd.store()).await.unwrap();
    write_when_available(other.as_ref(), "/after").await;
    write_when_available(other.as_ref(), "/after").await;
    assert!(other.current_revision().await.unwrap() > lost);
    let event = async {
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Unavailable(_) | WatchEvent::Available => {}
                event => return event,
            }
        }
    };
    let event = tokio::time::timeout(DEADLINE, event).await.unwrap();
    assert!(matches!(event, WatchEvent::PutBack), "{event:?}");
    let WatchEvent::Snapshot { entries, .. } = watch.next().await.unwrap() else {
        panic!("no snapshot");
    };
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["/after", "/before"]);
    other
        .write(vec![put("/later", "", Precondition::Any)])
        .await
        .unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["/later"]);
}

#[tokio::test]
async fn lease_on_etcd_is_renewed_while_held_and_expires_when_dropped() {
    let etcd = Etcd::start();
    let store = store::open(&etcd.store()).await.unwrap();
    let ttl = Duration::from_secs(1);
    let lease = store.grant_lease(ttl).await.unwrap();
    let write = StoreWrite::put_leased("/1".into(), Vec::new(), lease.id());
    store.write(vec![write]).await.unwrap();
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    // Only time proves a renewal: nothing may happen for three times the time to live.
    let expired = tokio::time::timeout(ttl * 3, next_changes(watch.as_mut(), 1)).await;
    assert!(expired.is_err(), "{expired:?}");
    drop(lease);
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["-/1"]);
}

#[tokio::test]
async fn watch_on_etcd_reports_an_outage_and_its_end() {
    let mut etcd = Etcd::start();
    let store = store::open(&etcd.store()).await.unwrap();
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    etcd.kill();
    let event = watch.next().await.unwrap();
    assert!(matches!(event, WatchEvent::Unavailable(_)), "{event:?}");
    etcd.resume();
    let event = watch.next().await.unwrap();
    assert!(matches!(event, WatchEvent::Available), "{event:?}");
}

#[tokio::test]
async fn former_leader_cannot_write_under_its_fence() {
    let etcd = Etcd::start();
    let [one, other] = [
        store::open(&etcd.store()).await.unwrap(),
        store::open(&etcd.store()).await.unwrap(),
    ];
    let first = one
        .try_lead("me")
        .await
        .unwrap()
        .expect("there is no leader");
    assert!(other.try_lead("me").await.unwrap().is_none());
    assert!(first.lost().now_or_never().is_none());
    let fenced = |fence: Option<StoreWrite>, value| {
        let fence = fence.expect("etcd has a fence");
        vec![fence, put("/a", value, Precondition::Any)]
    };
    one.write(fenced(first.fence(), "first")).await.unwrap();
    // As if it had been paused for longer than its lease lives.
    first.resign().await;
    let second = other
        .try_lead("me")
        .await
        .unwrap()
        .expect("there is no leader");
    other.write(fenced(second.fence(), "second")).await.unwrap();
    let result = one.write(fenced(first.fence(), "late")).await;
    assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}");
    assert_eq!(one.get("/a").await.unwrap().unwrap().value, b"second");
    first.lost().await;
}

#[tokio::test]
async fn etcd_with_tls_and_password_refuses_clients_without_them() {
    let etcd = Etcd::start_with_authentication();
    let store = store::open(&etcd.store()).await.unwrap();
    let key = "/flotilla/v1/a";
    store
        .write(vec![put(key, "x", Precondition::Absent)])
        .await
        .unwrap();
    assert_eq!(store.get(key).await.unwrap().unwrap().value, b"x");
    let mut watch = store.watch("/flotilla/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    store
        .write(vec![put(key, "y", Precondition::Any)])
        .await
        .unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, [key]);
    assert!(store.try_lead("me").await.unwrap().is_some());

    let valid = etcd.address();
    let mut wrong_password = valid.clone();
    wrong_password.user = Some(("flotilla".into(), "open barley".into()));
    let mut no_user = valid.clone();
    no_user.user = None;
    let mut no_certificate = valid.clone();
    no_certificate.tls.as_mut().unwrap().identity = None;
    let mut no_tls = valid;
    no_tls.tls = None;
    for address in [wrong_password, no_user, no_certificate, no_tls] {
        let store = store::open(&StoreAddress::Etcd(address.clone()))
            .await
            .unwrap();
        let refused = store.get(key).await;
        assert!(
            matches!(refused, Err(StoreError::Etcd(_) | StoreError::EtcdAuth(_))),
            "{address:?}: {refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_on_three_members_survives_the_loss_of_one_and_waits_for_a_quorum() {
    let mut etcd = Etcd::start_members(3);
    let store = store::open(&etcd.store()).await.unwrap();
    let mut watch = store.watch("/").await.unwrap();
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["snapshot"]);
    etcd.kill_member(0);
    write_when_available(store.as_ref(), "/1").await;
    assert_eq!(next_changes(watch.as_mut(), 1).await, ["/1"]);
    etcd.kill_member(1);
    let outage =
        async { while !matches!(watch.next().await.unwrap(), WatchEvent::Unavailable(_)) {} };
    tokio::time::timeout(DEADLINE, outage).await.unwrap();
    assert!(
        store
            .write(vec![put("/2", "", Precondition::Any)])
            .await
            .is_err()
    );
    etcd.resume();
    write_when_available(store.as_ref(), "/3").await;
    while next_changes(watch.as_mut(), 1).await != ["/3"] {}
}

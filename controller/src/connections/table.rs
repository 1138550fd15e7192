//! The open connections of one port, and which of them gives way when there are too many.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Time between two warnings about too many connections.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The open connections of a port. Cheap to clone.
///
/// A connection is silent until its client has said what it wants, for example with the head of a
/// request; then it is idle or in use. When there are too many, one of the client with the most silent ones
/// gives way, then the one that has been idle longest. Connections in use never do.
#[derive(Clone)]
pub(crate) struct ConnectionTable {
    shared: Arc<SharedTable>,
}

struct SharedTable {
    /// The name of the port in logs.
    port: &'static str,
    entries: Mutex<Entries>,
    /// Counts the moments at which a connection became idle.
    clock: AtomicU64,
}

struct Entries {
    max: usize,
    max_silent: usize,
    next_id: u64,
    connections: HashMap<u64, Arc<ConnectionState>>,
    /// Ids of the silent connections by the addresses of their clients, the oldest first.
    silent: HashMap<IpAddr, BTreeSet<u64>>,
    /// The number of silent connections.
    silent_count: usize,
    warned_at: Option<Instant>,
}

/// The state of one connection.
struct ConnectionState {
    /// The address of the client.
    client: IpAddr,
    /// Uses at the moment, for example requests that are being answered.
    uses: AtomicUsize,
    /// Whether the client has said what it wants.
    has_spoken: AtomicBool,
    /// When the last use ended, by the table's clock.
    idle_since: AtomicU64,
    /// Cancelled when the connection has to give way.
    give_way: CancellationToken,
}

impl ConnectionState {
    fn new(client: IpAddr) -> Self {
        Self {
            client,
            uses: AtomicUsize::default(),
            has_spoken: AtomicBool::default(),
            idle_since: AtomicU64::default(),
            give_way: CancellationToken::default(),
        }
    }
}

impl Entries {
    /// Adds a connection. Returns it with its id; `None` if all connections are in use.
    fn add(&mut self, client: IpAddr) -> Option<(u64, Arc<ConnectionState>)> {
        if self.silent_count >= self.max_silent {
            self.evict_silent();
        }
        if self.connections.len() >= self.max && !self.evict_silent() && !self.evict_idle() {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let state = Arc::new(ConnectionState::new(client));
        self.connections.insert(id, state.clone());
        self.silent.entry(client).or_default().insert(id);
        self.silent_count += 1;
        Some((id, state))
    }

    /// Has a silent connection give way: of the address with the most of them, the one that has been silent longest.
    /// So a client that opens connections and says nothing pushes out its own.
    fn evict_silent(&mut self) -> bool {
        let most = self.silent.iter().max_by_key(|(_, ids)| ids.len());
        let oldest = most.and_then(|(client, ids)| Some((*client, *ids.first()?)));
        oldest.is_some_and(|(client, id)| self.evict(id, client))
    }

    /// Notes that a connection of a client is not silent any more, if it was.
    fn remove_silent(&mut self, id: u64, client: IpAddr) {
        let Some(ids) = self.silent.get_mut(&client) else {
            return;
        };
        if ids.remove(&id) {
            self.silent_count -= 1;
        }
        if ids.is_empty() {
            self.silent.remove(&client);
        }
    }

    /// Has the connection give way that has been idle longest.
    fn evict_idle(&mut self) -> bool {
        let idle = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.uses.load(Ordering::Acquire) == 0);
        let longest =
            idle.min_by_key(|(_, connection)| connection.idle_since.load(Ordering::Acquire));
        let longest = longest.map(|(id, connection)| (*id, connection.client));
        longest.is_some_and(|(id, client)| self.evict(id, client))
    }

    fn evict(&mut self, id: u64, client: IpAddr) -> bool {
        self.remove_silent(id, client);
        let connection = self.connections.remove(&id);
        if let Some(connection) = &connection {
            connection.give_way.cancel();
        }
        connection.is_some()
    }

    /// Whether a warning about too many connections is due.
    fn is_warning_due(&mut self, now: Instant) -> bool {
        let due = self
            .warned_at
            .is_none_or(|warned| now.duration_since(warned) >= WARNING_INTERVAL);
        if due {
            self.warned_at = Some(now);
        }
        due
    }
}

impl ConnectionTable {
    /// A table of at most `max` connections, of which at most `max_silent` are silent.
    pub(super) fn new(port: &'static str, max: usize, max_silent: usize) -> Self {
        Self {
            shared: Arc::new(SharedTable {
                port,
                entries: Mutex::new(Entries {
                    max,
                    max_silent,
                    next_id: 0,
                    connections: HashMap::new(),
                    silent: HashMap::new(),
                    silent_count: 0,
                    warned_at: None,
                }),
                clock: AtomicU64::new(0),
            }),
        }
    }

    /// Adds a new connection of a client, for which another one may have to give way. `None` if all are in use: the
    /// new one has to be closed.
    pub(crate) fn add(&self, client: IpAddr) -> Option<Connection> {
        let mut entries = self.shared.entries.lock();
        let before = entries.connections.len();
        let added = entries.add(client);
        let has_evicted = entries.connections.len() <= before;
        if has_evicted && entries.is_warning_due(Instant::now()) {
            tracing::warn!(
                port = self.shared.port,
                connections = before,
                "too many connections: those that say nothing are closed, others refused while all are in \
                 use; raise the limit on open files (LimitNOFILE, ulimit -n) if these are real clients"
            );
        }
        let (id, state) = added?;
        Some(Connection {
            table: self.clone(),
            id,
            state,
        })
    }
}

/// One connection in a table, which it leaves when dropped.
pub(crate) struct Connection {
    table: ConnectionTable,
    id: u64,
    state: Arc<ConnectionState>,
}

impl Connection {
    /// Cancelled when the connection has to give way to others.
    pub(crate) fn give_way(&self) -> &CancellationToken {
        &self.state.give_way
    }

    /// Notes that the client has said what it wants, and that the connection is in use until the
    /// returned guard is dropped.
    pub(crate) fn begin_use(&self) -> UseGuard {
        self.state.uses.fetch_add(1, Ordering::AcqRel);
        if !self.state.has_spoken.swap(true, Ordering::AcqRel) {
            let mut entries = self.table.shared.entries.lock();
            entries.remove_silent(self.id, self.state.client);
        }
        UseGuard {
            shared: self.table.shared.clone(),
            state: self.state.clone(),
        }
    }

    /// Whether the client has not said yet what it wants.
    pub(crate) fn is_silent(&self) -> bool {
        !self.state.has_spoken.load(Ordering::Acquire)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut entries = self.table.shared.entries.lock();
        entries.connections.remove(&self.id);
        entries.remove_silent(self.id, self.state.client);
    }
}

/// The use of a connection, until it is dropped.
pub(crate) struct UseGuard {
    shared: Arc<SharedTable>,
    state: Arc<ConnectionState>,
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        let now = self.shared.clock.fetch_add(1, Ordering::AcqRel) + 1;
        self.state.idle_since.store(now, Ordering::Release);
        self.state.uses.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn client_with_the_most_silent_connections_pushes_out_its_own() {
        let table = ConnectionTable::new("test", 100, 4);
        let other = table.add(IpAddr::from([10, 0, 0, 1])).unwrap();
        let many: Vec<_> = (0..50).map(|_| table.add(CLIENT).unwrap()).collect();
        assert!(!other.give_way().is_cancelled());
        let left = many.iter().filter(|one| !one.give_way().is_cancelled());
        assert_eq!(left.count(), 3);
        drop(many);
        let again: Vec<_> = (0..3).map(|_| table.add(CLIENT).unwrap()).collect();
        assert!(again.iter().all(|one| !one.give_way().is_cancelled()));
    }

    #[test]
    fn silent_connections_give_way_first_and_those_in_use_never() {
        let table = ConnectionTable::new("test", 4, 2);
        let gives_way = |connection: &Connection| connection.give_way().is_cancelled();
        let first = table.add(CLIENT).unwrap();
        let second = table.add(CLIENT).unwrap();
        let third = table.add(CLIENT).unwrap();
        assert!(gives_way(&first), "two may be silent");
        assert!(!gives_way(&second) && second.is_silent());
        drop(first);
        // Two in use, one idle, one silent.
        let in_use = (second.begin_use(), third.begin_use());
        let idle = table.add(CLIENT).unwrap();
        drop(idle.begin_use());
        let silent = table.add(CLIENT).unwrap();
        let new = table.add(CLIENT).unwrap();
        assert!(gives_way(&silent) && !gives_way(&idle));
        let used = new.begin_use();
        let newest = table.add(CLIENT).unwrap();
        assert!(gives_way(&idle));
        let last = newest.begin_use();
        assert!(table.add(CLIENT).is_none(), "all are in use");
        assert!(![&second, &third, &new, &newest].into_iter().any(gives_way));
        drop((in_use, used, last));
        assert!(table.add(CLIENT).is_some());
        assert!(gives_way(&second), "it has been idle longest");
    }
}

//! A real etcd on loopback.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use flotilla_controller::{EtcdAddress, StoreAddress};
use tempfile::TempDir;

use crate::Process;

/// One etcd member with data of its own. Killed when dropped.
pub struct Etcd {
    client: SocketAddr,
    peer: SocketAddr,
    dir: TempDir,
    process: Option<Process>,
}

impl Etcd {
    /// Starts a member and waits until it serves clients.
    ///
    /// # Panics
    /// When `etcd` (Debian's `etcd-server`) is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        let mut etcd = Self {
            client: free_address(),
            peer: free_address(),
            dir: tempfile::tempdir().expect("a temporary folder"),
            process: None,
        };
        etcd.resume();
        etcd
    }

    /// Starts it again with the data it has, after [`Etcd::kill`].
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&mut self) {
        let (client, peer) = (
            format!("http://{}", self.client),
            format!("http://{}", self.peer),
        );
        let mut command = Command::new("etcd");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .arg("--data-dir")
            .arg(self.dir.path())
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")]);
        let mut process = Process::spawn(command);
        process.line_with("ready to serve client requests");
        self.process = Some(process);
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Forgets what was before `revision`.
    ///
    /// # Panics
    /// When etcd refuses.
    pub fn compact(&self, revision: u64) {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.client.to_string(), "compact"])
            .arg(revision.to_string());
        let status = command.status().expect("etcdctl is installed");
        assert!(status.success(), "etcdctl compact: {status}");
    }

    /// Where it serves clients.
    #[must_use]
    pub fn address(&self) -> EtcdAddress {
        EtcdAddress {
            endpoints: vec![self.client.to_string()],
            ..EtcdAddress::default()
        }
    }

    /// The store in it.
    #[must_use]
    pub fn store(&self) -> StoreAddress {
        StoreAddress::Etcd(self.address())
    }
}

/// An address that was free a moment ago, for what cannot be told to choose one itself.
///
/// # Panics
/// When loopback has none.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound")
}

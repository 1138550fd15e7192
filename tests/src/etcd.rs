//! A real etcd on loopback with one member or more.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use flotilla_controller::{EtcdAddress, EtcdTls, StoreAddress};
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::{Process, free_address};

/// An etcd cluster with its own data directory. It is killed when dropped.
pub struct Etcd {
    members: Vec<EtcdMember>,
    dir: TempDir,
    tls: Option<EtcdTls>,
    user: Option<(String, String)>,
    /// Further arguments of all members.
    args: Vec<String>,
}

/// One etcd process.
struct EtcdMember {
    /// The address for clients.
    client: SocketAddr,
    /// The address for other members.
    peer: SocketAddr,
    /// `None` while the member is killed.
    process: Option<Process>,
}

impl Etcd {
    /// Starts an etcd of one member and waits until it serves clients.
    ///
    /// # Panics
    /// Panics if `etcd` (Debian's `etcd-server`) is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_members(1)
    }

    /// Starts an etcd of `count` members and waits until they serve clients.
    ///
    /// # Panics
    /// Panics as [`Etcd::start`] does.
    #[must_use]
    pub fn start_members(count: usize) -> Self {
        let mut etcd = Self::new(count);
        etcd.resume();
        etcd
    }

    /// Starts an etcd of one member that requires TLS with a client certificate and the password of the
    /// user `flotilla`.
    ///
    /// # Panics
    /// Panics as [`Etcd::start`] does.
    #[must_use]
    pub fn start_with_authentication() -> Self {
        let mut etcd = Self::new(1);
        etcd.tls = Some(etcd.write_certificates());
        etcd.resume();
        etcd.run_etcdctl(&["user", "add", "root:secret"]);
        etcd.run_etcdctl(&["user", "add", "flotilla:open sesame"]);
        etcd.run_etcdctl(&["role", "add", "fleet"]);
        let permission = ["--prefix=true", "readwrite", "/flotilla/"];
        etcd.run_etcdctl(&[&["role", "grant-permission", "fleet"], &permission[..]].concat());
        etcd.run_etcdctl(&["user", "grant-role", "flotilla", "fleet"]);
        etcd.run_etcdctl(&["user", "grant-role", "root", "root"]);
        etcd.run_etcdctl(&["auth", "enable"]);
        etcd.user = Some(("flotilla".into(), "open sesame".into()));
        etcd
    }

    fn new(count: usize) -> Self {
        let member = |_| EtcdMember {
            client: free_address(),
            peer: free_address(),
            process: None,
        };
        Self {
            members: (0..count).map(member).collect(),
            dir: tempfile::tempdir().expect("a temporary directory can be created"),
            tls: None,
            user: None,
            args: Vec::new(),
        }
    }

    /// Starts an etcd of `count` members whose databases may have this many bytes.
    ///
    /// # Panics
    /// Panics as [`Etcd::start`] does.
    #[must_use]
    pub fn start_with_quota(count: usize, bytes: u64) -> Self {
        let mut etcd = Self::new(count);
        etcd.args = vec!["--quota-backend-bytes".into(), bytes.to_string()];
        etcd.resume();
        etcd
    }

    /// Fills the database with keys outside of Flotilla's until etcd raises the alarm NOSPACE.
    ///
    /// # Panics
    /// Panics if etcd takes more than any quota of a test.
    pub fn fill(&self) {
        let filler = "x".repeat(64 << 10);
        let fills = |i| {
            // A busy etcd also refuses a put because it takes too long, without an alarm.
            !self.try_etcdctl(&["put", &format!("/filler/{i}"), &filler]) && self.has_space_alarm()
        };
        assert!((0..1_000).any(fills), "etcd does not get full");
    }

    fn has_space_alarm(&self) -> bool {
        let output = self.etcdctl(&self.endpoints(), &["alarm", "list"]);
        String::from_utf8_lossy(&output.stdout).contains("NOSPACE")
    }

    /// Deletes what [`Etcd::fill`] wrote, and disarms the alarm, as an operator does.
    ///
    /// # Panics
    /// Panics if etcd refuses.
    pub fn make_room(&self) {
        self.run_etcdctl(&["del", "--prefix", "/filler/"]);
        let status = self.etcdctl_output(&["endpoint", "status", "--write-out=json"]);
        let revision = status.split("\"revision\":").nth(1).expect("a revision");
        let digits = revision.split(|c: char| !c.is_ascii_digit()).next();
        self.run_etcdctl(&["compact", digits.expect("a number")]);
        self.run_etcdctl(&["defrag"]);
        self.run_etcdctl(&["alarm", "disarm"]);
    }

    /// Sends a signal to one member, such as [`libc::SIGSTOP`], after which it accepts connections and
    /// does not answer.
    ///
    /// # Panics
    /// Panics if the member does not run.
    pub fn signal_member(&self, index: usize, signal: i32) {
        let process = self.members[index].process.as_ref();
        process.expect("the member runs").signal(signal);
    }

    /// Starts the members that do not run, with the data they have, and waits until they serve clients.
    ///
    /// # Panics
    /// Panics if they do not start.
    pub fn resume(&mut self) {
        let stopped: Vec<usize> = (0..self.members.len())
            .filter(|index| self.members[*index].process.is_none())
            .collect();
        // All of them before waiting for any: a member is ready only once there is a quorum.
        for index in &stopped {
            let process = Process::spawn(self.command(*index));
            self.members[*index].process = Some(process);
        }
        for index in stopped {
            if let Some(process) = &mut self.members[index].process {
                process.wait_for_line("ready to serve client requests");
            }
        }
    }

    /// Returns the command that starts a member.
    fn command(&self, index: usize) -> Command {
        let member = &self.members[index];
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{}", member.client);
        let peer = format!("http://{}", member.peer);
        let mut command = Command::new("etcd");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["--name", &format!("m{index}")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("m{index}")))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.initial_cluster()]);
        command.args(&self.args);
        if let Some(tls) = &self.tls {
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(&tls.ca)
                .arg("--cert-file")
                .arg(self.dir.path().join("server.pem"))
                .arg("--key-file")
                .arg(self.dir.path().join("server.key"));
        }
        command
    }

    /// Kills all members, as a power cut does.
    pub fn kill(&mut self) {
        for member in &mut self.members {
            member.process = None;
        }
    }

    /// Kills one member, as a power cut does.
    pub fn kill_member(&mut self, index: usize) {
        self.members[index].process = None;
    }

    /// Compacts the history: discards what was overwritten before `revision`.
    ///
    /// # Panics
    /// Panics if etcd refuses.
    pub fn compact(&self, revision: u64) {
        self.run_etcdctl(&["compact", &revision.to_string()]);
    }

    /// Saves a snapshot of the whole etcd to a file.
    ///
    /// # Panics
    /// Panics if etcd refuses.
    pub fn save_snapshot(&self, file: &Path) {
        // One member has it all, and etcdctl asks only one.
        let endpoint = self.members[0].client.to_string();
        let output = self.etcdctl(
            &endpoint,
            &["snapshot", "save", &file.display().to_string()],
        );
        assert!(output.status.success(), "etcdctl snapshot save: {output:?}");
    }

    /// Replaces the data of all members, which must be stopped, by that of a snapshot.
    ///
    /// # Panics
    /// Panics if `etcdctl` refuses.
    pub fn restore_snapshot(&self, file: &Path) {
        self.lose_data();
        for (index, member) in self.members.iter().enumerate() {
            let name = format!("m{index}");
            let data = self.dir.path().join(&name);
            let output = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore"])
                .arg(file)
                .arg("--data-dir")
                .arg(&data)
                .args([
                    "--name",
                    &name,
                    "--initial-cluster",
                    &self.initial_cluster(),
                ])
                .arg("--initial-advertise-peer-urls")
                .arg(format!("http://{}", member.peer))
                .output()
                .expect("etcdctl is installed");
            assert!(
                output.status.success(),
                "etcdctl snapshot restore: {output:?}"
            );
        }
    }

    /// The names and addresses of all members, as etcd takes them.
    fn initial_cluster(&self) -> String {
        let members = self.members.iter().enumerate();
        let members = members.map(|(i, member)| format!("m{i}=http://{}", member.peer));
        members.collect::<Vec<_>>().join(",")
    }

    /// Deletes the data of all members, which must be stopped.
    ///
    /// # Panics
    /// Panics if the data cannot be deleted.
    pub fn lose_data(&self) {
        for index in 0..self.members.len() {
            let data = self.dir.path().join(format!("m{index}"));
            std::fs::remove_dir_all(data).expect("the data of a stopped etcd can be removed");
        }
    }

    /// Runs `etcdctl`, which must succeed.
    fn run_etcdctl(&self, args: &[&str]) {
        self.etcdctl_output(args);
    }

    /// Runs `etcdctl`, which must succeed, and returns its output.
    fn etcdctl_output(&self, args: &[&str]) -> String {
        let output = self.etcdctl(&self.endpoints(), args);
        assert!(output.status.success(), "etcdctl {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `etcdctl` and returns whether it succeeded.
    fn try_etcdctl(&self, args: &[&str]) -> bool {
        self.etcdctl(&self.endpoints(), args).status.success()
    }

    fn endpoints(&self) -> String {
        self.address().endpoints.join(",")
    }

    fn etcdctl(&self, endpoints: &str, args: &[&str]) -> std::process::Output {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", endpoints])
            .args(args);
        if let Some(tls) = &self.tls {
            let (certificate, key) = tls.identity.as_ref().expect("clients have a certificate");
            command.arg("--cacert").arg(&tls.ca);
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.output().expect("etcdctl is installed")
    }

    /// Writes a certificate authority and its certificates for the server and for clients.
    fn write_certificates(&self) -> EtcdTls {
        let path = |name: &str| self.dir.path().join(name);
        let write = |name: &str, text: &str| -> PathBuf {
            std::fs::write(path(name), text).expect("the file can be written");
            path(name)
        };
        let authority = Authority::new();
        let certificate = |name: &str| {
            let issued = authority.issue();
            let file = write(&format!("{name}.pem"), &issued.pem());
            (file, write(&format!("{name}.key"), &issued.key_pem()))
        };
        certificate("server");
        EtcdTls {
            ca: write("ca.pem", &authority.pem()),
            identity: Some(certificate("client")),
        }
    }

    /// Returns the addresses for clients, with the user and the certificates that they need.
    #[must_use]
    pub fn address(&self) -> EtcdAddress {
        let endpoints = self.members.iter().map(|member| member.client.to_string());
        EtcdAddress {
            endpoints: endpoints.collect(),
            user: self.user.clone(),
            tls: self.tls.clone(),
        }
    }

    /// Returns the address of the store in this etcd.
    #[must_use]
    pub fn store(&self) -> StoreAddress {
        StoreAddress::Etcd(self.address())
    }
}

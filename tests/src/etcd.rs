//! A real etcd on loopback, of one member or several.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use flotilla_controller::{EtcdAddress, EtcdTls, StoreAddress};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::{Process, free_address};

/// An etcd with data of its own. Killed when dropped.
pub struct Etcd {
    members: Vec<Member>,
    dir: TempDir,
    tls: Option<EtcdTls>,
    user: Option<(String, String)>,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Process>,
}

impl Etcd {
    /// Starts one member and waits until it serves clients.
    ///
    /// # Panics
    /// When `etcd` (Debian's `etcd-server`) is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_members(1)
    }

    /// Starts so many members and waits until they serve clients.
    ///
    /// # Panics
    /// As [`Etcd::start`].
    #[must_use]
    pub fn start_members(count: usize) -> Self {
        let mut etcd = Self::new(count);
        etcd.resume();
        etcd
    }

    /// Starts one member that wants TLS with a certificate of the client's, and the password
    /// of a user `flotilla`.
    ///
    /// # Panics
    /// As [`Etcd::start`].
    #[must_use]
    pub fn start_guarded() -> Self {
        let mut etcd = Self::new(1);
        etcd.tls = Some(etcd.certificates());
        etcd.resume();
        etcd.control(&["user", "add", "root:secret"]);
        etcd.control(&["user", "add", "flotilla:open sesame"]);
        etcd.control(&["role", "add", "fleet"]);
        let all = [
            "role",
            "grant-permission",
            "fleet",
            "--prefix=true",
            "readwrite",
        ];
        etcd.control(&[&all[..], &["/flotilla/"]].concat());
        etcd.control(&["user", "grant-role", "flotilla", "fleet"]);
        etcd.control(&["user", "grant-role", "root", "root"]);
        etcd.control(&["auth", "enable"]);
        etcd.user = Some(("flotilla".into(), "open sesame".into()));
        etcd
    }

    fn new(count: usize) -> Self {
        let member = |_| Member {
            client: free_address(),
            peer: free_address(),
            process: None,
        };
        Self {
            members: (0..count).map(member).collect(),
            dir: tempfile::tempdir().expect("a temporary folder"),
            tls: None,
            user: None,
        }
    }

    /// Starts those members again that do not run, with the data they have.
    ///
    /// # Panics
    /// When they do not start.
    pub fn resume(&mut self) {
        let absent = |(_, member): &(usize, &Member)| member.process.is_none();
        let members = self.members.iter().enumerate();
        let absent: Vec<usize> = members.filter(absent).map(|(i, _)| i).collect();
        for which in &absent {
            let process = Process::spawn(self.command(*which));
            self.members[*which].process = Some(process);
        }
        for which in absent {
            if let Some(process) = &mut self.members[which].process {
                process.line_with("ready to serve client requests");
            }
        }
    }

    fn command(&self, which: usize) -> Command {
        let member = &self.members[which];
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{}", member.client);
        let peer = format!("http://{}", member.peer);
        let others = self.members.iter().enumerate();
        let others: Vec<_> = others
            .map(|(i, m)| format!("m{i}=http://{}", m.peer))
            .collect();
        let mut command = Command::new("etcd");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["--name", &format!("m{which}")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("m{which}")))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &others.join(",")]);
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

    /// Kills all members as a power cut would.
    pub fn kill(&mut self) {
        for member in &mut self.members {
            member.process = None;
        }
    }

    /// Kills one member as a power cut would.
    pub fn kill_member(&mut self, which: usize) {
        self.members[which].process = None;
    }

    /// Forgets what was before `revision`.
    ///
    /// # Panics
    /// When etcd refuses.
    pub fn compact(&self, revision: u64) {
        self.control(&["compact", &revision.to_string()]);
    }

    /// Runs etcdctl, which must succeed.
    fn control(&self, args: &[&str]) {
        let endpoints = self.address().endpoints.join(",");
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoints])
            .args(args);
        if let Some(tls) = &self.tls {
            let (certificate, key) = tls.identity.as_ref().expect("clients have one");
            command.arg("--cacert").arg(&tls.ca);
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        let output = command.output().expect("etcdctl is installed");
        assert!(output.status.success(), "etcdctl {args:?}: {output:?}");
    }

    /// An authority, and certificates of it for the server and for clients.
    fn certificates(&self) -> EtcdTls {
        let path = |name: &str| self.dir.path().join(name);
        let write = |name: &str, text: &str| -> PathBuf {
            std::fs::write(path(name), text).expect("written");
            path(name)
        };
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        let certificate = |name: &str| {
            let key = key();
            let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
            let params = CertificateParams::new(names).expect("names");
            let signed = params.signed_by(&key, &authority).expect("signed");
            let file = write(&format!("{name}.pem"), &signed.pem());
            (file, write(&format!("{name}.key"), &key.serialize_pem()))
        };
        certificate("server");
        EtcdTls {
            ca: write("ca.pem", &authority.pem()),
            identity: Some(certificate("client")),
        }
    }

    /// Where it serves clients, and what it wants of them.
    #[must_use]
    pub fn address(&self) -> EtcdAddress {
        let endpoints = self.members.iter().map(|member| member.client.to_string());
        EtcdAddress {
            endpoints: endpoints.collect(),
            user: self.user.clone(),
            tls: self.tls.clone(),
        }
    }

    /// The store in it.
    #[must_use]
    pub fn store(&self) -> StoreAddress {
        StoreAddress::Etcd(self.address())
    }
}

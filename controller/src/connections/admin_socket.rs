//! The admin socket: the whole API on a Unix socket in the data directory, for this user and root. Whoever may read
//! the data directory may do everything anyway, so that no key is needed there, and the first key can be created.

use std::fs::Permissions;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::http_server::serve;
use super::peer::Peer;
use super::table::ConnectionTable;

/// The name of the socket in the data directory.
const FILE: &str = "admin.sock";
/// The pause after an error to accept a connection.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// The server of the admin socket. Its file is removed when it is dropped.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The number of the user of this process.
    own_user: u32,
}

impl AdminSocket {
    /// Opens the socket in a data directory, which no other controller uses. Replaces one that was left over.
    ///
    /// # Errors
    /// Those of the file system: also where the path is too long for a socket, or where there is another file.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        match std::fs::symlink_metadata(&path) {
            Ok(left_over) if left_over.file_type().is_socket() => std::fs::remove_file(&path)?,
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let own_user = std::fs::metadata(&path)?.uid();
        let socket = Self {
            listener,
            path,
            own_user,
        };
        // Until then, and where the file system knows no permissions, the check of the user keeps others out.
        std::fs::set_permissions(&socket.path, Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// Serves `api` until `drain` is cancelled and the requests that run then have ended.
    pub(crate) async fn run(
        self,
        api: Router,
        connections: ConnectionTable,
        drain: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = drain.cancelled() => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection of the admin socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(user) = allowed_user(&stream, self.own_user) else {
                tracing::warn!("a connection of another user to the admin socket was closed");
                continue;
            };
            let Some(connection) = connections.add(Ipv4Addr::LOCALHOST.into()) else {
                continue;
            };
            let (api, drain) = (api.clone(), drain.clone());
            tasks.spawn(async move {
                let peer = Peer::Socket { user };
                if let Err(error) = serve(stream, peer, connection, api, drain).await {
                    tracing::debug!(
                        error,
                        "a connection of the admin socket has ended with an error"
                    );
                }
            });
        }
        drop(self);
        while tasks.join_next().await.is_some() {}
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Another controller cannot have replaced it: this one holds the lock of the directory.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "cannot remove the admin socket");
        }
    }
}

/// The user at the other end of a connection, if it is root or the user of this process.
fn allowed_user(stream: &UnixStream, own: u32) -> Option<u32> {
    let user = stream.peer_cred().ok()?.uid();
    is_allowed(user, own).then_some(user)
}

fn is_allowed(user: u32, own: u32) -> bool {
    user == 0 || user == own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_left_over_socket_is_replaced_and_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        // One whose process has ended leaves its file.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = AdminSocket::open(dir.path()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(AdminSocket::open(dir.path()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn only_root_and_the_own_user_are_allowed() {
        assert!(is_allowed(0, 7) && is_allowed(7, 7));
        assert!(!is_allowed(8, 7));
    }
}

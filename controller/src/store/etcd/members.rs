//! The members of an etcd cluster, of which one is used until it fails.
//!
//! A balancer that picks a member for each call would lose a share of all calls to a member that
//! accepts connections and does not answer. Here such a member costs one call its timeout; the
//! next call goes to another member.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use tokio::sync::OnceCell;

use super::failure;
use crate::config::EtcdAddress;
use crate::store::StoreError;

/// Timeout of one call. An election within etcd takes about a second.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of HTTP/2 pings on an idle connection, which detect a half-open one.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

// A lease survives a call that a member swallows, and the next one.
const _: () = assert!(TIMEOUT.as_millis() * 3 <= crate::store::LEASE_TTL.as_millis());

/// The members of an etcd cluster. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub(super) struct Members {
    state: Arc<MembersState>,
}

struct MembersState {
    address: EtcdAddress,
    members: Vec<Member>,
    /// The index of the member that is used.
    preferred: AtomicUsize,
}

/// One member, with its connection once there is one. The connection repairs itself.
struct Member {
    url: String,
    client: OnceCell<Client>,
}

/// Identifies the member that a call went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberIndex(usize);

impl Members {
    /// Returns the members at `address`, without connecting to them yet. The first one to be used is
    /// chosen at random, so that controllers share the load.
    ///
    /// # Errors
    /// [`StoreError::Etcd`] if a certificate or key file cannot be read.
    pub(super) fn new(address: EtcdAddress) -> Result<Self, StoreError> {
        connect_options(&address)?;
        let urls = address.urls().into_iter();
        let members: Vec<_> = urls
            .map(|url| Member {
                url,
                client: OnceCell::new(),
            })
            .collect();
        let preferred = AtomicUsize::new(fastrand::usize(..members.len().max(1)));
        let state = MembersState {
            address,
            members,
            preferred,
        };
        Ok(Self {
            state: Arc::new(state),
        })
    }

    /// Returns the member that the next call goes to.
    pub(super) fn preferred(&self) -> MemberIndex {
        MemberIndex(self.state.preferred.load(Ordering::Relaxed))
    }

    /// Stops using a member that has failed, unless another one is used already.
    pub(super) fn leave(&self, member: MemberIndex) {
        let next = (member.0 + 1) % self.state.members.len().max(1);
        let order = Ordering::Relaxed;
        // A failure means that another call has left it already.
        let _ = self
            .state
            .preferred
            .compare_exchange(member.0, next, order, order);
    }

    /// Makes a call to the preferred member and waits for its result, at most `timeout`. A member
    /// that fails is not used for the next call.
    pub(super) async fn call<T, C>(
        &self,
        timeout: Duration,
        call: impl FnOnce(Client) -> C + Send,
    ) -> Result<T, StoreError>
    where
        C: Future<Output = Result<T, Error>> + Send,
    {
        let member = self.preferred();
        let attempt = async {
            let client = self.client(member).await?;
            call(client)
                .await
                .map_err(|error| failure::classify(&error))
        };
        let result = match tokio::time::timeout(timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Etcd(format!(
                "it did not answer within {} s",
                timeout.as_secs_f32()
            ))),
        };
        // Another member gives the same answer to a call that was understood and refused.
        result.map_err(|error| match error {
            error @ StoreError::Etcd(_) => {
                self.leave(member);
                self.named(member, error)
            }
            refused => refused,
        })
    }

    /// Adds the address of the member that has failed to an error.
    pub(super) fn named(&self, member: MemberIndex, error: StoreError) -> StoreError {
        match (error, self.state.members.get(member.0)) {
            (StoreError::Etcd(cause), Some(Member { url, .. })) => {
                StoreError::Etcd(format!("{url}: {cause}"))
            }
            (error, _) => error,
        }
    }

    /// Returns the client of a member; connects on the first call.
    async fn client(&self, member: MemberIndex) -> Result<Client, StoreError> {
        let member = self.state.members.get(member.0);
        let member = member.ok_or_else(|| StoreError::Etcd("no member is configured".into()))?;
        let client = member.client.get_or_try_init(|| async {
            let options = connect_options(&self.state.address)?;
            let connect = Client::connect([member.url.as_str()], Some(options));
            connect.await.map_err(|error| failure::classify(&error))
        });
        client.await.cloned()
    }
}

/// Builds the connection options: timeouts, password and TLS.
fn connect_options(address: &EtcdAddress) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(TIMEOUT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
        // A member that has lost its quorum then fails calls instead of serving stale data.
        .with_require_leader(true);
    if let Some((user, password)) = &address.user {
        options = options
            .with_user(user, password)
            .with_auto_token_refresh(true);
    }
    if let Some(tls) = &address.tls {
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|error| {
                StoreError::Etcd(format!("{} cannot be read: {error}", path.display()))
            })
        };
        let mut settings = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
        if let Some((certificate, key)) = &tls.identity {
            settings = settings.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        options = options.with_tls(settings);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_that_fails_is_left_once_and_the_last_is_followed_by_the_first() {
        let address = EtcdAddress {
            endpoints: vec!["a:1".into(), "b:1".into(), "c:1".into()],
            ..EtcdAddress::default()
        };
        let members = Members::new(address).unwrap();
        let first = members.preferred();
        members.leave(first);
        let second = members.preferred();
        assert_ne!(second, first);
        // A second call that failed on the first member does not skip the next one.
        members.leave(first);
        assert_eq!(members.preferred(), second);
        members.leave(second);
        members.leave(members.preferred());
        assert_eq!(members.preferred(), first);
        let error = members.named(first, StoreError::Etcd("refused".into()));
        let url = &members.state.members[first.0].url;
        assert!(
            error.to_string().contains(&format!("({url}: refused)")),
            "{error}"
        );
    }
}

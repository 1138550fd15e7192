//! TLS of the agent's links: the node's key, its certificate, and the authority that it trusts.
//!
//! The key is made on the node, once, and stays there. The certificate comes with the enrolment and is renewed; the
//! links that are up stay up when it changes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_core::{NodeName, ZoneName};
use flotilla_identity::authority::tls::{self, LINK_PROTOCOL, REVERSE_PROTOCOL};
use flotilla_identity::authority::{
    AuthorityError, CertificateError, IssuedCertificate, NodeKey, PeerCertificate, PeerIdentity,
};
use flotilla_identity::enrolment::JoinToken;
use flotilla_proto::v1::{CertificateResponse, EnrolRequest, JoinTokenCredential, enrol_request};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};

/// The file with the node's private key.
const KEY_FILE: &str = "node-key.pem";
/// The file with what the enrolment has brought.
const ENROLMENT_FILE: &str = "enrolment.json";
/// Seconds between two attempts to renew the certificate.
const RENEWAL_INTERVAL: u64 = 30;

/// The files of the enrolment cannot be used, or what a controller has sent.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {error}: check the disk and the file's permissions", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A file is not what was written.
    #[error(
        "{} is damaged: delete it, and enrol the node again with a token of `flotilla token create --node NAME`",
        .0.display()
    )]
    Damaged(PathBuf),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] AuthorityError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A controller has sent a certificate that is not for this node and key.
    #[error("the controller has issued a certificate for another node or another key")]
    OtherCertificate,
    /// A controller has sent another authority than the one that the token names.
    #[error("the controller has sent another authority than the one that the token names")]
    OtherAuthority,
}

/// TLS of the links of one node.
pub(crate) struct LinkSecurity {
    name: NodeName,
    zones: BTreeSet<ZoneName>,
    dir: PathBuf,
    state: Mutex<SecurityState>,
    /// Held while the node enrols: it does so once, although it dials several controllers.
    pub(super) enrolling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct SecurityState {
    enrolled: Option<Arc<EnrolledNode>>,
    /// The token that the node is to enrol with.
    token: Option<JoinToken>,
    /// When the certificate may be renewed next, in seconds since 1970, after an attempt.
    next_renewal: u64,
}

/// A node that has enrolled: how it connects.
pub(super) struct EnrolledNode {
    certificate: PeerCertificate,
    token: String,
    link: Arc<ClientConfig>,
    reverse: Arc<ClientConfig>,
}

/// [`ENROLMENT_FILE`].
#[derive(Serialize, Deserialize)]
struct StoredEnrolment {
    /// Id of the token that the node has enrolled with.
    token: String,
    /// The node's certificate, in PEM.
    certificate: String,
    /// The authority's certificate, in PEM.
    authority: String,
}

impl LinkSecurity {
    /// Loads what an earlier enrolment has left in the data directory. A `token` that the node has not enrolled with is
    /// to be used.
    ///
    /// # Errors
    /// [`SecurityError`] if a file cannot be used.
    pub(crate) fn load(
        dir: &Path,
        name: NodeName,
        zones: BTreeSet<ZoneName>,
        token: Option<JoinToken>,
    ) -> Result<Self, SecurityError> {
        let path = dir.join(ENROLMENT_FILE);
        let enrolled = match read_if_there(&path)? {
            None => None,
            Some(content) => {
                let damaged = || SecurityError::Damaged(path.clone());
                let stored: StoredEnrolment =
                    serde_json::from_slice(&content).map_err(|_| damaged())?;
                let key =
                    read_key(dir)?.ok_or_else(|| SecurityError::Damaged(dir.join(KEY_FILE)))?;
                let der = |pem: &str| {
                    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged())
                };
                let (certificate, authority) = (der(&stored.certificate)?, der(&stored.authority)?);
                Some(Arc::new(EnrolledNode::new(
                    &key,
                    certificate,
                    &authority,
                    stored.token,
                )?))
            }
        };
        let used = enrolled.as_ref().map(|enrolled| &enrolled.token);
        let token = token.filter(|token| used != Some(&token.id));
        Ok(Self {
            name,
            zones,
            dir: dir.to_owned(),
            state: Mutex::new(SecurityState {
                enrolled,
                token,
                next_renewal: 0,
            }),
            enrolling: tokio::sync::Mutex::new(()),
        })
    }

    /// Whether links have TLS: the node has enrolled or is to.
    pub(crate) fn is_on(&self) -> bool {
        let state = self.state.lock();
        state.enrolled.is_some() || state.token.is_some()
    }

    /// The name of the node.
    pub(super) fn name(&self) -> &NodeName {
        &self.name
    }

    /// How the node connects. `None`: it has not enrolled.
    pub(super) fn enrolled(&self) -> Option<Arc<EnrolledNode>> {
        self.state.lock().enrolled.clone()
    }

    /// The token that the node is to enrol with.
    pub(super) fn pending_token(&self) -> Option<JoinToken> {
        self.state.lock().token.clone()
    }

    /// Forgets the token: the node goes on with the certificate that it has.
    pub(super) fn drop_token(&self) {
        self.state.lock().token = None;
    }

    /// The request to enrol with a token. Makes the node's key if there is none.
    ///
    /// # Errors
    /// [`SecurityError`] if the key cannot be made or read.
    pub(super) fn enrol_request(&self, token: &JoinToken) -> Result<EnrolRequest, SecurityError> {
        let key = match read_key(&self.dir)? {
            Some(key) => key,
            None => {
                let key = NodeKey::generate()?;
                write(&self.dir.join(KEY_FILE), key.to_pem().as_bytes())?;
                key
            }
        };
        Ok(EnrolRequest {
            credential: Some(enrol_request::Credential::JoinToken(JoinTokenCredential {
                id: token.id.clone(),
                secret: token.secret().to_vec(),
            })),
            name: self.name.to_string(),
            certificate_request: key.certificate_request()?,
            zones: self.zones.iter().map(ToString::to_string).collect(),
        })
    }

    /// Stores what the enrolment with a token has brought, and uses it from now on.
    ///
    /// # Errors
    /// [`SecurityError`] if it cannot be used or stored.
    pub(super) fn set_enrolled(
        &self,
        token: &JoinToken,
        response: CertificateResponse,
    ) -> Result<(), SecurityError> {
        if tls::fingerprint(&response.authority) != token.authority {
            return Err(SecurityError::OtherAuthority);
        }
        self.store(token.id.clone(), response)?;
        self.drop_token();
        Ok(())
    }

    /// The certificate signing request with which the certificate is renewed, if that is due at `now`, in seconds since
    /// 1970. It is due again only after a while, so that one attempt is under way.
    pub(super) fn begin_renewal(&self, now: u64) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let enrolled = state.enrolled.as_ref()?;
        if now < enrolled.certificate.renew_at().max(state.next_renewal) {
            return None;
        }
        state.next_renewal = now + RENEWAL_INTERVAL;
        drop(state);
        let request = read_key(&self.dir).and_then(|key| {
            let key = key.ok_or_else(|| SecurityError::Damaged(self.dir.join(KEY_FILE)))?;
            Ok(key.certificate_request()?)
        });
        request
            .inspect_err(
                |error| tracing::error!(%error, "the node's certificate cannot be renewed"),
            )
            .ok()
    }

    /// Stores a renewed certificate, and uses it for new connections.
    ///
    /// # Errors
    /// [`SecurityError`] if it cannot be used or stored.
    pub(super) fn set_renewed(&self, response: CertificateResponse) -> Result<(), SecurityError> {
        let token = self.enrolled().map(|enrolled| enrolled.token.clone());
        self.store(token.unwrap_or_default(), response)?;
        self.state.lock().next_renewal = 0;
        Ok(())
    }

    fn store(&self, token: String, response: CertificateResponse) -> Result<(), SecurityError> {
        let key_file = self.dir.join(KEY_FILE);
        let key = read_key(&self.dir)?.ok_or(SecurityError::Damaged(key_file))?;
        let certificate = CertificateDer::from(response.certificate);
        let authority = CertificateDer::from(response.authority);
        let stored = StoredEnrolment {
            token: token.clone(),
            certificate: tls::pem(&certificate),
            authority: tls::pem(&authority),
        };
        let enrolled = EnrolledNode::new(&key, certificate, &authority, token)?;
        match &enrolled.certificate.identity {
            PeerIdentity::Node { name, .. } if *name == self.name => {}
            _ => return Err(SecurityError::OtherCertificate),
        }
        // Texts: serializing them cannot fail.
        let content = serde_json::to_vec(&stored).unwrap_or_default();
        write(&self.dir.join(ENROLMENT_FILE), &content)?;
        self.state.lock().enrolled = Some(Arc::new(enrolled));
        Ok(())
    }
}

impl EnrolledNode {
    fn new(
        key: &NodeKey,
        certificate: CertificateDer<'static>,
        authority: &CertificateDer<'_>,
        token: String,
    ) -> Result<Self, SecurityError> {
        let config = |protocol: &'static [u8]| {
            let issued = IssuedCertificate {
                certificate: certificate.clone(),
                key: key.to_der(),
            };
            // Rejects a certificate that is not for this key.
            tls::client(authority, Some(issued), &[protocol]).map(Arc::new)
        };
        Ok(Self {
            certificate: PeerCertificate::parse(&certificate)?,
            token,
            link: config(LINK_PROTOCOL)?,
            reverse: config(REVERSE_PROTOCOL)?,
        })
    }

    /// TLS of a link.
    pub(super) fn link(&self) -> Arc<ClientConfig> {
        self.link.clone()
    }

    /// TLS of a reverse connection.
    pub(super) fn reverse(&self) -> Arc<ClientConfig> {
        self.reverse.clone()
    }

    /// Whether the certificate has expired at `now`, in seconds since 1970.
    pub(super) fn has_expired(&self, now: u64) -> bool {
        self.certificate.has_expired(now)
    }
}

fn read_key(dir: &Path) -> Result<Option<NodeKey>, SecurityError> {
    let path = dir.join(KEY_FILE);
    let Some(content) = read_if_there(&path)? else {
        return Ok(None);
    };
    let key = NodeKey::from_pem(&String::from_utf8_lossy(&content));
    key.map(Some).map_err(|_| SecurityError::Damaged(path))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, SecurityError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SecurityError::File {
            path: path.to_owned(),
            error,
        }),
    }
}

/// Writes a file that only this user can read.
fn write(path: &Path, content: &[u8]) -> Result<(), SecurityError> {
    flotilla_durable::replace(path, content).map_err(|error| SecurityError::File {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests;

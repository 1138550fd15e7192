//! Enrols nodes, and renews their certificates.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::{NodeName, ZoneName};
use flotilla_identity::authority::{Authority, AuthorityError, PeerCertificate, PeerIdentity};
use flotilla_identity::enrolment::{
    Credential, Enrolment, EnrolmentDecision, EnrolmentRefusal, EnrolmentRequest, JoinTokenRecord,
    decide_enrolment, decide_join,
};
use flotilla_proto::v1::enrol_request;
use flotilla_proto::v1::{CertificateResponse, EnrolRequest, RenewCertificateRequest};
use flotilla_telemetry::clock::unix_seconds;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::fleet::records::encode;
use crate::fleet::{FleetEvent, FleetHandle, JoinRefusal};
use crate::store::{Precondition, Store, StoreEntry, StoreError, StoreWrite, keys};
use crate::tls::TlsHandle;

/// Enrolments at the same time: each one reads the store.
const MAX_ENROLMENTS: usize = 8;
/// How often an enrolment is tried while others use the same token.
const MAX_ATTEMPTS: u32 = 8;
/// Longest time for the store to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(4);
/// The most zones that an agent may name.
const MAX_ZONES: usize = 64;

/// Enrols nodes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Enroller {
    pub(super) fleet: FleetHandle,
    pub(super) store: Arc<dyn Store>,
    pub(super) tls: TlsHandle,
    /// How long certificates are valid.
    pub(super) life: Duration,
    permits: Arc<Semaphore>,
}

impl Enroller {
    pub(super) fn new(
        fleet: FleetHandle,
        store: Arc<dyn Store>,
        tls: TlsHandle,
        life: Duration,
    ) -> Self {
        Self {
            fleet,
            store,
            tls,
            life,
            permits: Arc::new(Semaphore::new(MAX_ENROLMENTS)),
        }
    }

    /// Enrols a node that calls from `address`.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with the reason, `INVALID_ARGUMENT`, or `UNAVAILABLE` while the store does not answer.
    pub(super) async fn enrol(
        &self,
        request: EnrolRequest,
        address: String,
    ) -> Result<CertificateResponse, Status> {
        let Ok(_permit) = self.permits.try_acquire() else {
            return Err(Status::unavailable("too many nodes enrol at the same time"));
        };
        let authority = self.authority()?;
        let certificate_request = request.certificate_request.clone();
        let name = parse_name(&request.name)?;
        let (certificate, key) = authority
            .issue_to_node(&name, &certificate_request, self.life, unix_seconds())
            .map_err(issue_failure)?;
        let request = parse_request(request, name, key)?;
        let stored =
            tokio::time::timeout(STORE_TIMEOUT, self.store_enrolment(&request, &address)).await;
        stored.map_err(|_| Status::unavailable("the store does not answer"))??;
        tracing::info!(node = %request.name, address, "the node has enrolled");
        Ok(CertificateResponse {
            certificate: certificate.to_vec(),
            authority: authority.certificate().to_vec(),
        })
    }

    /// Decides on an enrolment and stores it.
    async fn store_enrolment(
        &self,
        request: &EnrolmentRequest,
        address: &str,
    ) -> Result<(), Status> {
        let Credential::JoinToken { id, .. } = &request.credential;
        if !JoinTokenRecord::is_id(id) {
            return Err(Status::permission_denied(
                "it is not the id of a join token",
            ));
        }
        let (token_key, node_key) = (keys::join_token(id), keys::enrolment(&request.name));
        for _ in 0..MAX_ATTEMPTS {
            let token = self.store.get(&token_key).await.map_err(store_failure)?;
            let existing = self.store.get(&node_key).await.map_err(store_failure)?;
            let token_record: Option<JoinTokenRecord> = parse(token.as_ref())?;
            let existing_record: Option<Enrolment> = parse(existing.as_ref())?;
            let is_linked = self.is_linked(&request.name);
            let decision = decide_enrolment(
                request,
                token_record.as_ref(),
                existing_record.as_ref(),
                is_linked,
                unix_seconds(),
            );
            let (enrolment, after) = match decision {
                Ok(EnrolmentDecision::Repeat) => return Ok(()),
                Ok(EnrolmentDecision::Enrol { enrolment, token }) => (enrolment, token),
                Err(refusal) => {
                    let reason = refusal.to_string();
                    // Those who have no token of the fleet cannot fill the list that people read.
                    if refusal != EnrolmentRefusal::UnknownToken {
                        let refusal = JoinRefusal {
                            node: request.name.clone(),
                            address: address.to_owned(),
                            reason: reason.clone(),
                        };
                        self.fleet.send(FleetEvent::JoinRefused(refusal)).await;
                    }
                    return Err(Status::permission_denied(reason));
                }
            };
            let unchanged = |entry: Option<StoreEntry>| {
                entry.map_or(Precondition::Absent, |entry| {
                    Precondition::Revision(entry.revision)
                })
            };
            let writes = vec![
                StoreWrite::put_if(token_key.clone(), encode(&*after), unchanged(token)),
                StoreWrite::put_if(node_key.clone(), encode(&*enrolment), unchanged(existing)),
            ];
            match self.store.write(writes).await {
                Ok(_) => return Ok(()),
                // Another node has used the token, or another controller has answered this one.
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        Err(Status::unavailable(
            "too many nodes enrol with the same token at the same time",
        ))
    }

    /// Issues another certificate to a node.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if it may not join any more, `INVALID_ARGUMENT` if the request is for another key.
    pub(super) fn renew(
        &self,
        current: &PeerCertificate,
        request: &RenewCertificateRequest,
    ) -> Result<CertificateResponse, Status> {
        let PeerIdentity::Node { name, .. } = &current.identity else {
            return Err(Status::permission_denied("only nodes renew certificates"));
        };
        let now = unix_seconds();
        let enrolment = self.fleet.peek().enrolments.get(name).cloned();
        decide_join(current, name, enrolment.as_ref(), now)
            .map_err(|denial| Status::permission_denied(denial.to_string()))?;
        let authority = self.authority()?;
        let (certificate, key) = authority
            .issue_to_node(name, &request.certificate_request, self.life, now)
            .map_err(issue_failure)?;
        if key != current.key {
            return Err(Status::invalid_argument(
                "a certificate is renewed for the key that the node has enrolled with",
            ));
        }
        Ok(CertificateResponse {
            certificate: certificate.to_vec(),
            authority: authority.certificate().to_vec(),
        })
    }

    fn authority(&self) -> Result<Arc<Authority>, Status> {
        let configs = self.tls.borrow().clone();
        let authority = configs.and_then(|configs| configs.authority.clone());
        authority.ok_or_else(|| Status::unavailable("the fleet's authority is not known yet"))
    }

    fn is_linked(&self, name: &NodeName) -> bool {
        let view = self.fleet.peek();
        view.nodes.get(name).is_some_and(|node| {
            let here = node.link.as_ref().is_some_and(|link| link.is_connected());
            here || !node.remote_links.is_empty()
        })
    }
}

fn parse_name(name: &str) -> Result<NodeName, Status> {
    NodeName::new(name).map_err(|e| Status::invalid_argument(format!("the node name '{name}' {e}")))
}

fn parse_request(
    request: EnrolRequest,
    name: NodeName,
    key: flotilla_core::spec::Sha256Digest,
) -> Result<EnrolmentRequest, Status> {
    if request.zones.len() > MAX_ZONES {
        return Err(Status::invalid_argument("the agent names too many zones"));
    }
    let zones = request.zones.iter().map(|zone| {
        ZoneName::new(zone).map_err(|e| Status::invalid_argument(format!("the zone '{zone}' {e}")))
    });
    let credential = match request.credential {
        Some(enrol_request::Credential::JoinToken(token)) => Credential::JoinToken {
            id: token.id,
            secret: token.secret,
        },
        None => return Err(Status::invalid_argument("the request has no credential")),
    };
    Ok(EnrolmentRequest {
        credential,
        name,
        zones: zones.collect::<Result<BTreeSet<_>, _>>()?,
        key,
    })
}

/// Parses a record. One of a later version is no reason to overwrite it.
fn parse<T: DeserializeOwned>(entry: Option<&StoreEntry>) -> Result<Option<T>, Status> {
    let parsed = entry.map(|entry| serde_json::from_slice(&entry.value));
    parsed.transpose().map_err(|error| {
        Status::unavailable(format!(
            "the store has a record that this version cannot read: {error}"
        ))
    })
}

fn issue_failure(error: AuthorityError) -> Status {
    match error {
        AuthorityError::Request(_) => Status::invalid_argument(error.to_string()),
        AuthorityError::Issue(_) => Status::internal(error.to_string()),
    }
}

fn store_failure(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}

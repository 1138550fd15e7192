//! Who may enrol and who may join: pure functions over records.

use std::collections::BTreeSet;
use std::time::Duration;

use flotilla_core::spec::Sha256Digest;
use flotilla_core::{HumanDuration, NodeName, ZoneName};

use super::join_token::{JoinTokenRecord, TokenState};
use super::record::Enrolment;
use crate::authority::{PeerCertificate, PeerIdentity};

/// What a node proves with that it may enrol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A join token.
    JoinToken {
        /// The id of the token.
        id: String,
        /// The secret of the token.
        secret: Vec<u8>,
    },
}

/// What a node sends to enrol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentRequest {
    /// The credential.
    pub credential: Credential,
    /// The name that the node wants.
    pub name: NodeName,
    /// The zones that its agent is started with.
    pub zones: BTreeSet<ZoneName>,
    /// The SHA-256 digest of its public key.
    pub key: Sha256Digest,
}

/// How a node is enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolmentDecision {
    /// The node has enrolled with this token and key before and only lacks the answer: nothing changes.
    Repeat,
    /// The node is enrolled, and the token has one use less.
    Enrol {
        /// The record of the node.
        enrolment: Box<Enrolment>,
        /// The record of the token after its use.
        token: Box<JoinTokenRecord>,
    },
}

/// Why a node is not enrolled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentRefusal {
    /// There is no such token, or its secret is wrong.
    #[error(
        "this fleet has no such join token: it was deleted or is of another fleet; make one with `flotilla token create`"
    )]
    UnknownToken,
    /// The token has expired.
    #[error("the join token {id} expired {} ago: make one with `flotilla token create`", HumanDuration(*.ago))]
    Expired {
        /// The id of the token.
        id: String,
        /// How long ago.
        ago: Duration,
    },
    /// The token is used up.
    #[error(
        "the join token {id} is used up ({uses} of {uses} uses): make one with `flotilla token create`, with --uses for several nodes"
    )]
    UsedUp {
        /// The id of the token.
        id: String,
        /// How many nodes have enrolled with it.
        uses: u32,
    },
    /// The token is for another node.
    #[error(
        "the join token is for the node '{node}', and this agent's --name is '{name}': start it with --name {node}, or make a token with `flotilla token create --node {name}`"
    )]
    OtherNode {
        /// The name that the token is for.
        node: NodeName,
        /// The name that the agent has.
        name: NodeName,
    },
    /// The agent wants a zone that the token does not grant.
    #[error(
        "the join token does not grant the zone '{zone}': make one with `flotilla token create --zone {zone}`, or start the agent without --zone"
    )]
    Zone {
        /// The zone.
        zone: ZoneName,
    },
    /// Another node has the name.
    #[error(
        "another node has enrolled as '{name}': choose another --name, or, if this machine replaces it, make a token with `flotilla token create --node {name}`"
    )]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// A node with the name is linked.
    #[error(
        "a node named '{name}' is linked: stop its agent or run `flotilla node revoke {name}` before this machine takes its place"
    )]
    Linked {
        /// The name.
        name: NodeName,
    },
    /// The node was revoked.
    #[error(
        "the node '{name}' was revoked: it can enrol again only with a token that is made for it, with `flotilla token create --node {name}`"
    )]
    Revoked {
        /// The name.
        name: NodeName,
    },
}

/// Why a node may not join, although the authority has signed its certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinDenial {
    /// The certificate is not one of a node.
    #[error("the certificate is not one of a node")]
    NoNode,
    /// The certificate has another name.
    #[error(
        "the certificate is for the node '{certified}', and this agent's --name is '{name}': start it with --name {certified}, or enrol it as '{name}' with a token of `flotilla token create`"
    )]
    OtherName {
        /// The name in the certificate.
        certified: NodeName,
        /// The name of the agent.
        name: NodeName,
    },
    /// There is no record of the node.
    #[error(
        "the node '{0}' is not enrolled in this fleet any more: enrol it again with a token of `flotilla token create --node {0}`"
    )]
    NotEnrolled(NodeName),
    /// Another key has enrolled as this node since.
    #[error(
        "another machine has enrolled as '{0}' since: this one can come back under another --name, with a token of `flotilla token create`"
    )]
    OtherKey(NodeName),
    /// The node was revoked.
    #[error(
        "the node '{0}' was revoked: to let it back in, make a token with `flotilla token create --node {0}` and start its agent with --token-file"
    )]
    Revoked(NodeName),
    /// The certificate has expired.
    #[error(
        "the certificate of the node '{0}' has expired: enrol it again with a token of `flotilla token create --node {0}`"
    )]
    Expired(NodeName),
}

/// Decides whether a node may enrol. `token` is the record of the token that it has sent, `existing` that of the node
/// of its name, `is_linked` whether a node of that name is linked, and `now` is in seconds since 1970.
///
/// # Errors
/// [`EnrolmentRefusal`].
pub fn decide_enrolment(
    request: &EnrolmentRequest,
    token: Option<&JoinTokenRecord>,
    existing: Option<&Enrolment>,
    is_linked: bool,
    now: u64,
) -> Result<EnrolmentDecision, EnrolmentRefusal> {
    let Credential::JoinToken { id, secret } = &request.credential;
    let token = token.filter(|token| token.has_secret(secret));
    let token = token.ok_or(EnrolmentRefusal::UnknownToken)?;
    let name = request.name.clone();
    if let Some(existing) = existing
        && existing.token == *id
        && existing.key == request.key
        && existing.revoked.is_none()
    {
        return Ok(EnrolmentDecision::Repeat);
    }
    match token.state(now) {
        TokenState::Valid => {}
        TokenState::Expired => {
            return Err(EnrolmentRefusal::Expired {
                id: id.clone(),
                ago: Duration::from_secs(now - token.expires),
            });
        }
        TokenState::UsedUp => {
            return Err(EnrolmentRefusal::UsedUp {
                id: id.clone(),
                uses: token.uses,
            });
        }
    }
    if let Some(node) = token.node.as_ref().filter(|node| **node != name) {
        let node = node.clone();
        return Err(EnrolmentRefusal::OtherNode { node, name });
    }
    if let Some(zone) = request.zones.difference(&token.zones).next() {
        return Err(EnrolmentRefusal::Zone { zone: zone.clone() });
    }
    let is_made_for_it = token.node.is_some();
    if let Some(existing) = existing {
        let is_same_key = existing.key == request.key;
        if existing.revoked.is_some() && !is_made_for_it {
            return Err(EnrolmentRefusal::Revoked { name });
        }
        if !is_same_key && !is_made_for_it {
            return Err(EnrolmentRefusal::NameTaken { name });
        }
        if !is_same_key && is_linked {
            return Err(EnrolmentRefusal::Linked { name });
        }
    }
    Ok(EnrolmentDecision::Enrol {
        enrolment: Box::new(Enrolment {
            zones: token.zones.clone(),
            labels: token.labels.clone(),
            key: request.key,
            token: id.clone(),
            enrolled: now,
            revoked: None,
        }),
        token: Box::new(JoinTokenRecord {
            used: token.used.saturating_add(1),
            ..token.clone()
        }),
    })
}

/// Decides whether the holder of a certificate may join as the node `name`. `enrolment` is the record of that name, and
/// `now` is in seconds since 1970.
///
/// # Errors
/// [`JoinDenial`].
pub fn decide_join(
    certificate: &PeerCertificate,
    name: &NodeName,
    enrolment: Option<&Enrolment>,
    now: u64,
) -> Result<(), JoinDenial> {
    let PeerIdentity::Node {
        name: certified, ..
    } = &certificate.identity
    else {
        return Err(JoinDenial::NoNode);
    };
    if certified != name {
        return Err(JoinDenial::OtherName {
            certified: certified.clone(),
            name: name.clone(),
        });
    }
    let enrolment = enrolment.ok_or_else(|| JoinDenial::NotEnrolled(name.clone()))?;
    if enrolment.key != certificate.key {
        return Err(JoinDenial::OtherKey(name.clone()));
    }
    if enrolment.revoked.is_some() {
        return Err(JoinDenial::Revoked(name.clone()));
    }
    if certificate.has_expired(now) {
        return Err(JoinDenial::Expired(name.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

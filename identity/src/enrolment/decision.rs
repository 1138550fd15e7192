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
mod tests {
    use super::*;
    use crate::enrolment::JoinToken;

    const OWN: Sha256Digest = Sha256Digest([1; 32]);
    const OTHER: Sha256Digest = Sha256Digest([2; 32]);
    const NOW: u64 = 150;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn zone(name: &str) -> ZoneName {
        ZoneName::new(name).unwrap()
    }

    fn token() -> (JoinToken, JoinTokenRecord) {
        let token = JoinToken::new(Sha256Digest([9; 32]), [0; 5], [7; 32]);
        let record = JoinTokenRecord {
            zones: [zone("clinic")].into(),
            labels: [("site".to_owned(), "a".to_owned())].into(),
            ..token.record(100, 200, 1)
        };
        (token, record)
    }

    fn request(token: &JoinToken) -> EnrolmentRequest {
        EnrolmentRequest {
            credential: Credential::JoinToken {
                id: token.id.clone(),
                secret: token.secret().to_vec(),
            },
            name: node("n1"),
            zones: BTreeSet::new(),
            key: OWN,
        }
    }

    fn enrolment(key: Sha256Digest) -> Enrolment {
        Enrolment {
            zones: BTreeSet::new(),
            labels: [].into(),
            key,
            token: "earlier".into(),
            enrolled: 1,
            revoked: None,
        }
    }

    #[test]
    fn a_node_enrols_with_what_its_token_grants_and_once_for_each_use() {
        let (token, record) = token();
        let mut request = request(&token);
        request.zones = [zone("clinic")].into();
        let decision = decide_enrolment(&request, Some(&record), None, false, NOW);
        let Ok(EnrolmentDecision::Enrol {
            enrolment,
            token: after,
        }) = decision
        else {
            panic!("{decision:?}");
        };
        assert_eq!(enrolment.zones, record.zones);
        assert_eq!(enrolment.labels["site"], "a");
        assert_eq!((enrolment.key, enrolment.enrolled), (OWN, NOW));
        assert_eq!(after.used, 1);
        // The answer got lost: the same key asks again, even after the token has expired.
        let again = decide_enrolment(&request, Some(&after), Some(&enrolment), true, 900);
        assert_eq!(again, Ok(EnrolmentDecision::Repeat));
        // Another node comes too late.
        let mut second = request;
        (second.name, second.key) = (node("n2"), OTHER);
        let refused = decide_enrolment(&second, Some(&after), None, false, NOW);
        assert!(matches!(
            refused,
            Err(EnrolmentRefusal::UsedUp { uses: 1, .. })
        ));
    }

    #[test]
    fn a_node_is_refused_by_the_name_of_the_reason() {
        let (token, record) = token();
        let request = request(&token);
        let decide =
            |request: &EnrolmentRequest, record: &JoinTokenRecord, existing, linked, now| {
                decide_enrolment(request, Some(record), existing, linked, now).unwrap_err()
            };
        let unknown = decide_enrolment(&request, None, None, false, NOW);
        assert_eq!(unknown, Err(EnrolmentRefusal::UnknownToken));
        let mut wrong = request.clone();
        wrong.credential = Credential::JoinToken {
            id: token.id,
            secret: vec![8; 32],
        };
        assert_eq!(
            decide(&wrong, &record, None, false, NOW),
            EnrolmentRefusal::UnknownToken
        );
        let expired = decide(&request, &record, None, false, 260);
        assert!(expired.to_string().contains("expired 1m ago"), "{expired}");
        let mut foreign_zone = request.clone();
        foreign_zone.zones = [zone("clinic"), zone("bank")].into();
        let refused = decide(&foreign_zone, &record, None, false, NOW);
        assert_eq!(refused, EnrolmentRefusal::Zone { zone: zone("bank") });
        let for_another = JoinTokenRecord {
            node: Some(node("n2")),
            ..record.clone()
        };
        let refused = decide(&request, &for_another, None, false, NOW);
        assert!(matches!(refused, EnrolmentRefusal::OtherNode { .. }));
        let taken = enrolment(OTHER);
        let refused = decide(&request, &record, Some(&taken), false, NOW);
        assert!(matches!(refused, EnrolmentRefusal::NameTaken { .. }));
        let revoked = Enrolment {
            revoked: Some(2),
            ..enrolment(OWN)
        };
        let refused = decide(&request, &record, Some(&revoked), false, NOW);
        assert!(matches!(refused, EnrolmentRefusal::Revoked { .. }));
    }

    #[test]
    fn a_token_that_is_made_for_a_name_replaces_its_machine_unless_that_is_linked() {
        let (token, record) = token();
        let request = request(&token);
        let record = JoinTokenRecord {
            node: Some(node("n1")),
            ..record
        };
        let decide = |existing: Enrolment, linked| {
            decide_enrolment(&request, Some(&record), Some(&existing), linked, NOW)
        };
        assert!(decide(enrolment(OTHER), false).is_ok());
        let linked = decide(enrolment(OTHER), true);
        assert!(matches!(linked, Err(EnrolmentRefusal::Linked { .. })));
        // The same key with another token is the same machine.
        assert!(decide(enrolment(OWN), true).is_ok());
        let revoked = Enrolment {
            revoked: Some(2),
            ..enrolment(OTHER)
        };
        let Ok(EnrolmentDecision::Enrol { enrolment, .. }) = decide(revoked, false) else {
            panic!("a token for it lets a revoked node back in");
        };
        assert_eq!(enrolment.revoked, None);
    }

    #[test]
    fn only_the_enrolled_key_joins_under_its_own_name_until_it_is_revoked_or_expires() {
        let certificate = PeerCertificate {
            identity: PeerIdentity::Node {
                fleet: "f".into(),
                name: node("n1"),
            },
            key: OWN,
            not_before: 100,
            not_after: 200,
        };
        let join = |name: &str, record: Option<&Enrolment>, now| {
            decide_join(&certificate, &node(name), record, now)
        };
        let record = enrolment(OWN);
        assert_eq!(join("n1", Some(&record), NOW), Ok(()));
        assert_eq!(certificate.renew_at(), 166);
        let n1 = node("n1");
        for (name, record, now, denial) in [
            ("n1", None, NOW, JoinDenial::NotEnrolled(n1.clone())),
            (
                "n1",
                Some(enrolment(OTHER)),
                NOW,
                JoinDenial::OtherKey(n1.clone()),
            ),
            (
                "n1",
                Some(record.clone()),
                201,
                JoinDenial::Expired(n1.clone()),
            ),
            (
                "n1",
                Some(Enrolment {
                    revoked: Some(3),
                    ..record.clone()
                }),
                NOW,
                JoinDenial::Revoked(n1.clone()),
            ),
            (
                "n2",
                Some(record.clone()),
                NOW,
                JoinDenial::OtherName {
                    certified: n1.clone(),
                    name: node("n2"),
                },
            ),
        ] {
            assert_eq!(join(name, record.as_ref(), now), Err(denial));
        }
        let controller = PeerCertificate {
            identity: PeerIdentity::Controller {
                fleet: "f".into(),
                id: "n1".into(),
            },
            ..certificate.clone()
        };
        let denied = decide_join(&controller, &n1, Some(&record), NOW);
        assert_eq!(denied, Err(JoinDenial::NoNode));
    }
}

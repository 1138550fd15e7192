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
    let decide = |request: &EnrolmentRequest, record: &JoinTokenRecord, existing, linked, now| {
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

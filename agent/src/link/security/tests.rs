use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use flotilla_identity::authority::Authority;

use super::*;

const NOW: u64 = 1_800_000_000;
const LIFE: Duration = Duration::from_secs(3_600);

fn name() -> NodeName {
    NodeName::new("n1").unwrap()
}

fn load(dir: &Path, token: Option<&JoinToken>) -> LinkSecurity {
    LinkSecurity::load(dir, name(), BTreeSet::new(), token.cloned()).unwrap()
}

fn respond(
    authority: &Authority,
    name: &NodeName,
    request: &[u8],
    now: u64,
) -> CertificateResponse {
    let issued = authority.issue_to_node(name, request, LIFE, now).unwrap();
    CertificateResponse {
        certificate: issued.0.to_vec(),
        authority: authority.certificate().to_vec(),
    }
}

#[test]
fn an_enrolment_survives_a_restart_and_its_token_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("f", NOW).unwrap();
    let token = JoinToken::new(authority.fingerprint(), [1; 5], [2; 32]);
    let plain = load(dir.path(), None);
    assert!(!plain.is_on());
    let security = load(dir.path(), Some(&token));
    assert!(security.is_on() && security.enrolled().is_none());
    let request = security.enrol_request(&token).unwrap();
    // The key is the same if the first answer gets lost.
    let again = load(dir.path(), Some(&token))
        .enrol_request(&token)
        .unwrap();
    let key_of = |request: &EnrolRequest| {
        let issued = authority.issue_to_node(&name(), &request.certificate_request, LIFE, NOW);
        issued.unwrap().1
    };
    assert_eq!(key_of(&request), key_of(&again));
    let response = respond(&authority, &name(), &request.certificate_request, NOW);
    security.set_enrolled(&token, response).unwrap();
    assert_eq!(security.pending_token(), None);
    for file in [KEY_FILE, ENROLMENT_FILE] {
        let metadata = fs::metadata(dir.path().join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
    }
    let restarted = load(dir.path(), Some(&token));
    assert!(restarted.enrolled().is_some());
    assert_eq!(restarted.pending_token(), None);
    let other = JoinToken::new(authority.fingerprint(), [9; 5], [2; 32]);
    assert_eq!(load(dir.path(), Some(&other)).pending_token(), Some(other));
    // Renewed at two thirds of its life, by one attempt at a time.
    assert_eq!(restarted.begin_renewal(NOW), None);
    let due = NOW + 2_400;
    let renewal = restarted.begin_renewal(due).unwrap();
    assert_eq!(restarted.begin_renewal(due), None);
    let response = respond(&authority, &name(), &renewal, due);
    restarted.set_renewed(response).unwrap();
    assert_eq!(restarted.begin_renewal(due), None);
    assert!(!restarted.enrolled().unwrap().has_expired(NOW + 4_000));
}

#[test]
fn what_is_not_for_this_node_and_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("f", NOW).unwrap();
    let token = JoinToken::new(authority.fingerprint(), [1; 5], [2; 32]);
    let security = load(dir.path(), Some(&token));
    let request = security.enrol_request(&token).unwrap().certificate_request;
    let foreign = Authority::create("f", NOW).unwrap();
    let refused = security.set_enrolled(&token, respond(&foreign, &name(), &request, NOW));
    assert!(matches!(refused, Err(SecurityError::OtherAuthority)));
    let other_name = NodeName::new("n2").unwrap();
    let refused = security.set_enrolled(&token, respond(&authority, &other_name, &request, NOW));
    assert!(matches!(refused, Err(SecurityError::OtherCertificate)));
    let other_key = NodeKey::generate().unwrap().certificate_request().unwrap();
    let refused = security.set_enrolled(&token, respond(&authority, &name(), &other_key, NOW));
    assert!(refused.is_err());
    assert!(security.enrolled().is_none());
    fs::write(dir.path().join(ENROLMENT_FILE), "nonsense").unwrap();
    let damaged = LinkSecurity::load(dir.path(), name(), BTreeSet::new(), None);
    assert!(matches!(damaged, Err(SecurityError::Damaged(_))));
}

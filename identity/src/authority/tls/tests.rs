use std::time::Duration;

use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::authority::{Authority, NodeKey, PeerCertificate, PeerIdentity};
use flotilla_core::NodeName;

const LIFE: Duration = Duration::from_secs(3_600);

fn now() -> u64 {
    UnixTime::now().as_secs()
}

fn fleet(authority: &Authority, issued_at: u64) -> FleetCertificate {
    let issued = authority.issue_to_controller("c", &[], LIFE, issued_at);
    FleetCertificate::new(issued.unwrap(), authority.certificate().clone()).unwrap()
}

/// The certificate and the key of the node `n1`.
fn node(authority: &Authority, issued_at: u64) -> IssuedCertificate {
    let key = NodeKey::generate().unwrap();
    let request = key.certificate_request().unwrap();
    let name = NodeName::new("n1").unwrap();
    let (certificate, _) = authority
        .issue_to_node(&name, &request, LIFE, issued_at)
        .unwrap();
    IssuedCertificate {
        certificate,
        key: key.to_der(),
    }
}

/// Shakes hands in memory. Returns the certificate that the server got, and the error of either side.
fn handshake(client: ClientConfig, server: ServerConfig) -> Result<Option<PeerCertificate>, Error> {
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let certificates = server.peer_certificates();
    let parsed = certificates.map(|chain| PeerCertificate::parse(&chain[0]).unwrap());
    Ok(parsed)
}

#[test]
fn a_node_trusts_the_controllers_of_its_authority_alone_by_any_address() {
    let ours = Authority::create("f", now()).unwrap();
    let theirs = Authority::create("f", now()).unwrap();
    let link = |authority| link_server(&fleet(authority, now())).unwrap();
    let protocols = [LINK_PROTOCOL];
    let client_of = |authority: &Authority| {
        let node = node(authority, now());
        client(authority.certificate(), Some(node), &protocols).unwrap()
    };
    let peer = handshake(client_of(&ours), link(&ours)).unwrap().unwrap();
    assert!(matches!(peer.identity, PeerIdentity::Node { .. }));
    assert!(handshake(client_of(&theirs), link(&ours)).is_err());
    // A certificate of another authority, with trust in the right one.
    let stranger = client(ours.certificate(), Some(node(&theirs, now())), &protocols);
    assert!(handshake(stranger.unwrap(), link(&ours)).is_err());
    // A node is no controller: its certificate is valid for no server.
    let impostor = FleetCertificate::new(node(&ours, now()), ours.certificate().clone());
    let impostor = link_server(&impostor.unwrap()).unwrap();
    assert!(handshake(client_of(&ours), impostor).is_err());
}

#[test]
fn at_first_contact_the_fingerprint_decides() {
    let ours = Authority::create("f", now()).unwrap();
    let theirs = Authority::create("f", now()).unwrap();
    let first = |authority: &Authority| first_contact_client(authority.fingerprint()).unwrap();
    let link = || link_server(&fleet(&ours, now())).unwrap();
    assert_eq!(handshake(first(&ours), link()), Ok(None));
    assert_eq!(
        handshake(first(&theirs), link()),
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    );
}

#[test]
fn certificates_that_have_expired_are_refused_on_both_sides() {
    let authority = Authority::create("f", now() - 10_000).unwrap();
    let past = now() - 5_000;
    let client_of = |node| client(authority.certificate(), Some(node), &[LINK_PROTOCOL]);
    let good = node(&authority, now());
    let server = link_server(&fleet(&authority, past)).unwrap();
    assert!(handshake(client_of(good).unwrap(), server).is_err());
    let server = link_server(&fleet(&authority, now())).unwrap();
    assert!(handshake(client_of(node(&authority, past)).unwrap(), server).is_err());
}

#[test]
fn clients_get_the_outside_certificate_and_controllers_that_of_the_authority() {
    let authority = Authority::create("f", now()).unwrap();
    let outside = Authority::create("outside", now()).unwrap();
    let issued = outside.issue_to_controller("x", &["10.0.0.1".into()], LIFE, now());
    let issued = issued.unwrap();
    let chain = vec![issued.certificate.clone()];
    let certificates = || ServerCertificates {
        fleet: Some(fleet(&authority, now())),
        outside: Some(Arc::new(
            certified_key(chain.clone(), issued.key.clone_key()).unwrap(),
        )),
    };
    let server = || http_server(certificates()).unwrap();
    let node = client(authority.certificate(), None, &[b"http/1.1"]).unwrap();
    assert!(
        handshake(node, server()).is_err(),
        "it is of the outside PKI"
    );
    let browser = client(outside.certificate(), None, &[b"http/1.1"]).unwrap();
    assert_eq!(handshake(browser, server()), Ok(None));
    let own = authority
        .issue_to_controller("c2", &[], LIFE, now())
        .unwrap();
    let protocols: [&[u8]; 2] = [CONTROLLER_PROTOCOL, b"http/1.1"];
    let controller = client(authority.certificate(), Some(own), &protocols).unwrap();
    let peer = handshake(controller, server()).unwrap().unwrap();
    assert!(matches!(peer.identity, PeerIdentity::Controller { .. }));
    // A link does not speak HTTP.
    let browser = client(authority.certificate(), None, &[b"h2"]).unwrap();
    let link = link_server(&fleet(&authority, now())).unwrap();
    assert!(handshake(browser, link).is_err());
}

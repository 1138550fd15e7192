//! The authority as it is stored: its certificate, and its private key encrypted.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::{Authority, FleetSecret};

/// The purpose of the key that encrypts the authority's private key.
const PURPOSE: &str = "authority key, version 1";

/// The authority in the store. Only those who have the fleet's secret can open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityRecord {
    /// The id of the fleet that the authority was made for. It is the associated data of `sealed_key`.
    pub fleet: String,
    /// The certificate, in PEM.
    pub certificate: String,
    /// The random nonce of `sealed_key`, in base64.
    pub nonce: String,
    /// The private key (PKCS #8), encrypted with AES-256-GCM, in base64.
    pub sealed_key: String,
}

/// The error returned when a stored authority cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenAuthorityError {
    /// The secret is not the one that the authority was sealed with.
    #[error(
        "the fleet's authority was made with another secret: start every controller of the fleet with a copy of the same --secret-file"
    )]
    WrongSecret,
    /// The record is not what was written.
    #[error(
        "the fleet's authority in the store is damaged: restore it with `flotilla restore` from a backup"
    )]
    Damaged,
}

impl AuthorityRecord {
    /// Encrypts the private key of an authority. `nonce` must be random: it is never used twice with one secret.
    #[must_use]
    pub fn seal(authority: &Authority, secret: &FleetSecret, nonce: [u8; NONCE_LEN]) -> Self {
        let mut sealed = authority.key_der();
        let aad = Aad::from(authority.fleet().as_bytes());
        sealing_key(secret)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            // AES-GCM takes up to 64 GiB.
            .expect("a private key can be encrypted");
        Self {
            fleet: authority.fleet().to_owned(),
            certificate: authority.certificate_pem(),
            nonce: STANDARD.encode(nonce),
            sealed_key: STANDARD.encode(sealed),
        }
    }

    /// Decrypts the authority.
    ///
    /// # Errors
    /// [`OpenAuthorityError`].
    pub fn open(&self, secret: &FleetSecret) -> Result<Authority, OpenAuthorityError> {
        let damaged = OpenAuthorityError::Damaged;
        let decode = |text: &str| {
            STANDARD
                .decode(text)
                .map_err(|_| OpenAuthorityError::Damaged)
        };
        let nonce = Nonce::try_assume_unique_for_key(&decode(&self.nonce)?)
            .map_err(|_| OpenAuthorityError::Damaged)?;
        let certificate = self.certificate_der().ok_or(damaged)?;
        let mut sealed = decode(&self.sealed_key)?;
        let aad = Aad::from(self.fleet.as_bytes());
        let key = sealing_key(secret)
            .open_in_place(nonce, aad, &mut sealed)
            .map_err(|_| OpenAuthorityError::WrongSecret)?;
        let key = PrivatePkcs8KeyDer::from(&*key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| OpenAuthorityError::Damaged)?;
        Authority::from_parts(self.fleet.clone(), certificate, key)
            .map_err(|_| OpenAuthorityError::Damaged)
    }

    /// Returns the certificate in DER. `None` if it is damaged.
    #[must_use]
    pub fn certificate_der(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()
    }
}

fn sealing_key(secret: &FleetSecret) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, &secret.derive_key(PURPOSE));
    LessSafeKey::new(key.expect("the key has the length of AES-256"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> FleetSecret {
        FleetSecret::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn an_authority_is_opened_by_its_secret_alone_and_only_for_its_fleet() {
        let authority = Authority::create("f1", 1_000_000_000).unwrap();
        let record = AuthorityRecord::seal(&authority, &secret(1), [3; NONCE_LEN]);
        let opened = record.open(&secret(1)).unwrap();
        assert_eq!(opened.fingerprint(), authority.fingerprint());
        assert_eq!(opened.fleet(), "f1");
        assert_eq!(
            record.open(&secret(2)).err(),
            Some(OpenAuthorityError::WrongSecret)
        );
        let moved = AuthorityRecord {
            fleet: "f2".into(),
            ..record.clone()
        };
        assert_eq!(
            moved.open(&secret(1)).err(),
            Some(OpenAuthorityError::WrongSecret)
        );
        let json = serde_json::to_string(&record).unwrap();
        assert!(!json.contains(&STANDARD.encode(authority.key_der())));
        for damaged in [
            AuthorityRecord {
                nonce: "x".into(),
                ..record.clone()
            },
            AuthorityRecord {
                certificate: "no PEM".into(),
                ..record
            },
        ] {
            assert_eq!(
                damaged.open(&secret(1)).err(),
                Some(OpenAuthorityError::Damaged)
            );
        }
    }
}

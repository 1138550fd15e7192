//! Who is at the other end of a connection, and what they may do.

use std::sync::Arc;

use flotilla_core::NodeName;
use flotilla_identity::authority::{PeerCertificate, PeerIdentity};
use flotilla_identity::enrolment::{Enrolment, decide_join};
use tonic::Status;

use crate::fleet::{FleetView, NodeRecord};

/// The client of a connection.
#[derive(Clone)]
pub(super) enum LinkPeer {
    /// Links have no TLS: everybody may be any node.
    Unknown,
    /// Links have TLS. `None`: the client has presented no certificate, and may only enrol.
    Certified(Option<Arc<PeerCertificate>>),
}

impl LinkPeer {
    /// The certificate of the client. `None` where links have no TLS.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if it has presented none.
    pub(super) fn certificate(&self) -> Result<Option<&Arc<PeerCertificate>>, Status> {
        match self {
            Self::Unknown => Ok(None),
            Self::Certified(Some(certificate)) => Ok(Some(certificate)),
            Self::Certified(None) => Err(Status::permission_denied(
                "the agent has presented no certificate: enrol it with a token of `flotilla token create`",
            )),
        }
    }

    /// Checks whether the client may join as the node `name` at `now`, in seconds since 1970. Returns the record of
    /// the node; `None` where links have no TLS.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with the reason.
    pub(super) fn check_join(
        &self,
        view: &FleetView,
        name: &NodeName,
        now: u64,
    ) -> Result<Option<Enrolment>, Status> {
        let Some(certificate) = self.certificate()? else {
            return Ok(None);
        };
        let enrolment = view.enrolments.get(name);
        decide_join(certificate, name, enrolment, now)
            .map_err(|denial| Status::permission_denied(denial.to_string()))?;
        Ok(enrolment.cloned())
    }

    /// Checks whether the client may go on. That its certificate was valid was checked when the connection began; it
    /// may be renewed since.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with the reason.
    pub(super) fn check(&self, view: &FleetView) -> Result<(), Status> {
        let Some(certificate) = self.certificate()? else {
            return Ok(());
        };
        let PeerIdentity::Node { name, .. } = &certificate.identity else {
            return Err(Status::permission_denied(
                "the certificate is not one of a node",
            ));
        };
        self.check_join(view, name, certificate.not_before)
            .map(drop)
    }

    /// Checks whether the client may use a session of the node `node`.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with the reason.
    pub(super) fn check_session(&self, view: &FleetView, node: &NodeName) -> Result<(), Status> {
        match self.certificate()? {
            Some(certificate) => self
                .check_join(view, node, certificate.not_before)
                .map(drop),
            None => Ok(()),
        }
    }
}

/// Sets what the enrolment decides: the zones, and the protected labels.
///
/// # Errors
/// `PERMISSION_DENIED` if the agent is started with a zone that it was not granted.
pub(super) fn apply_enrolment(
    mut record: NodeRecord,
    name: &NodeName,
    enrolment: Option<Enrolment>,
) -> Result<NodeRecord, Status> {
    let Some(enrolment) = enrolment else {
        return Ok(record);
    };
    if let Some(zone) = record.spec.zones.difference(&enrolment.zones).next() {
        return Err(Status::permission_denied(format!(
            "the node was not granted the zone '{zone}' when it enrolled: start its agent without --zone, or enrol it again with a token of `flotilla token create --node {name} --zone {zone}`"
        )));
    }
    record.spec.zones = enrolment.zones;
    record.labels.extend(enrolment.labels);
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ZoneName;
    use flotilla_core::spec::Sha256Digest;

    #[test]
    fn zones_and_protected_labels_are_those_of_the_enrolment() {
        let name = NodeName::new("n1").unwrap();
        let zone = |name: &str| ZoneName::new(name).unwrap();
        let enrolment = Enrolment {
            zones: [zone("clinic")].into(),
            labels: [("site".to_owned(), "a".to_owned())].into(),
            key: Sha256Digest([0; 32]),
            token: String::new(),
            enrolled: 0,
            revoked: None,
        };
        let mut record = NodeRecord::example();
        record.labels = [("site", "forged"), ("rack", "7")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let applied = apply_enrolment(record.clone(), &name, Some(enrolment.clone())).unwrap();
        assert_eq!(applied.spec.zones, [zone("clinic")].into());
        assert_eq!(
            (&*applied.labels["site"], &*applied.labels["rack"]),
            ("a", "7")
        );
        record.spec.zones = [zone("clinic"), zone("bank")].into();
        let refused = apply_enrolment(record.clone(), &name, Some(enrolment)).unwrap_err();
        assert!(refused.message().contains("--zone bank"), "{refused}");
        let plain = apply_enrolment(record.clone(), &name, None).unwrap();
        assert_eq!(plain, record);
    }
}

//! Keeps the authority and the certificates of this controller.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_identity::authority::tls::{self, FleetCertificate, ServerCertificates};
use flotilla_identity::authority::{Authority, AuthorityRecord, FleetSecret, PeerCertificate};
use flotilla_telemetry::clock::unix_seconds;
use rustls::sign::CertifiedKey;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::outside_files::{self, FileVersions};
use super::settings::OutsideCertificate;
use super::{ControllerClient, TlsConfigs, TlsError, TlsHandle};
use crate::fleet::records::encode;
use crate::fleet::{FleetHandle, FleetView};
use crate::store::{Precondition, Store, StoreError, StoreWrite, keys};

/// The file with the authority's certificate in the data directory, for clients of the HTTP API.
const AUTHORITY_FILE: &str = "authority.crt";
/// How often the files of an outside PKI are looked at.
const FILES_INTERVAL: Duration = Duration::from_secs(2);
/// How often the clock is compared with the certificate's life at least.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// Pause after an attempt to store the authority that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The task that keeps the authority and the certificates.
pub(crate) struct TlsKeeper {
    pub(crate) fleet: FleetHandle,
    pub(crate) store: Arc<dyn Store>,
    /// Id of this controller.
    pub(crate) id: String,
    /// Names and addresses that clients reach this controller by.
    pub(crate) hosts: Vec<String>,
    pub(crate) secret: Option<FleetSecret>,
    pub(crate) outside: Option<OutsideCertificate>,
    pub(crate) life: Duration,
    pub(crate) data_dir: PathBuf,
    pub(crate) client: ControllerClient,
}

/// What the keeper holds at one time.
#[derive(Default)]
struct Kept {
    /// The record of the authority, and the authority.
    authority: Option<(Arc<AuthorityRecord>, Arc<Authority>)>,
    fleet: Option<FleetCertificate>,
    /// When this controller's certificate is issued anew, in seconds since 1970.
    renew_at: u64,
    outside: Option<Arc<CertifiedKey>>,
    outside_versions: Option<FileVersions>,
}

impl TlsKeeper {
    /// Starts the task. It ends only with an error that no later attempt mends, which `first` has if nothing was
    /// published before.
    pub(crate) fn start(
        self,
        stop: CancellationToken,
    ) -> (
        TlsHandle,
        oneshot::Receiver<Result<(), TlsError>>,
        impl Future<Output = ()> + Send,
    ) {
        let (sender, configs) = watch::channel(None);
        let (first_sender, first) = oneshot::channel();
        let run = async move {
            let mut first = Some(first_sender);
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                Err(error) = self.run(&sender, &mut first) => error,
            };
            match first.take() {
                Some(first) => drop(first.send(Err(ended))),
                None => tracing::error!(error = %ended, "TLS cannot go on"),
            }
        };
        (configs, first, run)
    }

    async fn run(
        &self,
        sender: &watch::Sender<Option<Arc<TlsConfigs>>>,
        first: &mut Option<oneshot::Sender<Result<(), TlsError>>>,
    ) -> Result<std::convert::Infallible, TlsError> {
        let mut kept = Kept::default();
        let mut changes = self.fleet.changes();
        loop {
            changes.borrow_and_update();
            let mut pause = CLOCK_INTERVAL;
            let mut changed = self.read_outside(&mut kept)?;
            if let Some(secret) = &self.secret {
                let view = self.fleet.view();
                match self.follow_authority(&view, secret, &mut kept) {
                    Ok(has_changed) => changed |= has_changed,
                    Err(error) => return Err(error),
                }
                if kept.authority.is_none()
                    && may_create(&view)
                    && !self.create(&view, secret).await?
                {
                    pause = RETRY_PAUSE;
                }
                let now = unix_seconds();
                if let Some((_, authority)) = &kept.authority
                    && now >= kept.renew_at
                {
                    let authority = authority.clone();
                    self.issue(&authority, &mut kept, now)?;
                    changed = true;
                }
                if kept.authority.is_some() {
                    pause = pause.min(Duration::from_secs(
                        kept.renew_at.saturating_sub(now).max(1),
                    ));
                }
            }
            if changed && (self.secret.is_none() || kept.fleet.is_some()) {
                sender.send_replace(Some(Arc::new(configs(&kept)?)));
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(()));
                }
            }
            if self.outside.is_some() {
                pause = pause.min(FILES_INTERVAL);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads the files of an outside PKI if they have changed. A pair that cannot be used is an error at the start
    /// alone: later the one before stays.
    fn read_outside(&self, kept: &mut Kept) -> Result<bool, TlsError> {
        let Some(files) = &self.outside else {
            return Ok(false);
        };
        let versions = FileVersions::of(files);
        if kept.outside_versions.as_ref() == Some(&versions) {
            return Ok(false);
        }
        kept.outside_versions = Some(versions);
        match outside_files::load(files) {
            Ok(certified) => {
                let is_new = kept.outside.replace(certified).is_some();
                if is_new {
                    tracing::info!(
                        "the certificate of --tls-cert has changed: new connections get it"
                    );
                }
                Ok(true)
            }
            Err(error) if kept.outside.is_some() => {
                tracing::warn!(%error, "the certificate of --tls-cert has changed and cannot be used: the one before stays");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the authority of the view if it is another one. Returns whether it is.
    fn follow_authority(
        &self,
        view: &FleetView,
        secret: &FleetSecret,
        kept: &mut Kept,
    ) -> Result<bool, TlsError> {
        let Some(record) = &view.authority else {
            return Ok(false);
        };
        let known = kept.authority.as_ref().map(|(known, _)| known);
        if known.is_some_and(|known| Arc::ptr_eq(known, record) || **known == **record) {
            return Ok(false);
        }
        let authority = Arc::new(record.open(secret)?);
        tracing::info!(fingerprint = %authority.fingerprint(), "the fleet's certificate authority is known");
        let file = self.data_dir.join(AUTHORITY_FILE);
        if let Err(error) =
            flotilla_durable::replace_with_umask(&file, authority.certificate_pem().as_bytes())
        {
            tracing::warn!(%error, file = %file.display(), "cannot write the authority's certificate");
        }
        kept.authority = Some((record.clone(), authority));
        kept.renew_at = 0;
        Ok(true)
    }

    /// Creates the authority, unless another controller does. Returns whether the store has one now.
    async fn create(&self, view: &FleetView, secret: &FleetSecret) -> Result<bool, TlsError> {
        let Some(fleet) = &view.fleet_id else {
            return Ok(false);
        };
        let authority = Authority::create(fleet, unix_seconds())?;
        let mut nonce = [0; 12];
        if let Err(error) = getrandom::fill(&mut nonce) {
            tracing::error!(%error, "there is no randomness for the authority's key");
            return Ok(false);
        }
        let record = AuthorityRecord::seal(&authority, secret, nonce);
        let write = StoreWrite::put_if(
            keys::AUTHORITY.to_owned(),
            encode(&record),
            Precondition::Absent,
        );
        match self.store.write(vec![write]).await {
            // The watch of the store brings it.
            Ok(_) | Err(StoreError::Conflict(_)) => Ok(true),
            Err(error) => {
                tracing::warn!(%error, "the fleet's certificate authority cannot be stored, retrying");
                Ok(false)
            }
        }
    }

    /// Issues this controller's certificates: one for its ports, and one for its requests to other controllers.
    fn issue(&self, authority: &Authority, kept: &mut Kept, now: u64) -> Result<(), TlsError> {
        let issued = authority.issue_to_controller(&self.id, &self.hosts, self.life, now)?;
        if let Ok(certificate) = PeerCertificate::parse(&issued.certificate) {
            kept.renew_at = certificate.renew_at().max(now + 1);
        }
        let fleet = FleetCertificate::new(issued, authority.certificate().clone())?;
        kept.fleet = Some(fleet);
        let own = authority.issue_to_controller(&self.id, &self.hosts, self.life, now)?;
        self.client.set_certificate(authority, own)
    }
}

/// Whether the authority may be created: the store has the fleet, and it is known that it has no authority.
fn may_create(view: &FleetView) -> bool {
    view.is_of_store() && view.authority.is_none() && !view.undecoded.keys.contains(keys::AUTHORITY)
}

fn configs(kept: &Kept) -> Result<TlsConfigs, TlsError> {
    let link = kept.fleet.as_ref().map(tls::link_server).transpose()?;
    let http = tls::http_server(ServerCertificates {
        fleet: kept.fleet.clone(),
        outside: kept.outside.clone(),
    })?;
    Ok(TlsConfigs {
        authority: kept
            .authority
            .as_ref()
            .map(|(_, authority)| authority.clone()),
        http: Arc::new(http),
        link: link.map(Arc::new),
    })
}

//! The files that this controller lacks, and their copies from other controllers and from nodes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use flotilla_core::artifact::{ArtifactFile, Manifest};
use flotilla_core::spec::Sha256Digest;
use flotilla_identity::keys::ControllerSecret;
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::Method;
use tokio::task::AbortHandle;

use super::blobs::BlobStore;
use super::fetch_job::MIN_RETRY_DELAY;
use crate::access::identified_request;
use crate::fleet::{FleetView, NodeLink};
use crate::tls::ControllerClient;

/// Copies that run at the same time.
const MAX_COPIES: usize = 4;
/// Nodes that are asked for a file that no controller has.
const MAX_NODES: usize = 16;
/// Files that an error names.
const NAMED_FILES: usize = 3;

/// The copies that run or wait for their next attempt.
#[derive(Default)]
pub(super) struct Copies {
    states: HashMap<Sha256Digest, CopyState>,
    /// What was compared when no file was missing last.
    complete: Option<Compared>,
}

/// The copy of one file.
enum CopyState {
    Running {
        /// The attempts before it that have failed.
        failures: u32,
        /// `None` until it is started.
        task: Option<AbortHandle>,
    },
    /// The last attempt has failed.
    Failed { failures: u32, retry_at: Instant },
}

/// The manifests and the state of the blob store that were compared.
struct Compared {
    manifests: Vec<Arc<Manifest>>,
    blobs: u64,
}

impl Copies {
    /// Returns the files of which a copy is due, and counts them as running. Costs little while nothing
    /// has changed since no file was missing.
    pub(super) fn start_due(&mut self, view: &FleetView, blobs: &BlobStore) -> Vec<ArtifactFile> {
        let generation = blobs.generation();
        let manifests: Vec<_> = view.needed_manifests().collect();
        let is_complete = self.complete.as_ref().is_some_and(|compared| {
            let equal = |(a, b): (&Arc<Manifest>, &&Arc<Manifest>)| Arc::ptr_eq(a, b);
            compared.blobs == generation
                && compared.manifests.len() == manifests.len()
                && compared.manifests.iter().zip(&manifests).all(equal)
        });
        if is_complete {
            return Vec::new();
        }
        let files = manifests.iter().flat_map(|manifest| &manifest.files);
        let missing = files.filter(|file| !blobs.has(file.sha256, file.size.0));
        let due = self.take_due(missing, Instant::now());
        self.complete = self.states.is_empty().then(|| Compared {
            manifests: manifests.into_iter().cloned().collect(),
            blobs: generation,
        });
        due
    }

    /// Ends the copies of files that are no longer `missing`, and returns those of which a copy is due at
    /// `now`.
    fn take_due<'a>(
        &mut self,
        missing: impl Iterator<Item = &'a ArtifactFile>,
        now: Instant,
    ) -> Vec<ArtifactFile> {
        let mut seen = HashSet::new();
        let missing: Vec<_> = missing.filter(|file| seen.insert(file.sha256)).collect();
        self.states.retain(|sha256, state| {
            let is_missing = seen.contains(sha256);
            // Somebody else has brought it meanwhile, or no model needs it any more.
            if let CopyState::Running {
                task: Some(task), ..
            } = state
                && !is_missing
            {
                task.abort();
            }
            is_missing
        });
        let running = self.states.values();
        let running = running
            .filter(|state| matches!(state, CopyState::Running { .. }))
            .count();
        let due = missing.into_iter().filter(|file| {
            let state = self.states.get(&file.sha256);
            state.is_none_or(|state| match state {
                CopyState::Running { .. } => false,
                CopyState::Failed { retry_at, .. } => *retry_at <= now,
            })
        });
        let due: Vec<_> = due
            .take(MAX_COPIES.saturating_sub(running))
            .cloned()
            .collect();
        for file in &due {
            let failures = self.failures(file.sha256);
            let task = None;
            self.states
                .insert(file.sha256, CopyState::Running { failures, task });
        }
        due
    }

    /// Notes the task of a copy that was due.
    pub(super) fn started(&mut self, sha256: Sha256Digest, copy: AbortHandle) {
        if let Some(CopyState::Running { task, .. }) = self.states.get_mut(&sha256) {
            *task = Some(copy);
        }
    }

    /// The number of attempts to copy a file that have failed.
    pub(super) fn failures(&self, sha256: Sha256Digest) -> u32 {
        match self.states.get(&sha256) {
            Some(CopyState::Running { failures, .. } | CopyState::Failed { failures, .. }) => {
                *failures
            }
            None => 0,
        }
    }

    /// Notes the end of a copy.
    pub(super) fn finish(&mut self, sha256: Sha256Digest, succeeded: bool) {
        if succeeded {
            self.states.remove(&sha256);
        } else {
            let retry_at = Instant::now() + MIN_RETRY_DELAY;
            let failures = self.failures(sha256).saturating_add(1);
            self.states
                .insert(sha256, CopyState::Failed { failures, retry_at });
        }
    }

    /// The files of a manifest that could not be copied, for an error: the first names and the number.
    /// `None` if there are none.
    pub(super) fn failed_files(&self, manifest: &Manifest) -> Option<String> {
        if self.states.is_empty() {
            return None;
        }
        let files = manifest
            .files
            .iter()
            .filter(|file| self.failures(file.sha256) > 0);
        let names: Vec<_> = files.map(|file| file.path.as_str()).collect();
        let named = names.get(..NAMED_FILES.min(names.len()))?.join(", ");
        match names.len() {
            0 => None,
            count if count > NAMED_FILES => {
                Some(format!("{named} and {} more", count - NAMED_FILES))
            }
            _ => Some(named),
        }
    }
}

/// Where a missing file may be.
pub(super) struct CopySources {
    /// `host:port` of the other controllers' APIs.
    controllers: Vec<String>,
    /// Linked nodes, those first that are assigned a model with the file.
    nodes: Vec<Arc<NodeLink>>,
    client: ControllerClient,
    /// What this controller identifies itself to the others with.
    secret: Option<ControllerSecret>,
}

impl CopySources {
    /// The sources of a file in a view, for the controller `id`, after this many failed attempts.
    pub(super) fn new(
        view: &FleetView,
        id: &str,
        client: ControllerClient,
        sha256: Sha256Digest,
        failures: u32,
    ) -> Self {
        let others = view.controllers.iter().filter(|(other, _)| *other != id);
        let has_file = |manifest: &Arc<Manifest>| {
            let mut files = manifest.files.iter();
            files.any(|file| file.sha256 == sha256)
        };
        let models = view.models.values();
        let models = models.filter(|model| {
            let mut manifests = model.manifest.iter().chain(&model.stable_manifest);
            manifests.any(has_file)
        });
        let likely: HashSet<_> = models.flat_map(|model| model.assigned.keys()).collect();
        let nodes = view.nodes.values();
        let links = nodes.filter_map(|node| node.link.clone());
        let links = links.filter(|link| link.is_connected());
        let (likely, rest) = links.partition(|link| likely.contains(&link.node));
        Self {
            controllers: others.map(|(_, record)| record.http.clone()).collect(),
            nodes: nodes_to_ask(likely, rest, failures),
            client,
            secret: view.controller_secret.clone(),
        }
    }

    /// Copies a file from the first controller or node that has it. The error is that of the last one.
    pub(super) async fn copy(&self, file: &ArtifactFile, blobs: &BlobStore) -> Result<(), String> {
        let (sha256, size) = (file.sha256, file.size.0);
        let room = blobs.ensure_room(size).await;
        room.map_err(|error| error.to_string())?;
        let mut last_error = "there is no other controller and no linked node".to_owned();
        for address in &self.controllers {
            let path = format!("/api/v1/blobs/{sha256}");
            let (client, secret) = (&self.client, self.secret.as_ref());
            let request = identified_request(client, secret, address, Method::GET, &path);
            let response = request.send().await;
            let stored = match response.and_then(reqwest::Response::error_for_status) {
                Ok(response) => {
                    let chunks = response.bytes_stream().map_err(|e| e.to_string());
                    let chunks = at_most(size, chunks);
                    blobs.put(Some(sha256), chunks, |_| {}).await
                }
                Err(error) => {
                    last_error = error.to_string();
                    continue;
                }
            };
            match stored {
                Ok(_) => return Ok(()),
                Err(error) => last_error = error.to_string(),
            }
        }
        for link in &self.nodes {
            let chunks = match link.fetch_blob(sha256).await {
                Ok(chunks) => chunks,
                Err(error) => {
                    last_error = format!("node {}: {}", link.node, error.message());
                    continue;
                }
            };
            let chunks = at_most(size, chunks);
            match blobs.put(Some(sha256), chunks, |_| {}).await {
                Ok(_) => {
                    tracing::info!(%sha256, node = %link.node, "a node has given a file back");
                    return Ok(());
                }
                Err(error) => last_error = format!("node {}: {error}", link.node),
            }
        }
        Err(last_error)
    }
}

/// The nodes that one attempt asks: likely ones first, which may take half of the places if there are
/// others. Each attempt asks the next ones.
fn nodes_to_ask<T: Clone>(likely: Vec<T>, rest: Vec<T>, failures: u32) -> Vec<T> {
    let next = |nodes: Vec<T>, places: usize| {
        let places = places.min(nodes.len());
        let start = (failures as usize).saturating_mul(places) % nodes.len().max(1);
        let nodes = nodes.iter().cycle().skip(start).take(places);
        nodes.cloned().collect::<Vec<_>>()
    };
    let for_rest = rest.len().min(MAX_NODES / 2);
    let mut asked = next(likely, MAX_NODES - for_rest);
    asked.extend(next(rest, MAX_NODES - asked.len()));
    asked
}

/// Ends a stream of more than `size` bytes with an error: whoever sends it may never stop.
fn at_most(
    size: u64,
    chunks: impl Stream<Item = Result<Bytes, String>>,
) -> impl Stream<Item = Result<Bytes, String>> {
    let mut left = size;
    chunks.map(move |chunk| {
        let chunk = chunk?;
        let rest = left.checked_sub(chunk.len() as u64);
        left = rest.ok_or_else(|| format!("it is longer than its {size} bytes"))?;
        Ok(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(byte: u8) -> ArtifactFile {
        ArtifactFile {
            path: format!("f{byte}"),
            size: flotilla_core::Bytes(1),
            sha256: Sha256Digest([byte; 32]),
        }
    }

    #[test]
    fn few_copies_run_at_once_and_failed_ones_wait() {
        let files: Vec<_> = (0..10).map(file).collect();
        let mut copies = Copies::default();
        let now = Instant::now();
        // The same file in two models is copied once.
        let due = copies.take_due(files.iter().chain(&files), now);
        assert_eq!(due, files[..MAX_COPIES]);
        assert!(copies.take_due(files.iter(), now).is_empty());
        copies.finish(files[0].sha256, false);
        copies.finish(files[1].sha256, true);
        let missing = || files.iter().filter(|file| file.path != "f1");
        assert_eq!(copies.take_due(missing(), now), files[4..6]);
        let manifest = Manifest::new(files.clone()).unwrap();
        assert_eq!(copies.failed_files(&manifest).as_deref(), Some("f0"));
        for file in &files[2..6] {
            copies.finish(file.sha256, false);
        }
        let failed = copies.failed_files(&manifest).unwrap();
        assert_eq!(failed, "f0, f2, f3 and 2 more");
        let later = now + MIN_RETRY_DELAY * 2;
        assert_eq!(copies.take_due(missing(), later).len(), MAX_COPIES);
        copies.finish(files[0].sha256, true);
        copies.take_due(std::iter::empty(), later);
        assert!(copies.failed_files(&manifest).is_none());
    }

    #[tokio::test]
    async fn copy_of_a_file_that_is_no_longer_missing_is_ended() {
        let file = ArtifactFile {
            path: "f".into(),
            size: flotilla_core::Bytes(1),
            sha256: Sha256Digest([1; 32]),
        };
        let mut copies = Copies::default();
        let now = Instant::now();
        assert_eq!(copies.take_due([&file].into_iter(), now).len(), 1);
        let copy = tokio::spawn(std::future::pending::<()>());
        copies.started(file.sha256, copy.abort_handle());
        assert!(copies.take_due([&file].into_iter(), now).is_empty());
        assert!(copies.take_due(std::iter::empty(), now).is_empty());
        assert!(copy.await.unwrap_err().is_cancelled());
        assert_eq!(copies.take_due([&file].into_iter(), now).len(), 1);
    }

    #[test]
    fn every_node_is_asked_in_turn_and_likely_ones_first() {
        let likely: Vec<u32> = (0..3).collect();
        let rest: Vec<u32> = (3..100).collect();
        let mut asked = HashSet::new();
        for failures in 0..10 {
            let nodes = nodes_to_ask(likely.clone(), rest.clone(), failures);
            assert_eq!(nodes.len(), MAX_NODES);
            assert!(nodes[..3].iter().all(|node| *node < 3));
            asked.extend(nodes);
        }
        assert_eq!(asked.len(), 100);
        let many: HashSet<u32> = (0..10)
            .flat_map(|failures| nodes_to_ask(rest.clone(), vec![1], failures))
            .collect();
        assert_eq!(many.len(), 98);
        assert_eq!(nodes_to_ask(vec![1], vec![2], u32::MAX), [1, 2]);
        assert!(nodes_to_ask::<u32>(Vec::new(), Vec::new(), 5).is_empty());
    }

    #[tokio::test]
    async fn more_bytes_than_a_file_has_are_not_taken() {
        let chunks = || futures::stream::iter(["abc", "def"].map(|text| Ok(Bytes::from(text))));
        let all: Result<Vec<_>, _> = at_most(6, chunks()).try_collect().await;
        assert_eq!(all.unwrap().concat(), b"abcdef");
        let cut: Result<Vec<_>, String> = at_most(5, chunks()).try_collect().await;
        assert_eq!(cut.unwrap_err(), "it is longer than its 5 bytes");
    }

    #[tokio::test]
    async fn silent_controller_does_not_keep_a_copy_busy() {
        use sha2::Digest;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let content = b"content";
        let serve = async |answer: Vec<u8>| {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let task = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _request = stream.read(&mut [0; 4_096]).await.unwrap();
                stream.write_all(&answer).await.unwrap();
                // Open and silent, as a process is that was stopped.
                std::future::pending::<()>().await;
            });
            (address, task)
        };
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        let (silent, silent_task) = serve([&head[..], b"con"].concat()).await;
        let (good, good_task) = serve([&head[..], content].concat()).await;
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().to_owned());
        let read_timeout = std::time::Duration::from_millis(200);
        let client = reqwest::Client::builder().read_timeout(read_timeout);
        let sources = CopySources {
            controllers: vec![silent, good],
            nodes: Vec::new(),
            client: ControllerClient::with_client(client.build().unwrap()),
            secret: None,
        };
        let sha256 = Sha256Digest(sha2::Sha256::digest(content).into());
        let file = ArtifactFile {
            path: "f".into(),
            size: flotilla_core::Bytes(7),
            sha256,
        };
        sources.copy(&file, &blobs).await.unwrap();
        assert!(blobs.has(sha256, 7));
        silent_task.abort();
        good_task.abort();
    }
}

use super::*;
use flotilla_core::artifact::ArtifactFile;
use sha2::{Digest, Sha256};

fn file(path: &str, content: &str) -> ArtifactFile {
    ArtifactFile {
        path: path.into(),
        size: Bytes(content.len() as u64),
        sha256: Sha256Digest(Sha256::digest(content).into()),
    }
}

fn manifest(files: &[(&str, &str)]) -> Manifest {
    let files = files.iter().map(|(path, content)| file(path, content));
    Manifest::new(files.collect()).unwrap()
}

fn open(dir: &tempfile::TempDir, disk: Option<u64>, retention: Duration) -> ArtifactStore {
    let settings = ArtifactSettings {
        model_roots: Vec::new(),
        dir: dir.path().to_owned(),
        fetch_rate: None,
        disk: disk.map(Bytes),
        disk_agents: 1,
        retention,
    };
    ArtifactStore::new(settings, Arc::new(NoSources::default()))
}

/// Puts the files of a model into the store, as if they had been fetched.
fn add_blobs(store: &ArtifactStore, contents: &[&str]) {
    fs::create_dir_all(store.inner.dir.join("blobs")).unwrap();
    for content in contents {
        let path = store.blob_path(file("x", content).sha256);
        fs::write(path, content).unwrap();
    }
}

const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);

#[tokio::test]
async fn a_model_folder_exists_when_complete_and_models_share_equal_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, None, Duration::ZERO);
    add_blobs(&store, &["config", "one", "two"]);
    let first = manifest(&[("config.json", "config"), ("sub/model.safetensors", "one")]);
    let second = manifest(&[("tokenizer.json", "config"), ("m.gguf", "two")]);
    assert_eq!(store.find(&first).await, Ok(None));
    store.set_needed(vec![first.clone(), second.clone()]);
    store.fetch(&first, |_| {}).await.unwrap();
    store.fetch(&second, |_| {}).await.unwrap();
    let folder = store.find(&first).await.unwrap().unwrap();
    assert_eq!(
        fs::read(folder.join("sub/model.safetensors")).unwrap(),
        b"one"
    );
    assert!(
        store
            .find(&second)
            .await
            .unwrap()
            .unwrap()
            .ends_with("m.gguf")
    );
    store.set_needed(vec![second.clone()]);
    store.collect(0).await;
    assert_eq!(store.find(&first).await, Ok(None));
    assert!(store.find(&second).await.unwrap().is_some());
    let blobs = fs::read_dir(dir.path().join("blobs")).unwrap().count();
    assert_eq!(blobs, 2, "the shared file and the second model's own");
    assert_eq!(
        store.usage(),
        DiskUsage {
            used: 9,
            unneeded: 0
        }
    );
}

#[tokio::test]
async fn unneeded_files_are_kept_until_their_space_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, Some(10), WEEK);
    add_blobs(&store, &["12345", "abc"]);
    let old = manifest(&[("a", "12345")]);
    store.set_needed(vec![old.clone()]);
    store.fetch(&old, |_| {}).await.unwrap();
    store.set_needed(vec![manifest(&[("b", "abc")])]);
    store.collect(0).await;
    assert_eq!(
        store.usage(),
        DiskUsage {
            used: 8,
            unneeded: 5
        }
    );
    assert!(store.find(&old).await.unwrap().is_some());
    let wanted = [file("c", "1234567")];
    let room = store.make_room(&wanted).await.ok().unwrap();
    assert_eq!(
        store.usage(),
        DiskUsage {
            used: 3,
            unneeded: 0
        }
    );
    assert_eq!(store.find(&old).await, Ok(None));
    let refused = store.make_room(&[file("d", "x")]).await.err().unwrap();
    assert_eq!(
        refused,
        ArtifactError::NoRoom {
            needed: Bytes(1),
            free: Bytes(0),
            budget: Bytes(10)
        }
    );
    drop(room);
    assert!(store.make_room(&[file("d", "x")]).await.is_ok());
}

#[tokio::test]
async fn a_damaged_file_is_found_at_the_next_start_and_by_the_scrub() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, None, WEEK);
    add_blobs(&store, &["good", "fine"]);
    let model = manifest(&[("a", "good"), ("b", "fine")]);
    let [good, fine] = [&model.files[0], &model.files[1]];
    store.set_needed(vec![model.clone()]);
    store.fetch(&model, |_| {}).await.unwrap();
    let damaged = store.blob_path(good.sha256);

    // A write changes the time.
    fs::write(&damaged, "bood").unwrap();
    let restarted = open(&dir, None, WEEK);
    assert_eq!(restarted.find(&model).await, Ok(None), "not verified yet");
    assert_eq!(
        restarted.missing(&model).await.unwrap(),
        std::slice::from_ref(good)
    );
    add_blobs(&restarted, &["good"]);
    restarted.set_needed(vec![model.clone()]);
    restarted.fetch(&model, |_| {}).await.unwrap();
    let folder = restarted.find(&model).await.unwrap().unwrap();
    assert_eq!(fs::read(folder.join("a")).unwrap(), b"good", "linked anew");

    // A failing disk does not.
    let damaged = restarted.blob_path(fine.sha256);
    fs::write(&damaged, "fune").unwrap();
    verification::mark(&damaged, fine.sha256).unwrap();
    let restarted = open(&dir, None, WEEK);
    restarted.set_needed(vec![model.clone()]);
    restarted.fetch(&model, |_| {}).await.unwrap();
    assert!(restarted.find(&model).await.unwrap().is_some());
    let mut damages = restarted.damages();
    let stop = CancellationToken::new();
    let scrub = tokio::spawn(restarted.clone().maintain(stop.clone()));
    damages.changed().await.unwrap();
    assert_eq!(restarted.find(&model).await, Ok(None));
    assert_eq!(
        restarted.missing(&model).await.unwrap(),
        std::slice::from_ref(fine)
    );
    stop.cancel();
    scrub.await.unwrap();
}

#[tokio::test]
async fn one_fetch_of_a_shared_file_serves_all_models() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, None, WEEK);
    let shared = file("a", "shared");
    let lock = store.locks().lock(shared.sha256).await;
    let waiting = tokio::spawn({
        let (store, shared) = (store.clone(), shared.clone());
        async move { fetch::fetch_file(&store, &shared, |_| {}).await }
    });
    tokio::task::yield_now().await;
    // What the task with the lock does in the end.
    add_blobs(&store, &["shared"]);
    drop(lock);
    waiting.await.unwrap().unwrap();
    assert!(!dir.path().join("incoming").exists(), "nothing was fetched");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_no_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, None, WEEK);
    add_blobs(&store, &["good"]);
    let good = file("x", "good");
    let (path, stop) = (store.blob_path(good.sha256), CancellationToken::new());
    let check = async || scrub::check(&store, &good, &stop).await;
    assert_eq!(check().await.unwrap(), Some(true));
    fs::write(&path, "bood").unwrap();
    assert_eq!(check().await.unwrap(), Some(false));
    // A link to itself cannot be opened by anybody.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    check().await.unwrap_err();
}

#[tokio::test]
async fn a_damaged_file_that_cannot_be_deleted_counts_as_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, None, WEEK);
    let model = manifest(&[("a", "good")]);
    let good = &model.files[0];
    // A directory cannot be deleted as a file.
    fs::create_dir_all(store.blob_path(good.sha256)).unwrap();
    store.drop_damaged(good).await;
    fs::remove_dir(store.blob_path(good.sha256)).unwrap();
    add_blobs(&store, &["good"]);
    let missing = store.missing(&model).await.unwrap();
    assert_eq!(missing, std::slice::from_ref(good));
    // What a fetch does in the end.
    store.set_read(good.sha256);
    assert!(store.missing(&model).await.unwrap().is_empty());
}

#[tokio::test]
async fn each_file_of_verified_models_is_read_once_in_a_period() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, None, WEEK);
    add_blobs(&store, &["shared", "one"]);
    let first = manifest(&[("a", "shared"), ("b", "one")]);
    let second = manifest(&[("c", "shared")]);
    let unverified = manifest(&[("d", "other")]);
    store.set_needed(vec![first.clone(), second.clone(), unverified]);
    let mut verified = store.verified_models();
    store.fetch(&first, |_| {}).await.unwrap();
    store.fetch(&second, |_| {}).await.unwrap();
    assert!(verified.has_changed().unwrap());
    verified.borrow_and_update();
    assert!(store.unread_files().await.is_empty(), "read by the fetch");
    store.forget_read();
    assert_eq!(store.unread_files().await.len(), 2);
    store.set_read(file("x", "one").sha256);
    let unread = store.unread_files().await;
    assert_eq!(unread.len(), 1);
    assert_eq!(unread[0].sha256, file("x", "shared").sha256);
}

#[tokio::test]
async fn folder_that_does_not_answer_is_named_and_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir, None, WEEK);
    let timeout = Duration::from_millis(20);
    Arc::get_mut(&mut store.inner).unwrap().lookups = FileReading::new(timeout);
    let model = manifest(&[("m", "content")]);
    let folder = store.model_dir(&model);
    // A lookup that hangs, until the test drops the sender.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let hangs = move || Ok(released.recv().is_ok());
    let is_slow = |path: PathBuf| {
        Err(LoadError::SlowFiles {
            path,
            seconds: timeout.as_secs(),
        })
    };
    let hanging = store.inner.lookups.run(&folder, hangs).await;
    assert_eq!(hanging.map(|_| None), is_slow(folder.clone()));
    assert_eq!(store.find(&model).await, is_slow(folder));
    drop(release);
}

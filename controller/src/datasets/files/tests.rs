use super::*;
use flotilla_core::dataset::{DatasetMessage, Feedback};

fn task(name: &str) -> TaskName {
    TaskName::new(name).unwrap()
}

fn record(number: u64) -> DatasetRecord {
    DatasetRecord {
        messages: vec![DatasetMessage::user(&format!("text {number}"))],
        answer: Some("done".into()),
        source: LearnSource::Escalations,
        task: task("t"),
        feedback: None,
        model: None,
        confidence: None,
        decision: format!("c-{number}"),
        at: number,
    }
}

fn times(records: &[DatasetRecord]) -> Vec<u64> {
    records.iter().map(|record| record.at).collect()
}

fn lines(dir: &Path) -> usize {
    let text = std::fs::read_to_string(dir.join("t.jsonl")).unwrap();
    text.lines().count()
}

#[test]
fn newest_records_are_kept_and_read_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("datasets");
    let mut files = DatasetFiles::in_dir(folder.clone());
    assert_eq!(files.tasks().unwrap(), []);
    assert_eq!(files.read(&task("t"), None).unwrap(), []);
    for number in 0..10 {
        files.append(&task("t"), vec![record(number)], 3).unwrap();
    }
    assert_eq!(lines(&folder), 3);
    let mut files = DatasetFiles::in_dir(folder.clone());
    assert_eq!(files.tasks().unwrap(), [task("t")]);
    let read = files.read(&task("t"), None).unwrap();
    assert_eq!(times(&read), [7, 8, 9]);
    assert_eq!(times(&files.read(&task("t"), Some(1)).unwrap()), [9]);
    // Few records more than are kept may be in the file, but not in what is read.
    let many = (10..30).map(record).collect();
    files.append(&task("t"), many, 16).unwrap();
    files.append(&task("t"), vec![record(30)], 16).unwrap();
    assert_eq!(lines(&folder), 17);
    assert_eq!(files.read(&task("t"), Some(16)).unwrap().len(), 16);
}

#[test]
fn later_record_of_a_decision_replaces_the_earlier_and_counts_by_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = DatasetFiles::in_dir(dir.path().into());
    let marked = record(1).with_feedback(Feedback::Task(task("u")));
    for record in [record(1), record(2), marked.clone()] {
        files.append(&task("t"), vec![record], 100).unwrap();
    }
    let read = files.read(&task("t"), None).unwrap();
    assert_eq!(read, [marked.clone(), record(2)]);
    let counts = DatasetCounts {
        escalations: 1,
        feedback: 1,
    };
    assert_eq!(files.count(&task("t"), None).unwrap(), counts);
    assert_eq!(files.read_candidates(&task("u")).unwrap(), [marked]);
    assert_eq!(files.read_candidates(&task("t")).unwrap(), [record(2)]);
    files.remove(&task("t"), "c-1").unwrap();
    files.remove(&task("t"), "c-99").unwrap();
    assert_eq!(files.read(&task("t"), None).unwrap(), [record(2)]);
    assert_eq!(files.delete(&task("t")).unwrap(), 1);
    assert_eq!(files.delete(&task("t")).unwrap(), 0);
    files.append(&task("t"), vec![record(3)], 100).unwrap();
    assert_eq!(files.read(&task("t"), None).unwrap(), [record(3)]);
}

#[test]
fn broken_line_is_skipped_and_a_torn_one_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let torn = &encode(&[record(2)])[..20];
    let content = [&encode(&[record(1)])[..], b"nonsense\n\xff\n", torn].concat();
    std::fs::write(&path, content).unwrap();
    std::fs::write(dir.path().join("Not a task.jsonl"), "").unwrap();
    let mut files = DatasetFiles::in_dir(dir.path().into());
    assert_eq!(files.tasks().unwrap(), [task("t")]);
    assert_eq!(files.read(&task("t"), None).unwrap(), [record(1)]);
    files.append(&task("t"), vec![record(3)], 100).unwrap();
    files.append(&task("t"), vec![record(4)], 100).unwrap();
    let read = files.read(&task("t"), None).unwrap();
    assert_eq!(times(&read), [1, 3, 4]);
}

#[test]
fn what_an_interrupted_write_left_behind_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("datasets");
    let mut files = DatasetFiles::in_dir(folder.clone());
    files.remove_partial().unwrap();
    files.append(&task("t"), vec![record(1)], 10).unwrap();
    // As `flotilla_durable::replace` does it, whose process ends before the file has its name.
    let partial = tempfile::Builder::new().tempfile_in(&folder).unwrap();
    let (_, partial) = partial.keep().unwrap();
    files.remove_partial().unwrap();
    assert!(!partial.exists(), "{partial:?}");
    assert_eq!(files.read(&task("t"), None).unwrap(), [record(1)]);
}

#[test]
fn reserve_of_the_disk_takes_no_records_but_lets_them_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = DatasetFiles::in_dir(dir.path().into());
    let first = vec![record(1), record(2)];
    files.append(&task("t"), first, 10).unwrap();
    files.space_at = |_| {
        Some(DiskSpace {
            total: 1 << 40,
            free: 1 << 20,
        })
    };
    let error = files.append(&task("t"), vec![record(3)], 10).unwrap_err();
    assert!(flotilla_durable::is_full(&error), "{error}");
    files.remove(&task("t"), "c-1").unwrap();
    assert_eq!(files.read(&task("t"), None).unwrap(), [record(2)]);
}

#[test]
fn file_is_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = DatasetFiles::in_dir(dir.path().into());
    files.max_bytes = 1_000;
    for number in 0..50 {
        files.append(&task("t"), vec![record(number)], 100).unwrap();
        let size = std::fs::metadata(dir.path().join("t.jsonl")).unwrap().len();
        assert!(size <= 1_000, "{size}");
    }
    let read = files.read(&task("t"), None).unwrap();
    assert!(read.len() > 3, "{read:?}");
    assert_eq!(read.last(), Some(&record(49)));
}

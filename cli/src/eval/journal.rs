//! What was answered so far, kept in a file as it comes, so that an evaluation that is broken off goes on
//! where it was.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::Context;
use flotilla_core::ModelName;
use serde::{Deserialize, Serialize};

/// An answer, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Judged {
    /// Stands for the data and for how answers are judged.
    pub(super) how: String,
    /// The request's line in the data.
    pub(super) line: usize,
    pub(super) model: ModelName,
    pub(super) revision: String,
    pub(super) answer: String,
    pub(super) right: bool,
    /// To the end of the answer, in milliseconds.
    pub(super) ms: f64,
    pub(super) joules: Option<f32>,
    /// How sure the model was: mean, min and margin. `None`: it does not say.
    pub(super) confidence: Option<[f32; 3]>,
}

/// The answers so far.
pub(super) struct Journal {
    file: File,
    known: HashMap<(ModelName, usize), Judged>,
}

impl Journal {
    /// The journal at `path`. Of what it holds only what `counts` is known. A last line that was
    /// not written to its end is left out.
    pub(super) fn open(path: &Path, counts: impl Fn(&Judged) -> bool) -> anyhow::Result<Self> {
        let shown = || format!("cannot keep answers in {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(shown)?;
        }
        let mut known = HashMap::new();
        if let Ok(file) = File::open(path) {
            for line in BufReader::new(file).lines() {
                let line = line.with_context(shown)?;
                let judged: Result<Judged, _> = serde_json::from_str(&line);
                if let Some(judged) = judged.ok().filter(|judged| counts(judged)) {
                    known.insert((judged.model.clone(), judged.line), judged);
                }
            }
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(path)
            .with_context(shown)?;
        // After a line that was broken off a new one begins.
        file.write_all(b"\n").with_context(shown)?;
        Ok(Self { file, known })
    }

    pub(super) fn get(&self, model: &ModelName, line: usize) -> Option<&Judged> {
        self.known.get(&(model.clone(), line))
    }

    pub(super) fn note(&mut self, judged: Judged) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&judged)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .context("cannot keep an answer")?;
        self.known
            .insert((judged.model.clone(), judged.line), judged);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_broken_off_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/journal.jsonl");
        let judged = |line, revision: &str| Judged {
            how: "h".into(),
            line,
            model: ModelName::new("m").unwrap(),
            revision: revision.into(),
            answer: "a\nb".into(),
            right: true,
            ms: 1.5,
            joules: Some(0.5),
            confidence: Some([0.9, 0.8, 0.7]),
        };
        let mut journal = Journal::open(&path, |_| true).unwrap();
        journal.note(judged(1, "new")).unwrap();
        journal.note(judged(2, "old")).unwrap();
        journal.file.write_all(b"{\"line\": 3, \"mod").unwrap();
        drop(journal);
        let mut journal = Journal::open(&path, |judged| judged.revision == "new").unwrap();
        let model = ModelName::new("m").unwrap();
        assert_eq!(journal.get(&model, 1), Some(&judged(1, "new")));
        assert_eq!(
            journal.get(&model, 2),
            None,
            "another revision says nothing"
        );
        journal.note(judged(3, "new")).unwrap();
        let journal = Journal::open(&path, |_| true).unwrap();
        assert!(journal.get(&model, 3).is_some());
    }
}

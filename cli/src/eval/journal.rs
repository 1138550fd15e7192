//! A file with all answers so far, from which an interrupted evaluation continues.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::Context;
use flotilla_core::ModelName;
use serde::{Deserialize, Serialize};

/// A model's answer to a labelled request, with its grade.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GradedAnswer {
    /// Digest of the data and of the settings of the evaluation.
    pub(super) settings_digest: String,
    /// Line number of the request in the data.
    pub(super) line: usize,
    pub(super) model: ModelName,
    pub(super) revision: String,
    pub(super) answer: String,
    pub(super) correct: bool,
    /// Time to the end of the answer, in milliseconds.
    pub(super) latency_ms: f64,
    /// Energy of the request. `None`: unknown.
    pub(super) joules: Option<f32>,
    /// Confidence by each measure, in the order of `ConfidenceMeasure::ALL`. `None`: the model
    /// returns no log-probabilities.
    pub(super) confidence: Option<[f32; 3]>,
}

/// The answers so far, in memory and in a file.
pub(super) struct AnswerJournal {
    file: File,
    answers: HashMap<(ModelName, usize), GradedAnswer>,
}

impl AnswerJournal {
    /// Opens or creates the journal at `path` and reads the answers that `is_valid` accepts. Lines
    /// that cannot be parsed are skipped: an interruption can cut off the last one.
    pub(super) fn open(
        path: &Path,
        is_valid: impl Fn(&GradedAnswer) -> bool,
    ) -> anyhow::Result<Self> {
        let message = || format!("cannot use {} as the journal", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(message)?;
        }
        let mut answers = HashMap::new();
        if let Ok(file) = File::open(path) {
            for line in BufReader::new(file).lines() {
                let line = line.with_context(message)?;
                let answer: Result<GradedAnswer, _> = serde_json::from_str(&line);
                if let Some(answer) = answer.ok().filter(|answer| is_valid(answer)) {
                    answers.insert((answer.model.clone(), answer.line), answer);
                }
            }
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(path)
            .with_context(message)?;
        // The next answer must not continue a line that was cut off.
        file.write_all(b"\n").with_context(message)?;
        Ok(Self { file, answers })
    }

    /// Returns the answer of a model to the request on a line of the data.
    pub(super) fn get(&self, model: &ModelName, line: usize) -> Option<&GradedAnswer> {
        self.answers.get(&(model.clone(), line))
    }

    /// Adds an answer and writes it to the file.
    pub(super) fn add(&mut self, answer: GradedAnswer) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .context("cannot write an answer to the journal")?;
        self.answers
            .insert((answer.model.clone(), answer.line), answer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_evaluation_continues_with_its_valid_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/journal.jsonl");
        let answer = |line, revision: &str| GradedAnswer {
            settings_digest: "d".into(),
            line,
            model: ModelName::new("m").unwrap(),
            revision: revision.into(),
            answer: "a\nb".into(),
            correct: true,
            latency_ms: 1.5,
            joules: Some(0.5),
            confidence: Some([0.9, 0.8, 0.7]),
        };
        let mut journal = AnswerJournal::open(&path, |_| true).unwrap();
        journal.add(answer(1, "new")).unwrap();
        journal.add(answer(2, "old")).unwrap();
        journal.file.write_all(b"{\"line\": 3, \"mod").unwrap();
        drop(journal);
        let mut journal = AnswerJournal::open(&path, |answer| answer.revision == "new").unwrap();
        let model = ModelName::new("m").unwrap();
        assert_eq!(journal.get(&model, 1), Some(&answer(1, "new")));
        assert_eq!(
            journal.get(&model, 2),
            None,
            "an answer of another revision is not valid"
        );
        journal.add(answer(3, "new")).unwrap();
        let journal = AnswerJournal::open(&path, |_| true).unwrap();
        assert!(journal.get(&model, 3).is_some());
    }
}

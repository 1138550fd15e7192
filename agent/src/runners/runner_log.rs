//! What a runner logs: forwarded to the agent's log, and its last lines kept.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// The number of lines that are kept.
const KEPT_LINES: usize = 20;
/// The longest line, in bytes. A longer one is divided.
const MAX_LINE: u64 = 2_000;

/// The line after the message of a panic, which says nothing of it.
const HINT: &str = "note: run with `RUST_BACKTRACE";

/// The last lines of one runner's log. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct RunnerLog(Arc<Mutex<VecDeque<String>>>);

/// A line of a runner's own log; see `flotilla_telemetry::logs`.
#[derive(Deserialize)]
struct LogLine {
    level: String,
    target: String,
    message: String,
}

impl RunnerLog {
    /// Reads the log to its end and forwards each line in the name of `model`.
    pub(super) async fn follow(self, model: String, stderr: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .await
            {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if !text.is_empty() && !text.starts_with(HINT) {
                self.add(forward(&model, text));
            }
        }
    }

    fn add(&self, line: String) {
        let mut lines = self.0.lock();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

/// Logs a line of a runner and returns its text. What is no line of Flotilla's own log comes from a library,
/// or is the message of a panic.
fn forward(model: &str, line: &str) -> String {
    let Ok(LogLine {
        level,
        target,
        message,
    }) = serde_json::from_str(line)
    else {
        tracing::warn!(%model, "runner: {line}");
        return line.to_owned();
    };
    match level.as_str() {
        "ERROR" => tracing::error!(%model, "runner: {target}: {message}"),
        "WARN" => tracing::warn!(%model, "runner: {target}: {message}"),
        "INFO" => tracing::info!(%model, "runner: {target}: {message}"),
        _ => tracing::debug!(%model, "runner: {target}: {message}"),
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn last_lines_are_kept_as_texts() {
        let mut text = String::new();
        for number in 0..30 {
            text += &format!("line {number}\n");
        }
        text += r#"{"level":"ERROR","target":"t","message":"no memory"}"#;
        let log = RunnerLog::default();
        log.clone().follow("m".into(), text.as_bytes()).await;
        let lines = log.lines();
        assert_eq!(lines.len(), KEPT_LINES);
        assert_eq!(lines.first().unwrap(), "line 11");
        assert_eq!(lines.last().unwrap(), "no memory");
    }

    #[tokio::test]
    async fn endless_line_is_divided() {
        let log = RunnerLog::default();
        let text = vec![b'x'; 3 * MAX_LINE as usize];
        log.clone().follow("m".into(), &text[..]).await;
        assert_eq!(log.lines().len(), 3);
    }
}

//! llama.cpp's state of the whole process.

use std::io;
use std::sync::{Arc, OnceLock};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use parking_lot::Mutex;
use tracing::Level;

use crate::LoadError;

/// llama.cpp, which is set up at the first call.
///
/// # Errors
/// When it cannot be set up.
pub(super) fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Result<LlamaBackend, LoadError>> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        send_logs_to_tracing(LogOptions::default());
        #[cfg(feature = "portable")]
        super::libraries::load()?;
        LlamaBackend::init().map_err(|error| LoadError::Engine(error.to_string()))
    });
    backend.as_ref().map_err(Clone::clone)
}

/// Runs `work` on this thread, and returns the first error that llama.cpp logs meanwhile, which names the cause: its
/// functions return none.
pub(super) fn with_first_error<T>(work: impl FnOnce() -> T) -> (T, Option<String>) {
    let log = ErrorLog::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::ERROR)
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, work);
    let lines = log.0.lock();
    let lines = String::from_utf8_lossy(&lines);
    let first = lines.lines().find(|line| !line.trim().is_empty());
    // The line, and behind it the function that logged it.
    let text = first.map(|line| line.split(" module=").next().unwrap_or(line));
    (result, text.map(|text| text.trim().to_owned()))
}

/// The lines that were logged. A load logs a few at most.
#[derive(Clone, Default)]
struct ErrorLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for ErrorLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

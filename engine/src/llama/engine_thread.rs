//! The handle of the thread that computes a model.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use flotilla_core::generate::RequestError;
use parking_lot::Mutex;
use tokio::sync::SetOnce;

use super::thread_status::ThreadStatus;

/// Sends tasks to a thread. Unloading drops the channel, after which the thread ends.
pub(super) struct EngineThread<T> {
    sender: Mutex<Option<Sender<T>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    status: Arc<ThreadStatus>,
    /// Why the thread will never answer again.
    fault: SetOnce<String>,
}

impl<T> EngineThread<T> {
    pub(super) fn new(
        sender: Sender<T>,
        thread: JoinHandle<()>,
        status: Arc<ThreadStatus>,
    ) -> Self {
        Self {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            status,
            fault: SetOnce::new(),
        }
    }

    /// How fast the thread reads prompts, in tokens per second. `None` before the first one.
    pub(super) fn reading_speed(&self) -> Option<f64> {
        self.status.reading_speed()
    }

    /// Sends a task.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(super) fn send(&self, task: T) -> Result<(), RequestError> {
        let sender = self.sender.lock();
        let sent = sender.as_ref().map(|sender| sender.send(task).is_ok());
        match sent {
            Some(true) => Ok(()),
            Some(false) | None => Err(self.stopped()),
        }
    }

    /// Why the thread will never answer again. Everybody who waits for it gets an error from then on.
    pub(super) fn fault(&self) -> Option<String> {
        if self.fault.get().is_none() {
            let has_ended = {
                let thread = self.thread.lock();
                thread.as_ref().is_some_and(JoinHandle::is_finished)
            };
            let fault = match has_ended {
                true => "the engine thread has stopped".to_owned(),
                false => self.status.stall()?,
            };
            // Another caller may have set it at the same time.
            let _ = self.fault.set(fault);
        }
        self.fault.get().cloned()
    }

    /// Waits for a fault.
    pub(super) async fn failed(&self) -> RequestError {
        RequestError::NodeLost(self.fault.wait().await.clone())
    }

    /// The error when the thread does not answer any more.
    pub(super) fn stopped(&self) -> RequestError {
        let fault = self.fault.get().cloned();
        RequestError::NodeLost(
            fault.unwrap_or_else(|| "the engine thread of the model has stopped".to_owned()),
        )
    }

    /// The error of a request that could not be prepared: `error`, unless the thread has ended and with it the
    /// vocabulary of the model.
    pub(super) fn explain(&self, error: RequestError) -> RequestError {
        match self.sender.lock().is_some() {
            true => error,
            false => self.stopped(),
        }
    }

    /// Ends the thread, and waits until it has freed its context.
    pub(super) async fn end(&self) {
        drop(self.sender.lock().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A panic of the thread has been logged.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

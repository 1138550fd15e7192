//! Checks of requests that may take long, off the async threads.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::generate::RequestError;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The number of requests that are prepared at once: the engine needs the processor, too.
const PREPARING: usize = 2;
/// How long a request may be prepared, and wait for that before. More than a few milliseconds is needed
/// only for complex schemas.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds how many requests are prepared at once, and for how long.
pub(crate) struct Preparation {
    /// One permit for each request that may be prepared at once.
    permits: Arc<Semaphore>,
    timeout: Duration,
}

impl Default for Preparation {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(PREPARING)),
            timeout: PREPARE_TIMEOUT,
        }
    }
}

impl Preparation {
    /// Runs `prepare` where it may block. Nothing can stop it: when it takes longer than the timeout, it
    /// keeps its permit until its end.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] when others are prepared all the time, [`RequestError::Invalid`] when
    /// this request takes too long, and the errors of `prepare`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        prepare: impl FnOnce() -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let deadline = Instant::now() + self.timeout;
        let permit = self.permits.clone().acquire_owned();
        let Ok(permit) = tokio::time::timeout_at(deadline, permit).await else {
            return Err(RequestError::Overloaded {
                message: "The model has too many complex requests to check.".to_owned(),
                retry_after: self.timeout,
            });
        };
        let prepared = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            prepare()
        });
        let problem = match tokio::time::timeout_at(deadline, prepared).await {
            Ok(Ok(prepared)) => return prepared,
            Ok(Err(_)) => "The request cannot be processed.",
            Err(_) => "The request is too complex.",
        };
        Err(RequestError::Invalid {
            param: None,
            message: problem.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn preparing_waits_only_until_its_timeout() {
        let mut preparation = Preparation {
            permits: Arc::new(Semaphore::new(1)),
            timeout: Duration::ZERO,
        };
        let (release, released) = std::sync::mpsc::channel::<()>();
        let endless = move || {
            // Ends when the test drops the sender.
            let _ = released.recv();
            Ok(())
        };
        let too_long = preparation.run(endless).await;
        assert!(matches!(too_long, Err(RequestError::Invalid { .. })));
        let refused = preparation.run(|| Ok(())).await;
        assert!(matches!(refused, Err(RequestError::Overloaded { .. })));
        drop(release);
        preparation.timeout = PREPARE_TIMEOUT;
        assert_eq!(preparation.run(|| Ok(7)).await, Ok(7));
    }
}

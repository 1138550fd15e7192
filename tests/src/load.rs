//! Constant load on a model, with the outcome of every request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use reqwest::Response;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Api;

/// Workers that send requests until [`Load::stop`], half of them streamed.
pub struct Load {
    stop: CancellationToken,
    workers: JoinSet<LoadTally>,
    completed: Arc<AtomicU64>,
    /// The error of the first request that failed before anything was streamed.
    first_error: Arc<OnceLock<String>>,
}

/// The outcomes of requests, counted.
#[derive(Debug, Clone, Default)]
pub struct LoadTally {
    /// Requests sent.
    pub requests: u64,
    /// Attempts on replicas beyond the first of each request.
    pub retries: u64,
    /// Streams that ended with an error after they had begun.
    pub cut_streams: u64,
    /// The errors of requests that failed before anything was streamed.
    pub errors: Vec<String>,
    /// The longest time to the head of a response.
    pub slowest: Duration,
}

impl LoadTally {
    /// Adds the outcomes of other requests.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.retries += other.retries;
        self.cut_streams += other.cut_streams;
        self.errors.extend(other.errors);
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl std::fmt::Display for LoadTally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {} retries, {} streams cut, {} errors, slowest {} ms",
            self.requests,
            self.retries,
            self.cut_streams,
            self.errors.len(),
            self.slowest.as_millis()
        )?;
        for error in self.errors.iter().take(5) {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

impl Load {
    /// Starts to send requests to `model`, `concurrency` at a time, through all `apis`.
    #[must_use]
    pub fn start(apis: &[Api], model: &str, concurrency: usize) -> Self {
        let stop = CancellationToken::new();
        let first_error = Arc::new(OnceLock::new());
        let mut workers = JoinSet::new();
        let completed = Arc::<AtomicU64>::default();
        for worker in 0..concurrency {
            let apis = apis.to_vec();
            let (model, stop) = (model.to_owned(), stop.clone());
            let completed = completed.clone();
            let first_error = first_error.clone();
            workers.spawn(async move {
                let mut tally = LoadTally::default();
                let mut stream = worker % 2 == 0;
                let mut api_index = worker;
                while !stop.is_cancelled() {
                    // As a client does that has several addresses: if one does not answer, it tries the next.
                    let api = &apis[api_index % apis.len()];
                    match send_request(api, &model, stream).await {
                        Some(outcome) => {
                            let is_complete = outcome.errors.is_empty() && outcome.cut_streams == 0;
                            completed.fetch_add(u64::from(is_complete), Ordering::Relaxed);
                            tally.add(outcome);
                        }
                        None if apis.len() > 1 => api_index += 1,
                        None => tally.errors.push("no connection".into()),
                    }
                    if let Some(error) = tally.errors.first() {
                        // Only the first one of all workers is noted.
                        let _ = first_error.set(error.clone());
                    }
                    stream = !stream;
                }
                tally
            });
        }
        Self {
            stop,
            workers,
            completed,
            first_error,
        }
    }

    /// The number of requests so far whose answers are complete.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Returns the error of the first request that failed before anything was streamed.
    #[must_use]
    pub fn first_error(&self) -> Option<&str> {
        self.first_error.get().map(String::as_str)
    }

    /// Sends no more requests, waits for those under way, and returns the outcomes of all. Prints them
    /// under the name of the load, too.
    ///
    /// # Panics
    /// Panics if a worker does.
    pub async fn stop(mut self, name: &str) -> LoadTally {
        self.stop.cancel();
        let mut all = LoadTally::default();
        while let Some(worker) = self.workers.join_next().await {
            all.add(worker.expect("workers do not panic"));
        }
        println!("{name}: {all}");
        all
    }
}

/// Sends one request. Returns `None` if the connection fails before there is an answer: then the client
/// tries another address.
async fn send_request(api: &Api, model: &str, stream: bool) -> Option<LoadTally> {
    let began = Instant::now();
    let mut tally = LoadTally {
        requests: 1,
        ..LoadTally::default()
    };
    let mut response = match api.try_chat(model, "hi", stream).await {
        Ok(response) => response,
        Err(_) => return None,
    };
    tally.slowest = began.elapsed();
    let status = response.status();
    if !status.is_success() {
        let text = response.text().await.unwrap_or_default();
        tally.errors.push(format!("{status}: {text}"));
        return Some(tally);
    }
    let attempts = response.headers().get("x-flotilla-attempts");
    let attempts = attempts.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    tally.retries = attempts.unwrap_or(1) - 1;
    match read_answer(&mut response, stream).await {
        Ok(()) => {}
        Err(_) if stream => tally.cut_streams = 1,
        // An answer that was not streamed is lost with its connection, as if there had been none.
        Err(problem) if problem.starts_with(CONNECTION_BROKEN) => return None,
        Err(problem) => tally.errors.push(problem),
    }
    Some(tally)
}

/// The prefix of the error of a broken connection.
const CONNECTION_BROKEN: &str = "connection broken: ";

/// Reads an answer to its end. Returns an error if it is incomplete or holds one.
async fn read_answer(response: &mut Response, stream: bool) -> Result<(), String> {
    let mut text = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|e| format!("{CONNECTION_BROKEN}{e:?}"))?
    {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8_lossy(&text);
    if stream && !text.trim_end().ends_with("data: [DONE]") || text.contains("\"error\":") {
        return Err(text.lines().last().unwrap_or_default().to_owned());
    }
    Ok(())
}

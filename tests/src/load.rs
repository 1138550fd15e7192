//! Constant load on a model, with what became of every request.

use std::time::{Duration, Instant};

use reqwest::Response;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Api;

/// Requests that go on until [`Load::stop`]: half of them streamed.
pub struct Load {
    stop: CancellationToken,
    workers: JoinSet<Tally>,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests made.
    pub requests: u64,
    /// Replicas asked beyond the first, over all requests.
    pub retries: u64,
    /// Streams that broke off after they had begun.
    pub cut: u64,
    /// Requests that were not answered although nothing had been streamed, with why.
    pub errors: Vec<String>,
    /// The longest that a request took to begin.
    pub slowest: Duration,
}

impl Tally {
    /// Adds what became of others.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.retries += other.retries;
        self.cut += other.cut;
        self.errors.extend(other.errors);
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {} retries, {} streams cut, {} errors, slowest {} ms",
            self.requests,
            self.retries,
            self.cut,
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
    /// Begins to ask `model` with so many requests at once, spread over `apis`.
    #[must_use]
    pub fn start(apis: &[Api], model: &str, at_once: usize) -> Self {
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for worker in 0..at_once {
            let apis = apis.to_vec();
            let (model, stop) = (model.to_owned(), stop.clone());
            workers.spawn(async move {
                let mut tally = Tally::default();
                let mut stream = worker % 2 == 0;
                let mut turn = worker;
                while !stop.is_cancelled() {
                    // As a client with several addresses: where nobody is, it asks the next.
                    let api = &apis[turn % apis.len()];
                    match ask(api, &model, stream).await {
                        Some(asked) => tally.add(asked),
                        None if apis.len() > 1 => turn += 1,
                        None => tally.errors.push("no connection".into()),
                    }
                    stream = !stream;
                }
                tally
            });
        }
        Self { stop, workers }
    }

    /// Lets the requests under way end and says what became of all, on standard output too.
    ///
    /// # Panics
    /// When a worker does.
    pub async fn stop(mut self, name: &str) -> Tally {
        self.stop.cancel();
        let mut all = Tally::default();
        while let Some(worker) = self.workers.join_next().await {
            all.add(worker.expect("workers do not panic"));
        }
        println!("{name}: {all}");
        all
    }
}

/// Asks once. `None` where there is no connection, or it breaks before there is an answer:
/// the client's to try elsewhere.
async fn ask(api: &Api, model: &str, stream: bool) -> Option<Tally> {
    let began = Instant::now();
    let mut tally = Tally {
        requests: 1,
        ..Tally::default()
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
    match read(&mut response, stream).await {
        Ok(()) => {}
        Err(_) if stream => tally.cut = 1,
        // A connection that breaks takes whole answers with it, too: as above.
        Err(problem) if problem.starts_with(BROKEN) => return None,
        Err(problem) => tally.errors.push(problem),
    }
    Some(tally)
}

/// How the problem of a broken connection begins.
const BROKEN: &str = "broken: ";

/// Reads an answer to its end.
async fn read(response: &mut Response, stream: bool) -> Result<(), String> {
    let mut text = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|e| format!("{BROKEN}{e:?}"))?
    {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8_lossy(&text);
    if stream && !text.trim_end().ends_with("data: [DONE]") || text.contains("\"error\":") {
        return Err(text.lines().last().unwrap_or_default().to_owned());
    }
    Ok(())
}

//! A server of OpenAI's API on loopback that misbehaves on request.
//!
//! The mode is the first segment of the path, as in `http://127.0.0.1:PORT/nulls/v1`, else the name of
//! the model in the request. `GET …/models` lists all modes, and `GET /received` the bodies that were
//! received so far, oldest first. An unknown mode is answered 404.
//!
//! Answers are streamed whether or not the request says so, except where the mode says otherwise. A text
//! answer is "Hello from upstream." in three pieces, with a usage of 3 and 4 tokens.
//!
//! Right answers:
//!
//! | mode | what the server does |
//! | --- | --- |
//! | `ok` | answers, whole if the request is not streamed; embeddings of `[i, 1]` for input `i` |
//! | `echo` | answers with the request's body as its text |
//! | `wait-N` | answers after N milliseconds, without a byte before |
//! | `pause-N` | pauses for N milliseconds before each piece |
//! | `comments-N` | sends N comments, one each 100 ms, before it answers |
//! | `trickle` | sends every byte on its own |
//! | `tools` | calls the request's first tool with `{"city":"Rome"}`, in three pieces |
//! | `reasoning`, `reasoning-content`, `reasoning-both` | reasons "Hm." before it answers, in that field |
//! | `refusal`, `refusal-whole` | refuses with "I cannot help with that." |
//! | `content-filter` | ends after the first piece with the finish reason `content_filter` |
//! | `logprobs` | sends the two tokens of "€", with their bytes and alternatives |
//!
//! Other forms, which clients of such servers accept:
//!
//! | mode | what the server does |
//! | --- | --- |
//! | `ignores-stream`, `ignores-stream-calls` | answers with a whole JSON body, the second with two calls |
//! | `ignores-stream-typed` | the same text, but declares it to be an event stream |
//! | `untyped` | sends events without a content type |
//! | `no-call-index` | makes two tool calls without `index`, their arguments in pieces |
//! | `calls-from-one`, `choice-from-one` | counts its calls, its choice from 1 |
//! | `object-arguments` | sends arguments as an object |
//! | `no-call-id` | makes two calls without ids |
//! | `nulls`, `nulls-whole` | sends null wherever a value may miss |
//! | `content-parts` | sends content as an array of parts |
//! | `no-finish` | sends no finish reason before `[DONE]` |
//! | `no-done`, `no-usage` | sends no `[DONE]`, no usage |
//! | `drop-after-finish` | drops the connection after the finish reason |
//! | `unknown-finish` | ends with the finish reason `eos_token` |
//! | `drop-every-other` | drops every other connection before the headers |
//!
//! Failures:
//!
//! | mode | what the server does |
//! | --- | --- |
//! | `status-N` | answers with status N and an error "status N" |
//! | `retry-seconds-N`, `retry-date-N` | answers with status N and Retry-After in 7 seconds, as a date in 60 |
//! | `context-length` | answers 400 with the code `context_length_exceeded` |
//! | `html-error` | answers 502 with a page of HTML |
//! | `redirect` | redirects to the mode `ok` |
//! | `drop-before-headers` | drops every connection before the headers |
//! | `drop-in-answer`, `drop-in-event` | drops the connection after two pieces, within an event |
//! | `silent`, `silent-in-stream`, `silent-in-answer` | sends nothing, only headers, only the first piece |
//! | `html`, `empty-body`, `empty-stream` | answers 200 with HTML, with nothing, with `[DONE]` only |
//! | `bad-json`, `bad-utf8`, `bad-types`, `deep-json` | sends an event that cannot be parsed |
//! | `error-object`, `error-text`, `error-event` | streams an error instead of an answer |
//! | `error-in-answer` | streams an error after the first piece |
//! | `error-whole` | answers 200 with an error as a whole JSON body |
//! | `huge-choice-index`, `huge-call-index` | numbers its choice, its call 3,000,000,000 |
//! | `many-choices`, `many-calls` | sends 10,000 choices, calls |
//! | `endless`, `endless-reasoning`, `endless-arguments`, `endless-calls` | never ends its answer |
//! | `endless-comments`, `endless-event`, `endless-body`, `endless-error` | never ends what it sends |
//!
//! Embeddings (the mode of a right answer above gives right ones):
//!
//! | mode | what the server does |
//! | --- | --- |
//! | `embeddings-reversed` | sends the embeddings in reverse order, with their `index` |
//! | `embeddings-unnumbered` | sends no `index` |
//! | `embeddings-base64` | sends base64 whatever the request says |
//! | `embeddings-few`, `embeddings-many` | sends one embedding too few, too many |
//! | `embeddings-twice` | sends index 0 for every embedding |
//! | `embeddings-empty`, `embeddings-uneven` | sends empty embeddings, embeddings of different lengths |
//! | `embeddings-nulls` | sends null as every embedding |
//! | `embeddings-topics` | sends embeddings with a direction for each of two topics, after 2 s if an input has "slowly" |

mod answers;
mod failures;
mod modes;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running fake server. It stops when dropped.
pub struct FakeUpstream {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl FakeUpstream {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(server::serve(listener, received.clone()));
        Self {
            address,
            received,
            task,
        }
    }

    /// Returns the address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL of a mode, for `spec.options.url`.
    #[must_use]
    pub fn url(&self, mode: &str) -> String {
        format!("http://{}/{mode}/v1", self.address)
    }

    /// Returns the bodies of the requests received so far, oldest first.
    #[must_use]
    pub fn received(&self) -> Vec<Value> {
        self.received.lock().clone()
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

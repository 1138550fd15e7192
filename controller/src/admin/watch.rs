//! Lists that can be watched: with `?watch=true` the whole list is sent again, as one line of JSON,
//! whenever it has changed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use flotilla_gateway::ApiError;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::not_known;
use super::off_thread::off_thread;
use super::resources::ResourceList;
use super::state::AdminState;
use crate::fleet::FleetView;

/// How often a list is compared again without a new view: load progress and counters change within
/// a view.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait of a list for the desired state, which a controller reads within milliseconds when it
/// starts.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);

/// The query of a list.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct WatchQuery {
    /// Whether to keep sending the list as it changes.
    #[serde(default)]
    watch: bool,
}

/// Waits until the desired state is known, for a moment.
///
/// # Errors
/// 503 when it is not: an empty list would say that the fleet has nothing.
pub(super) async fn wait_until_synced(state: &AdminState) -> Result<(), ApiError> {
    let mut changes = state.fleet.changes();
    let synced = async {
        loop {
            changes.borrow_and_update();
            if state.fleet.peek().synced || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // What is known after the timeout is looked at.
    let _ = tokio::time::timeout(SYNC_TIMEOUT, synced).await;
    let view = state.fleet.view();
    if view.synced {
        return Ok(());
    }
    Err(not_known(&view, "What the fleet has"))
}

/// Replies with what `list` reads from the view: once, or as a stream of lines when watched.
pub(super) async fn reply<T: Serialize>(
    state: AdminState,
    query: &WatchQuery,
    list: impl Fn(&FleetView) -> ResourceList<T> + Send + Sync + 'static,
) -> Result<Response, ApiError> {
    wait_until_synced(&state).await?;
    let list = Arc::new(list);
    // A list of a large fleet takes long to make.
    let json = move |view: Arc<FleetView>| {
        let list = list.clone();
        // Lists consist of strings and numbers: serializing them cannot fail.
        off_thread(move || serde_json::to_vec(&list(&view)).unwrap_or_default())
    };
    if !query.watch {
        let body = json(state.fleet.view()).await?;
        let content_type = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Ok(([content_type], body).into_response());
    }
    let AdminState { fleet, drain, .. } = state;
    let lines = async_stream::stream! {
        let mut changes = fleet.changes();
        let mut sent = Vec::new();
        loop {
            changes.borrow_and_update();
            let Ok(mut line) = json(fleet.view()).await else {
                return;
            };
            line.push(b'\n');
            if line != sent {
                yield Ok::<_, Infallible>(line.clone());
                sent = line;
            }
            tokio::select! {
                // An open list must not keep the controller from stopping.
                () = drain.cancelled() => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    };
    let mut response = Body::from_stream(lines).into_response();
    let content_type = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

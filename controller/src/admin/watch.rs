//! Lists that go on: the whole list again, as a line of JSON, whenever it has changed.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};

use super::ResourceList;
use crate::fleet::{FleetHandle, FleetView};

/// How often is looked for what makes no new view: progress and counters.
const LOOK: Duration = Duration::from_millis(500);

/// Whether a list is to go on.
#[derive(Debug, Deserialize)]
pub(super) struct WatchQuery {
    #[serde(default)]
    watch: bool,
}

/// A list, once or again and again.
pub(super) fn answer<T: Serialize>(
    fleet: FleetHandle,
    watch: &WatchQuery,
    list: impl Fn(&FleetView) -> ResourceList<T> + Send + 'static,
) -> Response {
    if !watch.watch {
        return axum::Json(list(&fleet.view())).into_response();
    }
    let lines = async_stream::stream! {
        let mut changes = fleet.changes();
        let mut last = Vec::new();
        loop {
            changes.borrow_and_update();
            // Lists are made of texts and numbers: serializing them cannot fail.
            let mut line = serde_json::to_vec(&list(&fleet.view())).unwrap_or_default();
            line.push(b'\n');
            if line != last {
                yield Ok::<_, Infallible>(line.clone());
                last = line;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    };
    let mut response = Body::from_stream(lines).into_response();
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

//! The trace of a request, from its headers to the end of its answer.

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use flotilla_telemetry::trace::{Stage, Tracer};
use http_body_util::BodyExt;

/// Answers a request as the first part of its trace in this process, if it is sampled.
pub(crate) async fn traced(State(tracer): State<Tracer>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or("", MatchedPath::as_str);
    // All routes of the layer take POST only; what is refused for its method ends here, too.
    let stage = tracer.begin(request.headers(), name(route));
    if !stage.is_recorded() {
        return next.run(request).await;
    }
    let route = route.to_owned();
    stage.set("http.request.method", request.method().as_str().to_owned());
    stage.set("url.path", request.uri().path().to_owned());
    stage.set("http.route", route);
    let response = stage.run(next.run(request)).await;
    let status = response.status();
    stage.set("http.response.status_code", i64::from(status.as_u16()));
    hold(response, stage)
}

/// The name of a route's span: none is put together for requests that are not sampled.
fn name(route: &str) -> &'static str {
    match route {
        "/v1/chat/completions" => "POST /v1/chat/completions",
        "/v1/completions" => "POST /v1/completions",
        "/v1/embeddings" => "POST /v1/embeddings",
        _ => "POST",
    }
}

/// The response, which ends the stage with its last byte.
fn hold(response: Response, stage: Stage) -> Response {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _until_the_end = &stage;
            frame
        }))
    })
}

//! Requests to the other controllers of the fleet, for what each of them has for itself.

use std::collections::BTreeMap;

use flotilla_gateway::ApiError;
use futures::future::join_all;
use http::{HeaderMap, Method, StatusCode};
use reqwest::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::identified_request;
use crate::fleet::{ControllerRecord, FleetHandle};
use crate::tls::ControllerClient;

/// Marks a request that another controller has forwarded. It is not forwarded again, so that two
/// controllers do not send it back and forth.
const FORWARDED_BY: &str = "x-flotilla-forwarded-by";

/// Reaches the other controllers of the fleet. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OtherControllers {
    /// The id of this controller.
    pub(crate) id: String,
    pub(crate) fleet: FleetHandle,
    pub(crate) client: ControllerClient,
}

/// The answers of the controllers that gave one.
pub(super) struct ControllerAnswers<T> {
    pub(super) answers: Vec<T>,
    /// Which controllers gave none, and why.
    pub(super) notes: Vec<String>,
}

/// Whether another controller has forwarded a request with these headers.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED_BY)
}

impl OtherControllers {
    /// Returns the address of the API of the controller with this id, if it runs.
    pub(super) fn address(&self, id: &str) -> Option<String> {
        let view = self.fleet.peek();
        view.controllers.get(id).map(|record| record.http.clone())
    }

    /// Sends a request to the controller at `address`, with a JSON body if there is one.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn forward(
        &self,
        address: &str,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> reqwest::Result<Response> {
        let secret = self.fleet.peek().controller_secret.clone();
        let request = identified_request(&self.client, secret.as_ref(), address, method, path);
        let request = request.header(FORWARDED_BY, "controller");
        match body {
            Some(body) => request.json(body),
            None => request,
        }
        .send()
        .await
    }

    /// Sends a request to all other controllers at once, and collects their answers.
    pub(super) async fn send_to_all<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> ControllerAnswers<T> {
        let others = other_addresses(&self.fleet.peek().controllers, &self.id);
        let requests = others.iter().map(async |(address, _)| {
            let no_body = None::<&()>;
            let response = self.forward(address, method.clone(), path, no_body);
            response.await?.error_for_status()?.json::<T>().await
        });
        let mut collected = ControllerAnswers {
            answers: Vec::new(),
            notes: Vec::new(),
        };
        for ((address, id), answer) in others.iter().zip(join_all(requests).await) {
            match answer {
                Ok(answer) => collected.answers.push(answer),
                Err(error) => {
                    let error = error.without_url();
                    collected.notes.push(format!(
                        "the controller {id} at {address} does not answer ({error}): what it has is missing here"
                    ));
                }
            }
        }
        collected
    }
}

/// The addresses of the controllers other than `id`, each with the id of one that has it. One that was
/// restarted has another id and is registered twice for a while, so that it is named once.
fn other_addresses(
    controllers: &BTreeMap<String, ControllerRecord>,
    id: &str,
) -> BTreeMap<String, String> {
    let own = controllers.get(id).map(|record| record.http.as_str());
    let others = controllers.iter();
    let others = others.filter(|(other, record)| *other != id && Some(&*record.http) != own);
    others
        .map(|(other, record)| (record.http.clone(), other.clone()))
        .collect()
}

/// The error for a decision that another controller made, which does not answer.
pub(super) fn unreachable_owner(id: &str, error: &reqwest::Error) -> ApiError {
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        "server_error",
        Some("controller_unreachable"),
        format!("The controller that made the decision '{id}' does not answer: {error}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_controller_that_is_registered_twice_is_sent_one_request() {
        let controllers = [
            ("own", "a:1"),
            ("own-before", "a:1"),
            ("other", "b:1"),
            ("other-before", "b:1"),
            ("third", "c:1"),
        ];
        let controllers = controllers.map(|(id, http)| {
            let record = ControllerRecord {
                link: String::new(),
                http: http.into(),
                version: String::new(),
            };
            (id.to_owned(), record)
        });
        let others = other_addresses(&controllers.into(), "own");
        let addresses: Vec<_> = others.keys().map(String::as_str).collect();
        assert_eq!(addresses, ["b:1", "c:1"]);
    }
}

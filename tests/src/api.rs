//! A client of the fleet's HTTP API.

use std::net::SocketAddr;
use std::path::Path;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

/// A client of the API at one address. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
    /// The API key that is sent with requests.
    key: Option<String>,
}

/// The counters of a model since it was loaded, summed over its replicas. Nodes report them about once
/// a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that are being computed.
    pub active: u64,
    /// Requests that wait in the admission queues of the nodes.
    pub queued: u64,
    /// Requests that have ended, however they ended.
    pub requests: u64,
    /// Requests that were cancelled, for instance because their client left.
    pub cancelled: u64,
    /// Tokens of all answers.
    pub output_tokens: u64,
}

impl Api {
    /// Returns a client of the API at `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::new(),
            base: format!("http://{address}"),
            key: None,
        }
    }

    /// Returns a client of the API at `address` over HTTPS that trusts this authority alone, in PEM.
    ///
    /// # Panics
    /// Panics if it is no certificate.
    #[must_use]
    pub fn with_authority(address: SocketAddr, authority: &[u8]) -> Self {
        let authority = reqwest::Certificate::from_pem(authority).expect("a certificate");
        let client = Client::builder().tls_certs_only([authority]).build();
        Self {
            client: client.expect("the certificate can be used"),
            base: format!("https://{address}"),
            key: None,
        }
    }

    /// Returns a client of the API on an admin socket.
    ///
    /// # Panics
    /// Panics if the client cannot be made.
    #[must_use]
    pub fn on_socket(path: &Path) -> Self {
        let client = Client::builder().unix_socket(path.to_owned()).build();
        Self {
            client: client.expect("a client of a socket"),
            base: "http://localhost".to_owned(),
            key: None,
        }
    }

    /// Returns a client of the same API that sends this API key with requests.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self.clone()
        }
    }

    /// Applies a resource: a model, a task or the router.
    ///
    /// # Panics
    /// Panics if the resource is refused.
    pub async fn apply(&self, resource: &Value) {
        let (status, answer) = self.try_apply(resource).await;
        assert!((200..300).contains(&status), "{status}: {answer}");
    }

    /// Applies a resource as [`Api::apply`] does, and returns the status and the body of the response
    /// whatever they are.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn try_apply(&self, resource: &Value) -> (u16, Value) {
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let name = text(&resource["metadata"]["name"]);
        let kind = text(&resource["kind"]).to_lowercase();
        self.put(&format!("api/v1/{kind}s/{name}"), resource).await
    }

    /// Deletes a model.
    ///
    /// # Panics
    /// Panics if that is refused.
    pub async fn delete_model(&self, model: &str) {
        let request = self.request(Method::DELETE, &format!("api/v1/models/{model}"));
        let response = request.send().await.expect("a response");
        assert!(response.status().is_success(), "{}", response.status());
    }

    /// Sets the operation of a node: whether it is cordoned and draining.
    ///
    /// # Panics
    /// Panics if that is refused.
    pub async fn set_node_operation(&self, node: &str, operation: &Value) {
        let status = self.try_set_node_operation(node, operation).await;
        assert!((200..300).contains(&status), "{status}");
    }

    /// Sets the operation of a node as [`Api::set_node_operation`] does, and returns the status whatever
    /// it is.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn try_set_node_operation(&self, node: &str, operation: &Value) -> u16 {
        let path = format!("api/v1/nodes/{node}/operation");
        self.put(&path, operation).await.0
    }

    /// Returns the names of the nodes that a model is assigned to.
    pub async fn assigned_nodes(&self, model: &str) -> Vec<String> {
        let model = self.model(model).await;
        let replicas = model["status"]["replicas"].as_array().cloned();
        let replicas = replicas.unwrap_or_default();
        let names = replicas
            .iter()
            .filter_map(|replica| replica["node"].as_str().map(str::to_owned));
        names.collect()
    }

    /// Returns all nodes.
    pub async fn nodes(&self) -> Vec<Value> {
        self.items("nodes").await
    }

    /// Returns all models.
    pub async fn models(&self) -> Vec<Value> {
        self.items("models").await
    }

    /// Sends `GET` to a path and returns the status and the JSON of the response, `null` if the body is
    /// not JSON.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.get_response(path).await;
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// Sends `GET` to a path and returns the response.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn get_response(&self, path: &str) -> Response {
        let request = self.request(Method::GET, path);
        request.send().await.expect("a response")
    }

    /// Returns all resources of a kind, such as `tasks`; none if there is no response.
    pub async fn items(&self, kind: &str) -> Vec<Value> {
        let request = self.request(Method::GET, &format!("api/v1/{kind}"));
        let Ok(response) = request.send().await else {
            return Vec::new();
        };
        let list: Value = response.json().await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Returns the model of this name, `null` if there is none.
    pub async fn model(&self, name: &str) -> Value {
        let models = self.models().await;
        let model = models
            .into_iter()
            .find(|model| model["metadata"]["name"] == name);
        model.unwrap_or_default()
    }

    /// Returns how many replicas of a model are ready.
    pub async fn ready_replicas(&self, model: &str) -> u64 {
        let ready = self.model(model).await["status"]["ready"].as_u64();
        ready.unwrap_or(0)
    }

    /// Returns the counters of a model, summed over all nodes.
    pub async fn counters(&self, model: &str) -> Counters {
        let mut sum = Counters::default();
        for node in self.nodes().await {
            let models = node["status"]["models"].as_array().cloned();
            let models = models.unwrap_or_default();
            for replica in models.iter().filter(|m| m["name"] == model) {
                let count = |field: &str| replica["counters"][field].as_u64().unwrap_or(0);
                sum.active += count("active");
                sum.queued += count("queued");
                sum.requests += count("requests");
                sum.cancelled += count("cancelled");
                sum.output_tokens += count("outputTokens");
            }
        }
        sum
    }

    /// Sends a chat request of one user message and returns the response, whatever its status is.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn chat(&self, model: &str, text: &str, stream: bool) -> Response {
        let response = self.try_chat(model, text, stream).await;
        response.expect("a response")
    }

    /// Sends a chat request as [`Api::chat`] does.
    ///
    /// # Errors
    /// Returns the error of the connection if there is no response.
    pub async fn try_chat(
        &self,
        model: &str,
        text: &str,
        stream: bool,
    ) -> Result<Response, reqwest::Error> {
        let body = json!({
            "model": model, "stream": stream, "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        });
        let request = self.request(Method::POST, "v1/chat/completions");
        request.json(&body).send().await
    }

    /// Sends `PUT` with a JSON body and returns the status and the JSON of the response, `null` if the
    /// body is not JSON.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.request(Method::PUT, path).json(body).send().await;
        let response = response.expect("a response");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// Sends `POST` with a JSON body and returns the response, whatever its status is.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        let response = self.request(Method::POST, path).json(body).send().await;
        response.expect("a response")
    }

    /// Returns a request to a path, with the API key if there is one.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a chat request of one user message and returns the text of the answer.
    ///
    /// # Panics
    /// Panics if the request is not answered.
    pub async fn answer(&self, model: &str, text: &str) -> String {
        let response = self.chat(model, text, false).await;
        let status = response.status();
        let body: Value = response.json().await.expect("a JSON body");
        let content = body["choices"][0]["message"]["content"].as_str();
        content
            .unwrap_or_else(|| panic!("{status}: {body}"))
            .to_owned()
    }
}

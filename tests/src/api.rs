//! The fleet's HTTP API, as tests use it.

use std::net::SocketAddr;

use reqwest::{Client, Response};
use serde_json::{Value, json};

/// The API at one address. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
    /// Sent with requests to models.
    key: Option<String>,
}

/// What a model on a node did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub active: u64,
    pub queued: u64,
    pub requests: u64,
    pub cancelled: u64,
    pub output_tokens: u64,
}

impl Api {
    /// The API at `address`.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            client: Client::new(),
            base: format!("http://{address}"),
            key: None,
        }
    }

    /// The same for a client with an API key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: Some(key.to_owned()),
            ..self.clone()
        }
    }

    /// Makes the wish for a model, a task or the router be this resource.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn apply(&self, resource: &Value) {
        let (status, answer) = self.try_apply(resource).await;
        assert!((200..300).contains(&status), "{status}: {answer}");
    }

    /// Like [`Api::apply`], with the status and the answer whatever they are.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn try_apply(&self, resource: &Value) -> (u16, Value) {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let name = text(&resource["metadata"]["name"]);
        let kind = text(&resource["kind"]).to_lowercase();
        let url = format!("{}/api/v1/{kind}s/{name}", self.base);
        let response = self
            .client
            .put(url)
            .json(resource)
            .send()
            .await
            .expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// Ends the wish for a model.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, model: &str) {
        let url = format!("{}/api/v1/models/{model}", self.base);
        let response = self.client.delete(url).send().await.expect("an answer");
        assert!(response.status().is_success(), "{}", response.status());
    }

    /// Says what is wanted of a node.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn order(&self, node: &str, order: &Value) {
        let status = self.try_order(node, order).await;
        assert!((200..300).contains(&status), "{status}");
    }

    /// Like [`Api::order`], with the status whatever it is.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn try_order(&self, node: &str, order: &Value) -> u16 {
        let url = format!("{}/api/v1/nodes/{node}/operation", self.base);
        let response = self.client.put(url).json(order).send().await;
        response.expect("an answer").status().as_u16()
    }

    /// The nodes that are to serve a model.
    pub async fn on(&self, model: &str) -> Vec<String> {
        let model = self.model(model).await;
        let replicas = model["status"]["replicas"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let names = replicas
            .iter()
            .filter_map(|r| r["node"].as_str().map(str::to_owned));
        names.collect()
    }

    /// All nodes.
    pub async fn nodes(&self) -> Vec<Value> {
        self.items("nodes").await
    }

    /// All models.
    pub async fn models(&self) -> Vec<Value> {
        self.items("models").await
    }

    /// The status and the JSON at a path.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let url = format!("{}/{path}", self.base);
        let response = self.client.get(url).send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// All resources of a kind; none where nobody answers.
    pub async fn items(&self, kind: &str) -> Vec<Value> {
        let url = format!("{}/api/v1/{kind}", self.base);
        let Ok(response) = self.client.get(url).send().await else {
            return Vec::new();
        };
        let list: Value = response.json().await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The model of this name, `null` where there is none.
    pub async fn model(&self, name: &str) -> Value {
        let models = self.models().await;
        let found = models
            .into_iter()
            .find(|model| model["metadata"]["name"] == name);
        found.unwrap_or_default()
    }

    /// Replicas of a model that answer.
    pub async fn ready(&self, name: &str) -> u64 {
        self.model(name).await["status"]["ready"]
            .as_u64()
            .unwrap_or(0)
    }

    /// What a model did, over all nodes.
    pub async fn counters(&self, model: &str) -> Counters {
        let mut sum = Counters::default();
        for node in self.nodes().await {
            let models = node["status"]["models"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for on_node in models.iter().filter(|m| m["name"] == model) {
                let count = |field: &str| on_node["counters"][field].as_u64().unwrap_or(0);
                sum.active += count("active");
                sum.queued += count("queued");
                sum.requests += count("requests");
                sum.cancelled += count("cancelled");
                sum.output_tokens += count("outputTokens");
            }
        }
        sum
    }

    /// Asks a model and gives the response, whatever it is.
    ///
    /// # Panics
    /// When there is no response at all.
    pub async fn chat(&self, model: &str, text: &str, stream: bool) -> Response {
        let response = self.try_chat(model, text, stream).await;
        response.expect("a response")
    }

    /// Like [`Api::chat`], with what kept the response away.
    ///
    /// # Errors
    /// Those of the connection.
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
        let url = format!("{}/v1/chat/completions", self.base);
        let mut request = self.client.post(url).json(&body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        request.send().await
    }

    /// The status and the JSON that a `PUT` of JSON is answered with.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}/{path}", self.base);
        let response = self.client.put(url).json(body).send().await;
        let response = response.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    /// What a `POST` of JSON is answered with, whatever it is.
    ///
    /// # Panics
    /// When there is no response at all.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        let url = format!("{}/{path}", self.base);
        let response = self.client.post(url).json(body).send().await;
        response.expect("a response")
    }

    /// Asks a model and gives the text of its answer.
    ///
    /// # Panics
    /// When it is not answered.
    pub async fn answer(&self, model: &str, text: &str) -> String {
        let response = self.chat(model, text, false).await;
        let status = response.status();
        let body: Value = response.json().await.expect("JSON");
        let content = body["choices"][0]["message"]["content"].as_str();
        content
            .unwrap_or_else(|| panic!("{status}: {body}"))
            .to_owned()
    }
}

//! Routes together with what `/openapi.json` says of them, so that neither exists without the other.
//!
//! aide does this for axum too, but takes the types from handlers' arguments: here the handlers read
//! their bodies by themselves, for errors in OpenAI's shape. The schemas come from schemars, as those of
//! the resources do.

use axum::Router;
use axum::routing::{MethodRouter, get};
use flotilla_identity::keys::{Action, Role};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::access::RouteActions;
use crate::error::ErrorEnvelope;
use crate::json_response::json_response;

/// Errors that every route can have.
const COMMON_ERRORS: [u16; 3] = [400, 405, 500];
/// Errors of a route that needs a key, where the fleet requires keys.
const ACCESS_ERRORS: [u16; 2] = [401, 403];
/// Errors that a route with a request body can have besides.
const BODY_ERRORS: [u16; 3] = [408, 413, 415];

/// Returns a schema, or a reference to it.
type SchemaFunction = fn(&mut SchemaGenerator) -> Schema;

/// Routes of the API, with their description.
pub struct ApiRoutes<S = ()> {
    router: Router<S>,
    operations: Vec<Operation>,
}

/// What a route does: the action that its sender must be allowed to perform, its parameters, its request body and its responses.
pub struct Operation {
    action: Action,
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    query: Option<SchemaFunction>,
    request: Option<Content>,
    responses: Vec<(u16, Option<Content>)>,
    errors: Vec<u16>,
}

/// The content of a body.
#[derive(Clone)]
struct Content {
    media_type: &'static str,
    /// The body must match all of them.
    schemas: Vec<SchemaFunction>,
}

impl Content {
    fn json(schemas: Vec<SchemaFunction>) -> Self {
        Self {
            media_type: "application/json",
            schemas,
        }
    }
}

impl Operation {
    /// The operation that a request with this `method` to a path performs, for whoever may perform `action`. Each `{name}` in the path is a
    /// parameter of it.
    #[must_use]
    pub fn new(
        action: Action,
        method: &'static str,
        path: &'static str,
        summary: &'static str,
    ) -> Self {
        let names = path.split('{').skip(1);
        let names = names.filter_map(|rest| rest.split('}').next());
        let parameters = names.map(|name| {
            json!({"name": name.trim_start_matches('*'), "in": "path", "required": true,
                "schema": {"type": "string", "minLength": 1}})
        });
        let mut errors = COMMON_ERRORS.to_vec();
        if action != Action::Public {
            errors.extend(ACCESS_ERRORS);
        }
        Self {
            action,
            method,
            path,
            summary,
            parameters: parameters.collect(),
            query: None,
            request: None,
            responses: Vec::new(),
            errors,
        }
    }

    /// Adds the parameters of the query: the fields of `T`.
    #[must_use]
    pub fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(<T as JsonSchema>::json_schema);
        self
    }

    /// Adds a JSON body.
    #[must_use]
    pub fn body<T: JsonSchema>(self) -> Self {
        self.with_body(Content::json(vec![SchemaGenerator::subschema_for::<T>]))
    }

    /// Adds a JSON body that has the fields of two types.
    #[must_use]
    pub(crate) fn body_pair<A: JsonSchema, B: JsonSchema>(self) -> Self {
        let schemas: Vec<SchemaFunction> = vec![
            SchemaGenerator::subschema_for::<A>,
            SchemaGenerator::subschema_for::<B>,
        ];
        self.with_body(Content::json(schemas))
    }

    /// Adds a body that is not JSON.
    #[must_use]
    pub fn raw_body(self, media_type: &'static str) -> Self {
        let schemas = Vec::new();
        self.with_body(Content {
            media_type,
            schemas,
        })
    }

    fn with_body(mut self, content: Content) -> Self {
        self.request = Some(content);
        self.errors.extend(BODY_ERRORS);
        self
    }

    /// Adds a JSON response.
    #[must_use]
    pub fn returns<T: JsonSchema>(mut self, status: u16) -> Self {
        let content = Content::json(vec![SchemaGenerator::subschema_for::<T>]);
        self.responses.push((status, Some(content)));
        self
    }

    /// Adds a response with a body that is not JSON.
    #[must_use]
    pub fn returns_raw(mut self, status: u16, media_type: &'static str) -> Self {
        let schemas = Vec::new();
        let content = Content {
            media_type,
            schemas,
        };
        self.responses.push((status, Some(content)));
        self
    }

    /// Adds a response without a body.
    #[must_use]
    pub fn returns_nothing(mut self, status: u16) -> Self {
        self.responses.push((status, None));
        self
    }

    /// Adds error responses besides those that every route has.
    #[must_use]
    pub fn errors(mut self, statuses: &[u16]) -> Self {
        self.errors.extend(statuses);
        self
    }
}

impl<S: Clone + Send + Sync + 'static> ApiRoutes<S> {
    /// No routes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            router: Router::new(),
            operations: Vec::new(),
        }
    }

    /// Adds the route of an operation. `handler` is for its method.
    #[must_use]
    pub fn route(mut self, operation: Operation, handler: MethodRouter<S>) -> Self {
        self.router = self.router.route(operation.path, handler);
        self.operations.push(operation);
        self
    }

    /// Changes the router of the routes so far.
    #[must_use]
    pub fn map_router(mut self, change: impl FnOnce(Router<S>) -> Router<S>) -> Self {
        self.router = change(self.router);
        self
    }

    /// Provides the state of the handlers.
    #[must_use]
    pub fn with_state<T>(self, state: S) -> ApiRoutes<T> {
        ApiRoutes {
            router: self.router.with_state(state),
            operations: self.operations,
        }
    }

    /// Adds the routes of `other`.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }
}

impl<S: Clone + Send + Sync + 'static> Default for ApiRoutes<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// The generators of schemas: a field with a default need not be in a request, but is in a response.
struct Generators {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

impl ApiRoutes {
    /// Returns the router, with the description of all routes at `/openapi.json`, and the action of each route.
    pub(crate) fn into_router(mut self) -> (Router, RouteActions) {
        let operation = Operation::new(
            Action::Identified,
            "get",
            "/openapi.json",
            "Describes this API",
        );
        self.operations
            .push(operation.returns::<Map<String, Value>>(200));
        let document = self.document();
        let serve = get(async move || json_response(&document));
        let mut actions = RouteActions::default();
        for operation in &self.operations {
            actions.insert(operation.method, operation.path, operation.action);
        }
        (self.router.route("/openapi.json", serve), actions)
    }

    /// The description in the format of OpenAPI 3.1.
    fn document(&self) -> Value {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        let mut generators = Generators {
            requests: settings.clone().for_deserialize().into_generator(),
            responses: settings.for_serialize().into_generator(),
        };
        let mut paths = Map::new();
        for operation in &self.operations {
            let description = operation.describe(&mut generators);
            let path = operation.path.replace("{*", "{");
            let entry = paths.entry(path).or_insert_with(|| json!({}));
            entry[operation.method] = description;
        }
        let mut schemas = generators.requests.take_definitions(true);
        for (name, schema) in generators.responses.take_definitions(true) {
            // No type is both read and written with different schemas.
            debug_assert!(
                schemas.get(&name).is_none_or(|other| *other == schema),
                "{name}"
            );
            schemas.insert(name, schema);
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Flotilla",
                "version": env!("CARGO_PKG_VERSION"),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        })
    }
}

impl Operation {
    fn describe(&self, generators: &mut Generators) -> Value {
        let mut parameters = self.parameters.clone();
        if let Some(query) = self.query {
            let schema = query(&mut generators.requests).to_value();
            let fields = schema["properties"]
                .as_object()
                .cloned()
                .unwrap_or_default();
            parameters.extend(fields.into_iter().map(|(name, schema)| {
                json!({"name": name, "in": "query", "required": false, "schema": schema})
            }));
        }
        let mut responses = Map::new();
        let error = generators.responses.subschema_for::<ErrorEnvelope<'_>>();
        for status in &self.errors {
            let content = json!({"application/json": {"schema": error}});
            let description = "An error in OpenAI's shape.";
            let response = json!({"description": description, "content": content});
            responses.insert(status.to_string(), response);
        }
        for (status, content) in &self.responses {
            let response = responses.entry(status.to_string()).or_insert_with(
                || json!({"description": if *status < 400 { "Success." } else { "An error." }}),
            );
            if let Some(content) = content {
                // One status can have several media types.
                if !response["content"].is_object() {
                    response["content"] = json!({});
                }
                response["content"][content.media_type] =
                    content.describe(&mut generators.responses);
            }
        }
        let mut description = json!({
            "summary": self.summary,
            "operationId": self.id(),
            "parameters": parameters,
            "responses": responses,
        });
        if self.action != Action::Public {
            let roles = Role::ALL
                .into_iter()
                .filter(|role| role.allows(self.action));
            let roles: Vec<_> = roles.map(Role::as_str).collect();
            // A fleet that requires no keys needs none.
            description["security"] = json!([{}, {"key": roles}]);
        }
        if let Some(content) = &self.request {
            let body = content.describe(&mut generators.requests);
            description["requestBody"] =
                json!({"required": true, "content": {content.media_type: body}});
        }
        description
    }

    /// A name of the operation in which only letters, digits and `_` occur.
    fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| !word.is_empty());
        let words: Vec<_> = std::iter::once(self.method).chain(words).collect();
        words.join("_")
    }
}

impl Content {
    fn describe(&self, generator: &mut SchemaGenerator) -> Value {
        let mut schemas = self.schemas.iter().map(|schema| schema(generator));
        match (schemas.next(), schemas.next()) {
            (None, _) => json!({}),
            (Some(only), None) => json!({"schema": only}),
            (Some(first), Some(second)) => json!({"schema": {"allOf": [first, second]}}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct WatchQuery {
        watch: bool,
    }

    #[test]
    fn document_describes_parameters_bodies_and_errors() {
        let list = Operation::new(Action::Read, "get", "/things/{name}", "Returns a thing")
            .query::<WatchQuery>()
            .returns::<WatchQuery>(200)
            .errors(&[404]);
        let upload = Operation::new(Action::Operate, "put", "/things/{name}", "Stores a thing")
            .raw_body("application/octet-stream")
            .returns_nothing(204);
        let routes = ApiRoutes::<()>::new()
            .route(list, get(async || ""))
            .route(upload, axum::routing::put(async || ""));
        let document = routes.document();
        let operation = &document["paths"]["/things/{name}"]["get"];
        assert_eq!(operation["operationId"], "get_things_name");
        assert_eq!(operation["parameters"][0]["name"], "name");
        assert_eq!(operation["parameters"][1]["name"], "watch");
        let reference = "#/components/schemas/WatchQuery";
        let content = &operation["responses"]["200"]["content"]["application/json"];
        assert_eq!(content["schema"]["$ref"], reference);
        for status in ["400", "404", "405", "500"] {
            assert!(operation["responses"][status].is_object(), "{status}");
        }
        assert!(document["components"]["schemas"]["WatchQuery"].is_object());
        let upload = &document["paths"]["/things/{name}"]["put"];
        assert!(upload["requestBody"]["content"]["application/octet-stream"].is_object());
        assert!(upload["responses"]["415"].is_object());
    }
}

//! Walks through a schema and builds the one that the grammar compiler gets.

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::limits::{self, Budget, MAX_COUNT, MAX_DEPTH, MAX_LENGTH, steps_of_text};
use super::one_of::exclude_each_other;
use super::pattern;
use super::references::{self, References, Resource, Target};

/// The formats that the grammar enforces.
pub(crate) const FORMATS: [&str; 11] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "unknown",
];
const TYPES: [&str; 7] = [
    "null", "boolean", "number", "integer", "string", "array", "object",
];
/// Keywords whose constraints the grammar lacks.
const UNSUPPORTED: [&str; 16] = [
    "propertyNames",
    "contains",
    "minContains",
    "maxContains",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "uniqueItems",
];

/// The state of a walk through one document.
pub(super) struct Walk<'a, 'b> {
    strict: bool,
    /// Whether objects get only the properties that they list.
    closes_objects: bool,
    references: References<'a>,
    budget: &'b mut Budget,
}

/// Where a subschema is.
struct SchemaLocation<'p, 'a> {
    path: &'p str,
    depth: usize,
    resource: &'p Resource<'a>,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub(super) fn new(
        document: &'a Value,
        strict: bool,
        references: References<'a>,
        budget: &'b mut Budget,
    ) -> Self {
        Self {
            strict,
            closes_objects: !combines_objects(document),
            references,
            budget,
        }
    }

    /// Prepares the document itself.
    pub(super) fn root(&mut self, document: &'a Value, path: &str) -> Result<Value, SchemaError> {
        let resource = Resource {
            root: document,
            path: path.to_owned(),
        };
        self.schema(
            document,
            &SchemaLocation {
                path,
                depth: 0,
                resource: &resource,
            },
        )
    }

    /// Takes the next schema that the prepared ones refer to, with its name under `$defs`.
    pub(super) fn next_target(&mut self) -> Option<(String, Target<'a>)> {
        self.references.next_target()
    }

    /// Prepares a schema that others refer to.
    pub(super) fn target(&mut self, target: &Target<'a>) -> Result<Value, SchemaError> {
        let location = SchemaLocation {
            path: &target.path,
            depth: 0,
            resource: &target.resource,
        };
        self.schema(target.schema, &location)
    }

    fn schema(
        &mut self,
        schema: &'a Value,
        location: &SchemaLocation<'_, 'a>,
    ) -> Result<Value, SchemaError> {
        self.budget.take_subschema(location.path)?;
        if location.depth > MAX_DEPTH {
            let message = format!("Schemas can be nested at most {MAX_DEPTH} levels deep.");
            return Err(SchemaError::new(location.path, message));
        }
        let fields = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(fields) => fields,
            _ => {
                let message = "A schema must be an object, true or false.";
                return Err(SchemaError::new(location.path, message));
            }
        };
        // Each keyword gets a path of its own.
        let steps = steps_of_text(location.path).saturating_mul(fields.len());
        self.budget.take_steps(steps, location.path)?;
        let own_resource = references::own_id(schema).map(|_| Resource {
            root: schema,
            path: location.path.to_owned(),
        });
        let resource = own_resource.as_ref().unwrap_or(location.resource);
        let mut prepared = Map::new();
        for (keyword, value) in fields {
            let path = format!("{}.{keyword}", location.path);
            let location = SchemaLocation {
                path: &path,
                depth: location.depth + 1,
                resource,
            };
            if let Some(value) = self.keyword(keyword, value, &location)? {
                prepared.insert(keyword.clone(), value);
            }
        }
        if self.closes_objects && is_open_object(fields) {
            prepared.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        // Where a pattern was left out, its properties must not count as additional ones.
        if fields.contains_key("patternProperties") && !prepared.contains_key("patternProperties") {
            prepared.remove("additionalProperties");
        }
        Ok(Value::Object(prepared))
    }

    /// Prepares a keyword and its value. `None` if it says nothing that the grammar enforces.
    fn keyword(
        &mut self,
        keyword: &str,
        value: &'a Value,
        location: &SchemaLocation<'_, 'a>,
    ) -> Result<Option<Value>, SchemaError> {
        let prepared = match keyword {
            "properties" | "patternProperties" => {
                return self.property_schemas(keyword, value, location);
            }
            "items" if value.is_array() => self.list(value, location)?,
            "items" | "additionalItems" | "additionalProperties" => self.schema(value, location)?,
            "prefixItems" | "anyOf" | "allOf" => self.list(value, location)?,
            "oneOf" => {
                self.check_one_of(value, location)?;
                self.list(value, location)?
            }
            "$ref" => {
                let reference = value.as_str().ok_or_else(|| expected("a text", location))?;
                let name = self.references.resolve(
                    reference,
                    location.resource,
                    location.path,
                    self.budget,
                )?;
                json!(name)
            }
            "enum" => {
                let values = value
                    .as_array()
                    .ok_or_else(|| expected("an array", location))?;
                self.budget.take_enum_values(values.len(), location.path)?;
                value.clone()
            }
            "const" => value.clone(),
            "type" => {
                check_type(value, location)?;
                value.clone()
            }
            "required" => {
                let names = value
                    .as_array()
                    .ok_or_else(|| expected("an array", location))?;
                if !names.iter().all(Value::is_string) {
                    return Err(expected("an array of texts", location));
                }
                value.clone()
            }
            "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                count(value, MAX_COUNT, location)?
            }
            "minLength" | "maxLength" => count(value, MAX_LENGTH, location)?,
            "minimum" | "maximum" | "multipleOf" => {
                if !value.is_number() {
                    return Err(expected("a number", location));
                }
                value.clone()
            }
            "exclusiveMinimum" | "exclusiveMaximum" => {
                // In draft 4 they were flags beside `minimum` and `maximum`.
                if !value.is_number() && !value.is_boolean() {
                    return Err(expected("a number", location));
                }
                value.clone()
            }
            "pattern" => {
                let pattern = value.as_str().ok_or_else(|| expected("a text", location))?;
                if !self.can_enforce_pattern(pattern, location)? {
                    return Ok(None);
                }
                value.clone()
            }
            "format" => {
                let format = value.as_str().ok_or_else(|| expected("a text", location))?;
                if !FORMATS.contains(&format) {
                    self.unsupported("This format cannot be enforced", location)?;
                    return Ok(None);
                }
                value.clone()
            }
            "uniqueItems" if *value == Value::Bool(false) => return Ok(None),
            keyword if UNSUPPORTED.contains(&keyword) => {
                self.unsupported(&format!("'{keyword}' cannot be enforced"), location)?;
                return Ok(None);
            }
            // Everything else describes, or is unknown, which JSON Schema treats in the same way.
            _ => return Ok(None),
        };
        Ok(Some(prepared))
    }

    fn property_schemas(
        &mut self,
        keyword: &str,
        value: &'a Value,
        location: &SchemaLocation<'_, 'a>,
    ) -> Result<Option<Value>, SchemaError> {
        let properties = value
            .as_object()
            .ok_or_else(|| expected("an object", location))?;
        self.budget
            .take_properties(properties.len(), location.path)?;
        let mut prepared = Map::new();
        for (name, schema) in properties {
            let path = format!("{}.{name}", location.path);
            let location = SchemaLocation {
                path: &path,
                ..*location
            };
            if keyword == "patternProperties" && !self.can_enforce_pattern(name, &location)? {
                continue;
            }
            prepared.insert(name.clone(), self.schema(schema, &location)?);
        }
        let is_complete = prepared.len() == properties.len();
        Ok(is_complete.then_some(Value::Object(prepared)))
    }

    fn list(
        &mut self,
        value: &'a Value,
        location: &SchemaLocation<'_, 'a>,
    ) -> Result<Value, SchemaError> {
        let schemas = value
            .as_array()
            .ok_or_else(|| expected("an array", location))?;
        let prepared = schemas.iter().enumerate().map(|(index, schema)| {
            let path = format!("{}[{index}]", location.path);
            self.schema(
                schema,
                &SchemaLocation {
                    path: &path,
                    ..*location
                },
            )
        });
        prepared.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    /// Checks the alternatives of a `oneOf`. The grammar allows values that match several.
    fn check_one_of(
        &mut self,
        value: &'a Value,
        location: &SchemaLocation<'_, 'a>,
    ) -> Result<(), SchemaError> {
        let alternatives = value
            .as_array()
            .ok_or_else(|| expected("an array", location))?;
        if !self.strict {
            return Ok(());
        }
        let (references, path) = (&self.references, location.path);
        let follow = |schema: &'a Value, budget: &mut Budget| {
            let followed = references.follow(schema, location.resource.root, path, budget)?;
            Ok(followed.unwrap_or(schema))
        };
        if !exclude_each_other(alternatives, follow, path, self.budget)? {
            self.unsupported(
                "That only one of the alternatives matches cannot be enforced",
                location,
            )?;
        }
        Ok(())
    }

    fn can_enforce_pattern(
        &mut self,
        pattern: &str,
        location: &SchemaLocation<'_, 'a>,
    ) -> Result<bool, SchemaError> {
        let chars = usize::try_from(pattern::expanded_size(pattern)).unwrap_or(usize::MAX);
        self.budget
            .take_pattern_chars(chars.max(1), location.path)?;
        let is_supported = pattern::is_supported(pattern);
        if !is_supported {
            self.unsupported("This pattern cannot be enforced", location)?;
        }
        Ok(is_supported)
    }

    /// Refuses what the grammar cannot enforce if the schema is strict.
    fn unsupported(
        &self,
        problem: &str,
        location: &SchemaLocation<'_, 'a>,
    ) -> Result<(), SchemaError> {
        if self.strict {
            let message = format!("{problem}. Without 'strict' it is ignored.");
            return Err(SchemaError::new(location.path, message));
        }
        Ok(())
    }
}

/// Whether a schema lists the properties of an object and says nothing of others.
fn is_open_object(fields: &Map<String, Value>) -> bool {
    let Some(properties) = fields.get("properties").and_then(Value::as_object) else {
        return false;
    };
    let says_more = |keyword: &String| {
        matches!(
            keyword.as_str(),
            "additionalProperties"
                | "unevaluatedProperties"
                | "patternProperties"
                | "minProperties"
        )
    };
    let required = fields.get("required").and_then(Value::as_array);
    let mut required = required.into_iter().flatten().filter_map(Value::as_str);
    !fields.keys().any(says_more) && required.all(|name| properties.contains_key(name))
}

/// Whether a document may describe one object in several places, each with some of its properties.
fn combines_objects(value: &Value) -> bool {
    match value {
        Value::Object(fields) => {
            let has = |keyword: &&str| fields.contains_key(*keyword);
            let alternatives = ["anyOf", "oneOf", "$ref"]
                .iter()
                .filter(|keyword| has(keyword));
            let alternatives = alternatives.count();
            let lists = ["properties", "patternProperties", "additionalProperties"]
                .iter()
                .any(&has);
            has(&"allOf")
                || alternatives > 1
                || (alternatives == 1 && lists)
                || fields.values().any(combines_objects)
        }
        Value::Array(items) => items.iter().any(combines_objects),
        _ => false,
    }
}

fn expected(what: &str, location: &SchemaLocation<'_, '_>) -> SchemaError {
    SchemaError::new(location.path, format!("The value must be {what}."))
}

fn check_type(value: &Value, location: &SchemaLocation<'_, '_>) -> Result<(), SchemaError> {
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_valid = match value {
        Value::Array(types) => !types.is_empty() && types.iter().all(is_type),
        value => is_type(value),
    };
    if !is_valid {
        let message = format!(
            "A type must be one of {}, or several of them.",
            TYPES.join(", ")
        );
        return Err(SchemaError::new(location.path, message));
    }
    Ok(())
}

/// Checks a number of items or characters. Some clients write them as `3.0`.
fn count(
    value: &Value,
    limit: u64,
    location: &SchemaLocation<'_, '_>,
) -> Result<Value, SchemaError> {
    let whole = value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        (float >= 0.0 && float.fract() == 0.0 && float <= u32::MAX.into()).then_some(float as u64)
    });
    let count = whole.ok_or_else(|| expected("a whole number, 0 or more", location))?;
    limits::check_at_most(count, limit, location.path)?;
    Ok(json!(count))
}

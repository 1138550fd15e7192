//! Walks through a schema and builds the one that the grammar compiler gets.

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::limits::{self, Budget, MAX_COUNT, MAX_DEPTH, MAX_LENGTH};
use super::one_of::exclude_each_other;
use super::pattern::{self, PatternProblem};
use super::references::{References, Resource, Target};

/// The formats that the grammar enforces.
pub(in super::super) const FORMATS: [&str; 11] = [
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
struct Place<'p, 'a> {
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
            &Place {
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
        let place = Place {
            path: &target.path,
            depth: 0,
            resource: &target.resource,
        };
        self.schema(target.schema, &place)
    }

    fn schema(&mut self, schema: &'a Value, place: &Place<'_, 'a>) -> Result<Value, SchemaError> {
        self.budget.take_subschema(place.path)?;
        if place.depth > MAX_DEPTH {
            let message = format!("Schemas can be nested at most {MAX_DEPTH} levels deep.");
            return Err(SchemaError::new(place.path, message));
        }
        let fields = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(fields) => fields,
            _ => {
                let message = "A schema must be an object, true or false.";
                return Err(SchemaError::new(place.path, message));
            }
        };
        let own_resource = fields.get("$id").and_then(Value::as_str).map(|_| Resource {
            root: schema,
            path: place.path.to_owned(),
        });
        let resource = own_resource.as_ref().unwrap_or(place.resource);
        let mut prepared = Map::new();
        for (keyword, value) in fields {
            let path = format!("{}.{keyword}", place.path);
            let place = Place {
                path: &path,
                depth: place.depth + 1,
                resource,
            };
            if let Some(value) = self.keyword(keyword, value, &place)? {
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
        place: &Place<'_, 'a>,
    ) -> Result<Option<Value>, SchemaError> {
        let prepared = match keyword {
            "properties" | "patternProperties" => {
                return self.property_schemas(keyword, value, place);
            }
            "items" if value.is_array() => self.list(value, place)?,
            "items" | "additionalItems" | "additionalProperties" => self.schema(value, place)?,
            "prefixItems" | "anyOf" | "allOf" => self.list(value, place)?,
            "oneOf" => {
                self.check_one_of(value, place)?;
                self.list(value, place)?
            }
            "$ref" => {
                let reference = value.as_str().ok_or_else(|| expected("a text", place))?;
                json!(
                    self.references
                        .resolve(reference, place.resource, place.path)?
                )
            }
            "enum" => {
                let values = value
                    .as_array()
                    .ok_or_else(|| expected("an array", place))?;
                self.budget.take_enum_values(values.len(), place.path)?;
                value.clone()
            }
            "const" => value.clone(),
            "type" => {
                check_type(value, place)?;
                value.clone()
            }
            "required" => {
                let names = value
                    .as_array()
                    .ok_or_else(|| expected("an array", place))?;
                if !names.iter().all(Value::is_string) {
                    return Err(expected("an array of texts", place));
                }
                value.clone()
            }
            "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                count(value, MAX_COUNT, place)?
            }
            "minLength" | "maxLength" => count(value, MAX_LENGTH, place)?,
            "minimum" | "maximum" | "multipleOf" => {
                if !value.is_number() {
                    return Err(expected("a number", place));
                }
                value.clone()
            }
            "exclusiveMinimum" | "exclusiveMaximum" => {
                // In draft 4 they were flags beside `minimum` and `maximum`.
                if !value.is_number() && !value.is_boolean() {
                    return Err(expected("a number", place));
                }
                value.clone()
            }
            "pattern" => {
                let pattern = value.as_str().ok_or_else(|| expected("a text", place))?;
                if !self.can_enforce_pattern(pattern, place)? {
                    return Ok(None);
                }
                value.clone()
            }
            "format" => {
                let format = value.as_str().ok_or_else(|| expected("a text", place))?;
                if !FORMATS.contains(&format) {
                    self.unsupported("This format cannot be enforced", place)?;
                    return Ok(None);
                }
                value.clone()
            }
            "uniqueItems" if *value == Value::Bool(false) => return Ok(None),
            keyword if UNSUPPORTED.contains(&keyword) => {
                self.unsupported(&format!("'{keyword}' cannot be enforced"), place)?;
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
        place: &Place<'_, 'a>,
    ) -> Result<Option<Value>, SchemaError> {
        let properties = value
            .as_object()
            .ok_or_else(|| expected("an object", place))?;
        self.budget.take_properties(properties.len(), place.path)?;
        let mut prepared = Map::new();
        for (name, schema) in properties {
            let path = format!("{}.{name}", place.path);
            let place = Place {
                path: &path,
                ..*place
            };
            if keyword == "patternProperties" && !self.can_enforce_pattern(name, &place)? {
                continue;
            }
            prepared.insert(name.clone(), self.schema(schema, &place)?);
        }
        let is_complete = prepared.len() == properties.len();
        Ok(is_complete.then_some(Value::Object(prepared)))
    }

    fn list(&mut self, value: &'a Value, place: &Place<'_, 'a>) -> Result<Value, SchemaError> {
        let schemas = value
            .as_array()
            .ok_or_else(|| expected("an array", place))?;
        let prepared = schemas.iter().enumerate().map(|(index, schema)| {
            let path = format!("{}[{index}]", place.path);
            self.schema(
                schema,
                &Place {
                    path: &path,
                    ..*place
                },
            )
        });
        prepared.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    /// Checks the alternatives of a `oneOf`. The grammar allows values that match several.
    fn check_one_of(&self, value: &'a Value, place: &Place<'_, 'a>) -> Result<(), SchemaError> {
        let alternatives = value
            .as_array()
            .ok_or_else(|| expected("an array", place))?;
        if !self.strict {
            return Ok(());
        }
        let resource = place.resource;
        let follow = |schema: &'a Value| self.references.follow(schema, resource).unwrap_or(schema);
        let all_exclude = alternatives.iter().enumerate().all(|(index, a)| {
            let others = &alternatives[index + 1..];
            others.iter().all(|b| exclude_each_other(a, b, &follow))
        });
        if !all_exclude {
            self.unsupported(
                "That only one of the alternatives matches cannot be enforced",
                place,
            )?;
        }
        Ok(())
    }

    fn can_enforce_pattern(
        &self,
        pattern: &str,
        place: &Place<'_, 'a>,
    ) -> Result<bool, SchemaError> {
        match pattern::check(pattern) {
            Ok(()) => Ok(true),
            Err(PatternProblem::TooComplex) => {
                Err(SchemaError::new(place.path, "The pattern is too complex."))
            }
            Err(PatternProblem::Unsupported) => {
                self.unsupported("This pattern cannot be enforced", place)?;
                Ok(false)
            }
        }
    }

    /// Refuses what the grammar cannot enforce if the schema is strict.
    fn unsupported(&self, problem: &str, place: &Place<'_, 'a>) -> Result<(), SchemaError> {
        if self.strict {
            let message = format!("{problem}. Without 'strict' it is ignored.");
            return Err(SchemaError::new(place.path, message));
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

fn expected(what: &str, place: &Place<'_, '_>) -> SchemaError {
    SchemaError::new(place.path, format!("The value must be {what}."))
}

fn check_type(value: &Value, place: &Place<'_, '_>) -> Result<(), SchemaError> {
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
        return Err(SchemaError::new(place.path, message));
    }
    Ok(())
}

/// Checks a number of items or characters. Some clients write them as `3.0`.
fn count(value: &Value, limit: u64, place: &Place<'_, '_>) -> Result<Value, SchemaError> {
    let whole = value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        (float >= 0.0 && float.fract() == 0.0 && float <= u32::MAX.into()).then_some(float as u64)
    });
    let count = whole.ok_or_else(|| expected("a whole number, 0 or more", place))?;
    limits::check_at_most(count, limit, place.path)?;
    Ok(json!(count))
}

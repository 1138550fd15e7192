//! Finds what the references of a schema refer to, and gives each target a name.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::Value;

use super::SchemaError;
use super::limits::{MAX_DEPTH, MAX_REFERENCED};

/// A subschema that references refer to.
pub(super) struct Target<'a> {
    pub(super) schema: &'a Value,
    /// The field of the request where it is.
    pub(super) path: String,
    /// The schema from whose root pointers in it are read.
    pub(super) resource: Resource<'a>,
}

/// A schema with an identifier of its own, or the whole document.
#[derive(Clone)]
pub(super) struct Resource<'a> {
    pub(super) root: &'a Value,
    pub(super) path: String,
}

/// The references of a document.
pub(super) struct References<'a> {
    /// The schemas with an `$id`, by that.
    identified: HashMap<&'a str, &'a Value>,
    /// The names of the targets, by address.
    names: HashMap<*const Value, String>,
    /// The targets that are not prepared yet.
    pending: VecDeque<(String, Target<'a>)>,
}

impl<'a> References<'a> {
    pub(super) fn new(document: &'a Value) -> Self {
        let mut identified = HashMap::new();
        collect_identified(document, 0, &mut identified);
        Self {
            identified,
            names: HashMap::new(),
            pending: VecDeque::new(),
        }
    }

    /// Returns the reference under `$defs` that replaces `reference`.
    pub(super) fn resolve(
        &mut self,
        reference: &str,
        resource: &Resource<'a>,
        path: &str,
    ) -> Result<String, SchemaError> {
        let target = self.find(reference, resource, path)?;
        if self.follow(target.schema, &target.resource).is_none() {
            return Err(SchemaError::new(
                path,
                "The reference leads only back to itself.",
            ));
        }
        let count = self.names.len();
        let address = std::ptr::from_ref(target.schema);
        if let Some(name) = self.names.get(&address) {
            return Ok(format!("#/$defs/{name}"));
        }
        if count == MAX_REFERENCED {
            return Err(SchemaError::new(
                path,
                format!("A schema can refer to at most {MAX_REFERENCED} others."),
            ));
        }
        let name = format!("d{count}");
        self.names.insert(address, name.clone());
        self.pending.push_back((name.clone(), target));
        Ok(format!("#/$defs/{name}"))
    }

    /// Takes the next target that is not prepared yet, with its name.
    pub(super) fn next_target(&mut self) -> Option<(String, Target<'a>)> {
        self.pending.pop_front()
    }

    /// Returns what a schema refers to, through all references. `None` if they lead back to where they
    /// began.
    pub(super) fn follow(&self, schema: &'a Value, resource: &Resource<'a>) -> Option<&'a Value> {
        let mut seen = HashSet::new();
        let (mut schema, mut resource) = (schema, resource.clone());
        while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            if !seen.insert(std::ptr::from_ref(schema)) {
                return None;
            }
            // A reference that refers to nothing is an error of the schema that has it.
            let Ok(target) = self.find(reference, &resource, "") else {
                break;
            };
            schema = target.schema;
            resource = target.resource;
        }
        Some(schema)
    }

    fn find(
        &self,
        reference: &str,
        resource: &Resource<'a>,
        path: &str,
    ) -> Result<Target<'a>, SchemaError> {
        let not_found = || {
            SchemaError::new(
                path,
                format!("'{}' refers to nothing in the schema.", shown(reference)),
            )
        };
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resource = if document.is_empty() {
            resource.clone()
        } else {
            let root = self.identified.get(document).ok_or_else(|| {
                SchemaError::new(
                    path,
                    format!(
                        "'{}' refers to another document: only references within the schema are supported.",
                        shown(reference)
                    ),
                )
            })?;
            Resource {
                root,
                path: format!("{path}({document})"),
            }
        };
        let fragment = percent_decoded(fragment).ok_or_else(not_found)?;
        if fragment.is_empty() || fragment == "/" {
            return Ok(Target {
                schema: resource.root,
                path: resource.path.clone(),
                resource,
            });
        }
        if let Some(pointer) = fragment.strip_prefix('/') {
            let schema = resource.root.pointer(&fragment).ok_or_else(not_found)?;
            let path = pointer
                .split('/')
                .fold(resource.path.clone(), |path, segment| {
                    format!("{path}.{}", segment.replace("~1", "/").replace("~0", "~"))
                });
            return Ok(Target {
                schema,
                path,
                resource,
            });
        }
        let schema = find_anchor(resource.root, &fragment, 0).ok_or_else(not_found)?;
        Ok(Target {
            schema,
            path: format!("{}#{fragment}", resource.path),
            resource,
        })
    }
}

/// The beginning of a text that a client sent, for messages.
fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 100;
    text.chars().take(MAX_CHARS).collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%'
            && let Some(digits) = tail.get(..2)
            && let Ok(digits) = std::str::from_utf8(digits)
            && let Ok(decoded) = u8::from_str_radix(digits, 16)
        {
            bytes.push(decoded);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// How deep values may be nested in which identifiers and anchors are looked for: a subschema is at
/// most two levels below the one that has it.
const MAX_VALUE_DEPTH: usize = 2 * MAX_DEPTH + 2;

fn collect_identified<'a>(value: &'a Value, depth: usize, found: &mut HashMap<&'a str, &'a Value>) {
    if depth > MAX_VALUE_DEPTH {
        return;
    }
    if let Some(id) = value.get("$id").and_then(Value::as_str) {
        found.entry(id.trim_end_matches('#')).or_insert(value);
    }
    for child in children(value) {
        collect_identified(child, depth + 1, found);
    }
}

fn find_anchor<'a>(value: &'a Value, anchor: &str, depth: usize) -> Option<&'a Value> {
    if depth > MAX_VALUE_DEPTH {
        return None;
    }
    let is_anchor = |keyword| value.get(keyword).and_then(Value::as_str) == Some(anchor);
    // Before draft 2019-09 an anchor was an `$id` that is only a fragment.
    let is_old_anchor = || {
        let id = value.get("$id").and_then(Value::as_str);
        id.and_then(|id| id.strip_prefix('#')) == Some(anchor)
    };
    if is_anchor("$anchor") || is_anchor("$dynamicAnchor") || is_old_anchor() {
        return Some(value);
    }
    children(value).find_map(|child| find_anchor(child, anchor, depth + 1))
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Object(fields) => Box::new(fields.values()),
        Value::Array(items) => Box::new(items.iter()),
        _ => Box::new(std::iter::empty()),
    }
}

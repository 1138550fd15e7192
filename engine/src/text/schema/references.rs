//! Finds what the references of a schema refer to, and gives each target a name.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::Value;

use super::SchemaError;
use super::limits::{Budget, MAX_DEPTH, MAX_REFERENCED};

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
    /// The schemas with an anchor, by the root of their resource and the anchor.
    anchored: HashMap<(*const Value, &'a str), &'a Value>,
    /// The names of the targets, by address.
    names: HashMap<*const Value, String>,
    /// The targets that are not prepared yet.
    pending: VecDeque<(String, Target<'a>)>,
}

/// What a reference refers to.
struct Referenced<'a> {
    schema: &'a Value,
    /// The schema from whose root pointers in it are read.
    root: &'a Value,
    /// The reference's part before the `#`. Empty if it refers to the resource that it is in.
    document: &'a str,
    /// The decoded part after the `#`.
    fragment: String,
}

/// Why a reference refers to nothing.
enum DanglingReference {
    /// There is nothing at its pointer or with its anchor.
    NoTarget,
    /// It refers to another document.
    OtherDocument,
}

impl<'a> References<'a> {
    pub(super) fn new(document: &'a Value) -> Self {
        let mut references = Self {
            identified: HashMap::new(),
            anchored: HashMap::new(),
            names: HashMap::new(),
            pending: VecDeque::new(),
        };
        references.index(document, document, 0);
        references
    }

    /// Adds the identifiers and anchors in a value. The first one counts where several are equal.
    fn index(&mut self, value: &'a Value, mut root: &'a Value, depth: usize) {
        if depth > MAX_VALUE_DEPTH {
            return;
        }
        if let Some(id) = own_id(value) {
            self.identified
                .entry(id.trim_end_matches('#'))
                .or_insert(value);
            root = value;
        }
        let text = |keyword| value.get(keyword).and_then(Value::as_str);
        // Before draft 2019-09 an anchor was an `$id` that is only a fragment.
        let old_anchor = text("$id").and_then(|id| id.strip_prefix('#'));
        let anchors = [text("$anchor"), text("$dynamicAnchor"), old_anchor];
        for anchor in anchors.into_iter().flatten() {
            let key = (std::ptr::from_ref(root), anchor);
            self.anchored.entry(key).or_insert(value);
        }
        match value {
            Value::Object(fields) => {
                for child in fields.values() {
                    self.index(child, root, depth + 1);
                }
            }
            Value::Array(items) => {
                for child in items {
                    self.index(child, root, depth + 1);
                }
            }
            _ => {}
        }
    }

    /// Returns the reference under `$defs` that replaces `reference`.
    pub(super) fn resolve(
        &mut self,
        reference: &'a str,
        resource: &Resource<'a>,
        path: &str,
        budget: &mut Budget,
    ) -> Result<String, SchemaError> {
        budget.take_steps(steps_of_reference(reference), path)?;
        let referenced = self.find(reference, resource.root).map_err(|problem| {
            let problem = match problem {
                DanglingReference::NoTarget => "refers to nothing in the schema.",
                DanglingReference::OtherDocument => {
                    "refers to another document: only references within the schema are supported."
                }
            };
            SchemaError::new(path, format!("'{}' {problem}", shown(reference)))
        })?;
        let (schema, root) = (referenced.schema, referenced.root);
        if self.follow(schema, root, path, budget)?.is_none() {
            return Err(SchemaError::new(
                path,
                "The reference leads only back to itself.",
            ));
        }
        let count = self.names.len();
        let address = std::ptr::from_ref(schema);
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
        let target = referenced.into_target(resource, path);
        self.pending.push_back((name.clone(), target));
        Ok(format!("#/$defs/{name}"))
    }

    /// Takes the next target that is not prepared yet, with its name.
    pub(super) fn next_target(&mut self) -> Option<(String, Target<'a>)> {
        self.pending.pop_front()
    }

    /// Returns what a schema refers to, through all references. `None` if they lead back to where they
    /// began. `root` is that of the schema's resource, `path` the field that an error names.
    ///
    /// # Errors
    /// When the budget has no steps left.
    pub(super) fn follow(
        &self,
        mut schema: &'a Value,
        mut root: &'a Value,
        path: &str,
        budget: &mut Budget,
    ) -> Result<Option<&'a Value>, SchemaError> {
        let mut seen = HashSet::new();
        while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            if !seen.insert(std::ptr::from_ref(schema)) {
                return Ok(None);
            }
            budget.take_steps(steps_of_reference(reference), path)?;
            // A reference that refers to nothing is an error of the schema that has it.
            let Ok(referenced) = self.find(reference, root) else {
                break;
            };
            schema = referenced.schema;
            root = referenced.root;
        }
        Ok(Some(schema))
    }

    /// Finds what a reference refers to in the resource `root`, in [`steps_of_reference`].
    fn find(
        &self,
        reference: &'a str,
        root: &'a Value,
    ) -> Result<Referenced<'a>, DanglingReference> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let root = if document.is_empty() {
            root
        } else {
            let identified = self.identified.get(document);
            identified.ok_or(DanglingReference::OtherDocument)?
        };
        let fragment = percent_decoded(fragment).ok_or(DanglingReference::NoTarget)?;
        let schema = if fragment.is_empty() || fragment == "/" {
            Some(root)
        } else if fragment.starts_with('/') {
            root.pointer(&fragment)
        } else {
            let key = (std::ptr::from_ref(root), fragment.as_str());
            self.anchored.get(&key).copied()
        };
        Ok(Referenced {
            schema: schema.ok_or(DanglingReference::NoTarget)?,
            root,
            document,
            fragment,
        })
    }
}

impl<'a> Referenced<'a> {
    /// Adds the fields of the request. `resource` and `path` are those of the reference.
    fn into_target(self, resource: &Resource<'a>, path: &str) -> Target<'a> {
        let root_path = if self.document.is_empty() {
            resource.path.clone()
        } else {
            format!("{path}({})", self.document)
        };
        let path = match self.fragment.strip_prefix('/') {
            None if self.fragment.is_empty() => root_path.clone(),
            Some("") => root_path.clone(),
            None => format!("{root_path}#{}", self.fragment),
            Some(pointer) => pointer.split('/').fold(root_path.clone(), |path, segment| {
                format!("{path}.{}", segment.replace("~1", "/").replace("~0", "~"))
            }),
        };
        Target {
            schema: self.schema,
            path,
            resource: Resource {
                root: self.root,
                path: root_path,
            },
        }
    }
}

/// The identifier of a schema that is a resource of its own.
pub(super) fn own_id(schema: &Value) -> Option<&str> {
    let id = schema.get("$id").and_then(Value::as_str);
    id.filter(|id| !id.starts_with('#'))
}

/// The number of steps in which a reference is found. Its pointer may have a segment for every other byte.
fn steps_of_reference(reference: &str) -> usize {
    const BYTES_PER_STEP: usize = 8;
    1 + reference.len() / BYTES_PER_STEP
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

//! Prepares JSON schemas for the grammar of an answer.
//!
//! Clients send any JSON schema; the grammar compiler llguidance supports a part of the keywords, and
//! finds references only by plain pointers from the root. [`prepare`] judges the size of a schema
//! before anything is compiled, leaves out what the grammar cannot enforce (or refuses it if the schema
//! is strict), and collects all that is referenced under `$defs`.

mod limits;
mod one_of;
mod pattern;
mod references;
mod walk;

use flotilla_core::generate::RequestError;
use serde_json::{Map, Value};

pub(crate) use self::limits::Budget;
use self::references::References;
#[cfg(test)]
pub(crate) use self::walk::FORMATS;
use self::walk::Walk;

/// What is wrong with a schema.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SchemaError {
    /// The field of the request, down to the keyword.
    path: String,
    message: String,
}

impl SchemaError {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl From<SchemaError> for RequestError {
    fn from(error: SchemaError) -> Self {
        Self::invalid(error.path, error.message)
    }
}

/// Returns an equal schema that the grammar compiler can process. `path` is the field of the request
/// that has the schema. `budget` is what the schemas of a request may have in common.
///
/// An object that lists properties gets no others, unless the schema says something of them: a small
/// model would add some without end.
///
/// A keyword that the grammar cannot enforce is left out, or is an error if the schema is `strict`.
///
/// # Errors
/// When the schema is not a valid one, is too complex, or refers to another document.
pub(crate) fn prepare(
    schema: &str,
    strict: bool,
    path: &str,
    budget: &mut Budget,
) -> Result<Value, SchemaError> {
    budget.take_bytes(schema.len(), path)?;
    let document: Value = serde_json::from_str(schema)
        .map_err(|error| SchemaError::new(path, format!("The schema cannot be read: {error}.")))?;
    let mut walk = Walk::new(&document, strict, References::new(&document), budget);
    let mut prepared = walk.root(&document, path)?;
    let mut definitions = Map::new();
    while let Some((name, target)) = walk.next_target() {
        let definition = walk.target(&target)?;
        definitions.insert(name, definition);
    }
    if let Value::Object(fields) = &mut prepared
        && !definitions.is_empty()
    {
        fields.insert("$defs".to_owned(), Value::Object(definitions));
    }
    Ok(prepared)
}

#[cfg(test)]
mod tests;

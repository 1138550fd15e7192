//! How large and complex the schemas of a request may be.
//!
//! The time of compiling a grammar and of each token grows with these numbers. They are judged before
//! the compiler sees a schema, since it cannot be interrupted everywhere.

use super::SchemaError;

/// The most bytes of all schemas of a request.
const MAX_BYTES: usize = 256 * 1024;
/// The most subschemas of all schemas of a request, each counted once however often it is referenced.
const MAX_SUBSCHEMAS: usize = 5_000;
/// The most properties of all objects of a request.
const MAX_PROPERTIES: usize = 1_000;
/// The most values of all `enum`s of a request.
const MAX_ENUM_VALUES: usize = 5_000;
/// The most characters of all patterns of a request when their repetitions are written out.
const MAX_PATTERN_CHARS: usize = 20_000;
/// The most steps of finding what references refer to and of comparing alternatives, where each step takes
/// well below a microsecond.
const MAX_STEPS: usize = 1_000_000;
/// How many bytes of a text are read in one step.
const BYTES_PER_STEP: usize = 64;
/// How deep subschemas may be nested. A reference does not count: what it refers to is compiled apart.
pub(super) const MAX_DEPTH: usize = 32;
/// The most things that one schema may refer to. The compiler calls itself for each.
pub(super) const MAX_REFERENCED: usize = 256;
/// The largest number of items or properties that a schema may name. The grammar has each of them.
pub(super) const MAX_COUNT: u64 = 1_000;
/// The largest number of characters that a schema may name.
pub(super) const MAX_LENGTH: u64 = 100_000;

/// What is left of the limits of a request.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: usize,
    subschemas: usize,
    properties: usize,
    enum_values: usize,
    pattern_chars: usize,
    steps: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: MAX_BYTES,
            subschemas: MAX_SUBSCHEMAS,
            properties: MAX_PROPERTIES,
            enum_values: MAX_ENUM_VALUES,
            pattern_chars: MAX_PATTERN_CHARS,
            steps: MAX_STEPS,
        }
    }
}

impl Budget {
    pub(super) fn take_bytes(&mut self, bytes: usize, path: &str) -> Result<(), SchemaError> {
        take(&mut self.bytes, bytes, path, MAX_BYTES, "bytes")
    }

    pub(super) fn take_subschema(&mut self, path: &str) -> Result<(), SchemaError> {
        take(&mut self.subschemas, 1, path, MAX_SUBSCHEMAS, "subschemas")
    }

    pub(super) fn take_properties(&mut self, count: usize, path: &str) -> Result<(), SchemaError> {
        take(
            &mut self.properties,
            count,
            path,
            MAX_PROPERTIES,
            "properties",
        )
    }

    pub(super) fn take_enum_values(&mut self, count: usize, path: &str) -> Result<(), SchemaError> {
        take(
            &mut self.enum_values,
            count,
            path,
            MAX_ENUM_VALUES,
            "values of 'enum'",
        )
    }

    pub(super) fn take_pattern_chars(
        &mut self,
        count: usize,
        path: &str,
    ) -> Result<(), SchemaError> {
        take(
            &mut self.pattern_chars,
            count,
            path,
            MAX_PATTERN_CHARS,
            "characters of patterns, repetitions written out,",
        )
    }

    /// Takes the steps of preparing the schema at `path`, before they are made.
    pub(super) fn take_steps(&mut self, count: usize, path: &str) -> Result<(), SchemaError> {
        let rest = self.steps.checked_sub(count).ok_or_else(|| {
            SchemaError::new(
                path,
                "The schema is too complex: it has too many references or alternatives.",
            )
        })?;
        self.steps = rest;
        Ok(())
    }
}

/// The number of steps in which a text is read.
pub(super) fn steps_of_text(text: &str) -> usize {
    1 + text.len() / BYTES_PER_STEP
}

fn take(
    left: &mut usize,
    count: usize,
    path: &str,
    limit: usize,
    what: &str,
) -> Result<(), SchemaError> {
    match left.checked_sub(count) {
        Some(rest) => *left = rest,
        None => {
            return Err(SchemaError::new(
                path,
                format!("The schemas of a request can have at most {limit} {what} together."),
            ));
        }
    }
    Ok(())
}

/// Checks a number that a keyword names.
pub(super) fn check_at_most(value: u64, limit: u64, path: &str) -> Result<(), SchemaError> {
    if value <= limit {
        return Ok(());
    }
    Err(SchemaError::new(
        path,
        format!("{value} is too large for a grammar: the limit is {limit}."),
    ))
}

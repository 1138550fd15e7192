//! Validation errors of resources, each with the path of the invalid field.

use std::fmt;

/// An invalid field of a resource, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `spec.options.url`. Empty or `.`: the resource as a whole.
    pub field: String,
    /// What is wrong, worded so that it follows the path: `must be at least 1`.
    pub problem: String,
}

impl FieldError {
    /// Returns an error about `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() || self.field == "." {
            return f.write_str(&self.problem);
        }
        write!(f, "{} {}", self.field, self.problem)
    }
}

/// All validation errors of a resource. A value returned as an `Err` holds at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValidationErrors(pub Vec<FieldError>);

impl ValidationErrors {
    /// Adds an error about `field`.
    pub fn add(&mut self, field: &str, problem: impl Into<String>) {
        self.0.push(FieldError::new(field, problem));
    }

    /// Adds an error about `field` if `invalid` is true.
    pub fn add_if(&mut self, invalid: bool, field: &str, problem: impl Into<String>) {
        if invalid {
            self.add(field, problem);
        }
    }

    /// Returns `Ok` if there are no errors.
    ///
    /// # Errors
    /// `self`, if it holds any error.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ValidationErrors {
    /// Writes all errors in one line, separated by semicolons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ValidationErrors {}

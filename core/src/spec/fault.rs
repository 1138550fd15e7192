//! One thing wrong with a resource, and where.

use std::fmt;

/// A field that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `spec.options.url`.
    pub field: String,
    /// What is wrong, to be read after the field's name: `must be at least 1`.
    pub problem: String,
}

impl FieldError {
    /// A fault at `field`.
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

/// All that is wrong with a resource; never empty when it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValidationErrors(pub Vec<FieldError>);

impl ValidationErrors {
    /// Adds a fault where `broken` holds.
    pub fn check(&mut self, broken: bool, field: &str, problem: impl Into<String>) {
        if broken {
            self.0.push(FieldError::new(field, problem));
        }
    }

    /// `Ok` when there is no fault.
    ///
    /// # Errors
    /// The faults themselves.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ValidationErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ValidationErrors {}

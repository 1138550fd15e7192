//! Range checks whose error names the field.

use std::fmt::Display;
use std::ops::RangeInclusive;

use flotilla_core::generate::RequestError;

/// Returns `value` if it is inside `range`. NaN is outside every range.
///
/// # Errors
/// `value` is outside `range`; the error names the field `param`.
pub(crate) fn check_range<T: PartialOrd + Display>(
    param: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, RequestError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (min, max) = (range.start(), range.end());
    Err(RequestError::invalid(
        param,
        format!("'{param}' must be between {min} and {max}, is {value}."),
    ))
}

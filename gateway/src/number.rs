//! Range checks that name the field.

use std::fmt::Display;
use std::ops::RangeInclusive;

use flotilla_core::generate::RequestError;

/// Refuses `value` outside `range`. NaN is outside of every range.
pub(crate) fn within<T: PartialOrd + Display>(
    param: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, RequestError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    Err(RequestError::invalid(
        param,
        format!("'{param}' must be between {least} and {most}, is {value}."),
    ))
}

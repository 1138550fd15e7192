//! Converts resources to JSON values as they are written.

use serde::Serialize;
use serde_json::Value;

/// Converts `value` to a JSON value whose numbers have the digits that its text would have: 0.4 of 32 bits becomes
/// 0.4, where `serde_json::to_value` makes it 0.4000000059604645.
///
/// # Errors
/// When `value` has no form in JSON.
pub fn to_value(value: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::from_str(&serde_json::to_string(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_of_32_bits_keep_their_shortest_digits() {
        let value = to_value(&[0.4_f32, 1.0, 0.02]).unwrap();
        assert_eq!(value, json!([0.4, 1.0, 0.02]));
    }
}

//! Arguments of a model's chat template, such as `enable_thinking`.

use serde_json::{Map, Value};

/// The most bytes that the arguments may have as JSON text.
pub const MAX_TEMPLATE_ARGS_BYTES: usize = 16 * 1024;
/// The most levels of objects and arrays, the arguments themselves included.
pub const MAX_TEMPLATE_ARGS_DEPTH: usize = 8;

/// The arguments of a chat template, by name.
pub type TemplateArgs = Map<String, Value>;

/// Parses arguments from JSON text.
///
/// # Errors
/// What is wrong, worded so that it follows the name of the field: `must be a JSON object`.
pub fn parse_template_args(text: &str) -> Result<TemplateArgs, String> {
    if text.len() > MAX_TEMPLATE_ARGS_BYTES {
        return Err(format!(
            "must have at most {MAX_TEMPLATE_ARGS_BYTES} bytes as JSON text"
        ));
    }
    let args: TemplateArgs =
        serde_json::from_str(text).map_err(|_| "must be a JSON object".to_owned())?;
    check_template_args(&args)?;
    Ok(args)
}

/// Checks the size of arguments.
///
/// # Errors
/// What is wrong, worded so that it follows the name of the field.
pub fn check_template_args(args: &TemplateArgs) -> Result<(), String> {
    if args
        .values()
        .any(|value| is_deeper(value, MAX_TEMPLATE_ARGS_DEPTH - 1))
    {
        return Err(format!(
            "must have at most {MAX_TEMPLATE_ARGS_DEPTH} levels of objects and arrays"
        ));
    }
    let bytes = serde_json::to_string(args).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_TEMPLATE_ARGS_BYTES {
        return Err(format!(
            "must have at most {MAX_TEMPLATE_ARGS_BYTES} bytes as JSON text"
        ));
    }
    Ok(())
}

/// Whether a value has more than `levels` levels of objects and arrays.
fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(fields) => levels == 0 || fields.values().any(|v| is_deeper(v, levels - 1)),
        Value::Array(items) => levels == 0 || items.iter().any(|v| is_deeper(v, levels - 1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_objects_are_arguments() {
        let args = parse_template_args(r#"{"enable_thinking": false, "tags": ["a"]}"#).unwrap();
        assert_eq!(args["enable_thinking"], Value::Bool(false));
        for text in ["[]", "true", "\"x\"", "{"] {
            let problem = parse_template_args(text).unwrap_err();
            assert_eq!(problem, "must be a JSON object", "{text}");
        }
        let long = format!(r#"{{"a": "{}"}}"#, "x".repeat(MAX_TEMPLATE_ARGS_BYTES));
        assert!(
            parse_template_args(&long)
                .unwrap_err()
                .contains("16384 bytes")
        );
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| {
            let levels = levels - 1;
            format!("{{\"a\": {}{}}}", "[".repeat(levels), "]".repeat(levels))
        };
        assert!(parse_template_args(&nested(8)).is_ok());
        assert!(
            parse_template_args(&nested(9))
                .unwrap_err()
                .contains("8 levels")
        );
        assert!(parse_template_args(&nested(5_000)).is_err());
    }
}

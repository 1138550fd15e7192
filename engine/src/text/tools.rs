//! Tools in the form that chat templates print.

use flotilla_core::generate::{RequestError, Tool};
use serde_json::{Map, Value, json};

/// Converts the tool at `index` of the request.
///
/// # Errors
/// When its parameters are no JSON object.
pub(crate) fn tool_json(tool: &Tool, index: usize) -> Result<Value, RequestError> {
    let invalid = |problem: serde_json::Error| {
        RequestError::invalid(
            format!("tools[{index}].function.parameters"),
            format!(
                "The parameters of '{}' cannot be read: {problem}.",
                tool.name
            ),
        )
    };
    let parameters = tool.parameters.as_deref();
    let parameters: Option<Map<String, Value>> = parameters
        .map(serde_json::from_str)
        .transpose()
        .map_err(invalid)?;
    let mut function = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        function["description"] = description.as_str().into();
    }
    if let Some(parameters) = parameters {
        function["parameters"] = parameters.into();
    }
    Ok(json!({"type": "function", "function": function}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_are_no_object_are_refused_with_their_path() {
        let with = |parameters: &str| {
            let parameters = Some(parameters.to_owned());
            tool_json(
                &Tool {
                    name: "f".into(),
                    parameters,
                    ..Tool::default()
                },
                3,
            )
        };
        assert!(with(r#"{"type": "object"}"#).is_ok());
        let deep = format!("{}{}", r#"{"a":"#.repeat(200), "}".repeat(200));
        for parameters in ["[]", "{", &deep] {
            let Err(RequestError::Invalid { param, .. }) = with(parameters) else {
                panic!("{parameters} is accepted");
            };
            assert_eq!(param.as_deref(), Some("tools[3].function.parameters"));
        }
    }
}

//! Validates the tools of a chat request and the choice among them.

use flotilla_core::generate::{RequestError, Tool, ToolChoice};

use super::fields::{AllowedTools, ToolChoiceField, ToolChoiceObject, ToolField};

/// The most tools of a request, as in OpenAI's API.
const MAX_TOOLS: usize = 128;

/// Returns the tools that the model may call, and whether it must.
///
/// # Errors
/// [`RequestError::Invalid`] with the path of the first invalid field.
pub(super) fn validate_tools(
    tools: Vec<ToolField>,
    choice: Option<ToolChoiceField>,
) -> Result<(Vec<Tool>, ToolChoice), RequestError> {
    if tools.len() > MAX_TOOLS {
        let message = format!("A request can have at most {MAX_TOOLS} tools.");
        return Err(RequestError::invalid("tools", message));
    }
    let tools = tools.into_iter().enumerate();
    let tools = tools.map(|(i, tool)| validate_tool(i, tool));
    validate_tool_choice(choice, tools.collect::<Result<_, _>>()?)
}

fn validate_tool(i: usize, tool: ToolField) -> Result<Tool, RequestError> {
    let function = match tool.function {
        Some(function) if tool.kind == "function" => function,
        _ => {
            return Err(RequestError::invalid(
                format!("tools[{i}]"),
                "A tool must be {\"type\": \"function\", \"function\": {\"name\": …}}.",
            ));
        }
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if function.name.is_empty() || !function.name.chars().all(allowed) {
        return Err(RequestError::invalid(
            format!("tools[{i}].function.name"),
            "A function name can only contain letters, digits, '_', '-' and '.'.",
        ));
    }
    let parameters = function.parameters.map(|raw| raw.get().to_owned());
    if parameters
        .as_deref()
        .is_some_and(|json| !json.starts_with('{'))
    {
        return Err(RequestError::invalid(
            format!("tools[{i}].function.parameters"),
            "The parameters must be a JSON schema: an object.",
        ));
    }
    Ok(Tool {
        name: function.name,
        description: function.description,
        parameters,
        strict: function.strict,
    })
}

fn validate_tool_choice(
    choice: Option<ToolChoiceField>,
    tools: Vec<Tool>,
) -> Result<(Vec<Tool>, ToolChoice), RequestError> {
    match choice {
        None => Ok((tools, ToolChoice::Auto)),
        Some(ToolChoiceField::Mode(mode)) => {
            let choice = validate_mode(&mode, &tools)?;
            Ok((tools, choice))
        }
        Some(ToolChoiceField::Object(ToolChoiceObject {
            kind,
            function,
            allowed_tools,
        })) => match (kind.as_deref(), function, allowed_tools) {
            (None | Some("function"), Some(function), _) => {
                check_name(&function.name, &tools)?;
                Ok((tools, ToolChoice::Named(function.name)))
            }
            (None | Some("allowed_tools"), _, Some(allowed)) => restrict(allowed, tools),
            (kind, _, _) => Err(invalid(format!(
                "A tool choice of the type '{}' is not supported: it must be of the type 'function' with a \
                 'function', or 'allowed_tools' with 'allowed_tools'.",
                kind.unwrap_or_default()
            ))),
        },
    }
}

fn validate_mode(mode: &str, tools: &[Tool]) -> Result<ToolChoice, RequestError> {
    match mode {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        "required" if tools.is_empty() => Err(invalid("'tool_choice' needs 'tools'.".into())),
        "required" => Ok(ToolChoice::Required),
        _ => Err(invalid(format!(
            "'{mode}' is not a tool choice: use 'none', 'auto', 'required' or an object that names a function."
        ))),
    }
}

/// Leaves only the tools that the choice allows.
fn restrict(
    allowed: AllowedTools,
    mut tools: Vec<Tool>,
) -> Result<(Vec<Tool>, ToolChoice), RequestError> {
    let names: Option<Vec<String>> = allowed
        .tools
        .into_iter()
        .map(|tool| tool.function.map(|function| function.name))
        .collect();
    let names = names.ok_or_else(|| {
        invalid(
            "Each allowed tool must be {\"type\": \"function\", \"function\": {\"name\": …}}."
                .into(),
        )
    })?;
    names.iter().try_for_each(|name| check_name(name, &tools))?;
    tools.retain(|tool| names.contains(&tool.name));
    let choice = match allowed.mode.as_str() {
        "auto" | "required" => validate_mode(&allowed.mode, &tools)?,
        mode => {
            return Err(invalid(format!(
                "'{mode}' is not a mode of allowed tools: use 'auto' or 'required'."
            )));
        }
    };
    Ok((tools, choice))
}

fn check_name(name: &str, tools: &[Tool]) -> Result<(), RequestError> {
    if tools.iter().any(|tool| tool.name == name) {
        return Ok(());
    }
    Err(invalid(format!("'tools' has no function '{name}'.")))
}

fn invalid(message: String) -> RequestError {
    RequestError::invalid("tool_choice", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str = r#"[
        {"type": "function", "function": {"name": "a"}},
        {"type": "function", "function": {"name": "b", "strict": true, "parameters": null}}
    ]"#;

    fn validate(choice: &str) -> Result<(Vec<String>, ToolChoice), String> {
        let tools = serde_json::from_str(TOOLS).unwrap();
        let choice = serde_json::from_str(choice).unwrap();
        let names = |tools: Vec<Tool>| tools.into_iter().map(|tool| tool.name).collect();
        match validate_tools(tools, choice) {
            Ok((tools, choice)) => Ok((names(tools), choice)),
            Err(RequestError::Invalid { param, .. }) => Err(param.unwrap()),
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn choice_names_a_mode_a_function_or_the_allowed_ones() {
        let both = || vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(validate("null"), Ok((both(), ToolChoice::Auto)));
        assert_eq!(validate("\"none\""), Ok((both(), ToolChoice::None)));
        assert_eq!(validate("\"required\""), Ok((both(), ToolChoice::Required)));
        assert_eq!(
            validate(r#"{"type": "function", "function": {"name": "b"}}"#),
            Ok((both(), ToolChoice::Named("b".into())))
        );
        let allowed = |mode: &str, name: &str| {
            validate(&format!(
                r#"{{"type": "allowed_tools", "allowed_tools": {{"mode": "{mode}",
                    "tools": [{{"type": "function", "function": {{"name": "{name}"}}}}]}}}}"#
            ))
        };
        let only_b = || vec!["b".to_owned()];
        assert_eq!(allowed("auto", "b"), Ok((only_b(), ToolChoice::Auto)));
        assert_eq!(
            allowed("required", "b"),
            Ok((only_b(), ToolChoice::Required))
        );
        assert_eq!(allowed("required", "c"), Err("tool_choice".into()));
        assert_eq!(allowed("none", "b"), Err("tool_choice".into()));
    }

    #[test]
    fn choice_of_another_kind_is_refused() {
        for choice in [
            r#"{"type": "custom", "custom": {"name": "a"}}"#,
            r#"{"type": "function"}"#,
            r#"{"type": "function", "function": {"name": "c"}}"#,
            "{}",
            "\"sometimes\"",
        ] {
            assert_eq!(validate(choice), Err("tool_choice".into()), "{choice}");
        }
    }

    #[test]
    fn number_of_tools_is_limited() {
        let tool = r#"{"type": "function", "function": {"name": "a"}}"#;
        let tools = format!("[{}]", [tool; MAX_TOOLS + 1].join(","));
        assert!(validate_tools(serde_json::from_str(&tools).unwrap(), None).is_err());
    }
}

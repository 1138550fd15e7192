//! The grammar that an answer must follow.

use flotilla_core::generate::{GenerateRequest, OutputConstraint, RequestError, Tool, ToolChoice};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value, json};

use super::call_reader::call_head;
use super::schema::{self, Budget};

/// The grammar of an answer.
pub(crate) struct AnswerGrammar {
    pub(crate) grammar: TopLevelGrammar,
    /// The functions that the answer may call, in the form that
    /// [`CallReader`](super::call_reader::CallReader) reads. Empty if it has content only.
    pub(crate) calls: Vec<String>,
    /// Whether the answer may have content instead of a call.
    pub(crate) may_have_content: bool,
    /// The field of the request that the grammar comes from.
    pub(crate) param: &'static str,
}

/// The field with the schema of the answer's format.
const FORMAT_PATH: &str = "response_format.json_schema.schema";
/// The name of the grammar of content.
const CONTENT: &str = "content";

/// Returns the grammar of the answer to a request. `None` if the answer may be any text.
///
/// Strict schemas are checked even where the model is free not to use them.
///
/// # Errors
/// [`RequestError::Invalid`] when a schema is invalid or too complex, or when a strict one has keywords
/// that the grammar lacks.
pub(crate) fn answer_grammar(
    request: &GenerateRequest,
) -> Result<Option<AnswerGrammar>, RequestError> {
    let mut budget = Budget::default();
    let content = request.constraint.as_ref();
    let content = content
        .map(|format| format_schema(format, &mut budget))
        .transpose()?;
    let is_forced = matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Named(_)
    );
    let may_call = is_forced || (content.is_some() && request.tool_choice == ToolChoice::Auto);
    let mut calls = Vec::new();
    for (index, tool) in request.tools.iter().enumerate() {
        let is_callable = match &request.tool_choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => may_call,
        };
        if is_callable || tool.strict == Some(true) {
            let arguments = arguments_schema(tool, index, &mut budget)?;
            if is_callable {
                calls.push((tool.name.clone(), arguments));
            }
        }
    }
    if is_forced && calls.is_empty() {
        let message = "The tool choice names no function of 'tools'.";
        return Err(RequestError::invalid("tool_choice", message));
    }
    let content = content.filter(|_| !is_forced);
    if content.is_none() && calls.is_empty() {
        return Ok(None);
    }
    let param = if calls.is_empty() {
        "response_format"
    } else {
        "tools"
    };
    let names = calls.iter().map(|(name, _)| name.clone()).collect();
    Ok(Some(AnswerGrammar {
        may_have_content: content.is_some(),
        grammar: join(calls, content),
        calls: names,
        param,
    }))
}

/// Joins the grammars of calls and content as alternatives.
fn join(calls: Vec<(String, Value)>, content: Option<Value>) -> TopLevelGrammar {
    let mut alternatives = Vec::new();
    let mut rules = String::new();
    let mut grammars = Vec::new();
    for (index, (name, arguments)) in calls.into_iter().enumerate() {
        let head = Value::String(call_head(&name));
        alternatives.push(format!("call_{index}"));
        rules.push_str(&format!("call_{index}: {head} @arguments_{index} \"}}\"\n"));
        grammars.push((format!("arguments_{index}"), arguments));
    }
    if let Some(content) = content {
        alternatives.push(format!("@{CONTENT}"));
        grammars.push((CONTENT.to_owned(), content));
    }
    let start = format!("start: {}\n{rules}", alternatives.join(" | "));
    let mut all = vec![GrammarWithLexer::from_lark(start)];
    all.extend(grammars.into_iter().map(|(name, schema)| GrammarWithLexer {
        name: Some(name),
        json_schema: Some(with_one_spacing(schema)),
        lark_grammar: None,
    }));
    TopLevelGrammar {
        grammars: all,
        max_tokens: None,
    }
}

fn format_schema(format: &OutputConstraint, budget: &mut Budget) -> Result<Value, RequestError> {
    Ok(match format {
        OutputConstraint::JsonObject => json!({"type": "object"}),
        OutputConstraint::JsonSchema(format) => {
            let strict = format.strict == Some(true);
            schema::prepare(&format.schema, strict, FORMAT_PATH, budget)?
        }
    })
}

/// The schema of a call's arguments, which are always an object.
fn arguments_schema(tool: &Tool, index: usize, budget: &mut Budget) -> Result<Value, RequestError> {
    let Some(parameters) = &tool.parameters else {
        return Ok(no_arguments());
    };
    let path = format!("tools[{index}].function.parameters");
    let prepared = schema::prepare(parameters, tool.strict == Some(true), &path, budget)?;
    object_schema(prepared).ok_or_else(|| {
        let message = format!("The parameters of '{}' must describe an object.", tool.name);
        RequestError::invalid(format!("{path}.type"), message)
    })
}

/// Restricts a schema to objects. A schema that names no property and says nothing else allows no
/// arguments, as where a function has no parameters. `None` if the schema allows no object.
fn object_schema(schema: Value) -> Option<Value> {
    let Value::Object(mut fields) = schema else {
        // `true` allows anything.
        return (schema == Value::Bool(true)).then(no_arguments);
    };
    let is_object = |name: &Value| name == "object";
    match fields.get("type") {
        Some(Value::Array(types)) if !types.iter().any(is_object) => return None,
        Some(Value::String(name)) if name != "object" => return None,
        _ => {}
    }
    let names_nothing = |fields: &Map<String, Value>| {
        let mut keywords = fields.iter().filter(|(keyword, _)| *keyword != "type");
        keywords.all(|(keyword, value)| match keyword.as_str() {
            "properties" => value.as_object().is_some_and(Map::is_empty),
            "required" => value.as_array().is_some_and(Vec::is_empty),
            _ => false,
        })
    };
    if names_nothing(&fields) && (fields.is_empty() || fields.contains_key("properties")) {
        return Some(no_arguments());
    }
    // A reference with another keyword beside it cannot be recursive for the compiler.
    if !fields.contains_key("$ref") {
        fields.insert("type".to_owned(), json!("object"));
    }
    Some(Value::Object(fields))
}

fn no_arguments() -> Value {
    json!({"type": "object", "properties": {}, "additionalProperties": false})
}

/// Makes the grammar accept only one way of spacing. If any white space is allowed, a small model can
/// fill its whole answer with it.
fn with_one_spacing(schema: Value) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields,
        // The options of the compiler need an object.
        Value::Bool(true) => Map::new(),
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    fields.insert(
        "x-guidance".to_owned(),
        json!({
            "whitespace_flexible": false,
            "item_separator": ", ",
            "key_separator": ": ",
            // Alternatives that may match together were refused where the schema is strict.
            "coerce_one_of": true,
        }),
    );
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::generate::{GenerateInput, JsonSchemaFormat};

    fn request(tool_choice: ToolChoice, parameters: &[Option<Value>]) -> GenerateRequest {
        let tool = |(index, parameters): (usize, &Option<Value>)| Tool {
            name: format!("f{index}"),
            parameters: parameters.as_ref().map(Value::to_string),
            ..Tool::default()
        };
        GenerateRequest {
            tools: parameters.iter().enumerate().map(tool).collect(),
            tool_choice,
            ..GenerateRequest::new(
                ModelName::new("m").unwrap(),
                GenerateInput::Chat(Vec::new()),
            )
        }
    }

    fn schemas(grammar: &AnswerGrammar) -> Vec<Value> {
        let schemas = grammar
            .grammar
            .grammars
            .iter()
            .filter_map(|grammar| grammar.json_schema.clone());
        schemas
            .map(|mut schema| {
                schema.as_object_mut().unwrap().remove("x-guidance");
                schema
            })
            .collect()
    }

    #[test]
    fn forced_call_keeps_each_schema_a_document_of_its_own() {
        let nested = json!({
            "type": "object",
            "properties": {"line": {"$ref": "#/$defs/Line"}},
            "$defs": {"Line": {"type": "object"}},
        });
        let grammar = answer_grammar(&request(ToolChoice::Required, &[Some(nested), None]));
        let grammar = grammar.unwrap().unwrap();
        assert_eq!(grammar.calls, ["f0", "f1"]);
        assert!(!grammar.may_have_content);
        assert_eq!(
            schemas(&grammar),
            [
                json!({
                    "type": "object",
                    "properties": {"line": {"$ref": "#/$defs/d0"}},
                    "additionalProperties": false,
                    "$defs": {"d0": {"type": "object"}},
                }),
                no_arguments(),
            ]
        );
        let named = answer_grammar(&request(
            ToolChoice::Named("f1".into()),
            &[Some(json!(true)), None],
        ));
        assert_eq!(named.unwrap().unwrap().calls, ["f1"]);
    }

    #[test]
    fn parameters_without_properties_allow_no_arguments() {
        for parameters in [
            json!({}),
            json!(true),
            json!({"type": "object", "properties": {}, "required": []}),
        ] {
            assert_eq!(object_schema(parameters), Some(no_arguments()));
        }
        let any = json!({"type": "object"});
        assert_eq!(object_schema(any.clone()), Some(any));
        assert_eq!(
            object_schema(json!({"properties": {"a": {}}})),
            Some(json!({"properties": {"a": {}}, "type": "object"}))
        );
        assert_eq!(
            object_schema(json!({"type": ["object", "null"]})),
            Some(json!({"type": "object"}))
        );
        assert_eq!(object_schema(json!({"type": "string"})), None);
        assert_eq!(object_schema(json!(false)), None);
    }

    #[test]
    fn free_answer_has_no_grammar_but_its_strict_tools_are_checked() {
        let unique = json!({"type": "object", "uniqueItems": true});
        let mut request = request(ToolChoice::Auto, &[None, Some(unique)]);
        assert!(answer_grammar(&request).unwrap().is_none());
        request.tools[1].strict = Some(true);
        let Err(RequestError::Invalid { param, .. }) = answer_grammar(&request) else {
            panic!("accepted");
        };
        assert_eq!(
            param.as_deref(),
            Some("tools[1].function.parameters.uniqueItems")
        );
    }

    #[test]
    fn answer_with_a_format_may_still_call_a_tool() {
        let mut request = request(ToolChoice::Auto, &[None]);
        request.constraint = Some(OutputConstraint::JsonSchema(JsonSchemaFormat {
            schema: r#"{"type": "string"}"#.into(),
            ..JsonSchemaFormat::default()
        }));
        let grammar = answer_grammar(&request).unwrap().unwrap();
        assert!(grammar.may_have_content);
        assert_eq!(grammar.calls, ["f0"]);
        request.tool_choice = ToolChoice::None;
        let grammar = answer_grammar(&request).unwrap().unwrap();
        assert!(grammar.calls.is_empty());
    }
}

use super::*;
use crate::text::schema::{self, Budget};
use llguidance::api::GrammarWithLexer;
use llguidance::toktrie::ApproximateTokEnv;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A vocabulary with one token for each byte and some special ones.
fn factory() -> ParserFactory {
    ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap()
}

/// A special token, which is not the one that the vocabulary itself takes for the end.
const END: u32 = 256;

fn compile_grammar(grammar: TopLevelGrammar) -> Result<AnswerMatcher, String> {
    AnswerMatcher::compile(&factory(), grammar, Arc::new([END]))
}

fn compile(schema: &Value) -> Result<AnswerMatcher, String> {
    let options = json!({"whitespace_flexible": false, "coerce_one_of": true});
    let mut schema = schema.clone();
    schema
        .as_object_mut()
        .unwrap()
        .insert("x-guidance".into(), options);
    compile_grammar(TopLevelGrammar::from_json_schema(schema))
}

fn compile_prepared(schema: &Value) -> Result<AnswerMatcher, String> {
    let prepared = schema::prepare(&schema.to_string(), true, "", &mut Budget::default());
    compile(&prepared.map_err(|error| format!("{error:?}"))?)
}

fn allowed(matcher: &mut AnswerMatcher) -> Vec<u32> {
    let mut logits = vec![0.0; 512];
    matcher.mask(&mut logits).unwrap();
    let allowed = (0..512).filter(|token| logits[*token as usize] == 0.0);
    allowed.collect()
}

/// Whether a text is a complete answer.
fn accepts(matcher: &AnswerMatcher, text: &str) -> bool {
    let mut matcher = matcher.clone();
    for byte in text.bytes() {
        let byte = u32::from(byte);
        if !allowed(&mut matcher).contains(&byte) {
            return false;
        }
        matcher.consume(byte).unwrap();
    }
    allowed(&mut matcher).contains(&END)
}

#[test]
fn answer_ends_only_where_the_grammar_is_complete() {
    let mut matcher = compile(&json!({"enum": ["ab"]})).unwrap();
    for byte in *b"\"ab\"" {
        assert_eq!(allowed(&mut matcher), [u32::from(byte)]);
        matcher.consume(byte.into()).unwrap();
    }
    assert_eq!(allowed(&mut matcher), [END]);
    matcher.consume(END).unwrap();
}

#[test]
fn recursive_and_nested_definitions_are_enforced() {
    let matcher = compile_prepared(&json!({
        "type": "object",
        "properties": {"name": {"$ref": "#/definitions/Name"}, "child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["name", "child"],
        "additionalProperties": false,
        "definitions": {"Name": {"enum": ["a", "b"]}},
    }));
    let matcher = matcher.unwrap();
    assert!(accepts(
        &matcher,
        r#"{"name":"a","child":{"name":"b","child":null}}"#
    ));
    assert!(!accepts(
        &matcher,
        r#"{"name":"a","child":{"name":"c","child":null}}"#
    ));
    assert!(!accepts(&matcher, r#"{"name":"a","child":{}}"#));
}

#[test]
fn formats_that_are_said_to_be_enforced_are() {
    for format in schema::FORMATS {
        assert!(
            compile(&json!({"type": "string", "format": format})).is_ok(),
            "{format}"
        );
    }
    for format in [
        "credit-card",
        "uri-reference",
        "binary",
        "password",
        "regex",
    ] {
        assert!(
            compile(&json!({"type": "string", "format": format})).is_err(),
            "{format}"
        );
    }
}

#[test]
fn error_of_the_compiler_is_one_sentence_without_a_backtrace() {
    for schema in [
        json!({"type": "object", "minimum": "größer".repeat(40)}),
        json!({"minimum": "ä".repeat(80), "type": "number"}),
        json!({"type": "integer", "minimum": 5, "maximum": 3}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"type": "string", "pattern": "(?=a)"}),
        json!({"uniqueItems": true}),
    ] {
        if let Err(error) = compile(&schema) {
            assert!(!error.contains("panic") && !error.contains('\n'), "{error}");
            assert!(
                !error.contains("backtrace") && error.len() < 1_000,
                "{error}"
            );
        } else {
            assert!(
                schema.get("type").is_some_and(|name| name == "object"),
                "{schema}"
            );
        }
    }
    assert_eq!(
        problem("panic: byte index 100 is not a char boundary\n<backtrace>"),
        "the grammar compiler cannot process it"
    );
}

/// What the limits of schemas allow must not take long, for compiling nor for a token.
#[test]
fn largest_allowed_schemas_compile_in_time() {
    let optional = |count: usize| -> Value {
        let properties = (0..count).map(|i| (format!("property_{i}"), json!({"type": "string"})));
        json!({"type": "object", "properties": Value::from_iter(properties), "additionalProperties": false})
    };
    let patterns = (0..40).map(|i| {
        (
            format!("p{i}"),
            json!({"type": "string", "pattern": format!("^[a-z]{{1,400}}{i}$")}),
        )
    });
    let values: Vec<String> = (0..5_000).map(|i| format!("value number {i}")).collect();
    for (name, schema) in [
        ("optional properties", optional(1_000)),
        (
            "patterns",
            json!({"type": "object", "properties": Value::from_iter(patterns)}),
        ),
        ("values", json!({"enum": values})),
        (
            "items",
            json!({"type": "array", "items": optional(50), "minItems": 1_000}),
        ),
        ("length", json!({"type": "string", "minLength": 100_000})),
        (
            "properties of any name",
            json!({"type": "object", "minProperties": 1_000}),
        ),
    ] {
        let started = Instant::now();
        let matcher = compile_prepared(&schema);
        let took = started.elapsed();
        eprintln!("{name}: {took:?} {:?}", matcher.as_ref().err());
        assert!(took < Duration::from_secs(5), "{name} took {took:?}");
    }
}

#[test]
fn call_of_one_of_several_functions_is_accepted() {
    let grammar = TopLevelGrammar {
        grammars: vec![
            GrammarWithLexer::from_lark(
                "start: a | b\na: \"{\\\"x\\\": \" @args \"}\"\nb: \"{\\\"y\\\": 1}\"\n".into(),
            ),
            GrammarWithLexer {
                name: Some("args".into()),
                json_schema: Some(json!({"enum": [1, 2]})),
                lark_grammar: None,
            },
        ],
        max_tokens: None,
    };
    let matcher = compile_grammar(grammar).unwrap();
    assert!(accepts(&matcher, "{\"x\": 2}"));
    assert!(accepts(&matcher, "{\"y\": 1}"));
    assert!(!accepts(&matcher, "{\"x\": 3}"));
}

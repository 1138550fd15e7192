use super::*;
use serde_json::json;

fn prepared(schema: &Value, strict: bool) -> Result<Value, (String, String)> {
    let mut budget = Budget::default();
    prepare(&schema.to_string(), strict, "schema", &mut budget)
        .map_err(|error| (error.path, error.message))
}

fn refused_at(schema: &Value, strict: bool) -> String {
    prepared(schema, strict).unwrap_err().0
}

#[test]
fn references_of_every_form_are_collected_under_defs() {
    let line = json!({"properties": {"parent": {"$ref": "#"}}, "additionalProperties": false});
    for (reference, place) in [
        ("#/$defs/Line", json!({"$defs": {"Line": line}})),
        ("#/definitions/Line", json!({"definitions": {"Line": line}})),
        ("#/$defs/a~1b%20c", json!({"$defs": {"a/b c": line}})),
        (
            "#line",
            json!({"$defs": {"x": {"$anchor": "line", "properties": {"parent": {"$ref": "#"}}}}}),
        ),
    ] {
        let mut schema = json!({"type": "object", "properties": {"line": {"$ref": reference}}});
        schema
            .as_object_mut()
            .unwrap()
            .extend(place.as_object().unwrap().clone());
        let expected = json!({
            "type": "object",
            "properties": {"line": {"$ref": "#/$defs/d0"}},
            "additionalProperties": false,
            "$defs": {
                "d0": {
                    "properties": {"parent": {"$ref": "#/$defs/d1"}},
                    "additionalProperties": false,
                },
                "d1": {
                    "type": "object",
                    "properties": {"line": {"$ref": "#/$defs/d0"}},
                    "additionalProperties": false,
                },
            },
        });
        assert_eq!(prepared(&schema, true), Ok(expected), "{reference}");
    }
}

#[test]
fn pointer_to_a_property_and_an_identifier_are_found() {
    let schema = json!({
        "$id": "https://example.org/root",
        "properties": {
            "a": {"type": "string", "title": "A"},
            "b": {"$ref": "#/properties/a"},
            "c": {"$ref": "https://example.org/root#/properties/a"},
            "d": {"$id": "https://example.org/d", "properties": {"e": {"$ref": "#/properties/f"}, "f": {"type": "null"}}},
        },
    });
    let prepared = prepared(&schema, true).unwrap();
    assert_eq!(prepared["properties"]["b"], json!({"$ref": "#/$defs/d0"}));
    assert_eq!(prepared["properties"]["c"], json!({"$ref": "#/$defs/d0"}));
    assert_eq!(prepared["$defs"]["d0"], json!({"type": "string"}));
    assert_eq!(prepared["$defs"]["d1"], json!({"type": "null"}));
}

#[test]
fn reference_out_of_the_schema_or_to_itself_is_refused_with_its_path() {
    for reference in [
        "other.json",
        "https://example.org/x#/y",
        "#/$defs/nowhere",
        "#nowhere",
    ] {
        let schema = json!({"properties": {"a": {"$ref": reference}}});
        assert_eq!(
            refused_at(&schema, false),
            "schema.properties.a.$ref",
            "{reference}"
        );
    }
    assert_eq!(refused_at(&json!({"$ref": "#"}), false), "schema.$ref");
    let round = json!({
        "anyOf": [{"$ref": "#/$defs/a"}],
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    });
    assert_eq!(refused_at(&round, false), "schema.anyOf[0].$ref");
}

#[test]
fn what_the_grammar_lacks_is_left_out_or_refused_if_strict() {
    for (keyword, value) in [
        ("uniqueItems", json!(true)),
        ("propertyNames", json!({"pattern": "^a"})),
        ("format", json!("credit-card")),
        ("pattern", json!("^(?!a).*$")),
        ("if", json!({"type": "string"})),
        ("not", json!({})),
        ("contains", json!(true)),
        ("dependentRequired", json!({})),
        ("unevaluatedProperties", json!(false)),
    ] {
        let mut schema = json!({"properties": {"a": {"type": "string"}}, "title": "T"});
        schema["properties"]["a"][keyword] = value;
        let left = json!({"properties": {"a": {"type": "string"}}, "additionalProperties": false});
        assert_eq!(prepared(&schema, false), Ok(left), "{keyword}");
        assert_eq!(
            refused_at(&schema, true),
            format!("schema.properties.a.{keyword}")
        );
    }
    assert!(prepared(&json!({"items": {}, "uniqueItems": false}), true).is_ok());
}

#[test]
fn properties_of_a_pattern_that_was_left_out_are_allowed() {
    let schema = json!({
        "type": "object",
        "patternProperties": {"^(?!a)": {}, "^b$": {}},
        "additionalProperties": false,
    });
    assert_eq!(prepared(&schema, false), Ok(json!({"type": "object"})));
}

#[test]
fn keyword_names_are_allowed_as_names_of_properties() {
    let schema = json!({
        "properties": {"not": {"type": "string"}, "$ref": {"type": "null"}},
        "additionalProperties": {"type": "integer"},
    });
    assert_eq!(prepared(&schema, true), Ok(schema));
}

#[test]
fn object_gets_only_the_properties_that_it_lists_unless_it_says_more() {
    let closed = |schema: &Value| {
        let prepared = prepared(schema, true).unwrap();
        prepared.get("additionalProperties") == Some(&json!(false))
    };
    let lists = json!({"type": "object", "properties": {"a": {}}, "required": ["a"]});
    assert!(closed(&lists));
    for (keyword, value) in [
        ("additionalProperties", json!(true)),
        ("patternProperties", json!({"^x": {}})),
        ("required", json!(["b"])),
        ("minProperties", json!(2)),
        // Each of these describes the same object in another place.
        ("allOf", json!([{"properties": {"b": {}}}])),
        ("anyOf", json!([{"properties": {"b": {}}}])),
        ("$ref", json!("#/$defs/b")),
    ] {
        let mut schema = lists.clone();
        schema[keyword] = value;
        schema["$defs"] = json!({"b": {"properties": {"b": {}}}});
        assert!(!closed(&schema), "{keyword}");
    }
    assert!(!closed(&json!({"type": "object"})));
}

#[test]
fn one_of_is_strict_if_its_alternatives_exclude_each_other() {
    let cat =
        json!({"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]});
    let dog =
        json!({"type": "object", "properties": {"kind": {"enum": ["dog"]}}, "required": ["kind"]});
    let schema = json!({
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "$defs": {"Cat": cat, "Dog": dog},
    });
    let alternatives = json!([{"$ref": "#/$defs/d0"}, {"$ref": "#/$defs/d1"}]);
    assert_eq!(prepared(&schema, true).unwrap()["oneOf"], alternatives);
    let unclear = json!({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]});
    assert_eq!(refused_at(&unclear, true), "schema.oneOf");
    assert!(prepared(&unclear, false).is_ok());
}

#[test]
fn references_and_alternatives_without_end_are_refused() {
    let anchors: Map<String, Value> = (0..2_400)
        .map(|n| {
            (
                format!("d{n}"),
                json!({"$anchor": format!("a{n}"), "const": n}),
            )
        })
        .collect();
    let alternatives: Vec<Value> = (0..2_400)
        .map(|n| json!({"$ref": format!("#a{n}")}))
        .collect();
    let union = json!({"oneOf": alternatives, "$defs": anchors});
    let too_complex = |schema: &Value, strict| {
        let (path, message) = prepared(schema, strict).unwrap_err();
        assert!(message.contains("too complex"), "{message}");
        path
    };
    assert_eq!(too_complex(&union, true), "schema.oneOf");
    // Without `strict`, the alternatives are not compared, but each is one that the grammar has.
    assert_eq!(refused_at(&union, false), "schema.oneOf[256].$ref");
    // Each of these references is followed through a chain.
    let mut chain: Map<String, Value> = (0..250)
        .map(|n| {
            (
                format!("d{n}"),
                json!({"$ref": format!("#/$defs/d{}", n + 1)}),
            )
        })
        .collect();
    chain.insert("d250".to_owned(), json!({"type": "null"}));
    let references = vec![json!({"$ref": "#/$defs/d0"}); 4_000];
    let chained = json!({"anyOf": references, "$defs": chain});
    assert!(too_complex(&chained, false).starts_with("schema.anyOf["));
    // Each keyword of a schema has the long name in its path.
    let ignored: Map<String, Value> = (0..10_000).map(|n| (format!("x{n}"), json!(0))).collect();
    let long = json!({"properties": {"x".repeat(100_000): ignored}});
    assert!(too_complex(&long, false).starts_with("schema.properties.xxx"));
}

#[test]
fn anchors_belong_to_the_schema_with_an_identifier() {
    let schema = json!({
        "properties": {"a": {"$ref": "#line"}, "b": {"$ref": "b#line"}},
        "$defs": {
            "b": {"$id": "b", "$defs": {"x": {"$anchor": "line", "type": "string"}}},
            "c": {"$id": "#line", "type": "null"},
        },
    });
    let prepared = prepared(&schema, true).unwrap();
    let definition = |name: &str| {
        let reference = prepared["properties"][name]["$ref"].as_str().unwrap();
        prepared.pointer(&reference[1..]).unwrap()
    };
    assert_eq!(*definition("a"), json!({"type": "null"}));
    assert_eq!(*definition("b"), json!({"type": "string"}));
}

#[test]
fn patterns_of_a_request_are_counted_together() {
    let with_patterns = |count: usize| {
        let fields = (0..count).map(|n| (format!("p{n}"), json!({"pattern": "^[a-z]{1,6000}$"})));
        json!({"properties": fields.collect::<Map<_, _>>()})
    };
    assert!(prepared(&with_patterns(3), true).is_ok());
    let (path, message) = prepared(&with_patterns(4), true).unwrap_err();
    assert!(path.ends_with(".pattern"), "{path}");
    assert!(
        message.contains("20000 characters of patterns"),
        "{message}"
    );
}

#[test]
fn complex_schemas_are_refused() {
    let properties: Map<String, Value> = (0..5_000).map(|i| (format!("p{i}"), json!({}))).collect();
    let values: Vec<u32> = (0..20_000).collect();
    let mut deep = json!({});
    for _ in 0..40 {
        deep = json!({"items": deep});
    }
    for (schema, path) in [
        (
            json!({"properties": properties}),
            "schema.properties".to_owned(),
        ),
        (json!({"enum": values}), "schema.enum".to_owned()),
        (json!({"minItems": 50_000}), "schema.minItems".to_owned()),
        (
            json!({"maxLength": 4_000_000_000_u64}),
            "schema.maxLength".to_owned(),
        ),
        (
            json!({"pattern": "((a{100}){100}){100}"}),
            "schema.pattern".to_owned(),
        ),
        (json!({"title": "x".repeat(300_000)}), "schema".to_owned()),
        (deep, format!("schema{}", ".items".repeat(33))),
    ] {
        assert_eq!(refused_at(&schema, false), path);
    }
}

#[test]
fn invalid_schemas_are_refused_with_their_path() {
    for (schema, path) in [
        (json!({"type": "nonsense"}), "schema.type"),
        (json!({"type": []}), "schema.type"),
        (json!({"properties": 5}), "schema.properties"),
        (json!({"properties": {"a": 5}}), "schema.properties.a"),
        (json!({"minimum": "größer"}), "schema.minimum"),
        (json!({"minItems": -1}), "schema.minItems"),
        (json!({"required": "a"}), "schema.required"),
        (json!({"anyOf": {}}), "schema.anyOf"),
        (json!({"$ref": 5}), "schema.$ref"),
        (json!([]), "schema"),
    ] {
        assert_eq!(refused_at(&schema, false), path, "{schema}");
    }
    assert_eq!(
        prepared(&json!({"minItems": 2.0}), true),
        Ok(json!({"minItems": 2}))
    );
}

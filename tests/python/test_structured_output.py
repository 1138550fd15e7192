"""Answers that match a requested schema."""

import enum
import json
import time
from typing import Literal

import jsonschema
import openai
import pydantic
import pytest

import raw_http
from fleet import QUESTIONS, user

EXTRACT = "extract"
# Not trained on JSON, so its JSON is due to the constraint alone.
UNTRAINED = "support-intent"

SCHEMAS = {
    "string": {
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 12}},
        "required": ["name"],
        "additionalProperties": False,
    },
    "numbers": {
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 3, "maximum": 17},
            "part": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
            "sure": {"type": "boolean"},
            "nothing": {"type": "null"},
        },
        "required": ["count", "part", "sure", "nothing"],
        "additionalProperties": False,
    },
    "enums": {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "size": {"enum": [1, 2, None]}, "kind": {"const": "thing"}},
        "required": ["colour", "size", "kind"],
        "additionalProperties": False,
    },
    "array": {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"enum": ["x", "y", "z"]}, "minItems": 2, "maxItems": 3},
            "empty": {"type": "array", "items": {"type": "string"}, "maxItems": 0},
        },
        "required": ["tags", "empty"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {"order": {"$ref": "#/$defs/order"}},
        "required": ["order"],
        "additionalProperties": False,
        "$defs": {
            "order": {
                "type": "object",
                "properties": {
                    "lines": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 2,
                        "items": {
                            "type": "object",
                            "properties": {"item": {"enum": ["lamp", "desk"]}, "quantity": {"enum": [1, 2, 3]}},
                            "required": ["item", "quantity"],
                            "additionalProperties": False,
                        },
                    }
                },
                "required": ["lines"],
                "additionalProperties": False,
            }
        },
    },
    "alternatives": {"anyOf": [{"enum": ["yes", "no"]}, {"type": "integer", "minimum": 1, "maximum": 5}]},
    "other-scripts": {"enum": ["日本語", "größer", "🂡 \"quoted\" \\ \n"]},
    "capitals": {
        "type": "object",
        "properties": {"Colour": {"enum": ["Red", "GREEN"]}, "isReady": {"type": "boolean"}},
        "required": ["Colour", "isReady"],
        "additionalProperties": False,
    },
    "pattern": {
        "type": "object",
        "properties": {"day": {"type": "string", "pattern": "^20[0-9]{2}-[01][0-9]$"}},
        "required": ["day"],
        "additionalProperties": False,
    },
}


def form(schema, strict=True):
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": strict, "schema": schema}}


def streamed(ask, *arguments, **parameters):
    text, reason = "", None
    for chunk in ask(*arguments, stream=True, **parameters):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("model", [UNTRAINED, EXTRACT])
def test_answer_matches_the_schema(ask, model, name, temperature):
    choice = ask(
        model, QUESTIONS[model], temperature=temperature, seed=1, max_tokens=300, response_format=form(SCHEMAS[name])
    ).choices[0]
    assert choice.finish_reason == "stop", choice.message.content
    jsonschema.validate(json.loads(choice.message.content), SCHEMAS[name])


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("model", [UNTRAINED, EXTRACT])
def test_streamed_answer_matches_the_schema(ask, model, name):
    parameters = {"temperature": 0, "max_tokens": 300, "response_format": form(SCHEMAS[name])}
    text, reason = streamed(ask, model, QUESTIONS[model], **parameters)
    assert reason == "stop", text
    jsonschema.validate(json.loads(text), SCHEMAS[name])
    assert text == ask(model, QUESTIONS[model], **parameters).choices[0].message.content


@pytest.mark.parametrize("model", QUESTIONS)
def test_every_model_can_be_forced_to_choose_from_a_list(ask, model):
    schema = {"enum": ["alpha", "beta", "gamma"]}
    choice = ask(model, QUESTIONS[model], temperature=0, max_tokens=60, response_format=form(schema)).choices[0]
    assert json.loads(choice.message.content) in schema["enum"]
    assert choice.finish_reason == "stop"


def test_structured_answer_contains_little_whitespace(ask):
    """A small model would repeat spaces without end where JSON allows them."""
    choice = ask(UNTRAINED, "hello", temperature=0, max_tokens=300, response_format=form(SCHEMAS["enums"])).choices[0]
    compact = json.dumps(json.loads(choice.message.content), separators=(",", ":"))
    assert len(choice.message.content) <= 2 * len(compact)


def test_extract_answers_with_an_object_without_a_schema(ask):
    answer = ask(EXTRACT, QUESTIONS[EXTRACT], temperature=0)
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_json_object_format_gives_an_object(ask):
    parameters = {"temperature": 0, "max_tokens": 200, "response_format": {"type": "json_object"}}
    choice = ask(EXTRACT, QUESTIONS[EXTRACT], **parameters).choices[0]
    assert choice.finish_reason == "stop", choice.message.content
    assert isinstance(json.loads(choice.message.content), dict)
    assert streamed(ask, EXTRACT, QUESTIONS[EXTRACT], **parameters) == (choice.message.content, "stop")


@pytest.mark.parametrize("question", ["maria smith ordered 3 red lamps", "hello", "7 {{{"])
def test_json_object_of_an_untrained_model_starts_as_an_object(ask, question):
    """Its content does not end by itself, so only the start of the object is checked."""
    choice = ask(
        UNTRAINED, question, temperature=0, max_tokens=60, response_format={"type": "json_object"}
    ).choices[0]
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    else:
        assert choice.finish_reason == "length"


def test_text_format_gives_the_usual_answer(ask):
    plain = ask(UNTRAINED, QUESTIONS[UNTRAINED], temperature=0).choices[0].message.content
    text = ask(UNTRAINED, QUESTIONS[UNTRAINED], temperature=0, response_format={"type": "text"})
    assert text.choices[0].message.content == plain


def test_all_choices_match_the_schema(ask):
    schema = SCHEMAS["nested"]
    completion = ask(UNTRAINED, "hello", n=4, temperature=1, max_tokens=300, response_format=form(schema))
    assert len(completion.choices) == 4
    for choice in completion.choices:
        jsonschema.validate(json.loads(choice.message.content), schema)


def test_structured_answer_has_log_probabilities(ask):
    choice = ask(
        UNTRAINED,
        "hello",
        temperature=0,
        max_tokens=300,
        logprobs=True,
        top_logprobs=3,
        response_format=form(SCHEMAS["enums"]),
    ).choices[0]
    jsonschema.validate(json.loads(choice.message.content), SCHEMAS["enums"])
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in entries)


@pytest.mark.parametrize("tokens", range(1, 12))
def test_answer_may_be_cut_within_a_character(ask, tokens):
    """Each of these characters is several tokens of a model that was not trained on them."""
    completion = ask(UNTRAINED, "hello", temperature=0, max_tokens=tokens, response_format=form({"enum": ["日本語日本語"]}))
    (choice,) = completion.choices
    assert choice.finish_reason == "length"
    assert completion.usage.completion_tokens == tokens
    assert '"日本語日本語"'.startswith(choice.message.content.rstrip("\ufffd"))


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Line(pydantic.BaseModel):
    item: Literal["lamp", "desk"]
    quantity: Literal[1, 2, 3]


class Order(pydantic.BaseModel):
    colour: Colour
    line: Line
    express: bool


@pytest.mark.parametrize("model", [UNTRAINED, EXTRACT])
def test_client_parses_an_answer_into_a_pydantic_model(client, model):
    completion = client.chat.completions.parse(
        model=model, messages=user(QUESTIONS[model]), response_format=Order, temperature=0, max_tokens=300
    )
    order = completion.choices[0].message.parsed
    assert isinstance(order, Order)
    assert order.line.item in ["lamp", "desk"]


def test_client_parses_a_stream_into_a_pydantic_model(client):
    with client.chat.completions.stream(
        model=UNTRAINED, messages=user("hello"), response_format=Order, temperature=0, max_tokens=300
    ) as events:
        final = events.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Order)


RECURSIVE = {
    "type": "object",
    "properties": {"name": {"enum": ["a", "b"]}, "child": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
    "required": ["name", "child"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_recursive_schema_is_enforced(ask, stream):
    parameters = {"temperature": 0.3, "seed": 2, "max_tokens": 400, "response_format": form(RECURSIVE)}
    if stream:
        text, reason = streamed(ask, UNTRAINED, "hello", **parameters)
    else:
        choice = ask(UNTRAINED, "hello", **parameters).choices[0]
        text, reason = choice.message.content, choice.finish_reason
    if reason == "stop":
        jsonschema.validate(json.loads(text), RECURSIVE)
    else:
        assert reason == "length" and text.startswith('{"name": "')


# What the grammar lacks, in a schema that it can enforce otherwise.
PARTLY = {
    "uniqueItems": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 2, "uniqueItems": True},
    "propertyNames": {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
        "propertyNames": {"pattern": "^[a-z]$"},
    },
    "format": {"type": "string", "maxLength": 4, "format": "credit-card"},
    "pattern": {"type": "string", "maxLength": 4, "pattern": "^(?!.*z).*$"},
    "if": {"type": "integer", "minimum": 1, "maximum": 3, "if": {"const": 1}, "then": {"minimum": 1}},
    "not": {"type": "integer", "minimum": 1, "maximum": 3, "not": {"const": 7}},
    "contains": {"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 2, "contains": {"const": 1}},
}


@pytest.mark.parametrize("strict", [False, None])
@pytest.mark.parametrize("keyword", PARTLY)
def test_schema_that_is_not_strict_is_enforced_as_far_as_possible(ask, keyword, strict):
    wanted = {name: value for name, value in PARTLY[keyword].items() if name != keyword}
    choice = ask(
        UNTRAINED, "hello", temperature=0, max_tokens=60, response_format=form(wrapped(PARTLY[keyword]), strict)
    ).choices[0]
    assert choice.finish_reason == "stop", choice.message.content
    jsonschema.validate(json.loads(choice.message.content), wrapped(wanted))


def wrapped(schema):
    return {"type": "object", "properties": {"v": schema}, "required": ["v"], "additionalProperties": False}


@pytest.mark.parametrize("keyword", PARTLY)
def test_strict_schema_with_what_the_grammar_lacks_is_refused_with_its_path(ask, keyword):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(UNTRAINED, "hello", max_tokens=5, response_format=form(wrapped(PARTLY[keyword])))
    assert refused.value.param == f"response_format.json_schema.schema.properties.v.{keyword}"


def wide(count):
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "array", "items": {}, "minItems": 50_000},
        {"type": "number", "minimum": "größer als nichts" * 20},
        {"type": "string", "pattern": "((a{100}){100}){100}"},
        {"allOf": [{"$ref": "#"}]},
        {"type": "integer", "minimum": 5, "maximum": 3},
        wide(5_000),
    ],
    ids=["itself", "items", "text", "pattern", "circle", "nothing", "wide"],
)
def test_schema_that_cannot_be_enforced_is_refused_at_once_and_harms_nobody(ask, schema):
    """More of them than failures that keep requests away from a replica."""
    for _ in range(6):
        started = time.monotonic()
        reply = raw_http.post(
            "/v1/chat/completions", {"model": UNTRAINED, "messages": user("hello"), "response_format": form(schema, None)}
        )
        assert time.monotonic() - started < 2
        error = reply.json()["error"]
        assert (reply.status, error["type"]) == (400, "invalid_request_error"), reply.body
        assert not {"panic", "backtrace", "\n"} & set(error["message"].split(" ")), error
    assert ask(UNTRAINED, QUESTIONS[UNTRAINED], temperature=0).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"type": "object", "properties": 5}, {"$ref": "#/$defs/nowhere"}])
def test_invalid_schema_is_refused(schema):
    body = {"model": UNTRAINED, "messages": user("hello"), "max_tokens": 5, "response_format": form(schema)}
    reply = raw_http.post("/v1/chat/completions", body)
    assert reply.status == 400, reply.body
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert "\n" not in reply.json()["error"]["message"].strip()

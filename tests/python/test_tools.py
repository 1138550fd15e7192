"""Tool calls."""

import json
from typing import Literal, Union

import jsonschema
import openai
import pydantic
import pytest
from openai import pydantic_function_tool

import vocabulary
from fleet import QUESTIONS, talkative, user

MODEL = "support-intent"

PARAMETERS = {
    "type": "object",
    "properties": {
        "place": {"enum": ["here", "there"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "notes": {"type": "array", "items": {"enum": ["dry", "wet"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["place", "days", "notes"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}


WEATHER = tool("get_weather", PARAMETERS)
STOP = tool("stop-it.now", NOTHING)
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def forced(ask, model=MODEL, **parameters):
    parameters = {"temperature": 0, "max_tokens": 200, **parameters}
    return ask(model, QUESTIONS[model], **parameters)


def assert_calls(choice, tools):
    """Checks that the choice is exactly one valid call of one of the tools, and returns the call."""
    assert choice.finish_reason == "tool_calls", choice
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    assert call.function.name in schemas
    jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
    return call


@pytest.mark.parametrize("model", QUESTIONS)
def test_every_model_can_be_forced_to_call_a_named_tool(ask, model):
    completion = forced(ask, model, tools=[STOP, WEATHER], tool_choice=NAMED)
    call = assert_calls(completion.choices[0], [WEATHER])
    assert call.function.name == "get_weather"


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("model", QUESTIONS)
def test_every_model_can_be_forced_to_call_a_tool(ask, model, temperature):
    tools = [STOP, WEATHER]
    completion = forced(ask, model, tools=tools, tool_choice="required", temperature=temperature, seed=1)
    assert_calls(completion.choices[0], tools)


def test_tool_without_parameters_can_be_called(ask):
    bare = {"type": "function", "function": {"name": "refresh"}}
    empty = tool("refresh", NOTHING)
    call = assert_calls(forced(ask, tools=[empty], tool_choice="required").choices[0], [empty])
    assert json.loads(call.function.arguments) == {}
    completion = forced(ask, tools=[bare, WEATHER], tool_choice=NAMED)
    assert_calls(completion.choices[0], [WEATHER])


def test_each_call_has_a_unique_id(ask):
    completions = [forced(ask, tools=[WEATHER], tool_choice="required") for _ in range(3)]
    assert len({completion.choices[0].message.tool_calls[0].id for completion in completions}) == 3


def test_each_choice_has_a_call(ask):
    completion = forced(ask, tools=[WEATHER], tool_choice="required", n=3, temperature=1)
    calls = [assert_calls(choice, [WEATHER]) for choice in completion.choices]
    assert len({call.id for call in calls}) == 3


def test_usage_counts_the_tokens_of_a_call(ask):
    usage = forced(ask, tools=[WEATHER], tool_choice="required").usage
    assert usage.completion_tokens > 5
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
@pytest.mark.parametrize("model", QUESTIONS)
def test_streamed_call_can_be_assembled(ask, model, choice):
    calls, content, reasons = {}, "", []
    for chunk in forced(ask, model, tools=[WEATHER], tool_choice=choice, stream=True):
        for part in chunk.choices:
            content += part.delta.content or ""
            reasons += [part.finish_reason] if part.finish_reason else []
            for piece in part.delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": None, "name": None, "arguments": ""})
                if piece.id:
                    assert call["id"] is None, "a second id"
                    assert piece.type == "function"
                    call["id"], call["name"] = piece.id, piece.function.name
                call["arguments"] += piece.function.arguments or ""
    assert content == ""
    assert reasons == ["tool_calls"]
    assert list(calls) == [0]
    assert calls[0]["id"] and calls[0]["name"] == "get_weather"
    jsonschema.validate(json.loads(calls[0]["arguments"]), PARAMETERS)


def test_stream_helper_of_the_client_assembles_a_call(client):
    with client.chat.completions.stream(
        model=MODEL, messages=user("hello"), tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=200
    ) as events:
        final = events.get_final_completion()
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    (call,) = choice.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)


class Reminder(pydantic.BaseModel):
    hour: int = pydantic.Field(ge=0, le=23)
    loud: bool


def test_client_parses_a_call_into_a_pydantic_model(client):
    completion = client.chat.completions.parse(
        model=MODEL,
        messages=user("hello"),
        tools=[pydantic_function_tool(Reminder)],
        tool_choice="required",
        temperature=0,
        max_tokens=200,
    )
    (call,) = completion.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Reminder)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["none", "auto", None])
@pytest.mark.parametrize("model", QUESTIONS)
def test_model_that_is_not_forced_to_call_gives_its_usual_answer(ask, model, choice, stream):
    """The chat templates of these models have no tools, so the prompts stay the same."""
    plain = ask(model, QUESTIONS[model], temperature=0).choices[0].message.content
    chosen = {} if choice is None else {"tool_choice": choice}
    answer = ask(model, QUESTIONS[model], temperature=0, tools=[WEATHER, STOP], stream=stream, **chosen)
    if stream:
        parts = [part for chunk in answer for part in chunk.choices]
        content = "".join(part.delta.content or "" for part in parts)
        assert not any(part.delta.tool_calls for part in parts)
        reason = parts[-1].finish_reason
    else:
        content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert answer.choices[0].message.tool_calls is None
    assert (content, reason) == (plain, "stop")


@pytest.mark.parametrize("model", QUESTIONS)
def test_answer_with_tools_contains_no_special_tokens(ask, model):
    """With tools the engine decodes special tokens, too, to find calls."""
    for parameters in [{}, {"tool_choice": "auto", "logprobs": True}, {"n": 2}]:
        completion = ask(model, QUESTIONS[model], temperature=0, tools=[WEATHER], **parameters)
        for choice in completion.choices:
            assert not any(special in choice.message.content for special in vocabulary.specials(model))


def test_long_answer_with_tools_is_complete(ask):
    long = talkative(MODEL, 32)
    plain = ask(MODEL, "hello", temperature=0, **long).choices[0]
    with_tools = ask(MODEL, "hello", temperature=0, tools=[WEATHER], **long).choices[0]
    assert (with_tools.message.content, with_tools.finish_reason) == (plain.message.content, "length")


def test_conversation_continues_after_a_call(client, ask):
    """The client sends the call back unchanged, followed by the answer of the tool."""
    call = forced(ask, tools=[WEATHER], tool_choice="required").choices[0].message
    messages = [
        *user("what will the weather be?"),
        call.to_dict(),
        {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": '{"weather": "dry"}'},
    ]
    for stream in [False, True]:
        answer = client.chat.completions.create(
            model=MODEL, messages=messages, tools=[WEATHER], temperature=0, stream=stream
        )
        if stream:
            reason = [part.finish_reason for chunk in answer for part in chunk.choices][-1]
        else:
            reason = answer.choices[0].finish_reason
        assert reason == "stop"


def assembled(chunks):
    """Joins the chunks of a stream. Returns its content, names of functions, arguments and finish reason."""
    content, names, arguments, reason = "", [], "", None
    for part in (part for chunk in chunks for part in chunk.choices):
        content += part.delta.content or ""
        reason = part.finish_reason or reason
        for piece in part.delta.tool_calls or []:
            names += [piece.function.name] if piece.function.name else []
            arguments += piece.function.arguments or ""
    return content, names, arguments, reason


@pytest.mark.parametrize("tokens", [1, 4, 12, 20, 30])
def test_call_that_was_cut_is_a_partial_call_or_nothing(ask, tokens):
    """Content never shows in which form the model writes a call."""
    parameters = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": tokens}
    choice = forced(ask, **parameters).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content is None
    calls = choice.message.tool_calls or []
    whole = forced(ask, tools=[WEATHER], tool_choice="required").choices[0].message.tool_calls[0].function
    for call in calls:
        assert call.function.name == "get_weather"
        assert whole.arguments.startswith(call.function.arguments)
    content, names, arguments, reason = assembled(forced(ask, stream=True, **parameters))
    assert (content, reason) == ("", "length")
    assert names == [call.function.name for call in calls]
    assert arguments == "".join(call.function.arguments for call in calls)


class Line(pydantic.BaseModel):
    item: Literal["lamp", "desk"]
    quantity: Literal[1, 2, 3]


class Order(pydantic.BaseModel):
    line: Line
    gift: Line
    express: bool


class Tree(pydantic.BaseModel):
    kind: Literal["leaf", "branch"]
    left: Union["Tree", None]


DEFINITIONS = {
    "type": "object",
    "properties": {"line": {"$ref": "#/definitions/Line"}, "same": {"$ref": "#/properties/line"}},
    "required": ["line", "same"],
    "additionalProperties": False,
    "definitions": {"Line": Line.model_json_schema()},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "named"])
@pytest.mark.parametrize("strict", [None, True])
@pytest.mark.parametrize(
    "parameters", [Order.model_json_schema(), Tree.model_json_schema(), DEFINITIONS], ids=["order", "tree", "pointers"]
)
def test_references_in_parameters_keep_their_meaning(ask, parameters, strict, choice, stream):
    store = tool("store", parameters)
    store["function"]["strict"] = strict
    named = {"type": "function", "function": {"name": "store"}}
    chosen = {"tools": [STOP, store], "tool_choice": named}
    if choice == "required":
        chosen = {"tools": [store], "tool_choice": "required"}
    for seed in range(3):
        # A tree may be of any depth: at a low temperature it ends.
        answer = forced(ask, temperature=0.3, seed=seed, max_tokens=400, stream=stream, **chosen)
        if stream:
            content, names, arguments, reason = assembled(answer)
            assert (content, names) == ("", ["store"])
        else:
            message = answer.choices[0].message
            arguments, reason = message.tool_calls[0].function.arguments, answer.choices[0].finish_reason
        if reason == "tool_calls":
            jsonschema.validate(json.loads(arguments), parameters)
        else:
            assert (reason, parameters.get("$ref")) == ("length", "#/$defs/Tree")


BARE = {"type": "function", "function": {"name": "refresh"}}


@pytest.mark.parametrize(
    "function",
    [BARE, tool("refresh", {}), tool("refresh", {"type": "object", "properties": {}})],
    ids=["none", "empty", "no properties"],
)
def test_function_without_parameters_is_called_every_time(ask, function):
    choices = [{"type": "function", "function": {"name": "refresh"}}, "required"]
    for attempt in range(40):
        completion = forced(ask, tools=[function], tool_choice=choices[attempt % 2], temperature=1, seed=attempt)
        (choice,) = completion.choices
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("refresh", {})


def test_stop_texts_do_not_cut_calls(ask):
    completion = forced(ask, tools=[WEATHER], tool_choice="required", stop=["}", "name"])
    assert_calls(completion.choices[0], [WEATHER])


def test_only_allowed_tools_are_called(ask):
    only = {"type": "function", "function": {"name": "stop-it.now"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [only]}}
    for seed in range(5):
        completion = forced(ask, tools=[WEATHER, STOP], tool_choice=allowed, temperature=1, seed=seed)
        assert assert_calls(completion.choices[0], [STOP]).function.name == "stop-it.now"


@pytest.mark.parametrize("parallel", [False, True])
def test_parallel_calls_can_be_forbidden(ask, parallel):
    completion = forced(ask, tools=[WEATHER, STOP], tool_choice="required", parallel_tool_calls=parallel)
    assert_calls(completion.choices[0], [WEATHER, STOP])


def test_answer_with_a_format_may_call_a_tool_or_not(ask):
    """The model decides, and neither form shows in the other."""
    shape = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": shape}}
    for seed in range(6):
        completion = forced(ask, tools=[WEATHER], response_format=form, temperature=2, seed=seed)
        (choice,) = completion.choices
        if choice.message.tool_calls:
            assert_calls(choice, [WEATHER])
        else:
            assert choice.finish_reason == "stop"
            jsonschema.validate(json.loads(choice.message.content), shape)


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "other.json"}}}, "properties.a.$ref"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/nowhere"}}}, "properties.a.$ref"),
        ({"type": "string"}, "type"),
        ({"$ref": "#"}, "$ref"),
    ],
)
def test_parameters_that_cannot_be_called_are_refused_with_their_path(ask, parameters, param):
    with pytest.raises(openai.BadRequestError) as refused:
        forced(ask, tools=[STOP, tool("f", parameters)], tool_choice="required")
    assert refused.value.param == f"tools[1].function.parameters.{param}"


def test_tools_count_as_a_part_of_the_context(client):
    """The prompts of these models do not show tools, so only their own size may matter."""
    wide = {f"property_{i}": {"type": "string", "description": "words " * 20} for i in range(200)}
    big = tool("big", {"type": "object", "properties": wide})
    completion = client.chat.completions.create(model=MODEL, messages=user("hello"), tools=[big], temperature=0)
    assert completion.choices[0].finish_reason == "stop"

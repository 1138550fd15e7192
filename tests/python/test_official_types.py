"""Compares every kind of response, field by field, with the types of the official client."""

import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import official_types
import raw_http
from fleet import QUESTIONS, talkative, user

LONG = talkative("support-intent", 8)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["a", "b"]}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "turn",
        "parameters": {
            "type": "object",
            "properties": {"way": {"enum": ["left", "right"]}},
            "required": ["way"],
            "additionalProperties": False,
        },
    },
}

CHATS = {
    "plain": {},
    "several": {"n": 3, "temperature": 2, **LONG},
    "cut": {"max_tokens": 1},
    "stopped": {"stop": ["a", "e", "i", "o", "u"]},
    "log-probabilities": {"logprobs": True, "top_logprobs": 3, **LONG},
    "log-probabilities-drawn": {"logprobs": True, "top_logprobs": 2, "temperature": 2, "seed": 1, **LONG},
    "form": {"response_format": SCHEMA, "max_tokens": 60},
    "call": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 100},
    "calls": {"tools": [TOOL], "tool_choice": "required", "n": 2, "max_tokens": 100},
    "call-log-probabilities": {"tools": [TOOL], "tool_choice": "required", "logprobs": True, "max_tokens": 100},
    "tools-unused": {"tools": [TOOL]},
}
COMPLETIONS = {
    "plain": {},
    "several": {"n": 2, "prompt": ["a card", "the card"], "temperature": 2},
    "echo": {"echo": True},
    "log-probabilities": {"logprobs": 3},
    "stopped": {"stop": "a"},
}


def chat_body(model, case, **more):
    return {"model": model, "messages": user(QUESTIONS["support-intent"]), "temperature": 0, **CHATS[case], **more}


def completion_body(model, case, **more):
    return {"model": model, "prompt": "a card", "temperature": 0, **LONG, **COMPLETIONS[case], **more}


def post_successfully(path, body):
    """Sends a request that must succeed, and returns the JSON of its answer."""
    reply = raw_http.post(path, body)
    assert reply.status == 200, reply.body
    return reply.json()


@pytest.mark.parametrize("case", CHATS)
@pytest.mark.parametrize("model", ["instant", "support-intent"])
def test_chat_completion_matches_its_type(model, case):
    answer = post_successfully("/v1/chat/completions", chat_body(model, case))
    official_types.check(answer, ChatCompletion)
    for choice in answer["choices"]:
        # Optional in the types, but required in the description of the API.
        assert {"index", "message", "logprobs", "finish_reason"} <= choice.keys()
        assert {"role", "content", "refusal"} <= choice["message"].keys()
    assert "usage" in answer


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("case", CHATS)
@pytest.mark.parametrize("model", ["instant", "support-intent"])
def test_chat_completion_chunks_match_their_type(model, case, usage):
    options = {"stream": True, "stream_options": {"include_usage": usage}}
    frames = raw_http.frames(raw_http.post("/v1/chat/completions", chat_body(model, case, **options)))
    for frame in frames:
        official_types.check(frame, ChatCompletionChunk, streamed=True)
        for choice in frame["choices"]:
            assert {"index", "delta", "logprobs", "finish_reason"} <= choice.keys()


@pytest.mark.parametrize("case", COMPLETIONS)
@pytest.mark.parametrize("model", ["instant", "support-intent"])
def test_text_completion_matches_its_type(model, case):
    official_types.check(post_successfully("/v1/completions", completion_body(model, case)), Completion)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("case", COMPLETIONS)
@pytest.mark.parametrize("model", ["instant", "support-intent"])
def test_text_completion_chunks_match_their_type(model, case, usage):
    options = {"stream": True, "stream_options": {"include_usage": usage}}
    frames = raw_http.frames(raw_http.post("/v1/completions", completion_body(model, case, **options)))
    for frame in frames:
        official_types.check(frame, Completion, streamed=True)


@pytest.mark.parametrize("texts", ["a boat", ["a boat", "another"]])
def test_embeddings_match_their_type(texts):
    body = {"model": "tiny-embed", "input": texts, "encoding_format": "float"}
    official_types.check(post_successfully("/v1/embeddings", body), CreateEmbeddingResponse)


def test_models_match_their_type():
    models = raw_http.get("/v1/models").json()
    assert models.keys() == {"object", "data"}
    assert models["object"] == "list"
    for model in models["data"]:
        official_types.check(model, Model)
        official_types.check(raw_http.get(f"/v1/models/{model['id']}").json(), Model)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"id": "a", "created": 1, "object": "model"}, "owned_by is missing"),
        ({"id": "a", "created": 1, "object": "model", "owned_by": "x", "extra": 1}, "extra is not a field"),
        ({"id": "a", "created": "1", "object": "model", "owned_by": "x"}, "created: '1'"),
        ({"id": "a", "created": True, "object": "model", "owned_by": "x"}, "created: True"),
        ({"id": "a", "created": 1, "object": "modell", "owned_by": "x"}, "object: 'modell'"),
        ({"id": "a", "created": 1, "object": "model", "owned_by": None}, "owned_by: None"),
        ([], "[] is not a Model"),
    ],
)
def test_type_check_finds_faults(value, fault):
    with pytest.raises(AssertionError, match=fault.replace("[", r"\[").replace("]", r"\]")):
        official_types.check(value, Model)

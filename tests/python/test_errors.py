"""Errors: their shape, their status, and the exceptions of the official client."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

import fleet
import raw_http
from fleet import user

PATH = "/v1/chat/completions"
MIB = 1 << 20


def checked_error(reply, status):
    """Checks the shape of the error in a reply and returns it."""
    assert reply.status == status, reply
    body = reply.json()
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str) and error["type"]
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    # A sentence for people, not a stack trace.
    assert "\n" not in error["message"]
    return error


def chat(**fields):
    body = {"model": "instant", "messages": user("hello"), **fields}
    return raw_http.post(PATH, {name: value for name, value in body.items() if value is not ...})


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model_is_not_found(ask, stream):
    with pytest.raises(openai.NotFoundError) as missing:
        ask("nobody", "hello", stream=stream)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.type == "invalid_request_error"
    assert "'nobody'" in missing.value.message


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_unknown_task_is_not_found(path):
    body = {"model": "task:nothing", "messages": user("hello"), "prompt": "hello"}
    error = checked_error(raw_http.post(path, body), 404)
    assert (error["code"], error["param"]) == ("task_not_found", "model")
    assert "'nothing'" in error["message"]


@pytest.mark.parametrize("model", ["auto", "task:numbers"])
def test_embeddings_need_a_named_model(model):
    error = checked_error(raw_http.post("/v1/embeddings", {"model": model, "input": "hello"}), 400)
    assert error["param"] == "model"
    assert "name the model" in error["message"]


@pytest.mark.parametrize("field", ["model", "messages"])
def test_missing_field_is_named(field):
    error = checked_error(chat(**{field: ...}), 400)
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]


TEXT = {"type": "text", "text": "hello"}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 5}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [*user("a"), {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": 5, "content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {}}]}]}, "messages[0].content[1]"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls[0].function"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": 1_000_000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0]"),
        ({"tools": [TOOL, {"type": "function", "function": {"name": "a b"}}]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}, "tools[0].function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"functions": []}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:60],
)
def test_invalid_field_is_named_with_its_path(fields, param):
    error = checked_error(chat(**fields), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_client_raises_bad_request_error(ask):
    with pytest.raises(openai.BadRequestError) as refused:
        ask("instant", "hello", temperature=3)
    assert refused.value.param == "temperature"
    assert refused.value.type == "invalid_request_error"
    assert "temperature" in refused.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"model": "instant",}', b"\xff\xfe", b'{"model": "\xff"}'])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_body_that_is_not_json_is_refused(path, body):
    error = checked_error(raw_http.post(path, body), 400)
    assert error["type"] == "invalid_request_error"
    assert "JSON" in error["message"]


@pytest.mark.parametrize("body", [b"[]", b"5", b'"text"', b"null"])
def test_json_that_is_not_an_object_is_refused(body):
    checked_error(raw_http.post(PATH, body), 400)


def test_text_after_the_json_object_is_refused():
    good = json.dumps({"model": "instant", "messages": user("hello")}).encode()
    assert raw_http.post(PATH, good + b" \n").status == 200
    checked_error(raw_http.post(PATH, good + b"{}"), 400)


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_longer_than_the_context_is_refused(ask, stream):
    with pytest.raises(openai.BadRequestError) as refused:
        ask("support-intent", "card " * 2_000, stream=stream)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"
    assert "512" in refused.value.message


@pytest.mark.parametrize("text", ["card " * 780_000, "x" * 3_900_000, "🂡" * 300_000], ids=["words", "letters", "cards"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_prompt_far_longer_than_the_context_is_refused_at_once(path, text):
    """Without counting its tokens, which would take seconds."""
    body = {"model": "support-intent", "messages": user(text), "prompt": text}
    del body["prompt" if "chat" in path else "messages"]
    started = time.monotonic()
    error = checked_error(raw_http.post(path, body), 400)
    assert error["code"] == "context_length_exceeded"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("effort", ["low", "high"])
def test_model_that_does_not_reason_refuses_an_effort(ask, effort):
    with pytest.raises(openai.BadRequestError) as refused:
        ask("support-intent", "hello", reasoning_effort=effort)
    assert refused.value.param == "reasoning_effort"
    assert ask("support-intent", "hello", reasoning_effort="none").choices[0].finish_reason


def test_arguments_of_the_chat_template_are_passed_or_refused(ask):
    """The templates of these models use no arguments, so that most change nothing."""
    plain = ask("support-intent", "hello", temperature=0).choices[0].message.content
    arguments = {"chat_template_kwargs": {"enable_thinking": False, "unused": 1}}
    assert ask("support-intent", "hello", temperature=0, extra_body=arguments).choices[0].message.content == plain
    with pytest.raises(openai.BadRequestError) as refused:
        ask("support-intent", "hello", extra_body={"chat_template_kwargs": {"messages": []}})
    assert refused.value.param == "chat_template_kwargs.messages"


def test_body_up_to_the_size_limit_is_accepted():
    def body(size):
        head, tail = b'{"model":"instant","messages":[{"role":"user","content":"', b'"}]}'
        return head + b"a" * (size - len(head) - len(tail)) + tail

    assert raw_http.post(PATH, body(4 * MIB)).status == 200
    error = checked_error(raw_http.post(PATH, body(4 * MIB + 1)), 413)
    assert error["code"] == "request_too_large"


@pytest.mark.parametrize("size", [5 * MIB, 40 * MIB])
def test_client_gets_an_error_for_a_body_over_the_limit(ask, size):
    """The connection is not closed while the client is still sending."""
    with pytest.raises(openai.APIStatusError) as refused:
        ask("instant", "a" * size)
    assert refused.value.status_code == 413


@pytest.mark.parametrize("stream", [False, True])
def test_model_without_a_ready_replica_is_unavailable(ask, stream):
    with pytest.raises(openai.InternalServerError) as refused:
        ask("absent", "hello", stream=stream)
    assert refused.value.status_code == 503
    assert refused.value.code == "no_replica_ready"
    # Nobody is expected to come: a client that waits would wait in vain.
    assert "retry-after" not in refused.value.response.headers
    assert "'absent'" in refused.value.message


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_model_without_a_ready_replica_is_unavailable_at_every_endpoint(path):
    reply = raw_http.post(path, {"model": "absent", "prompt": "hello", "input": "hello"})
    assert checked_error(reply, 503)["code"] == "no_replica_ready"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/chat", "/v1/chat/completions/", "/v2/models", "/v1/models/a/b"])
def test_unknown_path_is_not_found(path):
    error = checked_error(raw_http.get(path), 404)
    assert path in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/completions"),
        ("DELETE", "/v1/embeddings"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/instant"),
    ],
)
def test_wrong_method_is_refused(method, path):
    error = checked_error(raw_http.request(method, path), 405)
    assert error["code"] == "method_not_allowed"
    assert method in error["message"]


def overload(clients, stream):
    """Sends many requests at the same time to `narrow`, which computes one and queues one."""

    def one(_):
        with openai.OpenAI(base_url=fleet.BASE, api_key="none", max_retries=0, timeout=fleet.DEADLINE) as client:
            try:
                answer = client.chat.completions.create(model=fleet.NARROW, messages=user("hello"), stream=stream)
                return list(answer) if stream else answer
            except openai.APIStatusError as error:
                return error

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, range(clients)))


@pytest.mark.parametrize("stream", [False, True])
def test_full_queue_refuses_with_a_retry_delay(stream):
    fleet.idle(fleet.NARROW)
    results = overload(8, stream)
    refused = [result for result in results if isinstance(result, openai.APIStatusError)]
    assert refused and len(refused) < len(results)
    for error in refused:
        assert isinstance(error, openai.RateLimitError)
        assert error.code == "overloaded"
        assert error.type == "overloaded_error"
        assert int(error.response.headers["retry-after"]) >= 1
    for answer in results:
        if answer in refused:
            continue
        choices = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
        assert choices[-1].finish_reason == "stop"


def test_retrying_client_succeeds_during_an_overload():
    """The client waits as long as the server asks for."""
    fleet.idle(fleet.NARROW)

    def one(_):
        with openai.OpenAI(base_url=fleet.BASE, api_key="none", max_retries=20, timeout=fleet.DEADLINE) as client:
            return client.chat.completions.create(model=fleet.NARROW, messages=user("hello"), max_tokens=2)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, range(6)))
    assert {answer.usage.completion_tokens for answer in answers} == {2}

"""The API as litellm sees it, which many proxies and agents send their requests through."""

import asyncio
import json

import litellm
import openai
import pytest

import fleet
from clients.shapes import MODEL, ORDER, PARAMETERS, QUESTION, UNTRAINED, Basket, Order, Tree
from clients.upstreams import BROKEN_MODES, CALL_MODES, CITIES, ERROR_MODES, TEXT, TEXT_MODES

litellm.telemetry = False
litellm.suppress_debug_info = True

SETTINGS = {"api_base": fleet.BASE, "api_key": "none", "max_retries": 0, "timeout": fleet.DEADLINE}


def asked(model=MODEL, question=QUESTION, **parameters):
    return {"model": f"openai/{model}", "messages": fleet.user(question), **SETTINGS, **PARAMETERS, **parameters}


def function(name, shape):
    return {"type": "function", "function": {"name": name, "parameters": shape.model_json_schema()}}


def test_chat_is_answered():
    answer = litellm.completion(**asked("support-intent", "my card has not arrived yet"))
    assert answer.choices[0].message.content == "card_arrival"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chats_are_answered_concurrently():
    async def run():
        question = asked("support-intent", "my card has not arrived yet")
        return await asyncio.gather(*[litellm.acompletion(**question) for _ in range(4)])

    assert [answer.choices[0].message.content for answer in asyncio.run(run())] == ["card_arrival"] * 4


def test_stream_adds_up_to_the_answer_and_its_usage():
    whole = litellm.completion(**asked())
    chunks = list(litellm.completion(**asked(stream=True, stream_options={"include_usage": True})))
    streamed = litellm.stream_chunk_builder(chunks)
    assert streamed.choices[0].message.content == whole.choices[0].message.content
    assert streamed.usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices_are_generated(stream):
    answer = litellm.completion(**asked("instant", n=3, temperature=1, stream=stream))
    choices = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
    assert {choice.index for choice in choices} == {0, 1, 2}


@pytest.mark.parametrize("stream", [False, True])
def test_response_format_gives_the_order(stream):
    answer = litellm.completion(**asked(response_format=Order, stream=stream))
    answer = litellm.stream_chunk_builder(list(answer)) if stream else answer
    assert Order.model_validate_json(answer.choices[0].message.content) == ORDER


@pytest.mark.parametrize("shape", [Basket, Tree])
def test_response_format_gives_the_nested_shape(shape):
    answer = litellm.completion(**asked(response_format=shape))
    shape.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", [Order, Basket, Tree])
def test_tool_is_called_with_the_shape(shape, stream):
    answer = litellm.completion(**asked(tools=[function("fill_in", shape)], tool_choice="required", stream=stream))
    answer = litellm.stream_chunk_builder(list(answer)) if stream else answer
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "fill_in"
    shape.model_validate_json(call.function.arguments)


def test_tool_of_several_is_called_by_its_name():
    tools = [function("order", Order), function("plant", Tree)]
    choice = {"type": "function", "function": {"name": "plant"}}
    (call,) = (
        litellm.completion(**asked(UNTRAINED, tools=tools, tool_choice=choice)).choices[0].message.tool_calls
    )
    assert call.function.name == "plant"
    Tree.model_validate_json(call.function.arguments)


def test_model_that_need_not_call_answers_with_text():
    answer = litellm.completion(
        **asked("support-intent", "my card has not arrived yet", tools=[function("order", Order)], tool_choice="auto")
    )
    assert answer.choices[0].message.content == "card_arrival"
    assert not answer.choices[0].message.tool_calls


def test_texts_are_embedded():
    answer = litellm.embedding(model="openai/tiny-embed", input=["red lamp", "desk"], **SETTINGS)
    assert [item["index"] for item in answer.data] == [0, 1]
    assert answer.data[0]["embedding"] != answer.data[1]["embedding"]


def test_legacy_completion_is_answered():
    parameters = {"model": f"text-completion-openai/{MODEL}", "prompt": QUESTION, **SETTINGS, **PARAMETERS}
    whole = litellm.text_completion(**parameters).choices[0].text
    assert whole
    assert "".join(chunk.choices[0].text or "" for chunk in litellm.text_completion(stream=True, **parameters)) == whole


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", CALL_MODES)
def test_two_calls_of_an_unusual_upstream_are_apart(mode, stream):
    answer = litellm.completion(**asked(f"fake-{mode}", tools=[function("f", Order)], stream=stream))
    answer = litellm.stream_chunk_builder(list(answer)) if stream else answer
    calls = answer.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == CITIES
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", TEXT_MODES)
def test_unusual_upstream_is_answered_as_usual(mode, stream):
    answer = litellm.completion(**asked(f"fake-{mode}", stream=stream))
    answer = litellm.stream_chunk_builder(list(answer)) if stream else answer
    assert answer.choices[0].message.content == TEXT


@pytest.mark.parametrize(
    ("model", "parameters", "error"),
    [
        ("nowhere", {}, litellm.NotFoundError),
        ("support-intent", {"temperature": 9}, litellm.BadRequestError),
        ("fake-context-length", {}, litellm.ContextWindowExceededError),
        ("fake-retry-seconds-429", {}, litellm.RateLimitError),
        ("fake-status-503", {}, litellm.ServiceUnavailableError),
        ("fake-html-error", {}, litellm.BadGatewayError),
    ],
)
def test_error_has_its_type(model, parameters, error):
    with pytest.raises(error):
        litellm.completion(**asked(model, **parameters))


def test_overloaded_model_is_retried_until_it_answers():
    fleet.idle(fleet.NARROW)
    question = asked(fleet.NARROW, max_tokens=2, max_retries=20)
    answers = litellm.batch_completion(**{**question, "messages": [question["messages"]] * 5})
    assert [answer.usage.completion_tokens for answer in answers] == [2] * 5


def test_cancelled_stream_stops_the_model():
    cancelled = fleet.idle(fleet.PACED)["cancelled"]

    async def run():
        async def read():
            async for _ in await litellm.acompletion(**asked(fleet.PACED, stream=True)):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    fleet.until(lambda: fleet.counters(fleet.PACED)["cancelled"] == cancelled + 1, "the request is cancelled")


@pytest.mark.parametrize(("mode", "status"), ERROR_MODES.items())
def test_error_of_an_upstream_has_its_status(mode, status):
    with pytest.raises(openai.APIStatusError) as caught:
        litellm.completion(**asked(f"fake-{mode}"))
    assert caught.value.status_code == status


@pytest.mark.parametrize("mode", BROKEN_MODES)
def test_answer_that_breaks_off_is_an_error(mode):
    pieces = []
    with pytest.raises(openai.APIError):
        for chunk in litellm.completion(**asked(f"fake-{mode}", stream=True)):
            pieces.append(chunk.choices[0].delta.content or "")
    assert TEXT.startswith("".join(pieces)) and "".join(pieces)
    with pytest.raises(litellm.BadGatewayError):
        litellm.completion(**asked(f"fake-{mode}"))

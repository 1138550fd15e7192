"""The API as pydantic-ai sees it."""

import asyncio
from typing import Annotated

import openai
import pytest
from pydantic import Field
from pydantic_ai import (
    Agent,
    ModelHTTPError,
    ModelRequestNode,
    NativeOutput,
    PromptedOutput,
    ToolOutput,
    ToolReturnPart,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
    UsageLimits,
)
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import fleet
from clients.shapes import (
    MODEL,
    ORDER,
    PARAMETERS,
    QUESTION,
    Basket,
    Colour,
    Line,
    Order,
    Tree,
    assert_order_of_a_call,
)
from clients.upstreams import BROKEN_MODES, CALL_MODES, CITIES, ERROR_MODES, TEXT, TEXT_MODES


def provider():
    """A provider that does not retry, so that a case sees refusals."""
    client = openai.AsyncOpenAI(base_url=fleet.BASE, api_key="none", max_retries=0, timeout=fleet.DEADLINE)
    return OpenAIProvider(openai_client=client)


def agent(model=MODEL, settings=(), **parameters):
    chat = OpenAIChatModel(model, provider=provider(), settings={**PARAMETERS, **dict(settings)})
    return Agent(chat, **{"retries": 0, **parameters})


def test_chat_is_answered():
    result = agent("support-intent", instructions="Be short.").run_sync("my card has not arrived yet")
    assert result.output == "card_arrival"
    assert result.usage.output_tokens > 0
    assert result.response.model_name == "support-intent"
    assert result.response.finish_reason == "stop"


def test_chats_are_answered_concurrently():
    async def run():
        support = agent("support-intent")
        return await asyncio.gather(*[support.run("my card has not arrived yet") for _ in range(4)])

    assert [result.output for result in asyncio.run(run())] == ["card_arrival"] * 4


def test_stream_adds_up_to_the_answer_and_its_usage():
    async def run():
        async with agent().run_stream(QUESTION) as stream:
            text = "".join([piece async for piece in stream.stream_text(delta=True, debounce_by=None)])
            return text, stream.usage

    whole = agent().run_sync(QUESTION)
    text, usage = asyncio.run(run())
    assert text == whole.output
    assert (usage.input_tokens, usage.output_tokens) == (whole.usage.input_tokens, whole.usage.output_tokens)


def test_output_type_is_called_as_a_tool():
    assert_order_of_a_call(agent(output_type=Order).run_sync(QUESTION).output)


@pytest.mark.parametrize("way", [NativeOutput, PromptedOutput])
def test_output_is_the_order(way):
    assert agent(output_type=way(Order)).run_sync(QUESTION).output == ORDER


@pytest.mark.parametrize("strict", [True, None], ids=["strict", "default"])
@pytest.mark.parametrize("way", [ToolOutput, NativeOutput])
@pytest.mark.parametrize("shape", [Basket, Tree])
def test_output_has_the_nested_shape(shape, way, strict):
    output = agent(output_type=way(shape, strict=strict)).run_sync(QUESTION).output
    assert isinstance(output, shape)


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput])
def test_output_is_a_list(way):
    colours = Annotated[list[Colour], Field(min_length=1, max_length=3)]
    output = agent(output_type=way(colours)).run_sync(QUESTION).output
    assert output and all(isinstance(colour, Colour) for colour in output)


def test_output_is_one_of_several_types():
    output = agent(output_type=[Order, Line]).run_sync(QUESTION).output
    assert isinstance(output, Order | Line)


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput])
def test_nested_output_is_streamed(way):
    async def run():
        async with agent(output_type=way(Basket)).run_stream(QUESTION) as stream:
            return await stream.get_output()

    assert isinstance(asyncio.run(run()), Basket)


def test_model_that_need_not_call_answers_with_text():
    support = agent("support-intent")

    @support.tool_plain
    def weather(city: str) -> str:
        raise AssertionError(city)

    assert support.run_sync("my card has not arrived yet").output == "card_arrival"


def test_tool_is_called_and_its_result_sent_back():
    """The upstream server calls the first tool with Rome, whatever was sent before."""
    caller = agent("fake-tools")

    @caller.tool_plain
    def weather(city: str) -> str:
        """Returns the weather of a city."""
        return f"It rains in {city}."

    async def run():
        async with caller.iter("hello") as run:
            async for node in run:
                if isinstance(node, ModelRequestNode) and isinstance(node.request.parts[0], ToolReturnPart):
                    return [*run.ctx.state.message_history, node.request]

    history = asyncio.run(run())
    result = history[-1].parts[0]
    assert (result.tool_name, result.content) == ("weather", "It rains in Rome.")
    assert agent("support-intent").run_sync("my card has not arrived yet", message_history=history).output


@pytest.mark.parametrize("mode", TEXT_MODES)
@pytest.mark.parametrize("stream", [False, True])
def test_unusual_upstream_is_answered_as_usual(mode, stream):
    async def run():
        model = agent(f"fake-{mode}")
        if not stream:
            return (await model.run("hello")).output
        async with model.run_stream("hello") as answer:
            return await answer.get_output()

    assert asyncio.run(run()) == TEXT


def test_thoughts_are_apart_from_the_answer():
    response = agent("fake-reasoning-content").run_sync("hello").response
    assert (response.thinking, response.text) == ("Hm.", "Hello from upstream.")


def test_texts_are_embedded():
    embedder = Embedder(OpenAIEmbeddingModel("tiny-embed", provider=provider()))
    result = embedder.embed_documents_sync(["red lamp", "desk"])
    assert len(result.embeddings) == 2 and result.embeddings[0] != result.embeddings[1]


def test_incomplete_output_is_reported():
    with pytest.raises(UnexpectedModelBehavior):
        agent(output_type=Basket, settings={"max_tokens": 8}).run_sync(QUESTION)


@pytest.mark.parametrize(
    ("model", "settings", "status"),
    [("nowhere", {}, 404), ("support-intent", {"temperature": 9}, 400), ("fake-bad-json", {}, 502)],
)
def test_error_has_its_status(model, settings, status):
    with pytest.raises(ModelHTTPError) as caught:
        agent(model, settings=settings).run_sync("hello")
    assert caught.value.status_code == status


def test_cancelled_run_stops_the_model():
    cancelled = fleet.idle(fleet.PACED)["cancelled"]

    async def run():
        async with agent(fleet.PACED).run_stream("hello") as stream:
            async for _ in stream.stream_text(debounce_by=None):
                break

    async def cancelled_after_start():
        task = asyncio.create_task(agent(fleet.PACED).run("hello"))
        await asyncio.to_thread(fleet.until, lambda: fleet.counters(fleet.PACED)["active"] == 1, "it is computed")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for count, way in enumerate([run, cancelled_after_start], 1):
        asyncio.run(way())
        fleet.until(lambda: fleet.counters(fleet.PACED)["cancelled"] == cancelled + count, "the request is cancelled")
        fleet.idle(fleet.PACED)


@pytest.mark.parametrize("mode", CALL_MODES)
def test_two_calls_of_an_unusual_upstream_are_apart(mode):
    caller = agent(f"fake-{mode}")
    cities = []

    @caller.tool_plain
    def weather(city: str) -> str:
        """Returns the weather of a city."""
        cities.append({"city": city})
        return f"It rains in {city}."

    # The upstream server calls the tool again, whatever it is told.
    with pytest.raises(UsageLimitExceeded):
        caller.run_sync("hello", usage_limits=UsageLimits(request_limit=1))
    assert sorted(cities, key=str) == sorted(CITIES, key=str)


@pytest.mark.parametrize(("mode", "status"), ERROR_MODES.items())
def test_error_of_an_upstream_has_its_status(mode, status):
    with pytest.raises(ModelHTTPError) as caught:
        agent(f"fake-{mode}").run_sync("hello")
    assert caught.value.status_code == status


@pytest.mark.parametrize("mode", BROKEN_MODES)
def test_answer_that_breaks_off_is_an_error(mode):
    async def run():
        pieces = []
        with pytest.raises((ModelHTTPError, openai.APIError)):
            async with agent(f"fake-{mode}").run_stream("hello") as stream:
                async for piece in stream.stream_text(delta=True, debounce_by=None):
                    pieces.append(piece)
        return "".join(pieces)

    begun = asyncio.run(run())
    assert TEXT.startswith(begun) and begun

"""The API as llama-index sees it."""

import asyncio

import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

import fleet
from clients.shapes import MODEL, ORDER, QUESTION, UNTRAINED, Basket, Order, Tree, assert_order_of_a_call
from clients.upstreams import BROKEN_MODES, CALL_MODES, CITIES, ERROR_MODES, TEXT, TEXT_MODES

SETTINGS = {"api_base": fleet.BASE, "api_key": "none", "max_retries": 0, "timeout": fleet.DEADLINE}


def llm(model=MODEL, **parameters):
    defaults = {
        "is_chat_model": True,
        "is_function_calling_model": True,
        "should_use_structured_outputs": True,
        "context_window": 512,
        "temperature": 0,
        "max_tokens": 300,
    }
    return OpenAILike(model=model, **{**SETTINGS, **defaults, **parameters})


def said(text):
    return [ChatMessage(role=MessageRole.USER, content=text)]


def weather(city: str) -> str:
    """Returns the weather of a city."""
    return f"It rains in {city}."


def place(order: Order) -> str:
    """Places an order."""
    return f"{order.quantity} are on their way."


def test_chat_is_answered():
    answer = llm("support-intent").chat(said("my card has not arrived yet"))
    assert answer.message.content == "card_arrival"
    assert answer.message.role == MessageRole.ASSISTANT


def test_chats_are_answered_concurrently():
    async def run():
        support = llm("support-intent")
        return await asyncio.gather(*[support.achat(said("my card has not arrived yet")) for _ in range(4)])

    assert [answer.message.content for answer in asyncio.run(run())] == ["card_arrival"] * 4


def test_stream_adds_up_to_the_answer():
    whole = llm().chat(said(QUESTION)).message.content
    chunks = list(llm().stream_chat(said(QUESTION)))
    assert "".join(chunk.delta for chunk in chunks) == chunks[-1].message.content == whole


def test_stream_has_its_usage():
    extra = {"stream_options": {"include_usage": True}}
    last = list(llm(additional_kwargs=extra).stream_chat(said(QUESTION)))[-1]
    assert last.raw.usage.total_tokens == last.raw.usage.prompt_tokens + last.raw.usage.completion_tokens


@pytest.mark.parametrize("is_chat_model", [True, False], ids=["chat", "completions"])
def test_prompt_is_completed(is_chat_model):
    model = llm(is_chat_model=is_chat_model)
    whole = model.complete(QUESTION).text
    assert whole
    assert list(model.stream_complete(QUESTION))[-1].text == whole


@pytest.mark.parametrize("structured", [True, False], ids=["json_schema", "tools"])
def test_prediction_is_the_order(structured):
    model = llm(should_use_structured_outputs=structured)
    order = model.structured_predict(Order, PromptTemplate("{question}"), question=QUESTION)
    if structured:
        assert order == ORDER
    else:
        assert_order_of_a_call(order)


@pytest.mark.parametrize(
    ("shape", "structured"),
    [(Basket, True), (Basket, False), (Tree, True)],
    ids=["Basket-json_schema", "Basket-tools", "Tree-json_schema"],
)
def test_prediction_has_the_nested_shape(shape, structured):
    """The client cannot make a tool of a shape that is a reference at its root, as Tree's is."""
    model = llm(should_use_structured_outputs=structured)
    prediction = model.structured_predict(shape, PromptTemplate("{question}"), question=QUESTION)
    assert isinstance(prediction, shape)


def test_chat_of_a_structured_model_is_the_order():
    answer = llm().as_structured_llm(Order).chat(said(QUESTION))
    assert answer.raw == ORDER


@pytest.mark.parametrize("structured", [True, False], ids=["json_schema", "tools"])
def test_prediction_is_streamed(structured):
    model = llm(should_use_structured_outputs=structured)
    last = None
    for last in model.stream_structured_predict(Order, PromptTemplate("{question}"), question=QUESTION):
        pass
    assert (last.quantity, last.customer) == (ORDER.quantity, ORDER.customer)


@pytest.mark.parametrize("choice", ["required", "place"])
def test_tool_is_called_with_a_nested_argument(choice):
    tools = [FunctionTool.from_defaults(fn) for fn in [place, weather]]
    named = {"tool_required": True} if choice == "required" else {"tool_choice": choice}
    model = llm(UNTRAINED)
    answer = model.chat_with_tools(tools, user_msg=QUESTION, **named)
    (call,) = model.get_tool_calls_from_response(answer)
    assert call.tool_name in ["place", "weather"]
    if call.tool_name == "place":
        Order.model_validate(call.tool_kwargs["order"])


def test_streamed_tool_call_adds_up():
    model = llm()
    tools = [FunctionTool.from_defaults(place)]
    last = list(model.stream_chat_with_tools(tools, user_msg=QUESTION, tool_required=True))[-1]
    (call,) = model.get_tool_calls_from_response(last)
    Order.model_validate(call.tool_kwargs["order"])


def test_model_that_need_not_call_answers_with_text():
    model = llm("support-intent")
    answer = model.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg="my card has not arrived yet")
    assert answer.message.content == "card_arrival"
    assert model.get_tool_calls_from_response(answer, error_on_no_tool_call=False) == []


@pytest.mark.parametrize("mode", CALL_MODES)
def test_two_calls_of_an_unusual_upstream_are_apart(mode):
    model = llm(f"fake-{mode}")
    tools = [FunctionTool.from_defaults(weather)]
    answer = model.chat_with_tools(tools, user_msg="hello", allow_parallel_tool_calls=True)
    calls = model.get_tool_calls_from_response(answer)
    assert [call.tool_kwargs for call in calls] == CITIES


def test_texts_are_embedded():
    embedding = OpenAILikeEmbedding(model_name="tiny-embed", embed_batch_size=2, **SETTINGS)
    texts = embedding.get_text_embedding_batch(["red lamp", "desk", "chair"])
    assert len({tuple(text) for text in texts}) == 3
    assert embedding.get_query_embedding("desk") == pytest.approx(texts[1], abs=1e-5)


@pytest.mark.parametrize("mode", ["embeddings-reversed", "embeddings-base64"])
def test_embeddings_of_an_unusual_upstream_are_in_order(mode):
    embedding = OpenAILikeEmbedding(model_name=f"fake-{mode}", **SETTINGS)
    expected = [[0, 1], [1, 1], [2, 1]] if mode == "embeddings-reversed" else [[0, 1]] * 3
    assert embedding.get_text_embedding_batch(["a", "b", "c"]) == expected


def test_unknown_model_is_not_found():
    with pytest.raises(openai.NotFoundError) as caught:
        llm("nowhere").chat(said("hello"))
    assert caught.value.code == "model_not_found"


def test_wrong_parameter_is_refused_by_name():
    with pytest.raises(openai.BadRequestError) as caught:
        llm().chat(said("hello"), temperature=9)
    assert caught.value.param == "temperature"


def test_cancelled_chat_stops_the_model():
    cancelled = fleet.idle(fleet.PACED)["cancelled"]

    async def run():
        task = asyncio.create_task(llm(fleet.PACED).achat(said("hello")))
        await asyncio.to_thread(fleet.until, lambda: fleet.counters(fleet.PACED)["active"] == 1, "it is computed")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    fleet.until(lambda: fleet.counters(fleet.PACED)["cancelled"] == cancelled + 1, "the request is cancelled")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", TEXT_MODES)
def test_unusual_upstream_is_answered_as_usual(mode, stream):
    model = llm(f"fake-{mode}")
    answer = list(model.stream_chat(said("hello")))[-1] if stream else model.chat(said("hello"))
    assert answer.message.content == TEXT


@pytest.mark.parametrize(("mode", "status"), ERROR_MODES.items())
def test_error_of_an_upstream_has_its_status(mode, status):
    with pytest.raises(openai.APIStatusError) as caught:
        llm(f"fake-{mode}").chat(said("hello"))
    assert caught.value.status_code == status


@pytest.mark.parametrize("mode", BROKEN_MODES)
def test_answer_that_breaks_off_is_an_error(mode):
    last = None
    with pytest.raises(openai.APIError):
        for last in llm(f"fake-{mode}").stream_chat(said("hello")):
            pass
    assert last.message.content and TEXT.startswith(last.message.content)

"""The API as langchain-openai sees it."""

import asyncio
import json

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

import fleet
from clients.local_tokenizer import END
from clients.shapes import MODEL, ORDER, PARAMETERS, QUESTION, UNTRAINED, Basket, Order, Tree, assert_order_of_a_call
from clients.upstreams import BROKEN_MODES, CALL_MODES, CITIES, ERROR_MODES, TEXT, TEXT_MODES


def chat(model=MODEL, **parameters):
    settings = {"base_url": fleet.BASE, "api_key": "none", "max_retries": 0, "timeout": fleet.DEADLINE}
    return ChatOpenAI(model=model, **{**settings, **PARAMETERS, **parameters})


@tool
def weather(city: str) -> str:
    """Returns the weather of a city."""
    return f"It rains in {city}."


@tool
def place(order: Order) -> str:
    """Places an order."""
    return f"{order.quantity} are on their way."


@tool
def pack(basket: Basket) -> str:
    """Packs a basket."""
    return f"{len(basket.orders)} are packed."


def test_chat_is_answered():
    answer = chat("support-intent").invoke([SystemMessage("Be short."), HumanMessage("my card has not arrived yet")])
    assert answer.content == "card_arrival"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == "support-intent"
    assert answer.usage_metadata["output_tokens"] > 0


def test_chat_is_answered_asynchronously():
    async def both():
        model = chat("support-intent")
        return await asyncio.gather(model.ainvoke("my card has not arrived yet"), model.ainvoke("hello"))

    assert [bool(answer.content) for answer in asyncio.run(both())] == [True, True]


def test_stream_adds_up_to_the_answer_and_its_usage():
    model = chat()
    whole = model.invoke(QUESTION)
    streamed = None
    for chunk in model.stream(QUESTION, stream_usage=True):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.content == whole.content
    assert streamed.response_metadata["finish_reason"] == "stop"
    for count in ["input_tokens", "output_tokens", "total_tokens"]:
        assert streamed.usage_metadata[count] == whole.usage_metadata[count]


def test_batch_is_answered_in_order():
    questions = ["my card has not arrived yet", "hello", "my card has not arrived yet"]
    answers = [answer.content for answer in chat("support-intent").batch(questions)]
    assert answers[0] == answers[2] == "card_arrival"
    assert answers[1] != "card_arrival"


def test_several_choices_are_generated():
    result = chat("instant", n=3, temperature=1).generate([[HumanMessage("hello")]])
    assert len(result.generations[0]) == 3


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_the_order(method):
    order = chat().with_structured_output(Order, method=method).invoke(QUESTION)
    if method == "function_calling":
        assert_order_of_a_call(order)
    else:
        assert order == ORDER


@pytest.mark.parametrize("strict", [True, None], ids=["strict", "default"])
@pytest.mark.parametrize(
    ("shape", "method"), [(Basket, "json_schema"), (Basket, "function_calling"), (Tree, "json_schema")]
)
def test_structured_output_has_the_nested_shape(shape, method, strict):
    """For calls the client resolves references itself and leaves out recursive ones, so Tree is no tool."""
    answer = chat().with_structured_output(shape, method=method, strict=strict, include_raw=True).invoke(QUESTION)
    assert answer["parsing_error"] is None, answer
    assert isinstance(answer["parsed"], shape), answer


def test_structured_output_is_streamed():
    last = None
    for last in chat().with_structured_output(Order).stream(QUESTION):
        pass
    assert last == ORDER


@pytest.mark.parametrize("choice", ["any", "place", {"type": "function", "function": {"name": "place"}}], ids=str)
def test_tool_is_called_with_a_nested_argument(choice):
    answer = chat().bind_tools([place], tool_choice=choice).invoke(QUESTION)
    (call,) = answer.tool_calls
    assert call["name"] == "place" and call["id"]
    Order.model_validate(call["args"]["order"])
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert place.invoke(call).content.endswith("are on their way.")


def test_tool_of_several_is_called_by_its_name():
    answer = chat(UNTRAINED).bind_tools([weather, pack, place], tool_choice="pack").invoke("hello")
    (call,) = answer.tool_calls
    assert call["name"] == "pack"
    Basket.model_validate(call["args"]["basket"])


def test_streamed_tool_call_adds_up():
    streamed = None
    for chunk in chat().bind_tools([place], tool_choice="any").stream(QUESTION):
        streamed = chunk if streamed is None else streamed + chunk
    (call,) = streamed.tool_calls
    assert call["name"] == "place"
    Order.model_validate(call["args"]["order"])


def test_model_that_need_not_call_answers_with_text():
    answer = chat("support-intent").bind_tools([weather]).invoke("my card has not arrived yet")
    assert (answer.content, answer.tool_calls) == ("card_arrival", [])


def test_conversation_continues_after_a_call():
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "call-1", "type": "tool_call"}
    messages = [
        HumanMessage("my card has not arrived yet"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("It rains in Rome.", tool_call_id="call-1"),
    ]
    assert chat("support-intent").bind_tools([weather]).invoke(messages).content


def test_legacy_completion_is_streamed():
    model = OpenAI(model=MODEL, base_url=fleet.BASE, api_key="none", max_retries=0, **PARAMETERS)
    whole = model.invoke(QUESTION)
    assert whole
    assert "".join(model.stream(QUESTION)) == whole


def embeddings(**parameters):
    settings = {"base_url": fleet.BASE, "api_key": "none", "max_retries": 0}
    return OpenAIEmbeddings(model="tiny-embed", **settings, **parameters)


def test_texts_are_embedded():
    client = embeddings(check_embedding_ctx_length=False)
    lamp, desk = client.embed_documents(["red lamp", "desk"])
    assert lamp != desk
    assert client.embed_query("desk") == pytest.approx(desk, abs=1e-5)


def test_embeddings_of_tokens_are_those_of_the_texts():
    """By default the client sends tokens. They go to the model as they are, so that they need its end token."""
    texts = embeddings(check_embedding_ctx_length=False).embed_documents(["red lamp", "desk"])
    tokens = embeddings(allowed_special={END}).embed_documents(["red lamp" + END, "desk" + END])
    for of_text, of_tokens in zip(texts, tokens, strict=True):
        assert of_tokens == pytest.approx(of_text, abs=1e-5)


def test_unknown_model_is_not_found():
    with pytest.raises(openai.NotFoundError) as caught:
        chat("nowhere").invoke("hello")
    assert caught.value.code == "model_not_found"


def test_wrong_parameter_is_refused_by_name():
    with pytest.raises(openai.BadRequestError) as caught:
        chat(temperature=9).invoke("hello")
    assert caught.value.param == "temperature"


def test_overloaded_model_is_retried_until_it_answers():
    fleet.idle(fleet.NARROW)
    model = chat(fleet.NARROW, max_retries=20, max_tokens=2)
    answers = model.batch(["hello"] * 5)
    assert all(answer.usage_metadata["output_tokens"] == 2 for answer in answers)


def test_closed_stream_stops_the_model():
    cancelled = fleet.idle(fleet.PACED)["cancelled"]
    stream = chat(fleet.PACED).stream("hello")
    next(stream)
    stream.close()
    fleet.until(lambda: fleet.counters(fleet.PACED)["cancelled"] == cancelled + 1, "the request is cancelled")


def streamed(model, question):
    """Returns the sum of the chunks of a stream."""
    chunks = list(model.stream(question))
    return sum(chunks[1:], chunks[0])


@pytest.mark.parametrize("ask", [ChatOpenAI.invoke, streamed], ids=["whole", "streamed"])
@pytest.mark.parametrize("mode", TEXT_MODES)
def test_unusual_upstream_is_answered_as_usual(mode, ask):
    answer = ask(chat(f"fake-{mode}"), "hello")
    assert answer.content == TEXT
    assert answer.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("ask", ["invoke", "stream"])
@pytest.mark.parametrize("mode", CALL_MODES)
def test_two_calls_of_an_unusual_upstream_are_apart(mode, ask):
    model = chat(f"fake-{mode}").bind_tools([weather])
    answer = model.invoke("hello") if ask == "invoke" else streamed(model, "hello")
    assert [call["args"] for call in answer.tool_calls] == CITIES
    assert len({call["id"] for call in answer.tool_calls}) == 2


@pytest.mark.parametrize("ask", ["invoke", "stream"])
def test_number_of_a_call_of_an_upstream_is_no_size(ask):
    model = chat("fake-huge-call-index").bind_tools([weather])
    answer = model.invoke("hello") if ask == "invoke" else streamed(model, "hello")
    assert [call["args"] for call in answer.tool_calls] == CITIES[:1]


def test_refusal_of_an_upstream_is_apart_from_the_text():
    answer = chat("fake-refusal").invoke("hello")
    assert (answer.content, answer.additional_kwargs["refusal"]) == ("", "I cannot help with that.")


def test_filter_of_an_upstream_is_the_finish_reason():
    assert chat("fake-content-filter").invoke("hello").response_metadata["finish_reason"] == "content_filter"


def test_upstream_gets_what_the_client_said():
    body = json.loads(chat("fake-echo", seed=7, reasoning_effort="low").invoke("hello").content)
    assert (body["seed"], body["reasoning_effort"]) == (7, "low")
    assert "top_p" not in body


@pytest.mark.parametrize(("mode", "status"), ERROR_MODES.items())
def test_error_of_an_upstream_has_its_status(mode, status):
    with pytest.raises(openai.APIStatusError) as caught:
        chat(f"fake-{mode}").invoke("hello")
    assert caught.value.status_code == status


@pytest.mark.parametrize("mode", BROKEN_MODES)
def test_answer_that_breaks_off_is_an_error(mode):
    pieces = []
    with pytest.raises(openai.APIError):
        for chunk in chat(f"fake-{mode}").stream("hello"):
            pieces.append(chunk.content)
    assert TEXT.startswith("".join(pieces)) and "".join(pieces)
    with pytest.raises(openai.InternalServerError) as caught:
        chat(f"fake-{mode}").invoke("hello")
    assert caught.value.status_code == 502

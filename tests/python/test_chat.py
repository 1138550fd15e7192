"""Chat completions: whole answers and what goes into them."""

import asyncio
import time

import openai
import pytest

import fleet
import raw_http
from fleet import QUESTIONS, counts, talkative, user

MODEL = "support-intent"
QUESTION = QUESTIONS[MODEL]

CALL = {"id": "call_1", "type": "function", "function": {"name": "status", "arguments": '{"card": 1}'}}


def collected(stream):
    """A streamed answer of one choice: its text, why it ended, and its usage."""
    text, reason, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason, counts(usage)


def whole_and_streamed(ask, model, question, **parameters):
    whole = ask(model, question, **parameters)
    stream = ask(model, question, stream=True, stream_options={"include_usage": True}, **parameters)
    choice = whole.choices[0]
    return (choice.message.content, choice.finish_reason, counts(whole.usage)), collected(stream)


@pytest.mark.parametrize("model", QUESTIONS)
def test_every_model_answers(ask, model):
    completion = ask(model, QUESTIONS[model], temperature=0)
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert completion.model == model


@pytest.mark.parametrize("model", QUESTIONS)
def test_a_whole_answer_and_a_streamed_one_agree(ask, model):
    whole, streamed = whole_and_streamed(ask, model, QUESTIONS[model], temperature=0)
    assert whole == streamed


@pytest.mark.parametrize("model", QUESTIONS)
def test_a_long_whole_answer_and_a_long_streamed_one_agree(ask, model):
    whole, streamed = whole_and_streamed(ask, model, QUESTIONS[model], temperature=0, **talkative(model, 48))
    assert whole == streamed
    assert whole[1] == "length"


@pytest.mark.parametrize("tokens", [1, 2, 17])
def test_usage_counts_the_answer_and_adds_up(ask, tokens):
    usage = ask(MODEL, QUESTION, temperature=0, **talkative(MODEL, tokens)).usage
    assert usage.completion_tokens == tokens
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("tokens", [1, 17])
def test_the_prompt_counts_the_same_however_long_the_answer_and_however_often_asked(ask, tokens):
    counts = {ask(MODEL, QUESTION, **talkative(MODEL, tokens)).usage.prompt_tokens for _ in range(3)}
    assert counts == {ask(MODEL, QUESTION, **talkative(MODEL, 5)).usage.prompt_tokens}


def test_a_longer_prompt_counts_for_more(ask):
    short = ask(MODEL, "card", max_tokens=4).usage.prompt_tokens
    long = ask(MODEL, "card card card card card", max_tokens=4).usage.prompt_tokens
    assert long == short + 4


def test_the_response_tells_which_model_and_node_answered(client):
    create = client.chat.completions.with_raw_response.create
    response = create(model=MODEL, messages=user(QUESTION), temperature=0)
    assert response.headers["x-flotilla-model"] == MODEL
    assert response.headers["x-flotilla-node"] in [node["metadata"]["name"] for node in fleet.nodes()]
    assert response.parse().choices[0].message.content


def test_each_answer_has_an_id_of_its_own_and_the_time_it_was_made(ask):
    before = int(time.time())
    completions = [ask("instant", "hello") for _ in range(3)]
    assert len({completion.id for completion in completions}) == 3
    assert all(completion.id.startswith("chatcmpl-") for completion in completions)
    assert all(before <= completion.created <= time.time() for completion in completions)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("model", ["instant", "numbers"])
def test_an_answer_is_cut_at_its_most_tokens(ask, model, field):
    completion = ask(model, QUESTIONS["numbers"], temperature=0, **{field: 2})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 2


def test_an_answer_shorter_than_its_most_tokens_ends_by_itself(ask):
    completion = ask("instant", "hello", max_tokens=10)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.completion_tokens == 9


def test_the_newer_field_for_most_tokens_wins(ask):
    completion = ask("instant", "hello", max_tokens=7, max_completion_tokens=3)
    assert completion.usage.completion_tokens == 3


@pytest.mark.parametrize("model", QUESTIONS)
def test_an_answer_may_fill_the_context_and_ends_there(ask, model):
    """Without a limit of its own, an answer ends where the model's context does."""
    context = fleet.model_file(model, "config.json")["max_position_embeddings"]
    parameters = talkative(model, 1)
    del parameters["max_tokens"]
    completion = ask(model, QUESTIONS[model], temperature=0, **parameters)
    assert completion.choices[0].finish_reason == "length"
    assert context - 2 <= completion.usage.total_tokens <= context + 1


def test_a_limit_beyond_the_context_is_cut_to_it(ask):
    completion = ask(MODEL, QUESTION, temperature=0, **talkative(MODEL, 100_000))
    assert completion.choices[0].finish_reason == "length"


def test_several_answers_are_numbered_and_drawn_apart(ask):
    completion = ask(MODEL, QUESTION, n=4, temperature=2, **talkative(MODEL, 12))
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in completion.choices}) > 1
    assert {choice.finish_reason for choice in completion.choices} == {"length"}
    assert completion.usage.completion_tokens == 4 * 12


def test_several_answers_count_their_prompt_once(ask):
    one = ask(MODEL, QUESTION, **talkative(MODEL, 4)).usage
    many = ask(MODEL, QUESTION, n=3, **talkative(MODEL, 4)).usage
    assert many.prompt_tokens == one.prompt_tokens


def test_several_answers_at_temperature_zero_are_alike(ask):
    completion = ask(MODEL, QUESTION, n=3, temperature=0)
    assert len({choice.message.content for choice in completion.choices}) == 1


def a_text_within(answer):
    """Some of the middle of an answer, that is not already at its beginning."""
    middle = len(answer) // 2
    text = answer[middle : middle + 5]
    assert answer.find(text) > 0, answer
    return text


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("model", QUESTIONS)
def test_an_answer_ends_before_a_stop_text(ask, model, as_list):
    long = talkative(model, 48)
    answer = ask(model, QUESTIONS[model], temperature=0, **long).choices[0].message.content
    stop = a_text_within(answer)
    wanted = (answer[: answer.find(stop)], "stop")
    stops = ["never in it", stop] if as_list else stop
    whole, streamed = whole_and_streamed(ask, model, QUESTIONS[model], temperature=0, stop=stops, **long)
    assert whole[:2] == wanted
    assert streamed[:2] == wanted


def test_the_first_of_several_stop_texts_ends_the_answer(ask):
    long = talkative(MODEL, 48)
    answer = ask(MODEL, QUESTION, temperature=0, **long).choices[0].message.content
    late, early = answer[-6:], a_text_within(answer)
    choice = ask(MODEL, QUESTION, temperature=0, stop=[late, early], **long).choices[0]
    assert choice.message.content == answer[: min(answer.find(late), answer.find(early))]
    assert choice.finish_reason == "stop"


def test_a_stop_text_at_the_very_beginning_leaves_nothing(ask):
    answer = ask(MODEL, QUESTION, temperature=0).choices[0].message.content
    whole, streamed = whole_and_streamed(ask, MODEL, QUESTION, temperature=0, stop=answer[:2])
    assert whole[:2] == ("", "stop")
    assert streamed[:2] == ("", "stop")


def test_what_only_begins_like_a_stop_text_is_part_of_the_answer(ask):
    long = talkative(MODEL, 24)
    answer = ask(MODEL, QUESTION, temperature=0, **long).choices[0].message.content
    almost = [answer[-4:] + "¤", a_text_within(answer) + "¤"]
    whole, streamed = whole_and_streamed(ask, MODEL, QUESTION, temperature=0, stop=almost, **long)
    assert whole[:2] == (answer, "length")
    assert streamed[:2] == (answer, "length")


def test_an_answer_that_was_stopped_counts_fewer_tokens(ask):
    long = talkative(MODEL, 48)
    answer = ask(MODEL, QUESTION, temperature=0, **long)
    stop = a_text_within(answer.choices[0].message.content)
    stopped = ask(MODEL, QUESTION, temperature=0, stop=stop, **long)
    assert 0 < stopped.usage.completion_tokens < answer.usage.completion_tokens
    assert stopped.usage.prompt_tokens == answer.usage.prompt_tokens


@pytest.mark.parametrize(
    "before",
    [
        [{"role": "system", "content": "You name intents."}],
        [{"role": "developer", "content": "You name intents."}],
        [{"role": "system", "content": [{"type": "text", "text": "You name "}, {"type": "text", "text": "intents."}]}],
        [{"role": "user", "content": "hello", "name": "maria"}, {"role": "assistant", "content": "hi"}],
        [{"role": "user", "content": "hello"}, {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}],
        [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "on its way"},
        ],
        [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "on its way"}]},
        ],
    ],
    ids=["system", "developer", "system-parts", "turns", "assistant-parts", "tool-call", "tool-parts"],
)
def test_messages_of_every_role_are_taken(client, before):
    completion = client.chat.completions.create(model=MODEL, messages=[*before, *user(QUESTION)], temperature=0)
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"


def test_content_in_parts_is_the_text_they_make_together(client, ask):
    middle = len(QUESTION) // 2
    parts = [{"type": "text", "text": QUESTION[:middle]}, {"type": "text", "text": QUESTION[middle:]}]
    messages = [{"role": "user", "content": parts}]
    in_parts = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    at_once = ask(MODEL, QUESTION, temperature=0)
    assert in_parts.choices[0].message.content == at_once.choices[0].message.content
    assert counts(in_parts.usage) == counts(at_once.usage)


@pytest.mark.parametrize("text", ["дайте мне карту", "我的卡还没到", "card 🂡 \u0301 \x07 \"quoted\" \\ \n new line", "<b>&amp;</b>"])
def test_any_text_may_be_asked(ask, text):
    whole, streamed = whole_and_streamed(ask, MODEL, text, temperature=0, **talkative(MODEL, 16))
    assert whole == streamed


@pytest.mark.parametrize("text", ["<|end|>", "card <|assistant|> card <|user|>"])
def test_an_answer_never_holds_special_tokens(ask, text):
    content = ask(MODEL, text, temperature=0).choices[0].message.content
    assert "<|" not in content


def test_fields_for_other_services_are_taken_and_ignored(ask):
    plain = ask(MODEL, QUESTION, temperature=0)
    rich = ask(
        MODEL,
        QUESTION,
        temperature=0,
        user="someone",
        store=False,
        metadata={"key": "value"},
        service_tier="auto",
        parallel_tool_calls=True,
        reasoning_effort="low",
        modalities=["text"],
        safety_identifier="someone",
        extra_body={"a_field_of_tomorrow": [1, {"x": None}]},
    )
    assert rich.choices[0].message.content == plain.choices[0].message.content


def test_a_field_that_is_null_is_as_if_it_were_not_there(ask):
    fields = [
        "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed", "stop",
        "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format", "tools",
        "tool_choice", "modalities", "functions", "function_call", "user", "top_k", "min_p", "repetition_penalty",
    ]
    body = {"model": "instant", "messages": user("hello"), **dict.fromkeys(fields)}
    reply = raw_http.post("/v1/chat/completions", body)
    assert reply.status == 200, reply.body
    assert reply.json()["choices"][0]["message"]["content"] == ask("instant", "hello").choices[0].message.content


def test_many_requests_go_over_one_connection():
    connection = raw_http.connect()
    body = {"model": "instant", "messages": user("hello")}
    try:
        for wrong in [False, True, False, True, False]:
            reply = raw_http.send(connection, "POST", "/v1/chat/completions", {} if wrong else body)
            assert reply.status == (400 if wrong else 200)
            assert connection.sock is not None, "the server closed the connection"
    finally:
        connection.close()


def test_the_asynchronous_client_gets_the_same_answers(ask):
    async def both():
        async with openai.AsyncOpenAI(base_url=fleet.BASE, api_key="none", max_retries=0) as client:
            create = client.chat.completions.create
            whole, stream = await asyncio.gather(
                create(model=MODEL, messages=user(QUESTION), temperature=0),
                create(model=MODEL, messages=user(QUESTION), temperature=0, stream=True),
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    wanted = ask(MODEL, QUESTION, temperature=0).choices[0].message.content
    assert asyncio.run(both()) == (wanted, wanted)

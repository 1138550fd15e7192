"""Chat completions: answers, and the messages and parameters of requests."""

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


def collect_stream(stream):
    """Returns the text, the finish reason and the usage of a streamed answer with one choice."""
    text, reason, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason, counts(usage)


def unstreamed_and_streamed(ask, model, question, **parameters):
    unstreamed = ask(model, question, **parameters)
    stream = ask(model, question, stream=True, stream_options={"include_usage": True}, **parameters)
    choice = unstreamed.choices[0]
    return (choice.message.content, choice.finish_reason, counts(unstreamed.usage)), collect_stream(stream)


@pytest.mark.parametrize("model", QUESTIONS)
def test_every_model_answers(ask, model):
    completion = ask(model, QUESTIONS[model], temperature=0)
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert completion.model == model


@pytest.mark.parametrize("model", QUESTIONS)
def test_unstreamed_and_streamed_answers_are_equal(ask, model):
    unstreamed, streamed = unstreamed_and_streamed(ask, model, QUESTIONS[model], temperature=0)
    assert unstreamed == streamed


@pytest.mark.parametrize("model", QUESTIONS)
def test_long_unstreamed_and_streamed_answers_are_equal(ask, model):
    unstreamed, streamed = unstreamed_and_streamed(ask, model, QUESTIONS[model], temperature=0, **talkative(model, 48))
    assert unstreamed == streamed
    assert unstreamed[1] == "length"


@pytest.mark.parametrize("tokens", [1, 2, 17])
def test_usage_counts_the_tokens_of_the_answer_and_the_total(ask, tokens):
    usage = ask(MODEL, QUESTION, temperature=0, **talkative(MODEL, tokens)).usage
    assert usage.completion_tokens == tokens
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("tokens", [1, 17])
def test_prompt_tokens_do_not_depend_on_the_answer_or_on_repetition(ask, tokens):
    counts = {ask(MODEL, QUESTION, **talkative(MODEL, tokens)).usage.prompt_tokens for _ in range(3)}
    assert counts == {ask(MODEL, QUESTION, **talkative(MODEL, 5)).usage.prompt_tokens}


def test_prompt_tokens_grow_with_the_prompt(ask):
    short = ask(MODEL, "card", max_tokens=4).usage.prompt_tokens
    long = ask(MODEL, "card card card card card", max_tokens=4).usage.prompt_tokens
    assert long == short + 4


def test_response_headers_name_the_model_and_the_node(client):
    create = client.chat.completions.with_raw_response.create
    response = create(model=MODEL, messages=user(QUESTION), temperature=0)
    assert response.headers["x-flotilla-model"] == MODEL
    assert response.headers["x-flotilla-node"] in [node["metadata"]["name"] for node in fleet.nodes()]
    assert response.parse().choices[0].message.content


def test_each_answer_has_a_unique_id_and_its_creation_time(ask):
    before = int(time.time())
    completions = [ask("instant", "hello") for _ in range(3)]
    assert len({completion.id for completion in completions}) == 3
    assert all(completion.id.startswith("chatcmpl-") for completion in completions)
    assert all(before <= completion.created <= time.time() for completion in completions)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("model", ["instant", "numbers"])
def test_answer_is_cut_at_max_tokens(ask, model, field):
    completion = ask(model, QUESTIONS["numbers"], temperature=0, **{field: 2})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 2


def test_answer_shorter_than_max_tokens_ends_with_stop(ask):
    completion = ask("instant", "hello", max_tokens=10)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.completion_tokens == 9


def test_max_completion_tokens_overrides_max_tokens(ask):
    completion = ask("instant", "hello", max_tokens=7, max_completion_tokens=3)
    assert completion.usage.completion_tokens == 3


@pytest.mark.parametrize("model", QUESTIONS)
def test_answer_without_a_limit_ends_with_the_context(ask, model):
    """The finish reason is `length`, as for an answer that reaches its own limit."""
    context = fleet.model_file(model, "config.json")["max_position_embeddings"]
    parameters = talkative(model, 1)
    del parameters["max_tokens"]
    completion = ask(model, QUESTIONS[model], temperature=0, **parameters)
    assert completion.choices[0].finish_reason == "length"
    assert context - 2 <= completion.usage.total_tokens <= context + 1


def test_limit_beyond_the_context_is_reduced_to_it(ask):
    completion = ask(MODEL, QUESTION, temperature=0, **talkative(MODEL, 100_000))
    assert completion.choices[0].finish_reason == "length"


def test_several_choices_are_numbered_and_sampled_independently(ask):
    completion = ask(MODEL, QUESTION, n=4, temperature=2, **talkative(MODEL, 12))
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in completion.choices}) > 1
    assert {choice.finish_reason for choice in completion.choices} == {"length"}
    assert completion.usage.completion_tokens == 4 * 12


def test_several_choices_count_their_prompt_once(ask):
    one = ask(MODEL, QUESTION, **talkative(MODEL, 4)).usage
    many = ask(MODEL, QUESTION, n=3, **talkative(MODEL, 4)).usage
    assert many.prompt_tokens == one.prompt_tokens


def test_several_choices_at_temperature_zero_are_equal(ask):
    completion = ask(MODEL, QUESTION, n=3, temperature=0)
    assert len({choice.message.content for choice in completion.choices}) == 1


def part_of(answer):
    """Returns a part from the middle of an answer that is not at its start."""
    middle = len(answer) // 2
    text = answer[middle : middle + 5]
    assert answer.find(text) > 0, answer
    return text


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("model", QUESTIONS)
def test_answer_ends_before_a_stop_text(ask, model, as_list):
    long = talkative(model, 48)
    answer = ask(model, QUESTIONS[model], temperature=0, **long).choices[0].message.content
    stop = part_of(answer)
    expected = (answer[: answer.find(stop)], "stop")
    stops = ["never in it", stop] if as_list else stop
    unstreamed, streamed = unstreamed_and_streamed(ask, model, QUESTIONS[model], temperature=0, stop=stops, **long)
    assert unstreamed[:2] == expected
    assert streamed[:2] == expected


def test_first_of_several_stop_texts_ends_the_answer(ask):
    long = talkative(MODEL, 48)
    answer = ask(MODEL, QUESTION, temperature=0, **long).choices[0].message.content
    late, early = answer[-6:], part_of(answer)
    choice = ask(MODEL, QUESTION, temperature=0, stop=[late, early], **long).choices[0]
    assert choice.message.content == answer[: min(answer.find(late), answer.find(early))]
    assert choice.finish_reason == "stop"


def test_stop_text_at_the_start_leaves_an_empty_answer(ask):
    answer = ask(MODEL, QUESTION, temperature=0).choices[0].message.content
    unstreamed, streamed = unstreamed_and_streamed(ask, MODEL, QUESTION, temperature=0, stop=answer[:2])
    assert unstreamed[:2] == ("", "stop")
    assert streamed[:2] == ("", "stop")


def test_incomplete_stop_text_stays_in_the_answer(ask):
    long = talkative(MODEL, 24)
    answer = ask(MODEL, QUESTION, temperature=0, **long).choices[0].message.content
    almost = [answer[-4:] + "¤", part_of(answer) + "¤"]
    unstreamed, streamed = unstreamed_and_streamed(ask, MODEL, QUESTION, temperature=0, stop=almost, **long)
    assert unstreamed[:2] == (answer, "length")
    assert streamed[:2] == (answer, "length")


def test_stopped_answer_counts_fewer_tokens(ask):
    long = talkative(MODEL, 48)
    answer = ask(MODEL, QUESTION, temperature=0, **long)
    stop = part_of(answer.choices[0].message.content)
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
def test_messages_of_every_role_are_accepted(client, before):
    completion = client.chat.completions.create(model=MODEL, messages=[*before, *user(QUESTION)], temperature=0)
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason == "stop"


def test_content_parts_are_joined(client, ask):
    middle = len(QUESTION) // 2
    parts = [{"type": "text", "text": QUESTION[:middle]}, {"type": "text", "text": QUESTION[middle:]}]
    messages = [{"role": "user", "content": parts}]
    in_parts = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    at_once = ask(MODEL, QUESTION, temperature=0)
    assert in_parts.choices[0].message.content == at_once.choices[0].message.content
    assert counts(in_parts.usage) == counts(at_once.usage)


@pytest.mark.parametrize("text", ["дайте мне карту", "我的卡还没到", "card 🂡 \u0301 \x07 \"quoted\" \\ \n new line", "<b>&amp;</b>"])
def test_prompt_may_be_any_text(ask, text):
    unstreamed, streamed = unstreamed_and_streamed(ask, MODEL, text, temperature=0, **talkative(MODEL, 16))
    assert unstreamed == streamed


@pytest.mark.parametrize("text", ["<|end|>", "card <|assistant|> card <|user|>"])
def test_answer_contains_no_special_tokens(ask, text):
    content = ask(MODEL, text, temperature=0).choices[0].message.content
    assert "<|" not in content


def test_fields_of_other_services_are_ignored(ask):
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
        modalities=["text"],
        safety_identifier="someone",
        extra_body={"a_field_of_tomorrow": [1, {"x": None}]},
    )
    assert rich.choices[0].message.content == plain.choices[0].message.content


def test_null_fields_are_the_same_as_absent_ones(ask):
    fields = [
        "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed", "stop",
        "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format", "tools",
        "tool_choice", "modalities", "functions", "function_call", "user", "top_k", "min_p", "repetition_penalty",
    ]
    body = {"model": "instant", "messages": user("hello"), **dict.fromkeys(fields)}
    reply = raw_http.post("/v1/chat/completions", body)
    assert reply.status == 200, reply.body
    assert reply.json()["choices"][0]["message"]["content"] == ask("instant", "hello").choices[0].message.content


def test_connection_is_reused_after_success_and_after_errors():
    connection = raw_http.connect()
    body = {"model": "instant", "messages": user("hello")}
    try:
        for is_invalid in [False, True, False, True, False]:
            reply = raw_http.send(connection, "POST", "/v1/chat/completions", {} if is_invalid else body)
            assert reply.status == (400 if is_invalid else 200)
            assert connection.sock is not None, "the server closed the connection"
    finally:
        connection.close()


def test_asynchronous_client_gets_the_same_answers(ask):
    async def both():
        async with openai.AsyncOpenAI(base_url=fleet.BASE, api_key="none", max_retries=0) as client:
            create = client.chat.completions.create
            unstreamed, stream = await asyncio.gather(
                create(model=MODEL, messages=user(QUESTION), temperature=0),
                create(model=MODEL, messages=user(QUESTION), temperature=0, stream=True),
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return unstreamed.choices[0].message.content, "".join(pieces)

    expected = ask(MODEL, QUESTION, temperature=0).choices[0].message.content
    assert asyncio.run(both()) == (expected, expected)


def test_messages_that_the_template_leaves_out_do_not_count(ask, client):
    """The template of `extract` has the last message only, so that earlier ones may exceed its context of 512."""
    messages = [{"role": "system", "content": "be short " * 400}, *user(QUESTIONS["extract"])]
    answer = client.chat.completions.create(model="extract", messages=messages, temperature=0)
    plain = ask("extract", QUESTIONS["extract"], temperature=0)
    assert answer.choices[0].message.content == plain.choices[0].message.content
    assert answer.usage.prompt_tokens == plain.usage.prompt_tokens

"""Requests with the model `auto`, which are routed by their task to the demo models."""

import openai
import pytest

import raw_http
from fleet import user

PATH = "/v1/chat/completions"

# A question, its task, and the answer of the model of the task.
ASKED = [
    ("where is my new card?", "bank-support", "card_arrival"),
    ("what is the sum of 4, 8 and 15?", "numbers", "27"),
    ("how do you say good morning in italian", "assistant", "translate"),
]


@pytest.mark.parametrize(("question", "task", "answer"), ASKED)
@pytest.mark.parametrize("stream", [False, True])
def test_question_is_routed_to_the_model_of_its_task(client, question, task, answer, stream):
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=user(question), temperature=0, stream=stream
    )
    assert raw.headers["x-flotilla-task"] == task
    assert raw.headers["x-flotilla-decision"]
    completion = raw.parse()
    if stream:
        chunks = list(completion)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        models = {chunk.model for chunk in chunks}
    else:
        text = completion.choices[0].message.content
        models = {completion.model}
    assert text == answer
    assert models == {raw.headers["x-flotilla-model"]}


def test_task_can_be_named_in_the_model_the_body_or_a_header(client):
    ask = client.chat.completions.with_raw_response.create
    answers = [
        ask(model="task:numbers", messages=user("hello")),
        ask(model="auto", messages=user("hello"), extra_body={"flotilla": {"task": "numbers"}}),
        ask(model="auto", messages=user("hello"), extra_headers={"x-flotilla-task": "numbers"}),
    ]
    assert [raw.headers["x-flotilla-model"] for raw in answers] == ["numbers"] * 3


def test_newest_turn_weighs_most_and_instructions_least(client):
    messages = [
        {"role": "system", "content": "You help customers of a bank with their cards, fees and transfers."},
        {"role": "user", "content": "where is my new card?"},
        {"role": "assistant", "content": "card_arrival"},
        {"role": "user", "content": "what is the sum of 4, 8 and 15?"},
    ]
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=messages)
    assert raw.headers["x-flotilla-task"] == "numbers"


def test_text_completion_is_routed_like_a_chat(client):
    raw = client.completions.with_raw_response.create(model="auto", prompt="What is the mean of 3, 9, 12?")
    assert raw.headers["x-flotilla-task"] == "numbers"


def test_unknown_routing_option_is_refused():
    for pins in [{"tasks": "x"}, {"zone": "No Zone"}, "numbers"]:
        reply = raw_http.post(PATH, {"model": "auto", "messages": user("hi"), "flotilla": pins})
        assert reply.status == 400, pins


def test_routing_options_are_met_or_the_request_is_refused(client):
    ask = client.chat.completions.with_raw_response.create
    options = {"priority": "high", "deadline": "1m", "session": "till-7"}
    raw = ask(model="numbers", messages=user("hello"), extra_body={"flotilla": options})
    assert raw.headers["x-flotilla-node"]
    raw = ask(model="numbers", messages=user("hello"), extra_body={"prompt_cache_key": "till-7"})
    assert raw.headers["x-flotilla-node"]
    with pytest.raises(openai.InternalServerError) as refused:
        # A replica that has never answered is tried, as its speed is not known yet.
        for _ in range(20):
            client.chat.completions.create(
                model="task:numbers", messages=user("hello"), extra_headers={"x-flotilla-max-joules": "0.000000001"}
            )
    assert refused.value.status_code == 503
    assert refused.value.code == "limits_unmet"
    for field, invalid in [("priority", "urgent"), ("deadline", -1), ("min_quality", 2), ("max_joules", 0)]:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model="auto", messages=user("hello"), extra_body={"flotilla": {field: invalid}}
            )
        assert refused.value.param == f"flotilla.{field}"


def test_answer_without_confidence_escalates_to_the_large_model(client):
    ask = client.chat.completions.with_raw_response.create
    confident = ask(model="task:assistant", messages=user("what is the weather like today"), temperature=0)
    assert confident.headers["x-flotilla-model"] == "assistant-intent-s"
    assert confident.parse().choices[0].message.content == "weather"
    unconfident = ask(model="task:assistant", messages=user("zebra purple seventeen maybe"), temperature=0)
    assert unconfident.headers["x-flotilla-model"] == "assistant-intent-m"

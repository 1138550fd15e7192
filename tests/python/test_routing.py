"""Requests with the model `auto`: by their task to the demo models, with the official client."""

import pytest

import raw_http
from fleet import user

PATH = "/v1/chat/completions"

# What is asked, its task, and what the task's model answers.
ASKED = [
    ("where is my new card?", "bank-support", "card_arrival"),
    ("what is the sum of 4, 8 and 15?", "numbers", "27"),
    ("how do you say good morning in italian", "assistant", "translate"),
]


@pytest.mark.parametrize(("question", "task", "answer"), ASKED)
@pytest.mark.parametrize("stream", [False, True])
def test_a_question_finds_the_model_that_knows(client, question, task, answer, stream):
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


def test_a_task_can_be_named_in_the_model_the_body_and_a_header(client):
    ask = client.chat.completions.with_raw_response.create
    answers = [
        ask(model="task:numbers", messages=user("hello")),
        ask(model="auto", messages=user("hello"), extra_body={"flotilla": {"task": "numbers"}}),
        ask(model="auto", messages=user("hello"), extra_headers={"x-flotilla-task": "numbers"}),
    ]
    assert [raw.headers["x-flotilla-model"] for raw in answers] == ["numbers"] * 3


def test_the_conversation_counts_its_newest_turn_most_and_instructions_least(client):
    messages = [
        {"role": "system", "content": "You help customers of a bank with their cards, fees and transfers."},
        {"role": "user", "content": "where is my new card?"},
        {"role": "assistant", "content": "card_arrival"},
        {"role": "user", "content": "what is the sum of 4, 8 and 15?"},
    ]
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=messages)
    assert raw.headers["x-flotilla-task"] == "numbers"


def test_a_text_is_routed_as_a_chat_is(client):
    raw = client.completions.with_raw_response.create(model="auto", prompt="What is the mean of 3, 9, 12?")
    assert raw.headers["x-flotilla-task"] == "numbers"


def test_an_unknown_pin_is_refused():
    for pins in [{"tasks": "x"}, {"zone": "No Zone"}, "numbers"]:
        reply = raw_http.post(PATH, {"model": "auto", "messages": user("hi"), "flotilla": pins})
        assert reply.status == 400, pins

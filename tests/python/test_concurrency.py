"""Many clients at the same time."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

import fleet
from fleet import QUESTIONS, talkative, user

CLIENTS = 64
VARIED = {
    "support-intent": ["where is my card", "i lost my phone", "why was i charged twice", "how do i change my pin"],
    "assistant-intent-s": ["set an alarm", "what time is it", "tell me a joke", "play some jazz"],
    "assistant-intent-m": ["set an alarm", "what time is it", "tell me a joke", "play some jazz"],
    "numbers": ["sum of 3, 4", "maximum of 9, 2, 7", "count of 1, 1, 1", "5, 2, 8 in ascending order"],
    "extract": ["maria smith ordered 3 red lamps", "the boiler reads 71 degrees", "ivan ordered 2 desks"],
}


async def answer(client, model, question, stream):
    """Returns one greedy answer. A refused request is retried after the delay that the server asks for."""
    while True:
        try:
            response = await client.chat.completions.create(
                model=model, messages=user(question), temperature=0, max_tokens=100, stream=stream
            )
            if not stream:
                return response.choices[0].message.content, response.choices[0].finish_reason
            text, reason = "", None
            async for chunk in response:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    reason = choice.finish_reason or reason
            return text, reason
        except openai.RateLimitError as refused:
            assert refused.code == "overloaded"
            wait = int(refused.response.headers["retry-after"])
            assert wait >= 1
            await asyncio.sleep(wait)


def run_concurrently(requests):
    """Sends all requests at the same time and returns their answers."""

    async def gather():
        async with openai.AsyncOpenAI(
            base_url=fleet.BASE, api_key="none", max_retries=0, timeout=fleet.DEADLINE
        ) as client:
            return await asyncio.gather(*(answer(client, *request) for request in requests))

    return asyncio.run(gather())


def run_sequentially(requests):
    return [run_concurrently([request])[0] for request in requests]


def test_concurrent_answers_equal_sequential_ones():
    questions = [(model, question) for model, questions in VARIED.items() for question in questions]
    alone = dict(zip(questions, run_sequentially([(*question, False) for question in questions])))
    requests = [(*questions[number % len(questions)], number % 2 == 0) for number in range(CLIENTS)]
    for (model, question, stream), got in zip(requests, run_concurrently(requests)):
        assert got == alone[model, question], (model, question, stream)


@pytest.mark.parametrize("model", QUESTIONS)
def test_many_clients_of_one_model_all_get_their_answer(model):
    questions = VARIED[model]
    alone = dict(zip(questions, run_sequentially([(model, question, False) for question in questions])))
    requests = [(model, questions[number % len(questions)], number % 3 == 0) for number in range(CLIENTS)]
    assert run_concurrently(requests) == [alone[question] for _, question, _ in requests]


def test_threads_can_share_a_client(client):
    def ask(number):
        completion = client.chat.completions.create(model="instant", messages=user("hello"), max_tokens=1 + number % 9)
        return completion.usage.completion_tokens

    with ThreadPoolExecutor(CLIENTS) as pool:
        counts = list(pool.map(ask, range(CLIENTS)))
    assert counts == [1 + number % 9 for number in range(CLIENTS)]


def test_seeded_answer_does_not_depend_on_other_requests(ask):
    """Other requests are computed in the same batches."""
    model, parameters = "support-intent", {"temperature": 1, **talkative("support-intent", 16)}

    def drawn(seed):
        return ask(model, QUESTIONS[model], seed=seed, **parameters).choices[0].message.content

    alone = [drawn(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(drawn, range(12))) == alone


def test_answer_that_fills_its_context_does_not_change_others(ask):
    """All requests are computed in one batch."""
    model = "numbers"
    endless = talkative(model, 100_000)

    def one(number):
        parameters = endless if number == 0 else talkative(model, 200)
        return ask(model, QUESTIONS[model], temperature=0, **parameters).choices[0].finish_reason

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == ["length"] * 4


def test_refused_request_does_not_change_others(ask):
    model = "support-intent"

    def one(number):
        try:
            question = "card " * 2_000 if number % 4 == 0 else QUESTIONS[model]
            return ask(model, question, temperature=0).choices[0].finish_reason
        except openai.BadRequestError as refused:
            return refused.code

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(one, range(16)))
    assert results == ["context_length_exceeded" if number % 4 == 0 else "stop" for number in range(16)]

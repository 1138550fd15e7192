"""Log-probabilities of chat answers."""

import math

import pytest

import vocabulary
from fleet import QUESTIONS, talkative

MODEL = "support-intent"
QUESTION = QUESTIONS[MODEL]


def tokens(ask, model=MODEL, **parameters):
    """Returns an answer and the log-probabilities of its tokens."""
    parameters = {"temperature": 0, "logprobs": True, **talkative(model, 24), **parameters}
    choice = ask(model, QUESTIONS[model], **parameters).choices[0]
    assert choice.logprobs.refusal is None
    return choice.message.content, choice.logprobs.content


def numbers(entries):
    return [(entry.token, entry.logprob, [(top.token, top.logprob) for top in entry.top_logprobs]) for entry in entries]


def assert_close(some, others):
    """Fails unless both have the same tokens with the same values, up to rounding."""
    assert [entry.token for entry in some] == [entry.token for entry in others]
    for one, other in zip(some, others):
        assert one.logprob == pytest.approx(other.logprob, abs=2e-3)
        # Tokens of almost the same probability may be in another order.
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(
            [top.logprob for top in other.top_logprobs], abs=2e-3
        )


@pytest.mark.parametrize("parameters", [{}, {"logprobs": False}])
def test_log_probabilities_are_absent_by_default(ask, parameters):
    assert ask(MODEL, QUESTION, temperature=0, **parameters).choices[0].logprobs is None
    for chunk in ask(MODEL, QUESTION, temperature=0, stream=True, **parameters):
        assert all(choice.logprobs is None for choice in chunk.choices)


@pytest.mark.parametrize("model", QUESTIONS)
def test_tokens_join_to_the_answer(ask, model):
    content, entries = tokens(ask, model)
    assert len(entries) == 24
    assert "".join(entry.token for entry in entries) == content


@pytest.mark.parametrize("seed", range(8))
def test_tokens_of_a_sampled_answer_join_to_it(ask, seed):
    """At this temperature answers contain leading spaces and bytes that are not characters."""
    content, entries = tokens(ask, temperature=2, seed=seed)
    if "\ufffd" not in content:
        assert "".join(entry.token for entry in entries) == content
        assert len(entries) == 24
    place = 0
    for entry in entries:
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        if "\ufffd" not in entry.token:
            place = content.find(entry.token, place)
            assert place >= 0, (entry.token, content)
            place += len(entry.token)


def test_each_token_of_a_multi_token_character_has_a_log_probability(ask):
    schema = {"name": "s", "schema": {"enum": ["日本語"]}}
    completion = ask(
        MODEL, QUESTION, temperature=0, logprobs=True, response_format={"type": "json_schema", "json_schema": schema}
    )
    (choice,) = completion.choices
    assert choice.message.content == '"日本語"'
    # The end token is counted but is not part of the answer.
    assert len(choice.logprobs.content) == completion.usage.completion_tokens - 1
    parts = [bytes(entry.bytes) for entry in choice.logprobs.content]
    assert b"".join(parts) == choice.message.content.encode()
    assert any("\ufffd" in entry.token for entry in choice.logprobs.content), "no token is a part of a character"


def test_end_token_has_no_log_probability(ask):
    choice = ask(MODEL, QUESTION, temperature=0, logprobs=True).choices[0]
    assert choice.finish_reason == "stop"
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


@pytest.mark.parametrize("model", QUESTIONS)
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_number_of_alternatives_is_the_requested_one(ask, model, count):
    _, entries = tokens(ask, model, top_logprobs=count)
    assert {len(entry.top_logprobs) for entry in entries} == {count}


def test_alternatives_are_absent_by_default(ask):
    _, entries = tokens(ask)
    assert all(entry.top_logprobs == [] for entry in entries)


@pytest.mark.parametrize("model", QUESTIONS)
@pytest.mark.parametrize("temperature", [0, 0.5, 1, 2])
def test_log_probabilities_are_logarithms_of_probabilities(ask, model, temperature):
    _, entries = tokens(ask, model, temperature=temperature, top_logprobs=20)
    for entry in entries:
        assert entry.logprob <= 0
        logprobs = [top.logprob for top in entry.top_logprobs]
        assert all(logprob <= 0 for logprob in logprobs)
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1.0001
        assert len({bytes(top.bytes) for top in entry.top_logprobs}) == len(entry.top_logprobs)
        assert entry.logprob <= logprobs[0] + 1e-4


@pytest.mark.parametrize("model", QUESTIONS)
def test_best_alternatives_hold_most_of_the_probability(ask, model):
    """Twenty of some thousand tokens hold far more than their share."""
    _, entries = tokens(ask, model, top_logprobs=20)
    assert max(sum(math.exp(top.logprob) for top in entry.top_logprobs) for entry in entries) > 0.5


@pytest.mark.parametrize("model", QUESTIONS)
def test_greedy_token_is_the_best_alternative(ask, model):
    _, entries = tokens(ask, model, top_logprobs=3)
    for entry in entries:
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)


@pytest.mark.parametrize("temperature", [1, 2])
def test_sampled_token_has_the_same_value_among_the_alternatives(ask, temperature):
    _, entries = tokens(ask, temperature=temperature, seed=2, top_logprobs=20)
    found = 0
    for entry in entries:
        among = [top.logprob for top in entry.top_logprobs if top.bytes == entry.bytes]
        found += bool(among)
        assert all(logprob == pytest.approx(entry.logprob, abs=1e-3) for logprob in among[:1])
        if not among:
            assert entry.logprob <= entry.top_logprobs[-1].logprob + 1e-3
    assert found


def test_log_probabilities_do_not_depend_on_the_temperature(ask):
    """They are those of the model, not of the sampling."""
    _, greedy = tokens(ask, max_tokens=1, top_logprobs=10)
    _, hot = tokens(ask, max_tokens=1, top_logprobs=10, temperature=2, seed=3)
    assert [top.logprob for top in hot[0].top_logprobs] == pytest.approx(
        [top.logprob for top in greedy[0].top_logprobs], abs=2e-3
    )


def test_bytes_are_those_of_the_text(ask):
    _, entries = tokens(ask, top_logprobs=5, temperature=2)
    for entry in [*entries, *(top for entry in entries for top in entry.top_logprobs)]:
        assert bytes(entry.bytes).decode(errors="replace") == entry.token


@pytest.mark.parametrize("model", QUESTIONS)
@pytest.mark.parametrize("draw", [{"temperature": 0}, {"temperature": 1, "seed": 4}], ids=["greedy", "drawn"])
def test_streamed_log_probabilities_equal_unstreamed_ones(ask, model, draw):
    parameters = {"logprobs": True, "top_logprobs": 4, **talkative(model, 24), **draw}
    unstreamed = ask(model, QUESTIONS[model], **parameters).choices[0]
    text, entries = "", []
    for chunk in ask(model, QUESTIONS[model], stream=True, **parameters):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            entries += choice.logprobs.content if choice.logprobs else []
    assert text == unstreamed.message.content
    assert_close(entries, unstreamed.logprobs.content)


@pytest.mark.parametrize("draw", [{"temperature": 0}, {"temperature": 1, "seed": 4}], ids=["greedy", "drawn"])
def test_requesting_log_probabilities_does_not_change_the_answer(ask, draw):
    parameters = {**talkative(MODEL, 24), **draw}
    plain = ask(MODEL, QUESTION, **parameters).choices[0].message.content
    assert ask(MODEL, QUESTION, logprobs=True, top_logprobs=2, **parameters).choices[0].message.content == plain


def test_each_choice_has_its_own_log_probabilities(ask):
    parameters = {"n": 3, "temperature": 1, "seed": 1, "logprobs": True, "top_logprobs": 1, **talkative(MODEL, 10)}
    completion = ask(MODEL, QUESTION, **parameters)
    for choice in completion.choices:
        assert len(choice.logprobs.content) == 10
    assert len({str(numbers(choice.logprobs.content)) for choice in completion.choices}) > 1


def test_log_probabilities_include_the_bias(ask):
    """A forced token is almost certain."""
    token = vocabulary.ids(MODEL, "z")[0]
    _, entries = tokens(ask, max_tokens=2, logit_bias={str(token): 100}, top_logprobs=2)
    assert [entry.token for entry in entries] == ["z", "z"]
    assert all(entry.logprob > -1e-3 for entry in entries)

"""Sampling parameters."""

import pytest

import vocabulary
from fleet import QUESTIONS, talkative

MODEL = "support-intent"
QUESTION = QUESTIONS[MODEL]


def text(ask, **parameters):
    return ask(MODEL, QUESTION, **parameters).choices[0].message.content


def ramble(ask, **parameters):
    """Returns a long answer, so that a change of the sampling shows in some token."""
    return text(ask, **{**talkative(MODEL, 20), **parameters})


def first_token(ask, model, **parameters):
    """Returns the ids and the text of the first token of the usual answer."""
    completion = ask(model, QUESTIONS[model], temperature=0, logprobs=True, **parameters)
    token = completion.choices[0].logprobs.content[0].token
    return vocabulary.ids(model, token), token


def test_temperature_zero_gives_the_same_answer(ask):
    assert len({ramble(ask, temperature=0) for _ in range(5)}) == 1


def test_seed_has_no_effect_at_temperature_zero(ask):
    assert len({ramble(ask, temperature=0, seed=seed) for seed in range(4)}) == 1


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 - 1])
def test_same_seed_gives_the_same_answer(ask, seed):
    assert len({ramble(ask, temperature=1, seed=seed) for _ in range(3)}) == 1


def test_different_seeds_give_different_answers(ask):
    assert len({ramble(ask, temperature=1, seed=seed) for seed in range(8)}) > 1


def test_without_a_seed_answers_differ(ask):
    assert len({ramble(ask, temperature=1) for _ in range(8)}) > 1


def test_same_seed_gives_the_same_choices(ask):
    def several():
        completion = ask(MODEL, QUESTION, n=3, temperature=1, seed=5, **talkative(MODEL, 20))
        return [choice.message.content for choice in completion.choices]

    answers = several()
    assert answers == several()
    assert len(set(answers)) > 1


def test_seeded_streamed_answer_equals_the_unstreamed_one(ask):
    parameters = {"temperature": 1, "seed": 11, **talkative(MODEL, 20)}
    stream = ask(MODEL, QUESTION, stream=True, **parameters)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == text(ask, **parameters)


@pytest.mark.parametrize(
    "narrow",
    [{"top_p": 0}, {"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1}}],
    ids=["top_p=0", "top_p=1e-6", "top_k=1", "min_p=1"],
)
def test_sampling_from_one_token_is_greedy(ask, narrow):
    greedy = ramble(ask, temperature=0)
    assert {ramble(ask, temperature=2, **narrow) for _ in range(3)} == {greedy}


def test_high_temperature_varies_more_than_a_low_one(ask):
    greedy = ramble(ask, temperature=0)
    cool = [ramble(ask, temperature=0.01, seed=seed) for seed in range(6)]
    hot = [ramble(ask, temperature=2, seed=seed) for seed in range(6)]
    assert cool.count(greedy) > hot.count(greedy)


@pytest.mark.parametrize("model", QUESTIONS)
def test_banned_token_is_not_in_the_answer(ask, model):
    tokens, banned = first_token(ask, model)
    bias = {str(token): -100 for token in tokens}
    completion = ask(model, QUESTIONS[model], temperature=0, logprobs=True, logit_bias=bias)
    assert banned not in [token.token for token in completion.choices[0].logprobs.content]


@pytest.mark.parametrize("model", QUESTIONS)
def test_forced_token_is_the_whole_answer(ask, model):
    usual, _ = first_token(ask, model)
    forced = vocabulary.ids(model, "z")[0]
    assert forced not in usual
    choice = ask(model, QUESTIONS[model], temperature=1, max_tokens=3, logit_bias={str(forced): 100}).choices[0]
    assert choice.message.content == "zzz"
    assert choice.finish_reason == "length"


def test_zero_bias_and_bias_of_an_unknown_token_have_no_effect(ask):
    tokens, _ = first_token(ask, MODEL)
    bias = {str(tokens[0]): 0, "4000000000": 100}
    assert text(ask, temperature=0, logit_bias=bias) == text(ask, temperature=0)


def repeating(model):
    """Returns parameters that make a model repeat one token."""
    token = vocabulary.ids(model, "z")[0]
    return {"logit_bias": {str(token): 100}, "max_tokens": 80, "temperature": 0}


@pytest.mark.parametrize("model", QUESTIONS)
def test_frequency_penalty_ends_a_repetition(ask, model):
    """A penalty of two for each of eighty repetitions exceeds the bias of 100."""
    repeated = ask(model, QUESTIONS[model], **repeating(model)).choices[0].message.content
    assert repeated == "z" * 80
    broken = ask(model, QUESTIONS[model], frequency_penalty=2, **repeating(model)).choices[0].message.content
    assert "z" * 20 in broken
    assert broken != repeated


def test_negative_frequency_penalty_favours_repetition(ask):
    plain = ask(MODEL, QUESTION, temperature=0, **talkative(MODEL, 60)).choices[0].message.content
    more = ask(MODEL, QUESTION, temperature=0, frequency_penalty=-2, **talkative(MODEL, 60)).choices[0].message.content
    assert len(set(more.split())) < len(set(plain.split()))


def test_presence_penalty_applies_once_per_token(ask):
    """After any number of repetitions the odds of the token are lower by a factor of e²."""

    def odds(step, **penalty):
        bias = {str(vocabulary.ids(MODEL, text)[0]): value for text, value in [("z", 60), ("q", 50)]}
        completion = ask(
            MODEL, QUESTION, temperature=0, max_tokens=6, logprobs=True, top_logprobs=2, logit_bias=bias, **penalty
        )
        top = {alternative.token: alternative.logprob for alternative in completion.choices[0].logprobs.content[step].top_logprobs}
        return top["z"] - top["q"]

    assert odds(0, presence_penalty=2) == pytest.approx(odds(0), abs=0.01)
    for step in [1, 5]:
        assert odds(step, presence_penalty=2) == pytest.approx(odds(step) - 2, abs=0.01)
        assert odds(step, frequency_penalty=2) == pytest.approx(odds(step) - 2 * step, abs=0.01)


def test_penalties_count_the_answer_and_not_the_prompt(ask):
    """A token of the prompt is not penalised until the answer contains it."""

    def first(**penalty):
        completion = ask(
            MODEL, "card card card card", temperature=0, max_tokens=1, logprobs=True, top_logprobs=20, **penalty
        )
        return {top.token: top.logprob for top in completion.choices[0].logprobs.content[0].top_logprobs}

    assert first(frequency_penalty=2, presence_penalty=2) == pytest.approx(first(), abs=0.01)


def test_repetition_penalty_ends_a_repetition(ask):
    plain = ramble(ask, temperature=0, max_tokens=60)
    varied = ramble(ask, temperature=0, max_tokens=60, extra_body={"repetition_penalty": 1.8})
    assert len(set(varied.split())) > len(set(plain.split()))

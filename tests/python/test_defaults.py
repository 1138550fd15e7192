"""What a model's owner sets once for all requests, and what a model's files say."""

import openai
import pytest

from fleet import QUESTIONS, talkative

MODEL = "support-intent"
QUESTION = QUESTIONS[MODEL]


def text(ask, model, **parameters):
    return ask(model, QUESTION, **parameters).choices[0].message.content


def ramble(ask, model, **parameters):
    """Returns a long answer, so that a change of the sampling shows in some token."""
    return text(ask, model, **{**talkative(MODEL, 24), "stop": [], **parameters})


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [({}, 20), ({"max_tokens": 30}, 30), ({"max_tokens": 51}, 50), ({"max_completion_tokens": 9_000}, 50)],
)
def test_answer_ends_at_the_models_token_limit(ask, parameters, tokens):
    completion = ask("limited", "hello", **parameters)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == tokens


def test_streamed_answer_ends_at_the_models_token_limit(ask):
    chunks = list(ask("limited", "hello", stream=True))
    assert sum(1 for chunk in chunks if chunk.choices[0].delta.content) == 20
    assert chunks[-1].choices[0].finish_reason == "length"


def test_model_whose_files_say_so_does_not_sample(ask):
    """The model's generation_config.json has `do_sample: false`."""
    assert {ramble(ask, MODEL) for _ in range(4)} == {ramble(ask, MODEL, temperature=0)}
    assert len({ramble(ask, MODEL, temperature=2) for _ in range(4)}) > 1


def test_owners_values_apply_where_the_request_names_none(ask):
    assert {ramble(ask, "owned") for _ in range(3)} == {ramble(ask, MODEL, temperature=2, seed=7)}
    assert ramble(ask, "owned", seed=8) != ramble(ask, "owned")
    assert ramble(ask, "owned", temperature=0) == ramble(ask, MODEL, temperature=0)


def test_stop_texts_of_the_request_replace_the_owners(ask):
    answer = text(ask, MODEL)
    before, _ = answer.split("_", 1)
    assert text(ask, "owned", temperature=0) == before
    assert text(ask, "owned", temperature=0, stop=[]) == answer
    assert text(ask, "owned", temperature=0, stop=answer[1]) == answer[0]


@pytest.mark.parametrize("args", [[True], "enable_thinking", {"a": [[[[[[[[1]]]]]]]]}, {"a": "x" * 20_000}])
def test_template_arguments_are_a_small_object(ask, args):
    with pytest.raises(openai.BadRequestError) as refused:
        ask("instant", "hello", extra_body={"chat_template_kwargs": args})
    assert refused.value.param == "chat_template_kwargs"


def test_template_arguments_are_accepted(ask):
    completion = ask("instant", "hello", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert completion.choices[0].finish_reason == "stop"

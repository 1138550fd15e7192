"""Text completions: prompts that are continued without a chat template."""

import math

import pytest

import fleet
import raw_http
import vocabulary
from fleet import counts, talkative

MODEL = "numbers"
PROMPT = "what is the sum of 3 and"
LONG = talkative(MODEL, 12)
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def complete(client):
    def complete(prompt=PROMPT, **parameters):
        parameters = {"model": MODEL, "temperature": 0, **LONG, **parameters}
        return client.completions.create(prompt=prompt, **parameters)

    return complete


def join_stream(stream):
    """Returns the text and the finish reason of each choice of a stream, and the usage."""
    texts, reasons, usage = {}, {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                assert choice.index not in reasons, "a second finish reason"
                reasons[choice.index] = choice.finish_reason
    return [texts[index] for index in sorted(texts)], [reasons[index] for index in sorted(reasons)], usage


def test_prompt_is_continued(complete):
    completion = complete()
    (choice,) = completion.choices
    assert completion.object == "text_completion"
    assert completion.id.startswith("cmpl-")
    assert completion.model == MODEL
    assert choice.text and choice.index == 0
    assert choice.finish_reason == "length"
    assert completion.usage.completion_tokens == 12
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 12


def test_prompt_gets_no_chat_template(complete, client):
    chat = client.chat.completions.create(model=MODEL, messages=fleet.user("7"), max_tokens=1)
    assert complete("7").usage.prompt_tokens == 1 < chat.usage.prompt_tokens


def test_completion_has_at_most_sixteen_tokens_by_default(client):
    bias = LONG["logit_bias"]
    completion = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, logit_bias=bias)
    assert completion.usage.completion_tokens == 16
    assert completion.choices[0].finish_reason == "length"


@pytest.mark.parametrize("prompt", [PROMPT, ["sum of 4", "maximum of 7, 2", "3, 1 in ascending order"]])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("echo", [False, True])
def test_unstreamed_and_streamed_completions_are_equal(complete, prompt, n, echo):
    parameters = {"prompt": prompt, "n": n, "echo": echo}
    unstreamed = complete(**parameters)
    texts, reasons, usage = join_stream(complete(stream=True, stream_options={"include_usage": True}, **parameters))
    assert [choice.index for choice in unstreamed.choices] == list(range(len(unstreamed.choices)))
    assert texts == [choice.text for choice in unstreamed.choices]
    assert reasons == [choice.finish_reason for choice in unstreamed.choices]
    assert counts(usage) == counts(unstreamed.usage)


def test_several_prompts_are_continued_independently(complete):
    prompts = ["sum of 4", "maximum of 7, 2", "3, 1 in ascending order"]
    alone = [complete(prompt) for prompt in prompts]
    together = complete(prompts)
    assert [choice.text for choice in together.choices] == [one.choices[0].text for one in alone]
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert together.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)


def test_choices_are_numbered_by_prompt(complete):
    prompts = ["sum of 4", "maximum of 7, 2"]
    completion = complete(prompts, n=3, echo=True, temperature=1)
    assert [choice.index for choice in completion.choices] == list(range(6))
    for choice in completion.choices:
        assert choice.text.startswith(prompts[choice.index // 3])


def test_echo_puts_the_prompt_first(complete):
    plain = complete().choices[0].text
    assert complete(echo=True).choices[0].text == PROMPT + plain


@pytest.mark.parametrize("n", [1, 2])
def test_echo_without_new_tokens_is_the_prompt(complete, n):
    answer = complete(echo=True, max_tokens=0, n=n)
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [(PROMPT, "length")] * n
    assert answer.usage.completion_tokens == 0 < answer.usage.prompt_tokens
    stream = complete(echo=True, max_tokens=0, n=n, stream=True, stream_options={"include_usage": True})
    texts, reasons, usage = join_stream(stream)
    assert (texts, reasons) == ([PROMPT] * n, ["length"] * n)
    assert counts(usage) == counts(answer.usage)


def test_echo_with_log_probabilities_has_those_of_the_prompt(complete):
    """Each token of the prompt has the log-probability that it has as an answer to the tokens before it."""
    choice = complete(echo=True, logprobs=2, max_tokens=3).choices[0]
    lists = choice.logprobs
    ids = [vocabulary.ids(MODEL, token)[0] for token in lists.tokens[:-3]]
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(ids) + 3
    assert "".join(lists.tokens) == choice.text
    assert lists.text_offset == [len("".join(lists.tokens[:index])) for index in range(len(lists.tokens))]
    assert lists.token_logprobs[0] is None and lists.top_logprobs[0] is None
    compared = 0
    for index in range(1, len(ids)):
        alone = complete(ids[:index], logprobs=2, max_tokens=1, logit_bias={}).choices[0].logprobs
        # An answer that ends at once has no log-probability.
        if alone.tokens:
            (alternatives,), here = alone.top_logprobs, lists.top_logprobs[index]
            assert list(here.values()) == pytest.approx(list(alternatives.values()), abs=2e-3)
            if lists.tokens[index] in alternatives:
                assert lists.token_logprobs[index] == pytest.approx(alternatives[lists.tokens[index]], abs=2e-3)
            compared += 1
    assert compared > 2
    # What follows the prompt is what follows it without `echo`.
    plain = complete(logprobs=2, max_tokens=3).choices[0]
    assert choice.text == PROMPT + plain.text
    assert lists.token_logprobs[len(ids) :] == pytest.approx(plain.logprobs.token_logprobs, abs=2e-3)


@pytest.mark.parametrize("n", [1, 2])
def test_prompt_alone_has_log_probabilities(complete, n):
    """What evaluation harnesses send: token ids, of which nothing is continued."""
    parameters = {"echo": True, "max_tokens": 0, "logprobs": 1, "n": n}
    tokens = complete(PROMPT, **parameters).choices[0].logprobs.tokens
    ids = [vocabulary.ids(MODEL, token)[0] for token in tokens]
    answer = complete(ids, **parameters)
    assert answer.usage.completion_tokens == 0
    for choice in answer.choices:
        assert choice.text == PROMPT
        assert len(choice.logprobs.tokens) == len(ids)
        assert choice.logprobs.token_logprobs[0] is None
        assert all(logprob < 0 for logprob in choice.logprobs.token_logprobs[1:])
    stream = list(complete(PROMPT, stream=True, **parameters))
    texts, reasons, _ = join_stream(stream)
    assert (texts, reasons) == ([PROMPT] * n, ["length"] * n)
    lists = [choice.logprobs for chunk in stream for choice in chunk.choices if choice.logprobs]
    assert len(lists) == n
    for one in lists:
        assert one.tokens == answer.choices[0].logprobs.tokens
        assert one.token_logprobs[1:] == pytest.approx(answer.choices[0].logprobs.token_logprobs[1:], abs=2e-3)


def test_log_probabilities_of_a_prompt_go_on_after_an_end_token(complete):
    """An end token in a prompt is one of its tokens."""
    (seven,) = vocabulary.ids(MODEL, "7")
    end = fleet.end_tokens(MODEL)[0]
    lists = complete([seven, end, seven, end, seven], echo=True, max_tokens=0, logprobs=0).choices[0].logprobs
    assert len(lists.tokens) == 5
    assert all(math.isfinite(logprob) and logprob <= 0 for logprob in lists.token_logprobs[1:])


def test_completion_begins_with_the_space_that_belongs_to_it(complete):
    """The prompt and the answer must be a text again. The log-probabilities have the texts of all tokens."""
    for prompt in [PROMPT, "3, 1", "what is the", "9 8"]:
        tokens = complete(prompt, logprobs=0).choices[0].logprobs.tokens
        assert complete(prompt).choices[0].text == "".join(tokens)
        assert complete(prompt, echo=True).choices[0].text == prompt + "".join(tokens)


def test_token_ids_are_continued_like_their_text(complete):
    """The text of a token that has one id is that token."""
    (seven,), (eight,) = vocabulary.ids(MODEL, "7"), vocabulary.ids(MODEL, "8")
    alone = [complete(text) for text in ["7", "8"]]
    by_id = complete([[seven], [float(eight)]])
    assert [choice.text for choice in by_id.choices] == [one.choices[0].text for one in alone]
    assert complete([seven]).choices[0].text == alone[0].choices[0].text
    assert complete([seven]).usage.prompt_tokens == 1


def test_token_id_outside_the_vocabulary_is_refused():
    reply = raw_http.post(PATH, {"model": MODEL, "prompt": [5, 4_000_000_000]})
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["param"] == "prompt"
    assert "4000000000" in error["message"] and "check_embedding_ctx_length=False" in error["message"]


@pytest.mark.parametrize("model", ["auto", "task:numbers"])
def test_token_ids_need_a_named_model(model):
    reply = raw_http.post(PATH, {"model": model, "prompt": [5]})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_text_ends_a_completion(complete, stream):
    plain = complete().choices[0].text
    stop = plain[len(plain) // 2 :][:3]
    answer = complete(stop=[stop], stream=stream)
    expected = plain[: plain.find(stop)]
    if stream:
        assert join_stream(answer)[:2] == ([expected], ["stop"])
    else:
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "stop")


@pytest.mark.parametrize("count", [0, 2, 5])
def test_log_probabilities_are_parallel_lists(complete, count):
    choice = complete(logprobs=count).choices[0]
    lists = choice.logprobs
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset) == 12
    assert all(logprob <= 0 for logprob in lists.token_logprobs)
    for token, logprob, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs):
        # The chosen token is listed with the best ones; at temperature 0 it is one of them.
        assert len(top) == count
        if count:
            assert max(top.values()) == top[token] == logprob
            assert sum(map(math.exp, top.values())) <= 1.0001


def test_tokens_of_a_completion_join_to_its_text(complete):
    """Also when it starts with a space, as most continuations do."""
    for prompt in [PROMPT, "3, 1", "what is the", "9 8"]:
        choice = complete(prompt, logprobs=0).choices[0]
        assert "".join(choice.logprobs.tokens) == choice.text


def test_text_offsets_are_the_starts_of_the_tokens(complete):
    choice = complete(logprobs=0).choices[0]
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset):
        assert choice.text[offset : offset + len(token)] == token


def test_streamed_log_probabilities_equal_unstreamed_ones(complete):
    unstreamed = complete(logprobs=2).choices[0].logprobs
    tokens, logprobs, offsets = [], [], []
    for chunk in complete(logprobs=2, stream=True):
        for choice in chunk.choices:
            if choice.logprobs:
                tokens += choice.logprobs.tokens
                logprobs += choice.logprobs.token_logprobs
                offsets += choice.logprobs.text_offset
    assert tokens == unstreamed.tokens
    assert offsets == unstreamed.text_offset
    assert logprobs == pytest.approx(unstreamed.token_logprobs, abs=2e-3)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_absent_by_default(complete, stream):
    answer = complete(stream=stream)
    chunks = answer if stream else [answer]
    assert all(choice.logprobs is None for chunk in chunks for choice in chunk.choices)


def test_same_seed_gives_the_same_completion(complete):
    assert len({complete(temperature=1, seed=3).choices[0].text for _ in range(3)}) == 1
    assert len({complete(temperature=1, seed=seed).choices[0].text for seed in range(6)}) > 1


def test_stream_is_framed_like_a_chat_stream():
    body = {"model": "instant", "prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    frames = raw_http.frames(raw_http.post(PATH, body))
    assert {frame["object"] for frame in frames} == {"text_completion"}
    assert len({frame["id"] for frame in frames}) == 1
    assert frames[-1]["choices"] == []
    assert frames[-1]["usage"]["completion_tokens"] == 18
    assert all(frame["usage"] is None and len(frame["choices"]) == 1 for frame in frames[:-1])
    frames = raw_http.frames(raw_http.post(PATH, {"model": "instant", "prompt": "a", "stream": True}))
    assert all("usage" not in frame for frame in frames)


def test_response_headers_name_the_model_and_the_node(client):
    response = client.completions.with_raw_response.create(model="instant", prompt="a")
    assert response.headers["x-flotilla-model"] == "instant"
    assert response.headers["x-flotilla-node"] in [node["metadata"]["name"] for node in fleet.nodes()]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": [5, 6], "echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "after"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_unsupported_field_is_refused_by_name(fields, param):
    reply = raw_http.post(PATH, {"model": MODEL, "prompt": PROMPT, **fields})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == param


def test_prompt_is_required():
    reply = raw_http.post(PATH, {"model": MODEL})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == "prompt"


def test_prompt_longer_than_the_context_is_refused_by_name():
    reply = raw_http.post(PATH, {"model": MODEL, "prompt": "7 " * 2_000})
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"

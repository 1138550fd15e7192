"""Embeddings."""

import asyncio
import base64
import math
import struct

import openai
import pytest

import fleet
import make_embedding_model
import raw_http

MODEL = "tiny-embed"
PATH = "/v1/embeddings"
# Of different lengths, so that a batch has to be padded or split.
TEXTS = ["a boat", "a fleet of many boats on a wide sea", "x", "日本語", "boats, " * 40, "a boat"]


@pytest.fixture(scope="module")
def embed(client):
    def embed(texts, **parameters):
        return client.embeddings.create(model=MODEL, input=texts, **parameters)

    return embed


def length(vector):
    return math.sqrt(sum(number * number for number in vector))


def assert_close(some, others):
    assert some == pytest.approx(others, abs=1e-4)


def test_embedding_has_length_one(embed):
    response = embed("a boat")
    (entry,) = response.data
    assert response.object == "list"
    assert response.model == MODEL
    assert (entry.object, entry.index) == ("embedding", 0)
    assert length(entry.embedding) == pytest.approx(1, abs=1e-4)


def test_same_text_has_the_same_embedding(embed):
    assert_close(embed("a boat").data[0].embedding, embed("a boat").data[0].embedding)


def test_different_texts_have_different_embeddings(embed):
    one, other = embed("a boat").data[0].embedding, embed("a bout").data[0].embedding
    assert max(abs(x - y) for x, y in zip(one, other)) > 1e-3


def test_embeddings_are_in_the_order_of_the_inputs(embed):
    together = embed(TEXTS)
    assert [entry.index for entry in together.data] == list(range(len(TEXTS)))
    for text, entry in zip(TEXTS, together.data):
        assert_close(entry.embedding, embed(text).data[0].embedding)


def test_list_of_one_text_equals_the_text_alone(embed):
    assert_close(embed(["a boat"]).data[0].embedding, embed("a boat").data[0].embedding)


def test_long_list_is_answered_completely(embed):
    texts = [f"boat number {number}" for number in range(100)]
    together = embed(texts)
    assert [entry.index for entry in together.data] == list(range(100))
    for number in [0, 9, 10, 57, 99]:
        assert_close(together.data[number].embedding, embed(texts[number]).data[0].embedding)


def test_base64_and_float_encodings_are_equal(embed):
    floats = embed(TEXTS, encoding_format="float")
    packed = raw_http.post(PATH, {"model": MODEL, "input": TEXTS, "encoding_format": "base64"}).json()
    for entry, raw in zip(floats.data, packed["data"]):
        data = base64.b64decode(raw["embedding"], validate=True)
        assert_close(list(struct.unpack(f"<{len(data) // 4}f", data)), entry.embedding)


def test_encoding_is_float_by_default():
    reply = raw_http.post(PATH, {"model": MODEL, "input": "a boat"}).json()
    assert all(isinstance(number, float) for number in reply["data"][0]["embedding"])


def test_default_encoding_of_the_client_is_supported(embed):
    """By default the client requests base64 and decodes it."""
    assert_close(embed("a boat").data[0].embedding, embed("a boat", encoding_format="float").data[0].embedding)


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}], ids=["packed", "plain"])
def test_fewer_dimensions_are_the_first_ones_normalized(embed, encoding):
    whole = embed("a boat").data[0].embedding
    for dimensions in [1, len(whole) // 2, len(whole)]:
        short = embed("a boat", dimensions=dimensions, **encoding).data[0].embedding
        assert len(short) == dimensions
        assert length(short) == pytest.approx(1, abs=1e-4)
        scale = length(whole[:dimensions])
        assert_close([number * scale for number in short], whole[:dimensions])


@pytest.mark.parametrize("more", [0, 1, 1000])
def test_invalid_number_of_dimensions_is_refused(embed, more):
    dimensions = 0 if more == 0 else len(embed("a boat").data[0].embedding) + more
    with pytest.raises(openai.BadRequestError) as refused:
        embed("a boat", dimensions=dimensions)
    assert refused.value.param == "dimensions"


def test_usage_counts_all_texts(embed):
    alone = [embed(text).usage.prompt_tokens for text in TEXTS]
    together = embed(TEXTS).usage
    assert all(count > 0 for count in alone)
    assert together.prompt_tokens == sum(alone)
    assert together.total_tokens == together.prompt_tokens


def test_response_headers_name_the_model_and_the_node(client):
    response = client.embeddings.with_raw_response.create(model=MODEL, input="a boat")
    assert response.headers["x-flotilla-model"] == MODEL
    assert response.headers["x-flotilla-node"] in [node["metadata"]["name"] for node in fleet.nodes()]


def test_concurrent_embeddings_equal_sequential_ones(embed):
    texts = [f"boat {'x' * (number % 17)} {number}" for number in range(40)]
    expected = [entry.embedding for entry in embed(texts).data]

    async def run_concurrently():
        async with openai.AsyncOpenAI(base_url=fleet.BASE, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in texts))

    for response, vector in zip(asyncio.run(run_concurrently()), expected):
        assert_close(response.data[0].embedding, vector)


@pytest.mark.parametrize("model", ["instant", "support-intent"])
def test_generating_model_refuses_embeddings(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model=model, input="a boat")
    assert refused.value.param == "model"
    assert "embedding" in refused.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_embedding_model_refuses_chat(ask, stream):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(MODEL, "hello", stream=stream)
    assert refused.value.param == "model"
    assert "embedding" in refused.value.message


def test_embedding_model_refuses_completions(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="hello")
    assert refused.value.param == "model"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": "many"}, "dimensions"),
    ],
    ids=["empty", "no-texts", "one-empty", "object", "too-many", "encoding", "dimensions"],
)
def test_invalid_field_is_refused_by_name(fields, param):
    reply = raw_http.post(PATH, {"model": MODEL, "input": "a boat", **fields})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == param


def test_text_longer_than_the_context_is_refused_by_name():
    reply = raw_http.post(PATH, {"model": MODEL, "input": ["short", "boat " * 1_000]})
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "input"


def test_token_ids_have_the_embedding_of_their_text(embed):
    """Each byte is a token of the model, and its end token closes every text."""
    symbols = make_embedding_model.vocabulary()
    end = symbols[make_embedding_model.END]
    ids = [[symbols[make_embedding_model.byte_symbols()[byte]] for byte in text.encode()] + [end] for text in ["a boat", "x"]]
    by_text, by_id = embed(["a boat", "x"]), embed(ids)
    for one, other in zip(by_text.data, by_id.data):
        assert_close(one.embedding, other.embedding)
    assert by_id.usage.prompt_tokens == by_text.usage.prompt_tokens
    assert_close(embed(ids[0]).data[0].embedding, by_text.data[0].embedding)


@pytest.mark.parametrize("tokens", [[4_000], [5, 100_264], [[5, 6], [4_000_000_000]]])
def test_token_ids_of_another_vocabulary_are_refused(tokens):
    """LangChain sends those of OpenAI's, and learns what to do instead. The model goes on."""
    reply = raw_http.post(PATH, {"model": MODEL, "input": tokens})
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["param"].startswith("input")
    assert "check_embedding_ctx_length=False" in error["message"]
    assert raw_http.post(PATH, {"model": MODEL, "input": [5, 6]}).status == 200


def test_single_token_id_is_refused():
    """The engine cannot compute it, and goes on."""
    reply = raw_http.post(PATH, {"model": MODEL, "input": [5]})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == "input"
    assert raw_http.post(PATH, {"model": MODEL, "input": [5, 6]}).status == 200

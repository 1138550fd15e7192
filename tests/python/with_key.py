"""Uses a fleet that requires keys with OpenAI's client: FLOTILLA_URL, the key of a program in FLOTILLA_API_KEY."""

import os

import openai

BASE = os.environ["FLOTILLA_URL"] + "/v1"
MESSAGES = [{"role": "user", "content": "hi"}]


def client(key):
    """Returns a client that presents a key."""
    return openai.OpenAI(base_url=BASE, api_key=key, max_retries=0, timeout=60)


def error_of(kind, call):
    """Returns the error of a call, which must be of this kind."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


with client(os.environ["FLOTILLA_API_KEY"]) as known:
    assert [model.id for model in known.models.list()] == ["m"]
    assert known.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content
    stream = known.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    assert list(stream)
    refused = error_of(
        openai.PermissionDeniedError,
        lambda: known.chat.completions.create(model="other", messages=MESSAGES),
    )
    assert refused.code == "outside_key_scope", refused
with client("sk-wrong") as unknown:
    wrong = error_of(openai.AuthenticationError, lambda: unknown.models.list())
    assert wrong.code == "invalid_api_key", wrong

"""Compares JSON with the official client's types, field by field.

The client itself accepts unknown fields and wrong types. Here a field that a type does not declare, a
missing required field and a value of another type are errors.
"""

import types
import typing

from openai import BaseModel
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.completion_choice import CompletionChoice
from openai.types.completion_usage import CompletionUsage
from openai.types.create_embedding_response import Usage as EmbeddingUsage

# Fields that Flotilla adds: the reasoning of a model, named as in vLLM, and the energy of an answer.
EXTENSIONS = {
    ChatCompletionMessage: {"reasoning_content"},
    ChoiceDelta: {"reasoning_content"},
    CompletionUsage: {"energy"},
    EmbeddingUsage: {"energy"},
}

# OpenAI's own streams contain null here until a choice ends, although the type does not allow it.
NULL_IN_STREAMS = {(CompletionChoice, "finish_reason")}


def check(value, kind, *, streamed=False, at="response"):
    """Fails unless `value`, which is parsed JSON, matches the type `kind` exactly.

    `at` is the path of the value, for messages. `streamed` allows what only streams may contain.
    """
    faults = list(_faults(value, kind, streamed, at))
    assert not faults, "\n".join(faults)


def _faults(value, kind, streamed, at):
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        yield from _faults(value, typing.get_args(kind)[0], streamed, at)
    elif origin in (typing.Union, types.UnionType):
        yield from _union_faults(value, typing.get_args(kind), streamed, at)
    elif origin is typing.Literal:
        if value not in typing.get_args(kind):
            yield f"{at}: {value!r} is not one of {typing.get_args(kind)}"
    elif origin is list:
        yield from _list_faults(value, typing.get_args(kind)[0], streamed, at)
    elif origin is dict:
        yield from _dict_faults(value, typing.get_args(kind)[1], streamed, at)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from _model_faults(value, kind, streamed, at)
    elif kind is float:
        if type(value) not in (int, float):
            yield f"{at}: {value!r} is not a number"
    elif type(value) is not kind:
        yield f"{at}: {value!r} is not of {kind}"


def _union_faults(value, kinds, streamed, at):
    attempts = [list(_faults(value, kind, streamed, at)) for kind in kinds]
    if all(attempts):
        # The type with the fewest faults is most likely the intended one.
        yield from min(attempts, key=len)


def _list_faults(value, kind, streamed, at):
    if type(value) is not list:
        yield f"{at}: {value!r} is not a list"
        return
    for index, item in enumerate(value):
        yield from _faults(item, kind, streamed, f"{at}[{index}]")


def _dict_faults(value, kind, streamed, at):
    if type(value) is not dict:
        yield f"{at}: {value!r} is not an object"
        return
    for key, item in value.items():
        yield from _faults(item, kind, streamed, f"{at}[{key!r}]")


def _model_faults(value, kind, streamed, at):
    if type(value) is not dict:
        yield f"{at}: {value!r} is not a {kind.__name__}"
        return
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    for name, field in fields.items():
        if name in value:
            if value[name] is None and streamed and (kind, name) in NULL_IN_STREAMS:
                continue
            yield from _faults(value[name], field.annotation, streamed, f"{at}.{name}")
        elif field.is_required():
            yield f"{at}.{name} is missing"
    for name in value.keys() - fields.keys() - EXTENSIONS.get(kind, set()):
        yield f"{at}.{name} is not a field of {kind.__name__}"

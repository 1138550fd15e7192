"""Compares the tables of request fields in the HTTP reference with the parameters of the official client."""

import pathlib
import re

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as CompletionParams
from openai.types.embedding_create_params import EmbeddingCreateParams as EmbeddingParams

REFERENCE = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"
SUPPORT = {"done", "ignored", "refused"}


def documented_fields(heading):
    """The fields of the first table under a heading, each with its support."""
    section = REFERENCE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    table = section[section.index("| field | | |") :].split("\n\n")[0]
    fields = {}
    for row in table.splitlines()[2:]:
        names, support = (cell.strip() for cell in row.strip("|").split("|")[:2])
        fields |= dict.fromkeys(re.findall(r"`(\w+)`", names), support)
    return fields


@pytest.mark.parametrize(
    ("heading", "params"),
    [("Chat completions", ChatParams), ("Completions", CompletionParams), ("Embeddings", EmbeddingParams)],
)
def test_every_field_of_the_official_client_is_documented(heading, params):
    fields = documented_fields(heading)
    assert set(params.__annotations__) - set(fields) == set()
    assert set(fields.values()) <= SUPPORT

"""A model's tokens, from its tokenizer.json."""

import functools

import fleet
from make_embedding_model import byte_symbols


@functools.cache
def texts(model):
    """The text of each token by its id; tokens that end inside a character are left out."""
    tokenizer = fleet.model_file(model, "tokenizer.json")
    byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    found = {}
    for symbols, token in tokenizer["model"]["vocab"].items():
        try:
            found[token] = bytes(byte_of[symbol] for symbol in symbols).decode()
        except (KeyError, UnicodeDecodeError):
            continue
    for added in tokenizer["added_tokens"]:
        found[added["id"]] = added["content"]
    return found


def ids(model, text):
    """All tokens that read as `text`."""
    found = [token for token, its_text in texts(model).items() if its_text == text]
    assert found, f"{model} has no token {text!r}"
    return found


def specials(model):
    """The texts of the tokens that are no text: ends, roles, padding."""
    added = fleet.model_file(model, "tokenizer.json")["added_tokens"]
    return [token["content"] for token in added if token["special"]]

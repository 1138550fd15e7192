"""The tokens of a model, read from its tokenizer.json."""

import functools

import fleet
from make_embedding_model import byte_symbols


@functools.cache
def texts(model):
    """Returns the text of each token by its id, without tokens that end within a character."""
    tokenizer = fleet.model_file(model, "tokenizer.json")
    byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    texts_by_id = {}
    for symbols, token in tokenizer["model"]["vocab"].items():
        try:
            texts_by_id[token] = bytes(byte_of[symbol] for symbol in symbols).decode()
        except (KeyError, UnicodeDecodeError):
            continue
    for added in tokenizer["added_tokens"]:
        texts_by_id[added["id"]] = added["content"]
    return texts_by_id


def ids(model, text):
    """Returns the ids of all tokens with this text."""
    tokens = [token for token, token_text in texts(model).items() if token_text == text]
    assert tokens, f"{model} has no token {text!r}"
    return tokens


def specials(model):
    """Returns the texts of the special tokens: ends, roles, padding."""
    added = fleet.model_file(model, "tokenizer.json")["added_tokens"]
    return [token["content"] for token in added if token["special"]]

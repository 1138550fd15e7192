"""A tokenizer for clients that count or send tokens, in place of those that they would download."""

import tiktoken
import tiktoken.registry

END = "<|endoftext|>"


def byte_encoding(name):
    """Returns an encoding with a token for each byte: that of the model which `make_embedding_model.py` writes."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding(name, pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens={END: 256})


def install():
    """Puts the encoding in the place of OpenAI's."""
    for name in ["gpt2", "cl100k_base", "o200k_base"]:
        tiktoken.registry.ENCODINGS[name] = byte_encoding(name)

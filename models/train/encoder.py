"""all-MiniLM-L6-v2, a Bert, in JAX: from texts to embeddings."""

import json
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load
from tokenizers import Tokenizer

from model import linear

# Longer texts are cut.
MAX_TOKENS = 64
BATCH = 64


def layer_norm(weights, name, x, eps=1e-12):
    """Normalisation to mean 0 and variance 1, then a scale and a shift."""
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def affine(weights, name, x):
    """A linear layer with a bias."""
    return linear(x, weights[f"{name}.weight"]) + weights[f"{name}.bias"]


def attention(weights, name, heads, x, mask):
    """Self-attention to the tokens where `mask` is 1."""
    batch, length, hidden = x.shape
    shape = (batch, length, heads, hidden // heads)
    q, k, v = (affine(weights, f"{name}.self.{part}", x).reshape(shape) for part in ("query", "key", "value"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (hidden // heads) ** -0.5
    shares = jax.nn.softmax(jnp.where(mask[:, None, None] > 0, scores, -1e9), axis=-1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(x.shape)
    return affine(weights, f"{name}.output.dense", mixed)


@partial(jax.jit, static_argnums=(1, 2))
def embed(weights, layers, heads, ids, mask):
    """The embeddings `[batch, hidden]` of token ids `[batch, length]`: the means of the final states, of length 1."""
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(weights, "embeddings.LayerNorm", x)
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        x = x + attention(weights, f"{name}.attention", heads, x, mask)
        x = layer_norm(weights, f"{name}.attention.output.LayerNorm", x)
        inner = jax.nn.gelu(affine(weights, f"{name}.intermediate.dense", x), approximate=False)
        x = layer_norm(weights, f"{name}.output.LayerNorm", x + affine(weights, f"{name}.output.dense", inner))
    # The length makes up for the division of the sum.
    total = (x * mask[..., None]).sum(axis=1)
    return total / jnp.linalg.norm(total, axis=-1, keepdims=True)


class Encoder:
    """The encoder with its tokenizer, from the bytes of its files by name."""

    def __init__(self, files):
        config = json.loads(files["config.json"])
        weights = load(files["model.safetensors"])
        weights = {name: jnp.asarray(weight) for name, weight in weights.items() if weight.dtype == np.float32}
        self._embed = partial(embed, weights, config["num_hidden_layers"], config["num_attention_heads"])
        self.hidden = config["hidden_size"]
        self.tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    def tokens(self, texts):
        """The token ids of each text, with `[CLS]` before and `[SEP]` after it."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def embeddings(self, sequences, progress=False):
        """The embeddings of sequences of token ids, `float32[sequences, hidden]`. Prints its progress if wanted."""
        lengths = np.array([len(sequence) for sequence in sequences])
        order = np.argsort(lengths, kind="stable")
        out = np.zeros((len(sequences), self.hidden), np.float32)
        started = time.time()
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            # Few shapes, each of which is compiled. Rows beyond the last sequence are computed and dropped.
            width = -(-lengths[chosen].max() // 4) * 4
            ids, mask = np.zeros((BATCH, width), np.int32), np.zeros((BATCH, width), np.float32)
            for row, index in enumerate(chosen):
                ids[row, : lengths[index]] = sequences[index]
                mask[row, : lengths[index]] = 1
            out[chosen] = np.asarray(self._embed(ids, mask))[: len(chosen)]
            if progress and first % (BATCH * 500) == 0:
                print(f"encoded {first:,} of {len(order):,} texts, {time.time() - started:.0f}s", flush=True)
        return out

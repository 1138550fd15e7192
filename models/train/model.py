"""Llama and Mixtral decoders in JAX, with the semantics of the Hugging Face models.

Weights have their Hugging Face names and layout (`[out, in]`), except that the experts of a
Mixtral layer are stacked in one array; `export.py` separates them.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from folders import EXPERT_WEIGHTS


@dataclass(frozen=True)
class Config:
    """The shape of a decoder; `experts == 0` means a dense Llama."""

    vocab_size: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    experts: int = 0
    experts_per_token: int = 2
    eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self):
        """Width of one attention head."""
        return self.hidden // self.heads


def init_params(cfg, seed):
    """Random normal weights with a standard deviation of 0.02, smaller for residual outputs."""
    rng = np.random.default_rng(seed)
    residual_std = 0.02 / np.sqrt(2 * cfg.layers)

    def normal(*shape, std=0.02):
        return rng.normal(0.0, std, shape).astype(np.float32)

    h, i, e = cfg.hidden, cfg.intermediate, cfg.experts
    params = {"model.embed_tokens.weight": normal(cfg.vocab_size, h, std=0.05)}
    for layer in range(cfg.layers):
        name = f"model.layers.{layer}."
        for proj in ("q_proj", "k_proj", "v_proj"):
            params[f"{name}self_attn.{proj}.weight"] = normal(h, h, std=h**-0.5)
        params[f"{name}self_attn.o_proj.weight"] = normal(h, h, std=residual_std)
        if e:
            moe = f"{name}block_sparse_moe."
            params[f"{moe}gate.weight"] = normal(e, h)
            params[f"{moe}experts.w1.weight"] = normal(e, i, h, std=h**-0.5)
            params[f"{moe}experts.w3.weight"] = normal(e, i, h, std=h**-0.5)
            params[f"{moe}experts.w2.weight"] = normal(e, h, i, std=residual_std)
        else:
            params[f"{name}mlp.gate_proj.weight"] = normal(i, h, std=h**-0.5)
            params[f"{name}mlp.up_proj.weight"] = normal(i, h, std=h**-0.5)
            params[f"{name}mlp.down_proj.weight"] = normal(h, i, std=residual_std)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            params[f"{name}{norm}.weight"] = np.ones(h, np.float32)
    params["model.norm.weight"] = np.ones(h, np.float32)
    return {name: jnp.asarray(value) for name, value in params.items()}


def count_params(params):
    """Number of weights in a parameter dictionary."""
    return int(sum(np.prod(value.shape) for value in params.values()))


def rms_norm(x, weight, eps):
    """Root-mean-square normalisation."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def linear(x, weight):
    """`x @ weight.T`, the layout of a Hugging Face linear layer."""
    return jnp.einsum("...i,oi->...o", x, weight)


def rope_tables(cfg, length):
    """Cosines and sines of the rotate-half rotary embedding."""
    inv_freq = cfg.rope_theta ** (-np.arange(0, cfg.head_dim, 2) / cfg.head_dim)
    angles = np.outer(np.arange(length), inv_freq).astype(np.float32)
    angles = np.concatenate([angles, angles], axis=-1)
    return np.cos(angles)[None, :, None], np.sin(angles)[None, :, None]


def rotate(x, cos, sin):
    """Apply the rotary embedding to `[batch, time, head, dim]`."""
    half = x.shape[-1] // 2
    rotated = jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cos + rotated * sin


def attention(params, name, cfg, x, cos, sin):
    """Causal self-attention. Padding is on the right, so that the causal mask covers it."""
    batch, time, _ = x.shape
    shape = (batch, time, cfg.heads, cfg.head_dim)
    q = rotate(linear(x, params[f"{name}q_proj.weight"]).reshape(shape), cos, sin)
    k = rotate(linear(x, params[f"{name}k_proj.weight"]).reshape(shape), cos, sin)
    v = linear(x, params[f"{name}v_proj.weight"]).reshape(shape)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * cfg.head_dim**-0.5
    causal = np.tril(np.ones((time, time), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, time, cfg.hidden)
    return linear(out, params[f"{name}o_proj.weight"])


def dense_mlp(params, name, x):
    """The SwiGLU block of Llama."""
    gate = jax.nn.silu(linear(x, params[f"{name}gate_proj.weight"]))
    return linear(gate * linear(x, params[f"{name}up_proj.weight"]), params[f"{name}down_proj.weight"])


def moe_mlp(params, name, cfg, x):
    """Mixtral's sparse block: softmax over all experts, top k, renormalised.

    All experts are computed, and those outside the top k get weight zero: with four small
    experts this is faster on a CPU than gathering tokens. Returns the output and the
    load-balancing loss of the layer.
    """
    probs = jax.nn.softmax(linear(x, params[f"{name}gate.weight"]), axis=-1)
    _, chosen = jax.lax.top_k(probs, cfg.experts_per_token)
    mask = jax.nn.one_hot(chosen, cfg.experts).sum(axis=-2)
    weights = probs * mask
    weights = weights / weights.sum(axis=-1, keepdims=True)
    w1, w2, w3 = (params[f"{name}experts.{w}.weight"] for w in EXPERT_WEIGHTS)
    inner = jax.nn.silu(linear(x, w1.reshape(-1, cfg.hidden))) * linear(x, w3.reshape(-1, cfg.hidden))
    inner = inner * jnp.repeat(weights, cfg.intermediate, axis=-1)
    out = linear(inner, w2.transpose(1, 0, 2).reshape(cfg.hidden, -1))
    axes = tuple(range(mask.ndim - 1))
    balance = cfg.experts * jnp.sum(mask.mean(axes) / cfg.experts_per_token * probs.mean(axes))
    return out, balance


def dropout(x, rate, key):
    """Inverted dropout; `key` is None outside training."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def hidden_states(params, cfg, tokens, rate=0.0, key=None):
    """Final normalised states `[batch, time, hidden]` and the load-balancing loss."""
    cos, sin = rope_tables(cfg, tokens.shape[1])
    keys = [None] * (2 * cfg.layers + 1) if key is None else jax.random.split(key, 2 * cfg.layers + 1)
    x = dropout(params["model.embed_tokens.weight"][tokens], rate, keys[-1])
    balance = 0.0
    for layer in range(cfg.layers):
        name = f"model.layers.{layer}."
        normed = rms_norm(x, params[f"{name}input_layernorm.weight"], cfg.eps)
        x = x + dropout(attention(params, f"{name}self_attn.", cfg, normed, cos, sin), rate, keys[2 * layer])
        normed = rms_norm(x, params[f"{name}post_attention_layernorm.weight"], cfg.eps)
        if cfg.experts:
            out, layer_balance = moe_mlp(params, f"{name}block_sparse_moe.", cfg, normed)
            balance = balance + layer_balance
        else:
            out = dense_mlp(params, f"{name}mlp.", normed)
        x = x + dropout(out, rate, keys[2 * layer + 1])
    return rms_norm(x, params["model.norm.weight"], cfg.eps), balance


def logits_of(params, states):
    """Next-token scores; the output matrix is the embedding matrix."""
    return linear(states, params["model.embed_tokens.weight"])


@partial(jax.jit, static_argnums=1)
def next_tokens(params, cfg, tokens, lengths):
    """The most probable token after the first `lengths[i]` tokens of each row."""
    states, _ = hidden_states(params, cfg, tokens)
    last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return jnp.argmax(logits_of(params, last), axis=-1)


def generate(params, cfg, prompts, eos, max_new_tokens, batch=64):
    """Greedy answers (token ids without `eos`) for a list of token-id prompts."""
    answers = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        longest = max(len(prompts[row]) for row in rows)
        width = -(-(longest + max_new_tokens) // 16) * 16
        tokens = np.zeros((batch, width), np.int32)
        lengths = np.ones(batch, np.int32)
        for slot, row in enumerate(rows):
            tokens[slot, : len(prompts[row])] = prompts[row]
            lengths[slot] = len(prompts[row])
        open_rows = set(range(len(rows)))
        for _ in range(max_new_tokens):
            chosen = np.asarray(next_tokens(params, cfg, tokens, lengths))
            for slot in list(open_rows):
                if chosen[slot] == eos:
                    open_rows.discard(slot)
                else:
                    tokens[slot, lengths[slot]] = chosen[slot]
                    lengths[slot] += 1
            if not open_rows:
                break
        for slot, row in enumerate(rows):
            answers[row] = tokens[slot, len(prompts[row]) : lengths[slot]].tolist()
    return answers

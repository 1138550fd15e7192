"""The training loop: batches of similar length, AdamW, averaged weights."""

import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from model import count_params, hidden_states, init_params, logits_of

# The default generator is slow on a CPU; dropout needs speed, not quality.
jax.config.update("jax_default_prng_impl", "unsafe_rbg")

BUCKETS = (8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the training of a model."""

    epochs: int
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.1
    dropout: float = 0.1
    label_smoothing: float = 0.05
    prompt_loss: float = 0.3
    replace: float = 0.1
    ema: float = 0.998
    balance_loss: float = 0.01
    seed: int = 1


def _batches(examples, recipe, rng):
    """Token, target, weight and replaceable-token arrays, in a fixed set of shapes.

    `examples` are `(prompt ids, answer ids)`. Replaceable are the prompt tokens that `_loss` may
    replace at random in the input; the targets keep the original tokens.
    """
    order = rng.permutation(len(examples))
    window = recipe.batch * 24
    groups = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda i: len(examples[i][0]) + len(examples[i][1]))
        groups += [part[first : first + recipe.batch] for first in range(0, len(part), recipe.batch)]
    groups = [group for group in groups if len(group) == recipe.batch]
    rng.shuffle(groups)
    for group in groups:
        longest = max(len(examples[i][0]) + len(examples[i][1]) for i in group) - 1
        width = next(size for size in BUCKETS if size >= longest)
        tokens = np.zeros((recipe.batch, width), np.int32)
        targets = np.zeros((recipe.batch, width), np.int32)
        weights = np.zeros((recipe.batch, width), np.float32)
        replaceable = np.zeros((recipe.batch, width), bool)
        for row, index in enumerate(group):
            prompt, answer = examples[index]
            whole = prompt + answer
            tokens[row, : len(whole) - 1] = whole[:-1]
            targets[row, : len(whole) - 1] = whole[1:]
            weights[row, : len(prompt) - 2] = recipe.prompt_loss
            weights[row, len(prompt) - 1 : len(whole) - 1] = 1.0
            replaceable[row, 1 : len(prompt) - 1] = True
        yield tokens, targets, weights, replaceable


def _loss(params, cfg, recipe, batch, key):
    tokens, targets, weights, replaceable = batch
    drop_key, mask_key, token_key = jax.random.split(key, 3)
    if recipe.replace:
        noisy = replaceable & jax.random.bernoulli(mask_key, recipe.replace, tokens.shape)
        tokens = jnp.where(noisy, jax.random.randint(token_key, tokens.shape, 0, cfg.vocab_size), tokens)
    states, balance = hidden_states(params, cfg, tokens, recipe.dropout, drop_key)
    logits = logits_of(params, states)
    norm = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    smooth = recipe.label_smoothing
    loss = norm - (1.0 - smooth) * target_logits - smooth * logits.mean(axis=-1)
    # Divided by a constant, so that a row has the same weight in every bucket.
    return jnp.sum(loss * weights) / tokens.shape[0] + recipe.balance_loss * balance


@partial(jax.jit, static_argnums=(3, 4, 5), donate_argnums=(0, 1, 2))
def _step(params, average, state, cfg, recipe, optimizer, batch, key, decay):
    loss, grads = jax.value_and_grad(_loss)(params, cfg, recipe, batch, key)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    average = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, average, params)
    return params, average, state, loss


def train(cfg, recipe, epoch_examples, check=None, check_every=5, initial=None):
    """Train a model and return its averaged weights.

    `epoch_examples(epoch)` returns the `(prompt ids, answer ids)` pairs of an epoch. `check(params)`
    returns an accuracy, which is printed every `check_every` epochs. `initial` are the initial
    weights; they are random if it is None.
    """
    rng = np.random.default_rng(recipe.seed)
    # A copy, because a training step reuses the memory of its inputs.
    params = init_params(cfg, recipe.seed) if initial is None else jax.tree.map(jnp.copy, initial)
    average = jax.tree.map(jnp.copy, params)
    steps = recipe.epochs * (len(epoch_examples(0)) // recipe.batch)
    schedule = optax.warmup_cosine_decay_schedule(0.0, recipe.lr, max(1, steps // 20), steps, recipe.lr * 0.01)
    decayed = {name: value.ndim > 1 for name, value in params.items()}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=recipe.weight_decay, mask=decayed),
    )
    state = optimizer.init(params)
    key = jax.random.key(recipe.seed)
    print(f"{count_params(params):,} parameters, {steps} steps", flush=True)
    started, step = time.time(), 0
    for epoch in range(recipe.epochs):
        losses = []
        for batch in _batches(epoch_examples(epoch), recipe, rng):
            # A fast average at first, so that the random initial weights soon have no influence.
            decay = min(recipe.ema, (1 + step) / (10 + step))
            params, average, state, loss = _step(
                params, average, state, cfg, recipe, optimizer, batch, jax.random.fold_in(key, step), decay
            )
            losses.append(loss)
            step += 1
        line = f"epoch {epoch + 1}/{recipe.epochs} loss {np.mean(jax.device_get(losses)):.4f} {time.time() - started:.0f}s"
        if check and ((epoch + 1) % check_every == 0 or epoch + 1 == recipe.epochs):
            line += f" heldout {check(average):.4f}"
        print(line, flush=True)
    return average

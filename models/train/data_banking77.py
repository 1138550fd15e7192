"""Banking77: a bank customer's message and one of 77 intents."""

import csv
import random
from pathlib import Path

HELDOUT_SHARE = 0.08


def _rows(data_dir):
    path = Path(data_dir) / "banking77" / "train.csv"
    with open(path, newline="", encoding="utf-8") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def split(data_dir):
    """A stratified, seeded split into `(train, heldout)` lists of `(text, label)`."""
    by_label = {}
    for text, label in _rows(data_dir):
        by_label.setdefault(label, []).append((text, label))
    rng = random.Random(77)
    train, heldout = [], []
    for label in sorted(by_label):
        rows = by_label[label]
        rng.shuffle(rows)
        cut = max(1, round(len(rows) * HELDOUT_SHARE))
        heldout += rows[:cut]
        train += rows[cut:]
    return train, heldout

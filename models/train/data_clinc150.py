"""CLINC150: a request to a spoken assistant and one of 150 intents."""

import json
from pathlib import Path


def _rows(path):
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["text"], row["intent"]) for row in rows]


def split(data_dir):
    """The published training and validation files as lists of `(text, label)`."""
    folder = Path(data_dir) / "clinc150"
    return _rows(folder / "train.jsonl"), _rows(folder / "val.jsonl")

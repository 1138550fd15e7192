"""The fleet under test: its address, its models, and the status that its nodes report."""

import json
import os
import time
import urllib.request
from pathlib import Path

URL = os.environ.get("FLOTILLA_URL", "").rstrip("/")
BASE = URL + "/v1"
MODELS_DIR = Path(os.environ.get("FLOTILLA_MODELS_DIR") or Path(__file__).parents[2] / "models")

# Models that no other program calls at the same time, so that a test knows whose requests they count.
PACED = "paced" + os.environ.get("FLOTILLA_MODEL_SUFFIX", "")
NARROW = "narrow" + os.environ.get("FLOTILLA_MODEL_SUFFIX", "")

# The longest time that a test waits for anything, in seconds.
DEADLINE = 60.0

# A question for each of the real models, of the kind that it was trained for.
QUESTIONS = {
    "support-intent": "my card has not arrived yet",
    "assistant-intent-s": "set an alarm for seven in the morning",
    "assistant-intent-m": "set an alarm for seven in the morning",
    "numbers": "3, 9, 4 in ascending order",
    "extract": "maria smith ordered 3 red lamps",
}


def user(text):
    """Returns a conversation of one user message."""
    return [{"role": "user", "content": text}]


def model_file(model, name):
    """Returns a JSON file of a model."""
    return json.loads((MODELS_DIR / model / name).read_text(encoding="utf-8"))


def end_tokens(model):
    """Returns the ids of the tokens that end an answer of a model."""
    ends = set()
    for name in ["config.json", "generation_config.json"]:
        ids = model_file(model, name)["eos_token_id"]
        ends.update(ids if isinstance(ids, list) else [ids])
    return sorted(ends)


def talkative(model, tokens):
    """Returns parameters that make a model generate exactly this many tokens.

    The real models answer in a word or two. With their end tokens banned they continue, and their
    text serves to test long answers.
    """
    return {"logit_bias": {str(token): -100 for token in end_tokens(model)}, "max_tokens": tokens}


def nodes():
    """Returns all nodes, as the API shows them."""
    with urllib.request.urlopen(f"{URL}/api/v1/nodes", timeout=DEADLINE) as response:
        return json.load(response)["items"]


def counters(model):
    """Returns the counters of a model since it was loaded, summed over all nodes."""
    total = {}
    for node in nodes():
        for loaded in node["status"]["models"]:
            if loaded["name"] == model:
                for name, count in loaded["counters"].items():
                    total[name] = total.get(name, 0) + count
    assert total, f"no node runs {model}"
    return total


def until(condition, what):
    """Polls `condition` until it returns something true, and returns that. Fails after `DEADLINE`."""
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.05)


def idle(model):
    """Waits until a model computes nothing and nothing is queued, and returns its counters."""

    def counted():
        now = counters(model)
        return now if now["active"] == now["queued"] == 0 else None

    return until(counted, f"{model} is idle")


def counts(usage):
    """Returns the token counts of a usage, without the energy, which differs between equal answers."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens

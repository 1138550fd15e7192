"""The fleet under test: where it is, its models, and what its nodes say of themselves."""

import json
import os
import time
import urllib.request
from pathlib import Path

URL = os.environ.get("FLOTILLA_URL", "").rstrip("/")
BASE = URL + "/v1"
MODELS_DIR = Path(os.environ.get("FLOTILLA_MODELS_DIR") or Path(__file__).parents[2] / "models")

# Seconds that anything may take at most.
DEADLINE = 60.0

# A question to each of the real models, of the kind it was made for.
QUESTIONS = {
    "support-intent": "my card has not arrived yet",
    "assistant-intent-s": "set an alarm for seven in the morning",
    "assistant-intent-m": "set an alarm for seven in the morning",
    "numbers": "3, 9, 4 in ascending order",
    "extract": "maria smith ordered 3 red lamps",
}


def user(text):
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def model_file(model, name):
    return json.loads((MODELS_DIR / model / name).read_text(encoding="utf-8"))


def end_tokens(model):
    """Ids of the tokens by which a model ends its answer."""
    ends = set()
    for name in ["config.json", "generation_config.json"]:
        ids = model_file(model, name)["eos_token_id"]
        ends.update(ids if isinstance(ids, list) else [ids])
    return sorted(ends)


def talkative(model, tokens):
    """Parameters that make a model talk on until it has said this many tokens.

    The real models answer in a word or two; with their end token banned they ramble, which
    is as good as any text for testing what happens to longer answers.
    """
    return {"logit_bias": {str(token): -100 for token in end_tokens(model)}, "max_tokens": tokens}


def nodes():
    with urllib.request.urlopen(f"{URL}/api/v1/nodes", timeout=DEADLINE) as response:
        return json.load(response)["items"]


def counters(model):
    """What a model did since it was loaded, over all nodes."""
    total = {}
    for node in nodes():
        for loaded in node["status"]["models"]:
            if loaded["name"] == model:
                for name, count in loaded["counters"].items():
                    total[name] = total.get(name, 0) + count
    assert total, f"no node runs {model}"
    return total


def until(condition, what):
    """Asks again and again until `condition` gives something true, and returns that."""
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.05)


def idle(model):
    """Waits until a model has nothing to do, and gives its counters."""

    def counted():
        now = counters(model)
        return now if now["active"] == now["queued"] == 0 else None

    return until(counted, f"{model} is idle")


def counts(usage):
    """The tokens of a usage: no two answers take the very same energy."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens

"""Train the demo models: `python train.py NAME|all [--data DIR] [--out DIR]`."""

import argparse
import time
from pathlib import Path

from export import save_model
from folders import MODELS, REPOSITORY
from model import Config
from trainer import Recipe, train

DATA = REPOSITORY.parent / "shared" / "data"

# Shape and recipe of the intent models. Those of the other models are in the modules of their data.
INTENTS = {
    "support-intent": ("banking77", dict(hidden=128, intermediate=384, layers=3, heads=4), Recipe(epochs=32)),
    "assistant-intent-s": ("clinc150", dict(hidden=96, intermediate=256, layers=2, heads=4), Recipe(epochs=12)),
    "assistant-intent-m": (
        "clinc150",
        dict(hidden=160, intermediate=448, layers=3, heads=5, experts=4),
        Recipe(epochs=18),
    ),
}
NAMES = [*INTENTS, "numbers", "extract"]
VOCABULARY = 2000


def task_of(name, data):
    """The task of a model, its shape, its recipe, and its initial weights or None."""
    if name in INTENTS:
        from intents import IntentTask

        source, shape, recipe = INTENTS[name]
        split = __import__(f"data_{source}").split(data)
        task = IntentTask(split, VOCABULARY)
        return task, Config(task.tokenizer.get_vocab_size(), **shape), recipe, None
    if name == "numbers":
        import data_numbers as module

        task = module.NumbersTask()
    else:
        import data_extract as module

        task = module.ExtractTask()
    cfg = Config(task.tokenizer.get_vocab_size(), **module.SHAPE)
    initial = task.initial(cfg, module.RECIPE.seed) if name == "numbers" else None
    return task, cfg, module.RECIPE, initial


def run(name, data, out):
    """Train one model and export it."""
    task, cfg, recipe, initial = task_of(name, data)
    started = time.time()
    check = lambda params: task.check(params, cfg)  # noqa: E731
    params = train(cfg, recipe, task.epoch_examples, check, initial=initial)
    save_model(Path(out) / name, params, cfg, task.tokenizer, task.max_new_tokens)
    print(f"{name}: {(time.time() - started) / 60:.1f} minutes")


def main():
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--data", default=DATA, help="folder with banking77/ and clinc150/")
    parser.add_argument("--out", default=MODELS, help="folder to write the models to")
    args = parser.parse_args()
    for name in NAMES if args.name == "all" else [args.name]:
        run(name, args.data, args.out)


if __name__ == "__main__":
    main()

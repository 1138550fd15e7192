"""Held-out accuracy: `python evaluate.py NAME|all [--url http://HOST:PORT [--suffix -gguf]] [--limit N]`.

Without `--url` the exported model runs in this process. With `--url` the held-out set is sent to an
OpenAI-compatible server, which tests the server as well; `--suffix` follows the names of the models there.
"""

import argparse
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from export import load_model
from folders import MODELS
from model import generate
from tokenizer import END, prompt_text
from train import DATA, NAMES, task_of


def local_answers(name, texts, models):
    """Greedy answers of the model in an exported folder."""
    params, cfg, tokenizer, _, max_new_tokens = load_model(f"{models}/{name}")
    prompts = [encoding.ids for encoding in tokenizer.encode_batch([prompt_text(text) for text in texts])]
    ids = generate(params, cfg, prompts, tokenizer.token_to_id(END), max_new_tokens, batch=128)
    return [text.strip() for text in tokenizer.decode_batch(ids)]


def server_answers(url, name, texts):
    """Answers of a server at temperature 0, with four concurrent requests."""

    def ask(text):
        body = {"model": name, "temperature": 0, "messages": [{"role": "user", "content": text}]}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["choices"][0]["message"]["content"].strip()

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(ask, texts))


def evaluate(name, args):
    """Print the share of held-out texts that are answered exactly."""
    task = task_of(name, args.data)[0]
    heldout = task.heldout[: args.limit]
    texts = [text for text, _ in heldout]
    answers = server_answers(args.url, name + args.suffix, texts) if args.url else local_answers(name, texts, args.models)
    correct = sum(answer == expected for answer, (_, expected) in zip(answers, heldout))
    print(f"{name}: {100 * correct / len(heldout):.2f} % of {len(heldout)} held-out examples answered exactly")


def main():
    """Read the command line and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--data", default=DATA, help="folder with banking77/ and clinc150/")
    parser.add_argument("--models", default=MODELS, help="folder with the models")
    parser.add_argument("--url", help="URL of a server to evaluate instead")
    parser.add_argument("--suffix", default="", help="end of the models' names on the server")
    parser.add_argument("--limit", type=int, help="maximum number of examples")
    args = parser.parse_args()
    for name in NAMES if args.name == "all" else [args.name]:
        evaluate(name, args)


if __name__ == "__main__":
    main()

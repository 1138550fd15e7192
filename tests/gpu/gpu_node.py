"""Measure a node with an NVIDIA GPU: `python gpu_node.py BINARY TOKENIZER.gguf [--part PART]...`.

Starts a controller and an agent of BINARY, which was built for CUDA, and has the engine llama compute a model of random
weights in a Llama's shape, with the vocabulary of another GGUF file. Prints speed, device memory, and joules beside those
that the GPU's own counter shows.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import gguf
import numpy as np
import pynvml

URL = "http://127.0.0.1:8080"
PARTS = ["speed", "mixed", "life", "models"]
# How often a node reports its energy, and a little more.
REPORT_SECONDS = 6
# The shape of the model: 0.98 billion parameters with the vocabulary of a demo model.
LAYERS, HIDDEN, HEADS, KV_HEADS, CONTEXT = 16, 2048, 32, 8, 4096
PROMPT_WORDS, ANSWER_TOKENS = 260, 128
WORDS = "the shop opens at nine and closes when the last of them has gone home with bread milk or fruit".split()


def write_model(path, vocabulary, quantization, layers=LAYERS, hidden=HIDDEN):
    """A model of random weights; all layers are the same, which takes as long to compute."""
    reader = gguf.GGUFReader(vocabulary)
    writer = gguf.GGUFWriter(path, "llama")
    feed_forward, kv = 4 * hidden, hidden * KV_HEADS // HEADS
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500_000.0)
    size = None
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        if name == "tokenizer.ggml.tokens":
            size = len(value)
        kind = field.types[0]
        writer.add_key_value(name, value, kind, sub_type=field.types[-1] if len(field.types) > 1 else None)
    rng = np.random.default_rng(1)
    kind = {"F16": gguf.GGMLQuantizationType.F16, "Q8_0": gguf.GGMLQuantizationType.Q8_0}[quantization]

    def matrix(rows, columns):
        values = (rng.standard_normal((rows, columns), dtype=np.float32) * 0.02).astype(np.float32)
        return gguf.quantize(values, kind), rows * columns

    parameters = 0
    layer = {
        "attn_q": (hidden, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden), "attn_output": (hidden, hidden),
        "ffn_gate": (feed_forward, hidden), "ffn_up": (feed_forward, hidden), "ffn_down": (hidden, feed_forward),
    }
    layer = {name: matrix(*shape) for name, shape in layer.items()}
    ones = np.ones(hidden, dtype=np.float32)
    embeddings, count = matrix(size, hidden)
    writer.add_tensor("token_embd.weight", embeddings, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", ones)
    parameters += count
    for index in range(layers):
        for name, (values, count) in layer.items():
            writer.add_tensor(f"blk.{index}.{name}.weight", values, raw_dtype=kind)
            parameters += count
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{index}.{name}.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return parameters


class Node:
    """A controller and an agent on this machine."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, Path(folder)
        self.env = {**os.environ, "FLOTILLA_URL": URL}
        pynvml.nvmlInit()
        self.gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        store = f"embedded:{self.folder}/store"
        self.start("controller", "--http", "127.0.0.1:8080", "--link", "127.0.0.1:7070", "--store", store)
        self.agent = self.start("agent", "--join", "127.0.0.1:7070", "--name", "gpu", "--data-dir", f"{self.folder}/agent", "--model-root", "/")

    def start(self, *arguments):
        log = open(self.folder / f"{arguments[0]}.log", "ab")
        return subprocess.Popen([self.binary, *arguments], env=self.env, stdout=log, stderr=subprocess.STDOUT)

    def cli(self, *arguments):
        done = subprocess.run([self.binary, *arguments], env=self.env, capture_output=True, text=True)
        return (done.stdout or done.stderr).strip()

    def apply(self, name, path, concurrency, more="options: { contextLength: 1024 }"):
        resource = self.folder / f"{name}.yaml"
        resource.write_text(
            f"apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {{ name: {name} }}\nspec:\n"
            f"  source: {{ path: {path} }}\n  replicas: 1\n  concurrency: {concurrency}\n  queue: 256\n"
            f"  {more}\n"
        )
        return self.cli("apply", "-f", str(resource))

    def wait_until_ready(self, name, seconds=90):
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if (model := self.model(name)) and (model["status"].get("ready") or 0) > 0:
                return time.monotonic() - began
            time.sleep(0.02)
        raise SystemExit(f"{name} is not ready after {seconds} s:\n{self.cli('describe', 'model', name)}")

    def wait_until_empty(self, seconds=10):
        """Waits until no process has memory of the GPU. Returns what is left, in MiB."""
        deadline = time.monotonic() + seconds
        while self.memory() > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.memory()

    def model(self, name):
        found = json.loads(self.cli("get", "models", name, "-o", "json") or "null")
        return found[0] if isinstance(found, list) else found

    def energy(self):
        """Joules, joules of requests, idle watts: as the node reports them."""
        node = json.loads(self.cli("get", "nodes", "-o", "json"))
        energy = (node[0] if isinstance(node, list) else node)["status"]["energy"]
        return energy["joules"], energy["attributedJoules"], energy["idleWatts"]

    def metered(self):
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self.gpu) / 1000

    def memory(self):
        return pynvml.nvmlDeviceGetMemoryInfo(self.gpu).used / 2**20

    def idle_watts(self, seconds):
        began, joules = time.monotonic(), self.metered()
        time.sleep(seconds)
        return (self.metered() - joules) / (time.monotonic() - began)


def prompt(seed, words=PROMPT_WORDS):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


async def ask(session, model, seed, tokens, words=PROMPT_WORDS, stream=True):
    """One answer of exactly so many tokens. The time to its first token is that of one that is streamed."""
    body = {
        "model": model, "messages": [{"role": "user", "content": prompt(seed, words)}], "max_tokens": tokens, "temperature": 0,
        "logit_bias": {"0": -100, "1": -100, "2": -100},
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    began, first, usage = time.monotonic(), None, None
    async with session.post(f"{URL}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:300]}")
        if not stream:
            usage = (await response.json())["usage"]
            return {"first": None, "usage": usage, "joules": usage["energy"]["joules"]}
        async for line in response.content:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                usage = chunk.get("usage") or usage
                if chunk.get("error"):
                    raise RuntimeError(chunk["error"])
                # It is sent with the first token, whose text may be a part of a character.
                if first is None and chunk["choices"]:
                    first = time.monotonic() - began
    return {"first": first, "usage": usage, "joules": usage["energy"]["joules"]}


def session():
    timeout = aiohttp.ClientTimeout(total=120)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def run(model, at_once, requests, tokens, base=0, words=PROMPT_WORDS, stream=True):
    """Answers, so many at once all the time."""
    gate = asyncio.Semaphore(at_once)
    async with session() as http:

        async def one(seed):
            async with gate:
                return await ask(http, model, base + seed, tokens, words, stream)

        return await asyncio.gather(*(one(seed) for seed in range(requests)))


def measure(node, model, at_once, requests, tokens, idle, base, stream=True):
    began, joules = time.monotonic(), node.metered()
    answers = asyncio.run(run(model, at_once, requests, tokens, base, stream=stream))
    seconds, joules = time.monotonic() - began, node.metered() - joules
    written = sum(answer["usage"]["completion_tokens"] for answer in answers)
    read = statistics.mean(answer["usage"]["prompt_tokens"] for answer in answers)
    charged = sum(answer["joules"] for answer in answers)
    above = joules - idle * seconds
    first = statistics.median(answer["first"] for answer in answers) if stream else None
    how = f"first token after {first:.3f} s" if stream else "in whole answers"
    print(
        f"{model:8} {at_once:3} at once: {written / seconds:7.0f} tokens/s, {how} (prompts of {read:.0f}), {joules / seconds:4.0f} W; a request: charged {charged / requests:.2f} J, "
        f"metered above idle {above / requests:.2f} J, ratio {charged / above:.3f}",
        flush=True,
    )
    return written / seconds, charged / requests


def speed(node, model, bytes_, bandwidth, idle):
    one = None
    for at_once, requests in ((1, 12), (2, 16), (8, 48), (32, 160)):
        measure(node, model, at_once, requests, ANSWER_TOKENS, idle, 1_000 * at_once)
        # The client in Python is busy with what is streamed.
        rate, _ = measure(node, model, at_once, requests, ANSWER_TOKENS, idle, 1_000 * at_once + 500, stream=False)
        one = one or rate
    share = f"{one / (bandwidth / bytes_):.2f} of the bandwidth's limit" if bandwidth else f"{one:.0f} tokens/s"
    print(f"{model}: one at once is {share}, 32 at once {rate / one:.1f} x one", flush=True)


async def mixed(node, model):
    """Loops of short and of long answers beside each other."""
    async with session() as http:

        async def loop(tokens, count, base):
            return [(await ask(http, model, base + index, tokens))["joules"] for index in range(count)]

        short = [loop(32, 24, 20_000 + 100 * index) for index in range(4)]
        long = [loop(192, 5, 30_000 + 100 * index) for index in range(4)]
        loops = await asyncio.gather(*short, *long)
    mean = lambda lists: statistics.mean(sum(lists, []))
    return mean(loops[:4]), mean(loops[4:])


async def leave_early(model, tokens=900, after=20):
    """Leaves while an answer is written."""
    async with session() as http:
        body = {"model": model, "messages": [{"role": "user", "content": prompt(1)}], "max_tokens": tokens, "stream": True}
        async with http.post(f"{URL}/v1/chat/completions", json={**body, "logit_bias": {"0": -100, "1": -100, "2": -100}}) as response:
            async for line in response.content:
                after -= line.startswith(b"data: {")
                if after <= 0:
                    break


def life(node, small):
    before, left = node.memory(), []
    for _ in range(4):
        node.apply("small", small, 4)
        seconds = node.wait_until_ready("small")
        loaded = node.memory() - before
        node.cli("delete", "model", "small")
        left.append((round(seconds, 2), round(loaded), round(node.wait_until_empty())))
    print("loads: seconds until ready, MiB while loaded, MiB left:", left)


def small_model(node, path):
    """A model of the user's: on the GPU, and on the processors beside it."""
    stem = path.name.replace(".", "-")
    for name, more in ((f"{stem}-gpu", "accelerator: cuda"), (f"{stem}-cpu", "accelerator: cpu")):
        before = node.memory()
        node.apply(name, path.resolve(), 32, more)
        try:
            seconds = node.wait_until_ready(name, 40)
        except SystemExit as problem:
            print(problem, flush=True)
            continue
        began = time.monotonic()
        answers = asyncio.run(run(name, 32, 96, 16, words=30))
        seconds_of_answers = time.monotonic() - began
        written = sum(answer["usage"]["completion_tokens"] for answer in answers)
        print(
            f"{name}: ready after {seconds:.1f} s, {node.memory() - before:.0f} MiB on the device, {len(answers)} of 96 answered, "
            f"32 at once, {written / seconds_of_answers:.0f} tokens/s",
            flush=True,
        )
        node.cli("delete", "model", name)
        node.wait_until_empty()


def nvidia_smi():
    """What NVIDIA's own tool shows of the memory: without what the driver keeps for itself, and by process."""
    query = lambda what: subprocess.run(["nvidia-smi", what, "--format=csv,noheader"], capture_output=True, text=True).stdout
    return query("--query-gpu=memory.used,memory.reserved").strip(), query("--query-compute-apps=pid,used_memory").split("\n")[:-1]


def bandwidth():
    """Bytes per second that the GPU reads, by a copy within it. 0 without PyTorch."""
    try:
        import torch
    except ImportError:
        return 0
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(20):
        target.copy_(source)
    torch.cuda.synchronize()
    return 20 * 2 * 2**30 / (time.monotonic() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("tokenizer")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--bandwidth", type=float, help="bytes per second that the GPU copies: without it and PyTorch, none are compared")
    parser.add_argument("--model", action="append", help="a model to try, a GGUF file or a Hugging Face folder; may repeat")
    parser.add_argument("--out", help="where logs are kept")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    folder = arguments.out or tempfile.mkdtemp()
    limit = arguments.bandwidth or float(subprocess.run([sys.executable, __file__, "bandwidth", ""], capture_output=True, text=True).stdout or 0)
    models = {}
    for quantization in ("F16", "Q8_0"):
        path = Path(tempfile.gettempdir()) / f"random-{quantization}.gguf"
        models[quantization] = (path, write_model(path, arguments.tokenizer, quantization))
    small = Path(tempfile.gettempdir()) / "random-small.gguf"
    write_model(small, arguments.tokenizer, "Q8_0", 4, 1024)
    node = Node(arguments.binary, folder)
    print(f"{pynvml.nvmlDeviceGetName(node.gpu)}, {os.cpu_count()} cores, copies {limit / 1e12:.2f} TB/s", flush=True)
    time.sleep(4)
    print(f"device memory without a model: {node.memory():.0f} MiB by NVML,", nvidia_smi(), flush=True)
    print(f"without a model: {node.idle_watts(3):.0f} W, the node says {node.energy()[2]:.0f} W idle", flush=True)
    for quantization, (path, parameters) in models.items():
        model, before = quantization.lower().replace("_", "-"), node.memory()
        node.apply(model, path, 32)
        seconds = node.wait_until_ready(model)
        idle = node.idle_watts(REPORT_SECONDS)
        print(
            f"{model}: {parameters / 1e9:.2f} billion parameters, ready after {seconds:.1f} s, {node.memory() - before:.0f} MiB on "
            f"the device, {idle:.0f} W idle with it, the node says {node.energy()[2]:.0f} W (with the processors)",
            flush=True,
        )
        if "speed" in parts:
            speed(node, model, path.stat().st_size, limit, idle)
        if "mixed" in parts and quantization == "F16":
            _, short = measure(node, model, 8, 64, 32, idle, 50_000)
            _, long = measure(node, model, 8, 24, 192, idle, 60_000)
            time.sleep(REPORT_SECONDS)
            began, joules, (_, attributed, _) = time.monotonic(), node.metered(), node.energy()
            with_short, with_long = asyncio.run(mixed(node, model))
            seconds = time.monotonic() - began
            above = node.metered() - joules - idle * seconds
            time.sleep(REPORT_SECONDS)
            charged = node.energy()[1] - attributed
            print(
                f"short beside long answers, {seconds:.0f} s: {with_short:.2f} and {with_long:.2f} J "
                f"(apart, 8 at once: {short:.2f} and {long:.2f}); charged {charged:.0f} J, metered above idle {above:.0f} J",
                flush=True,
            )
        if "life" in parts and quantization == "F16":
            asyncio.run(leave_early(model))
            left = time.monotonic()
            watts = [node.idle_watts(0.25) for _ in range(6)]
            print(f"watts in quarters of a second after a client left: {[round(w) for w in watts]} ({time.monotonic() - left:.1f} s)")
        node.cli("delete", "model", model)
        node.wait_until_empty()
    print("device memory after all models are gone:", nvidia_smi(), flush=True)
    if "life" in parts:
        life(node, small)
    for path in arguments.model or [] if "models" in parts else []:
        small_model(node, Path(path))
    print(node.cli("get", "nodes"), node.cli("describe", "node", "gpu"), sep="\n")
    node.agent.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    if sys.argv[1:2] == ["bandwidth"]:
        print(bandwidth())
    else:
        main()

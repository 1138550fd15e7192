"""Writes a tiny embedding model with random weights, in the layout of Qwen3-Embedding.

    python make_embedding_model.py FOLDER

Its embeddings have no meaning, but they are deterministic, differ between texts and have length 1,
which is enough to test the API. Needs only the standard library.
"""

import json
import random
import struct
import sys
from pathlib import Path

HIDDEN, INNER, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD_DIM = 32, 64, 2, 2, 1, 16
CONTEXT = 512
END = "<|endoftext|>"


def byte_symbols():
    """Returns the 256 characters that stand for the bytes in byte-level tokenizers, in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in plain)
    moved = {byte: 256 + index for index, byte in enumerate(others)}
    return [chr(moved.get(byte, byte)) for byte in range(256)]


def vocabulary():
    return {symbol: token for token, symbol in enumerate([*byte_symbols(), END])}


def tokenizer():
    """Returns a tokenizer with one token per byte and the end token after each text."""
    vocab = vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    end = {"SpecialToken": {"id": END, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocab[END],
                "content": END,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, end],
            "special_tokens": {END: {"id": END, "ids": [vocab[END]], "tokens": [END]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def config():
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": len(vocabulary()),
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "max_window_layers": LAYERS,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "eos_token_id": vocabulary()[END],
        "torch_dtype": "float32",
    }


def shapes():
    """Yields the names and shapes of the tensors. Those with one dimension are norms."""
    yield "embed_tokens.weight", (len(vocabulary()), HIDDEN)
    for layer in range(LAYERS):
        prefix = f"layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.q_norm.weight", (HEAD_DIM,)
        yield prefix + "self_attn.k_norm.weight", (HEAD_DIM,)
        yield prefix + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.k_proj.weight", (KEY_VALUE_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (KEY_VALUE_HEADS * HEAD_DIM, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield prefix + "mlp.gate_proj.weight", (INNER, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (INNER, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, INNER)
    yield "norm.weight", (HIDDEN,)


def tensors():
    """Yields the names, shapes and numbers of the tensors."""
    draw = random.Random(0)
    for name, shape in shapes():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        yield name, shape, [1.0 if len(shape) == 1 else draw.gauss(0, 0.3) for _ in range(count)]


def weights():
    """Returns a safetensors file: the length of the header, the header, the numbers."""
    header, data = {}, bytearray()
    for name, shape, numbers in tensors():
        start = len(data)
        data += struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def modules():
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    return [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]


def pooling():
    """The embedding of a text is that of its last token, as in Qwen3-Embedding."""
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    return {
        "word_embedding_dimension": HIDDEN,
        **{f"pooling_mode_{mode}": mode == "lasttoken" for mode in modes},
        "include_prompt": True,
    }


def write(folder):
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights())
    for name, value in [
        ("config.json", config()),
        ("tokenizer.json", tokenizer()),
        ("tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END, "pad_token": END}),
        ("modules.json", modules()),
        ("1_Pooling/config.json", pooling()),
    ]:
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""Writing and reading of trained models as Hugging Face folders."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from folders import EXPERT_WEIGHTS
from model import Config
from tokenizer import CHAT_TEMPLATE, END, PAD

MAX_POSITIONS = 512


def _config_json(cfg, eos, pad):
    config = {
        "architectures": ["MixtralForCausalLM" if cfg.experts else "LlamaForCausalLM"],
        "model_type": "mixtral" if cfg.experts else "llama",
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden,
        "intermediate_size": cfg.intermediate,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.heads,
        "head_dim": cfg.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": cfg.eps,
        "rope_theta": cfg.rope_theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "torch_dtype": "float16",
        "use_cache": True,
    }
    if cfg.experts:
        config |= {
            "num_local_experts": cfg.experts,
            "num_experts_per_tok": cfg.experts_per_token,
            "sliding_window": None,
            "output_router_logits": False,
        }
    else:
        config |= {"mlp_bias": False, "rope_scaling": None}
    return config


def _tensors(params):
    tensors = {}
    for name, value in params.items():
        value = np.asarray(value).astype(np.float16)
        if ".experts." in name:
            prefix, rest = name.split("experts.")
            for expert in range(value.shape[0]):
                tensors[f"{prefix}experts.{expert}.{rest}"] = np.ascontiguousarray(value[expert])
        else:
            tensors[name] = value
    return tensors


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_model(folder, params, cfg, tokenizer, max_new_tokens):
    """Write config, generation config, tokenizer and float16 weights to `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    eos, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    _write_json(folder / "config.json", _config_json(cfg, eos, pad))
    # Grammar-constrained decoding ends with the tokenizer's first special token, the padding.
    _write_json(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": [eos, pad], "pad_token_id": pad, "max_new_tokens": max_new_tokens},
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_POSITIONS,
            "eos_token": END,
            "pad_token": PAD,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    weights = folder / "model.safetensors"
    save_file(_tensors(params), weights, metadata={"format": "pt"})
    weights.chmod(0o644)


def load_model(folder):
    """Read a folder and return `(params, cfg, tokenizer, chat template, max new tokens)`."""
    folder = Path(folder)
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    cfg = Config(
        vocab_size=raw["vocab_size"],
        hidden=raw["hidden_size"],
        intermediate=raw["intermediate_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        experts=raw.get("num_local_experts", 0),
        experts_per_token=raw.get("num_experts_per_tok", 2),
        eps=raw["rms_norm_eps"],
        rope_theta=raw["rope_theta"],
    )
    stored = load_file(folder / "model.safetensors")
    params = {name: jnp.asarray(value, jnp.float32) for name, value in stored.items() if ".experts." not in name}
    for layer in range(cfg.layers if cfg.experts else 0):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts."
        for weight in EXPERT_WEIGHTS:
            stack = [stored[f"{prefix}{expert}.{weight}.weight"] for expert in range(cfg.experts)]
            params[f"{prefix}{weight}.weight"] = jnp.asarray(np.stack(stack), jnp.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    return params, cfg, tokenizer, template, generation["max_new_tokens"]

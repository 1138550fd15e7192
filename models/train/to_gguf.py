"""Write the demo models as GGUF files: `python to_gguf.py NAME|all [--out DIR] [--f32]`.

`DIR` gets `NAME.gguf` and `NAME-gguf.yaml`, a resource with which a fleet serves the file.
"""

import argparse
import json
import re
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from folders import EXPERT_WEIGHTS, EXTRACT_PIECES, MODELS, NUMBERS_PIECES, REPOSITORY

OUT = REPOSITORY / "target" / "demo-gguf"

# A GGUF file names the tokenizer whose rules divide a text; it cannot state a regular expression. Longer pieces
# than those of the folder give the same tokens where no merge crosses a boundary of the folder's pieces.
#
# The pieces of "bloom" keep words whole, also behind an apostrophe, with the space before them. That is enough for
# `extract`, whose merges are all of letters, and for `numbers` without its numbers.
PRE_TOKENIZERS = {None: "gpt-2", EXTRACT_PIECES: "bloom", NUMBERS_PIECES: "bloom"}

# The numbers with their comma and space become user-defined tokens, which are found before a text is divided. Those are
# the folder's tokens for numbers of up to two digits, except behind a comma that has a space before it.
NUMBER = re.compile(r",? ?\d{1,2}")

RESOURCE = """\
apiVersion: flotilla.dev/v1
kind: Model
metadata: {{ name: {name}-gguf }}
spec:
  description: the demo model {name} as a GGUF file, computed by llama.cpp
  source: {{ path: {name}.gguf }} # relative to this file
  engine: llama
"""


def read_json(path):
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def pieces_of(tokenizer):
    """The regular expression that divides a text before byte-pair encoding; None for GPT-2's."""
    pre = tokenizer["pre_tokenizer"]
    if pre["type"] == "Sequence":
        split, pre = pre["pretokenizers"]
        if split["type"] == "Split" and split["behavior"] == "Isolated" and not pre["use_regex"]:
            return split["pattern"]["Regex"]
    if pre["type"] == "ByteLevel" and not pre["add_prefix_space"] and pre["use_regex"]:
        return None
    raise ValueError(f"no division of llama.cpp is known for {tokenizer['pre_tokenizer']}")


def add_tokenizer(writer, tokenizer, config, template):
    """Write the vocabulary, the merges and the chat template."""
    pieces = pieces_of(tokenizer)
    tokens = {id: (text, gguf.TokenType.NORMAL) for text, id in tokenizer["model"]["vocab"].items()}
    merges = [tuple(merge) for merge in tokenizer["model"]["merges"]]
    if pieces == NUMBERS_PIECES:
        for id, (text, _) in tokens.items():
            # Byte-level vocabularies write a space as "Ġ", user-defined tokens as it is.
            text = text.replace("Ġ", " ")
            if NUMBER.fullmatch(text):
                tokens[id] = (text, gguf.TokenType.USER_DEFINED)
        # The merge of a comma and a space is one of the numbers, too: before a word the two are apart.
        merges = [merge for merge in merges if not re.search(r"\d|,Ġ", "".join(merge))]
    for token in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        tokens[token["id"]] = (token["content"], kind)
    ordered = [tokens[id] for id in range(config["vocab_size"])]
    writer.add_vocab_size(len(ordered))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[pieces])
    writer.add_token_list([text for text, _ in ordered])
    writer.add_token_types([kind for _, kind in ordered])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_chat_template(template)


def add_shape(writer, config):
    """Write the shape of a Llama or a Mixtral, which is a Llama with experts to llama.cpp."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])


def stack_experts(weights, config):
    """Replace the weights of single experts by one array for all experts of a layer."""
    for layer in range(config["num_hidden_layers"] if "num_local_experts" in config else 0):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts."
        for part in EXPERT_WEIGHTS:
            experts = [weights.pop(f"{prefix}{expert}.{part}.weight") for expert in range(config["num_local_experts"])]
            weights[f"{prefix}{part}.weight"] = np.stack(experts)


def interleave(weight, heads):
    """Put the two halves of a head that are rotated together beside each other, as llama.cpp expects them."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def add_weights(writer, weights, config, dtype):
    """Write the weights as numbers of type `dtype`. The output matrix is the embedding matrix."""
    stack_experts(weights, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj.weight": config["num_attention_heads"], "k_proj.weight": config["num_key_value_heads"]}
    for name, weight in weights.items():
        rotated = heads.get(".".join(name.split(".")[-2:]))
        if rotated:
            weight = interleave(weight, rotated)
        # llama.cpp multiplies by norms in float32.
        weight = weight.astype(np.float32 if weight.ndim == 1 else dtype)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight)


def convert(name, folder, out, dtype):
    """Write one model and its resource to the folder `out`."""
    config = read_json(folder / "config.json")
    if not config["tie_word_embeddings"] or config.get("rope_scaling"):
        raise ValueError(f"{folder} has an output matrix of its own or a scaled rope, which this script does not write")
    out.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(out / f"{name}.gguf", "llama")
    writer.add_name(name)
    writer.add_license("apache-2.0")
    file_types = {np.float16: gguf.LlamaFileType.MOSTLY_F16, np.float32: gguf.LlamaFileType.ALL_F32}
    writer.add_file_type(file_types[dtype])
    if not read_json(folder / "generation_config.json")["do_sample"]:
        writer.add_sampling_temp(0.0)
    add_shape(writer, config)
    template = read_json(folder / "tokenizer_config.json")["chat_template"]
    add_tokenizer(writer, read_json(folder / "tokenizer.json"), config, template)
    add_weights(writer, load_file(folder / "model.safetensors"), config, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (out / f"{name}-gguf.yaml").write_text(RESOURCE.format(name=name), encoding="utf-8")
    print(out / f"{name}.gguf")


def main():
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.parent.name for path in MODELS.glob("*/config.json"))
    parser.add_argument("name", choices=[*names, "all"])
    parser.add_argument("--models", type=Path, default=MODELS, help="folder with the models")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write the files to")
    parser.add_argument("--f32", action="store_true", help="write float32 instead of float16, as the folders have it")
    args = parser.parse_args()
    for name in names if args.name == "all" else [args.name]:
        convert(name, args.models / name, args.out, np.float32 if args.f32 else np.float16)


if __name__ == "__main__":
    main()

